"""What a disturbance does to the next token, without generating text (N): KL, loss change, top-1 agreement.

The undisturbed pass over a batch of sentences is made once and kept; every disturbed pass starts from it at its first
touched block, so blocks below are never computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mspgt_tl.contracts import LAYER, CausalModel, Progress
from mspgt_tl.errors import CorpusError, DataError
from mspgt_tl.interventions.hooks import Hook, Positions
from mspgt_tl.interventions.noise import check_hooked
from mspgt_tl.models.pretrained import encode
from mspgt_tl.models.tokens import pad
from mspgt_tl.passes.batches import batch_by_length
from mspgt_tl.passes.data import data_tokens
from mspgt_tl.stats import ratio_intervals

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

HookMaker: TypeAlias = "Callable[[Sequence[int], float | Tensor, Int[Tensor, 'batch'], Positions], list[Hook]]"
"""Layers, σ, sample ids and positions in; hooks for that batch out."""
MEASURES = ("kl", "loss_change", "agreement")
UNITS = {"kl": "nats/token", "loss_change": "nats/token", "agreement": "share"}
LOGIT_POSITIONS = 512
"""Positions whose logits are compared at once, in float64."""
KEPT_NUMBERS = 1 << 25
"""A batch whose undisturbed log-probabilities are at most so many keeps them: 256 MB."""


@dataclass(frozen=True)
class CleanPass:
    """A batch of right-padded sentences and what the undisturbed model makes of it."""

    ids: Int[Tensor, "batch"]
    """Which sentence each row is."""
    tokens: Int[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    """-1 on padding."""
    predicts: Bool[Tensor, "batch pos"]
    """Whether the next token is there to be predicted."""
    is_data: Bool[Tensor, "batch pos"]
    """False on padding, the first token and sinks."""
    resid: Sequence[Float[Tensor, "batch pos d_model"]]
    """What enters every block, and last what leaves the last."""
    kept: dict[int, Tensor] = field(default_factory=dict, compare=False)
    """Predictions computed before, by where they start, while they are not too large to keep."""

    def log_probs(self, model: Any, start: int, chosen: Bool[Tensor, "batch pos"]) -> Float[Tensor, "predicted vocab"]:
        """Return the undisturbed model's log-probabilities at the chosen positions, the same for the same start."""
        if start in self.kept:
            return self.kept[start]
        found = predicted_log_probs(model, self.resid[-1], chosen)
        if self.predicts.sum() * found.shape[-1] <= KEPT_NUMBERS:
            self.kept[start] = found
        return found


def clean_passes(
    model: CausalModel, sentences: Sequence[str], *, max_length: int, batch_positions: int
) -> Iterator[CleanPass]:
    """Yield the sentences in batches of at most so many positions, longest first; those of one token are left out.

    Raises:
        CorpusError: no sentence has two tokens.
        ConfigError: the model is not a `HookedTransformer`.
    """
    import torch

    check_hooked(model, "Comparing predictions")
    encoding = encode(model, list(sentences), max_length=min(max_length, int(model.cfg.n_ctx)))
    usable = [i for i, ids in enumerate(encoding.ids) if len(ids) >= 2]
    if not usable:
        raise CorpusError("No sentence has two tokens, so there is no next token to predict.")
    for batch in batch_by_length([len(encoding.ids[i]) for i in usable], batch_positions):
        rows = [usable[row] for row in batch]
        tokens, mask = pad([encoding.ids[i] for i in rows], side="right", pad_id=0)
        tokens, mask = tokens.to(model.cfg.device), mask.to(model.cfg.device)
        with torch.inference_mode():
            resid = _run_clean(model, tokens)
        is_token = mask.bool()
        is_data = data_tokens(resid[1:], is_token)
        predicts = is_token.roll(-1, dims=1)
        predicts[:, -1] = False
        positions = (mask.cumsum(-1) - 1).masked_fill(~is_token, -1)
        yield CleanPass(torch.tensor(rows), tokens, positions, predicts, is_data, resid)


