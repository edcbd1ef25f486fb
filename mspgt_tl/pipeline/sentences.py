"""Which sentences make a boundary: the evidence there with all sentences, less the evidence without one of them (N).

Evidence is on the scale from 0 to 1 that all sentences gave.

Leaving out each of ten thousand sentences in turn is not needed. The bootstrap's folds are left out first, from sums
that are there already; only the folds that raise the evidence at a boundary most are read again, sentence by sentence.
Effects are exact for those sentences; others, in folds that raise it less on the whole, are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import SIGNAL, Accumulator, Batch, CausalModel, StreamSignal
from mspgt_tl.errors import DataError
from mspgt_tl.passes.corpus import stream
from mspgt_tl.passes.folds import Folds

if TYPE_CHECKING:
    import xarray as xr

FOLDS_READ, SENTENCES_READ = 2, 100
"""Folds that are read again for each boundary: two, or one that holds so many sentences."""
KEPT = 6
"""Sentences that are kept for each."""

Sums = Mapping[str, np.ndarray]


def strongest_sentences(
    result: xr.Dataset,
    signals: Mapping[str, StreamSignal],
    sums: Mapping[str, Sums],
    model: CausalModel,
    sentences: Sequence[str],
    folds: Folds,
    *,
    seed: int,
    config: StreamConfig,
) -> xr.Dataset:
    """Return the sentences that raise the evidence most at every boundary and at its near tie.

    Args:
        result: the labelled result of the detection.
        signals: the fused signals over the text, by name.
        sums: of these signals, per fold.
        sentences, folds, seed, config: as in the pass over the text, so that the same tokens are drawn.

    Returns:
        `told_sentences`, over `told_gap`: JSON lists of `{effect, tokens, drawn}`, the largest effect first.
        Empty where no boundary was found.
    """
    import xarray as xr

    gain, used = result["gain"].values, result["weight"].values
    names = [str(name) for name in result[SIGNAL].values]
    active = [name for name in signals if used[names.index(name)] > 0]
    ties = [gap for gap in result["near_tie"].values if np.isfinite(gap)]
    gaps = sorted({int(gap) for gap in (*result["boundary"].values, *ties)}) if active else []

    low, height = result["curve"].values.min(axis=1), np.ptp(result["curve"].values, axis=1)

    def evidence(curves: Mapping[str, Float[np.ndarray, "row gap"]]) -> Float[np.ndarray, "row gap"]:
        """Fuse these signals on the scale that all sentences gave: scaled anew, the highest gap would always be 1."""
        at = {name: names.index(name) for name in curves}
        return np.sum([used[i] * gain[i] * (curves[name] - low[i]) / height[i] for name, i in at.items()], axis=0)

    told = {}
    if gaps:
        whole = evidence({name: signals[name].curves(sums[name], np.ones((1, folds.count))) for name in active})[0]
        apart = 1 - np.eye(folds.count)
        by_fold = whole - evidence({name: signals[name].curves(sums[name], apart) for name in active})
        strongest = {gap: np.argsort(-by_fold[:, gap - 1])[:FOLDS_READ].tolist() for gap in gaps}
        chosen = {gap: at[:1] if folds.sizes[at[0]] >= SENTENCES_READ else at for gap, at in strongest.items()}
        parts = {name: signals[name] for name in active}
        read = {
            fold: read_fold(fold, parts, sums, model, sentences, folds, seed, config)
            for fold in sorted({fold for of_gap in chosen.values() for fold in of_gap})
        }
        for gap in gaps:
            rows = []
            for fold in chosen[gap]:
                without, shown = read[fold]
                effects = whole[gap - 1] - evidence(without)[:, gap - 1]
                rows += [{"effect": float(f"{effect:.4g}"), **one} for effect, one in zip(effects, shown, strict=True)]
            told[gap] = sorted(rows, key=lambda row: -row["effect"])[:KEPT]
    texts = [json.dumps(told[gap], ensure_ascii=False) for gap in gaps]
    return xr.Dataset(
        {"told_sentences": ("told_gap", np.array(texts, dtype=object))}, coords={"told_gap": np.array(gaps, dtype=int)}
    )


def read_fold(
    fold: int,
    signals: Mapping[str, StreamSignal],
    sums: Mapping[str, Sums],
    model: CausalModel,
    sentences: Sequence[str],
    folds: Folds,
    seed: int,
    config: StreamConfig,
) -> tuple[dict[str, Float[np.ndarray, "sentence gap"]], list[dict[str, Any]]]:
    """Return every signal's curve without each sentence of a fold, and each sentence's tokens."""
    stop = int(folds.sizes[: fold + 1].sum())
    members = folds.order[stop - int(folds.sizes[fold]) : stop]
    place = {int(sentence): i for i, sentence in enumerate(members)}
    shown: list[dict[str, Any]] = [{} for _ in members]

    parts = {name: _LeaveOneOut(signal, place, int(model.cfg.n_layers)) for name, signal in signals.items()}
    needs = frozenset[str]().union(*(signal.needs for signal in signals.values()))
    for batch in stream(model, sentences, needs=needs, folds=Folds(members, len(members)), seed=seed, config=config):
        lengths = batch.is_token.sum(dim=1).tolist()
        for i, (sentence, drawn) in enumerate(zip(batch.sentence.tolist(), batch.drawn.tolist(), strict=True)):
            tokens = [model.tokenizer.decode([token]) for token in batch.tokens[i, : lengths[i]].tolist()]
            shown[place[sentence]] = {"tokens": tokens, "drawn": int(drawn)}
        for part in parts.values():
            part.observe(batch)
        del batch  # or its activations would stay while the next forward pass makes its own

    without = {}
    for name, signal in signals.items():
        left = parts[name].sums({key: values[fold] for key, values in sums[name].items()})
        curves = []
        for i in range(len(members)):
            changed = {key: values.copy() for key, values in sums[name].items()}
            for key, values in changed.items():
                values[fold] = left[key][i]
            curves.append(signal.curves(changed, np.ones((1, folds.count)))[0])
        without[name] = np.stack(curves)
    return without, shown


@dataclass
class _LeaveOneOut:
    """A fold's sums without each of its sentences.

    Sums over sentences are had by taking each one's own from the whole; what is computed within a fold (kernels) is
    computed again without it, from activations that are kept meanwhile.
    """

    signal: StreamSignal
    place: Mapping[int, int]
    """Where each sentence stands in the fold."""
    n_layers: int
    alone: Accumulator | None = None
    """Takes every sentence as a fold of its own, where the signal's sums add up."""
    thin: bool = False
    """Whether the signal reads no token's activations but the drawn one's."""
    kept: list[Batch] = field(default_factory=list)
    has_begun: bool = False

    def observe(self, batch: Batch) -> None:
        """Take the next sentences of the fold."""
        unneeded: dict[str, Any] = {name: [] for name in ("resid", "pattern") if name not in self.signal.needs}
        batch = replace(batch, **unneeded)
        if not self.has_begun:
            self._begin(batch)
        if self.alone is None:
            self.kept.append(_drawn_everywhere(batch) if self.thin else batch)
        else:
            _watch(self.alone, [replace(batch, fold=np.array([self.place[int(one)] for one in batch.sentence]))])

    def _begin(self, batch: Batch) -> None:
        """Try on the first batch what the sums are made of: the same activations give the same ones, in any dtype."""
        n = len(batch.sentence)
        self.has_begun = True
        with suppress(DataError):  # nothing can be computed of so few sentences
            whole = self._start([n], [replace(batch, fold=np.zeros(n, dtype=int))])
            thin = replace(_drawn_everywhere(batch), fold=np.zeros(n, dtype=int))
            self.thin = "pattern" not in self.signal.needs and _agree(self._start([n], [thin]), whole)
            single = self._start([1] * n, [replace(batch, fold=np.arange(n))])
            if n > 1 and _agree(single, whole):
                self.alone = self.signal.start(n_layers=self.n_layers, fold_sizes=np.ones(len(self.place), dtype=int))

    def _start(self, sizes: Sequence[int], batches: Iterable[Batch]) -> Sums:
        started = self.signal.start(n_layers=self.n_layers, fold_sizes=np.array(sizes))
        _watch(started, batches)
        return started.sums()

    def sums(self, whole: Sums) -> dict[str, np.ndarray]:
        """Return the fold's sums without each sentence, from those with all of them."""
        if self.alone is not None:
            single = self.alone.sums()
            return {key: values[None] - single[key] for key, values in whole.items()}
        found: dict[str, list[np.ndarray]] = {key: [] for key in whole}
        for sentence in self.place:
            rest = self._start([len(self.place) - 1], (_without(batch, sentence) for batch in self.kept))
            for key, values in rest.items():
                found[key].append(values[0])
        return {key: np.stack(values) for key, values in found.items()}


