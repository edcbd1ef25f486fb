"""Curves of the fused signals from what one has at hand: an activation cache and its mask, or a model and trees.

The numbers are those of `mspgt_tl.measure` and of a detection on the same rows with the same seed, because the same
code makes them: what of a cache is data, which token stands for a sentence and which bootstrap fold it falls into are
decided as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from mspgt_tl.config import AttentionMode, ProbeConfig, ProbeCurve, StreamConfig, Tokens
from mspgt_tl.contracts import (
    GAP,
    TASKS,
    Batch,
    CausalModel,
    Progress,
    Signal,
    StreamSignal,
    Tree,
    Treebank,
    check_seed,
)
from mspgt_tl.errors import DataError, unknown_name
from mspgt_tl.passes.corpus import MIN_TOKENS, nth_data_token
from mspgt_tl.passes.data import data_tokens, reads_centred
from mspgt_tl.passes.folds import MIN_FOLD, MIN_FOLDS, Folds, assign_folds
from mspgt_tl.signals.attention_jsd import AttentionDrift
from mspgt_tl.signals.cka import MIN_ROWS, CkaChange
from mspgt_tl.signals.probe import ProbeSignal
from mspgt_tl.signals.probe_fitting import fit_probes, read_words

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Int
    from torch import Tensor

RESID, PATTERN = "hook_resid_post", "attn.hook_pattern"


def cka_curve(
    cache: Any,
    mask: Int[Tensor, "batch pos"] | None = None,
    *,
    seed: int = 0,
    tokens: Tokens = "data",
    raw: bool = False,
    centred: bool | None = None,
) -> xr.DataArray:
    """Return 1 − CKA of neighbouring layers, by gap, from the cache of one forward pass.

        batch = model.tokenizer(mspgt_tl.sample_sentences(300), padding=True, return_tensors="pt")
        _, cache = model.run_with_cache(batch["input_ids"], names_filter=lambda name: name.endswith("hook_resid_post"))
        mspgt_tl.signals.cka_curve(cache, batch["attention_mask"])

    One row of the batch is one sentence, in the order of a `measure` on them. With 200 rows or more HSIC is taken in
    its bootstrap folds, of which the few sentences that fill none are no part; with fewer, over all rows at once.

    A plain CKA over all tokens is another number (0.129 against 0.055 at one gap of an embedded model): tokens of one
    sentence are not independent rows, a few first tokens and other sinks outweigh all others by their norm, and without
    debiasing independent vectors look alike. Here a row is one data token of each sentence, as the next block reads it.

    Args:
        cache: `resid_post` of every block, as `run_with_cache` returns them (also with `return_cache_object=False`).
        mask: 1 on tokens and 0 on padding, on either side; None where nothing is padded.
        seed: of the token drawn from each sentence, and of the folds.
        tokens: `all` lets the first token and other sinks stand for a sentence, too.
        raw: rows of the stream as it is, not as the next block reads them.
        centred: whether blocks centre what they read (LayerNorm); known from a cache that knows its model.

    Returns:
        `[gap]`, ratio, about [0, 1]; `nan` where a variance is not positive.

    Raises:
        DataError: the cache lacks a block, the mask does not fit it, or fewer than 4 rows have three tokens.
    """
    batch, folds = _read(cache, mask, {RESID}, seed, tokens, centred)
    return _curve(CkaChange(raw=raw), batch, folds, seed)


def jsd_curve(
    cache: Any,
    mask: Int[Tensor, "batch pos"] | None = None,
    *,
    seed: int = 0,
    tokens: Tokens = "data",
    mode: AttentionMode = "head_average",
    sinks: bool = False,
) -> xr.DataArray:
    """Return the attention drift of neighbouring layers, by gap, from the cache of one forward pass.

        keep = lambda name: name.endswith(("hook_pattern", "hook_resid_post"))
        _, cache = model.run_with_cache(batch["input_ids"], names_filter=keep)
        mspgt_tl.signals.jsd_curve(cache, batch["attention_mask"])

    Args:
        cache: `attn.hook_pattern` and `resid_post` of every block; what is a sink is told from the stream's norms. With
            `tokens="all"` the patterns are enough.
        mask: 1 on tokens and 0 on padding, on either side; None where nothing is padded.
        seed: of the folds, which from 200 rows on leave out the few that fill none.
        tokens: `all` counts queries and keys at the first token and other sinks, too.
        mode: `matched` pairs the heads of two layers by optimal assignment instead of averaging them first.
        sinks: keep all keys, the first token and other sinks included: the raw form.

    Returns:
        `[gap]`, nats, in [0, ln 2]; `nan` where no query sees four keys.

    Raises:
        DataError: the cache lacks a block, the mask does not fit it, or no row has three tokens.
    """
    needed = {PATTERN} if tokens == "all" else {PATTERN, RESID}
    batch, folds = _read(cache, mask, needed, seed, tokens, False)
    return _curve(AttentionDrift(mode=mode, sinks=sinks), batch, folds, seed)


def probe_curve(
    model: CausalModel,
    trees: Treebank | tuple[Sequence[Tree], Sequence[Tree]],
    *,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    probe: ProbeConfig | None = None,
    curve: ProbeCurve = "f1",
    stream: StreamConfig | None = None,
    progress: Progress | None = None,
) -> xr.DataArray:
    """Return |F1(b) − F1(b−1)| by gap: probes trained on the trees' words at every layer.

        mspgt_tl.signals.probe_curve(model, mspgt_tl.corpora.generate_treebank(seed=0), tasks=["pos"])

    Args:
        trees: a treebank, or its training and its test trees.
        tasks: of `pos`, `deprel`, `ner` and `srl`; all whose labels the trees carry by default.
        seed: as a detection's; it is added to `probe.seed`.
        probe: how probes are trained. The default is a detection's: three repeats of ten epochs.
        curve: `selectivity` takes the jumps of F1 less the control task's.

    Returns:
        `[gap]`, F1 points as a fraction; attribute `skipped` says which tasks could not be scored, and why.

    Raises:
        DataError: no trees, an unknown task, or none that can be scored.
        CorpusError: no word could be aligned with a token.
    """
    from dataclasses import replace

    check_seed(seed)
    pair = (trees.train, trees.dev) if isinstance(trees, Treebank) else tuple(trees)
    if len(pair) != 2 or not all(len(split) and isinstance(split[0], Tree) for split in pair):
        raise DataError("Trees are a Treebank, or a pair (training trees, test trees), neither empty.")
    wanted = trees.tasks if tasks is None and isinstance(trees, Treebank) else tuple(TASKS if tasks is None else tasks)
    if unknown := [task for task in wanted if task not in TASKS]:
        raise DataError(unknown_name("probe task", unknown[0], TASKS))
    chosen = probe or ProbeConfig()
    sums, details = fit_probes(
        *read_words(model, *pair, seed=seed, config=stream or StreamConfig(), progress=progress),
        wanted,
        replace(chosen, seed=chosen.seed + seed),
        kinds=("mlp",) if curve == "f1" else ("mlp", "control"),
        device=str(model.cfg.device),
        progress=progress,
    )
    skipped = [f"{task}: {why}" for task, why in details["skipped"].items()]
    if not sums:
        raise DataError(f"No probe task can be scored. {' '.join(skipped)}")
    signal = ProbeSignal(curve=curve)
    once = np.ones((1, len(next(iter(sums.values())))))
    return _label(signal, signal.curves(sums, once)[0], seed).assign_attrs(
        tasks=[task for task in wanted if f"{task}.mlp.hits" in sums], skipped=skipped
    )


def _curve(signal: StreamSignal, batch: Batch, folds: Folds, seed: int) -> xr.DataArray:
    n_layers = max(len(batch.resid), len(batch.pattern))
    part = signal.start(n_layers=n_layers, fold_sizes=folds.sizes)
    part.observe(batch)
    return _label(signal, signal.curves(part.sums(), np.ones((1, folds.count)))[0], seed).assign_attrs(
        sentences=len(batch.fold)
    )


def _label(signal: Signal, curve: np.ndarray, seed: int) -> xr.DataArray:
    import xarray as xr

    at = {GAP: np.arange(1, len(curve) + 1)}
    return xr.DataArray(curve, at, (GAP,), signal.name, {"unit": signal.unit, "seed": seed})


def _read(
    cache: Any, mask: Any, needed: Iterable[str], seed: int, tokens: str, centred: bool | None
) -> tuple[Batch, Folds]:
    """Return a cache as the batch that a pass over its sentences would have shown, and their bootstrap folds."""
    check_seed(seed)
    import torch

    if tokens not in get_args(Tokens):
        raise DataError(unknown_name("choice of tokens", str(tokens), get_args(Tokens)))
    layers = {hook: _layers(cache, hook) for hook in sorted(needed)}
    first = next(iter(layers.values()))[0]
    n_rows, n_pos = len(first), first.shape[-2]
    given = torch.ones(n_rows, n_pos) if mask is None else torch.as_tensor(mask)
    if given.shape != (n_rows, n_pos):
        raise DataError(f"The mask is {list(given.shape)}, the cache has {n_rows} rows of {n_pos} positions.")
    is_token = given.to(first.device).bool()
    usable = (is_token.sum(1) > MIN_TOKENS).nonzero()[:, 0].cpu().numpy()
    if len(usable) < MIN_ROWS:
        raise DataError(
            f"At least {MIN_ROWS} sentences of {MIN_TOKENS + 1} tokens or more are needed, the cache has {len(usable)}."
        )
    enough = len(usable) >= MIN_FOLDS * MIN_FOLD
    folds = assign_folds(len(usable), seed=seed) if enough else Folds(np.arange(len(usable)), len(usable))
    fold = np.full(len(usable), -1)
    fold[folds.order] = np.repeat(np.arange(folds.count), folds.sizes)
    rows = torch.from_numpy(usable[fold >= 0]).to(first.device)
    # Tokens first, as a pass over right-padded sentences has them: the first position is then the first token.
    order = (~is_token[rows]).to(torch.uint8).sort(dim=1, stable=True).indices
    is_token = is_token[rows].gather(1, order)
    resid = [_aligned(layer, rows, order) for layer in layers.get(RESID, [])]
    pattern = [_aligned(layer, rows, order) for layer in layers.get(PATTERN, [])]
    is_data = is_token if tokens == "all" else data_tokens(resid, is_token)
    draw = np.random.default_rng([seed, 1]).random(len(usable))[fold >= 0]
    batch = Batch(
        sentence=rows.cpu().numpy(),
        fold=fold[fold >= 0],
        drawn=nth_data_token(is_data, draw),
        tokens=torch.zeros_like(is_token, dtype=torch.int64),
        is_data=is_data,
        is_token=is_token,
        resid=resid,
        pattern=pattern,
        centred=_is_centred(cache) if centred is None else centred,
    )
    return batch, folds


def _layers(cache: Any, hook: str) -> list[Tensor]:
    """Return what a hook showed at every block."""
    numbers = [int(match[1]) for name in cache.keys() if (match := re.match(r"blocks\.(\d+)\.", str(name)))]  # noqa: SIM118
    found: list[Tensor] = []
    for layer in range(max(numbers, default=-1) + 1):
        name = f"blocks.{layer}.{hook}"
        try:
            found.append(cache[name])
        except KeyError:
            raise DataError(f"The cache lacks {name}. {_advice(hook)}") from None
    if len(found) < 2:
        raise DataError(f"A curve over gaps needs two blocks, the cache has {len(found)}. {_advice(hook)}")
    if not found[0].ndim == (3 if hook == RESID else 4):
        raise DataError(
            f"{hook} has a batch axis, the cache's is {list(found[0].shape)}: keep it (no remove_batch_dim)."
        )
    return found


def _advice(hook: str) -> str:
    return f'Cache it at every block: names_filter=lambda name: name.endswith(("{RESID}", "hook_pattern")).'


def _aligned(layer: Tensor, rows: Tensor, order: Int[Tensor, "batch pos"]) -> Tensor:
    """Return the chosen rows with their tokens first, along queries and keys alike."""
    kept = layer if len(rows) == len(layer) else layer[rows]
    if bool((order[:, 1:] > order[:, :-1]).all()):
        return kept
    if kept.ndim == 3:
        return kept.gather(1, order[:, :, None].expand_as(kept))
    kept = kept.gather(2, order[:, None, :, None].expand_as(kept))
    return kept.gather(3, order[:, None, None, :].expand_as(kept))


def _is_centred(cache: Any) -> bool:
    model = getattr(cache, "model", None)
    if model is None:
        raise DataError(
            "A plain dictionary does not say how its model normalises: give centred=False (RMSNorm) or centred=True "
            "(LayerNorm)."
        )
    return reads_centred(model)