def _run_clean(model: Any, tokens: Int[Tensor, "batch pos"]) -> list[Tensor]:
    n_layers = int(model.cfg.n_layers)
    names = {f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)}
    last = f"blocks.{n_layers - 1}.hook_resid_post"
    _, cache = model.run_with_cache(
        tokens,
        names_filter=lambda name: name in names or name == last,
        stop_at_layer=n_layers,
        return_cache_object=False,
    )
    return [*(cache[f"blocks.{layer}.hook_resid_pre"] for layer in range(n_layers)), cache[last]]


def predicted_log_probs(model: Any, resid: Tensor, chosen: Tensor) -> Float[Tensor, "predicted vocab"]:
    """Return float64 log-probabilities at the chosen positions alone."""
    last = resid[chosen][:, None]
    logits = model(last, start_at_layer=model.cfg.n_layers)
    return logits[:, 0].double().log_softmax(-1)


def disturb(
    model: CausalModel, clean: CleanPass, layers: Sequence[int], sigma: float, make_hooks: HookMaker
) -> Float[Tensor, "batch pos d_model"]:
    """Return what leaves the last block under a disturbance."""
    import torch

    first = min(layers)
    hooks = make_hooks(layers, sigma, clean.ids, Positions(clean.positions))
    anything: Any = model
    with torch.inference_mode(), model.hooks(fwd_hooks=hooks):
        return anything(clean.resid[first], start_at_layer=first, stop_at_layer=model.cfg.n_layers)


def compare(
    model: CausalModel, clean: CleanPass, disturbed: Float[Tensor, "batch pos d_model"]
) -> dict[str, Float[np.ndarray, "batch"]]:
    """Return sums over each row's predicted tokens: KL(clean ‖ disturbed), loss change, top-1 agreement, and tokens."""
    import torch

    rows, columns = clean.predicts.nonzero(as_tuple=True)
    sums = {name: np.zeros(len(clean.tokens)) for name in (*MEASURES, "tokens")}
    for start in range(0, len(rows), LOGIT_POSITIONS):
        row, column = rows[start : start + LOGIT_POSITIONS], columns[start : start + LOGIT_POSITIONS]
        chosen = torch.zeros_like(clean.predicts)
        chosen[row, column] = True
        with torch.inference_mode():
            before = clean.log_probs(model, start, chosen)
            after = predicted_log_probs(model, disturbed, chosen)
            # Summed from terms that are each small where the distributions agree.
            kl = (before.exp() * (before - after)).sum(-1)
            target = clean.tokens[row, column + 1][:, None]
            loss = (before - after).gather(-1, target)[:, 0]
            agree = (before.argmax(-1) == after.argmax(-1)).double()
        for name, values in (("kl", kl), ("loss_change", loss), ("agreement", agree), ("tokens", torch.ones_like(kl))):
            np.add.at(sums[name], row.cpu().numpy(), values.cpu().numpy())
    return sums