def _watch(accumulator: Accumulator, batches: Iterable[Batch]) -> None:
    import torch

    with torch.inference_mode():
        for batch in batches:
            if len(batch.fold):
                accumulator.observe(batch)


def _agree(parts: Sums, whole: Sums) -> bool:
    return all(np.allclose(parts[key].sum(axis=0), whole[key][0], rtol=1e-4, atol=1e-6) for key in whole)


def _drawn_everywhere(batch: Batch) -> Batch:
    """Let the activations of each sentence's drawn token stand at every position, in the memory of one."""
    rows = range(len(batch.sentence))
    thin = [layer[rows, batch.drawn][:, None].expand(-1, layer.shape[1], -1) for layer in batch.resid]
    return replace(batch, resid=thin)


def _without(batch: Batch, sentence: int) -> Batch:
    """Return a batch of one fold without a sentence; the same batch where that is not in it."""
    import torch

    kept = np.flatnonzero(batch.sentence != sentence)
    if len(kept) == len(batch.sentence):
        return batch
    rows = torch.from_numpy(kept).to(batch.tokens.device)
    names = ("drawn", "tokens", "is_data", "is_token")
    changed: dict[str, Any] = {name: getattr(batch, name)[rows] for name in names}
    changed |= {name: [layer[rows] for layer in getattr(batch, name)] for name in ("resid", "pattern")}
    return replace(batch, sentence=batch.sentence[kept], fold=batch.fold[kept], **changed)