def next_token_effects(
    model: CausalModel,
    sentences: Sequence[str],
    targets: Mapping[str, Iterable[int]],
    sigmas: Mapping[str, Sequence[float]] | Sequence[float],
    make_hooks: HookMaker,
    *,
    seed: int,
    max_length: int = 128,
    batch_positions: int = 2048,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Measure KL, loss change and top-1 agreement for every target (a name for some blocks) and σ.

    Args:
        sigmas: the same for all targets, or as many for each; a σ of nan gives nan.
        make_hooks: such as `lambda layers, sigma, ids, at: noise_hooks(model, layers, sigma, seed=0, sample_ids=ids,
            positions=at)`. The sample id is the sentence's number.

    Returns:
        `kl`, `loss_change` (nats/token) and `agreement` (share), `[target, level]`, each with `_low` and `_high`: 95 %
        bootstrap intervals over sentences; and `sigma`.

    Raises:
        CorpusError: no sentence has two tokens.
        DataError: targets without blocks, or unequal numbers of σ.
    """
    import xarray as xr

    names = list(targets)
    blocks = {name: sorted(layers) for name, layers in targets.items()}
    table = {name: list(sigmas[name] if isinstance(sigmas, Mapping) else sigmas) for name in names}
    if not names or not all(blocks.values()) or len({len(row) for row in table.values()}) != 1:
        raise DataError("Every target needs at least one block, and all equally many values of sigma.")
    n_levels = len(table[names[0]])
    sums = {name: np.full((len(names), n_levels, len(sentences)), np.nan) for name in MEASURES}
    tokens = np.zeros(len(sentences))
    # In sentence order, so that batches decide nothing beyond rounding.
    for clean in clean_passes(model, sentences, max_length=max_length, batch_positions=batch_positions):
        where = clean.ids.numpy()
        for t, name in enumerate(names):
            for s, sigma in enumerate(table[name]):
                if not np.isfinite(sigma):
                    continue
                found = compare(model, clean, disturb(model, clean, blocks[name], sigma, make_hooks))
                for measure in MEASURES:
                    sums[measure][t, s, where] = found[measure]
                tokens[where] = found["tokens"]
        if progress:
            progress("next-token effects", int((tokens > 0).sum()), len(sentences))
    used = tokens > 0
    data: dict[str, Any] = {"sigma": (("target", "level"), np.array([table[name] for name in names], dtype=float))}
    for measure in MEASURES:
        kept = sums[measure][..., used]
        intervals = ratio_intervals(kept, tokens[used], resamples=resamples, seed=seed)
        data[measure] = (("target", "level"), kept.sum(-1) / tokens[used].sum())
        data[f"{measure}_low"], data[f"{measure}_high"] = ((("target", "level"), side) for side in intervals)
    attrs = {"sentences": int(used.sum()), "tokens": int(tokens.sum()), "seed": seed, "resamples": resamples}
    result = xr.Dataset(data, coords={"target": names}, attrs=attrs)
    for measure in MEASURES:
        result[measure].attrs["unit"] = UNITS[measure]
    return result


def measure_ledger(
    model: CausalModel, clean: Sequence[CleanPass], layers: Sequence[int], sigma: float, make_hooks: HookMaker
) -> xr.Dataset:
    """Return what a disturbance amounts to at every layer, as means over tokens, BOS left out.

    Returns:
        `injected`: ‖δ‖/‖h‖ of what the hook adds at a layer, `snr_db`: −20 log10 of it, both nan at untouched layers;
        `deviation`: ‖h' − h‖/‖h‖ of the whole stream after the layer, from what all touched layers have done by then.
    """
    import torch
    import xarray as xr

    n_layers = int(model.cfg.n_layers)
    sums, count = np.zeros((3, n_layers)), 0
    for batch in clean:
        keep = batch.is_data
        entered: dict[int, Tensor] = {}

        def before(resid: Tensor, hook: Any, *, layer: int, entered: dict[int, Tensor] = entered) -> None:
            entered[layer] = resid

        def after(
            resid: Tensor,
            hook: Any,
            *,
            layer: int,
            batch: CleanPass = batch,
            keep: Tensor = keep,
            entered: dict[int, Tensor] = entered,
        ) -> None:
            reference = batch.resid[layer + 1][keep].double()
            here = resid[keep].double()
            sums[2, layer] += _ratio(here - reference, reference).sum().item()
            if layer in layers:
                own = entered.pop(layer)[keep].double()
                injected = _ratio(here - own, own)
                sums[0, layer] += injected.sum().item()
                sums[1, layer] += (-20 * injected.log10()).sum().item()

        def make(chosen: Sequence[int], size: float | Tensor, ids: Tensor, at: Positions) -> list[Hook]:
            # Hooks of one name run in the order of the list, so these stand around the ones measured.
            first = [(f"blocks.{i}.hook_resid_post", partial(before, layer=i)) for i in chosen]
            last = [(f"blocks.{i}.hook_resid_post", partial(after, layer=i)) for i in range(min(chosen), n_layers)]
            return [*first, *make_hooks(chosen, size, ids, at), *last]

        with torch.inference_mode():
            disturb(model, batch, layers, sigma, make)
        count += int(keep.sum())
    touched = np.isin(np.arange(n_layers), list(layers))
    means = sums / count
    means[:2, ~touched] = np.nan
    names = ("injected", "snr_db", "deviation")
    return xr.Dataset({name: (LAYER, row) for name, row in zip(names, means, strict=True)})


def _ratio(change: Tensor, reference: Tensor) -> Tensor:
    return change.norm(dim=-1) / reference.norm(dim=-1)
