"""What a disturbance does to the next token, without generating text (N): KL, loss change, top-1 agreement.

The undisturbed pass over a batch of sentences is made once and kept; every disturbed pass starts from it at its first
touched block, so blocks below are never computed again. All σ of a target are rows of one pass, and share their noise.

With p the undisturbed probabilities and d the change of the logits less its mean under p, KL = log Σ p exp(d), so
KL = log(1 + Σ p (exp(d) − 1 − d)): no term is negative, nothing cancels, and float32 terms with a float64 sum are
enough however small the effect. Probabilities of the disturbed model are never needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mspgt_tl.config import Tokens
from mspgt_tl.contracts import LAYER, CausalModel, Progress
from mspgt_tl.errors import CorpusError, DataError
from mspgt_tl.interventions.hooks import Hook, Positions
from mspgt_tl.interventions.noise import check_hooked
from mspgt_tl.models.pretrained import encode
from mspgt_tl.passes.batches import LENGTH, POSITIONS, Batches, Padded, made_batches
from mspgt_tl.passes.capture import capture, resume
from mspgt_tl.passes.data import data_tokens
from mspgt_tl.passes.readout import logits_of
from mspgt_tl.stats import ratio_intervals

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

HookMaker: TypeAlias = "Callable[[Sequence[int], float | Tensor, Int[Tensor, 'batch'], Positions], list[Hook]]"
"""Layers, σ, sample ids and positions in; hooks for that batch out."""
MEASURES = ("kl", "loss_change", "agreement")
UNITS = {"kl": "nats/token", "loss_change": "nats/token", "agreement": "share"}
CHUNK_NUMBERS = 1 << 23
"""Logits that are compared at once: 32 MB in float32, and a few times as much for what is made of them."""
KEPT_NUMBERS = 1 << 25
"""A batch whose undisturbed logits are at most so many keeps them, with their probabilities: 256 MB."""
STREAM_NUMBERS = 1 << 26
"""Entries of disturbed streams that wait to be compared with one look at the undisturbed predictions: 256 MB."""


@dataclass(frozen=True)
class Predictions:
    """What the undisturbed model predicts at some positions."""

    logits: Float[Tensor, "predicted vocab"]
    probabilities: Float[Tensor, "predicted vocab"]
    likeliest: Int[Tensor, "predicted"]


@dataclass(frozen=True)
class CleanPass:
    """A batch of right-padded sentences, what the undisturbed model makes of it, and where it is disturbed and scored.

    A mean KL says little without its tokens. Sweeps (`clean_passes`) disturb every token, as decoding does, and compare
    the predictions of every token that another one follows. The theory (`measure_noise`) does both at data tokens, for
    its expansion is about these, a text's last one among them: a few per cent of a mean KL (docs/method.md).
    """

    ids: Int[Tensor, "batch"]
    """Which sentence each row is."""
    tokens: Int[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    """Of tokens that are disturbed; -1 on all others, padding among them."""
    is_scored: Bool[Tensor, "batch pos"]
    """Where predictions are compared."""
    is_data: Bool[Tensor, "batch pos"]
    """False on padding, the first token and sinks."""
    resid: Sequence[Float[Tensor, "batch pos d_model"]]
    """What enters every block, and last what leaves the last."""
    kept: dict[int, Predictions] = field(default_factory=dict, compare=False)
    """Predictions computed before, by where they start, while they are not too large to keep."""

    def predictions(self, model: Any, start: int, chosen: tuple[Tensor, Tensor]) -> Predictions:
        """Return what the undisturbed model predicts at these rows and columns, the same for the same start."""
        if start in self.kept:
            return self.kept[start]
        found = predict(logits_of(model, self.resid[-1][chosen]))
        if self.is_scored.sum() * found.logits.shape[-1] <= KEPT_NUMBERS:
            self.kept[start] = found
        return found

    def scored(
        self, model: Any
    ) -> Iterator[tuple[slice, tuple[Tensor, Tensor], Predictions, Int[Tensor, "predicted"]]]:
        """Yield the scored tokens in stretches: which, their rows and columns, their predictions, what follows them."""
        rows, columns = self.is_scored.nonzero(as_tuple=True)
        following = self.tokens.roll(-1, dims=1)
        size = max(1, CHUNK_NUMBERS // int(model.cfg.d_vocab_out))
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            chosen = rows[part], columns[part]
            yield part, chosen, self.predictions(model, start, chosen), following[chosen]


def clean_passes(
    model: CausalModel,
    sentences: Sequence[str],
    *,
    tokens: Tokens = "all",
    max_length: int = LENGTH,
    batch_positions: int = POSITIONS,
) -> Batches[CleanPass]:
    """Return the sentences in batches of at most so many positions, longest first; those of one token are left out.

    Args:
        tokens: that are disturbed and, where another one follows, compared: `data` leaves out first tokens and sinks.

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

    def run(batch: Padded) -> CleanPass:
        found = capture(model, batch)
        is_data = data_tokens(found.resid, batch.is_token)
        is_meant = is_data if tokens == "data" else batch.is_token
        is_followed = batch.is_token.roll(-1, dims=1)
        is_followed[:, -1] = False
        positions = Positions.from_mask(batch.is_token).current.masked_fill(~is_meant, -1)
        ids = torch.tensor([usable[row] for row in batch.rows])
        return CleanPass(ids, batch.tokens, positions, is_meant & is_followed, is_data, found.streams)

    return made_batches(model, [encoding.ids[i] for i in usable], "effects", run, positions=batch_positions)


def predict(logits: Float[Tensor, "predicted vocab"]) -> Predictions:
    """Return logits with what others are compared by."""
    return Predictions(logits, logits.softmax(-1), logits.argmax(-1))


def disturb(
    model: CausalModel, clean: CleanPass, layers: Sequence[int], sigma: float, make_hooks: HookMaker
) -> Float[Tensor, "batch pos d_model"]:
    """Return what leaves the last block under a disturbance."""
    return disturb_levels(model, clean, layers, [sigma], make_hooks)[0]


def disturb_levels(
    model: CausalModel, clean: CleanPass, layers: Sequence[int], sigmas: Sequence[float], make_hooks: HookMaker
) -> Float[Tensor, "level batch pos d_model"]:
    """Return what leaves the last block under every σ, all of them rows of one pass."""
    import torch

    first, n_levels, n_rows = min(layers), len(sigmas), len(clean.tokens)
    size = sigmas[0] if n_levels == 1 else torch.tensor(sigmas, dtype=torch.float64).repeat_interleave(n_rows)
    hooks = make_hooks(layers, size, clean.ids.repeat(n_levels), Positions(clean.positions.repeat(n_levels, 1)))
    left = resume(model, clean.resid[first].repeat(n_levels, 1, 1), first, hooks)
    return left.view(n_levels, n_rows, *left.shape[1:])


def compare_tokens(
    model: CausalModel, clean: CleanPass, disturbed: Sequence[Float[Tensor, "batch pos d_model"]]
) -> dict[str, Float[np.ndarray, "disturbance predicted"]]:
    """Return KL(clean ‖ disturbed), loss change and top-1 agreement at every scored token, row by row.

    The loss change of a scored token that none follows means nothing.
    """
    import torch

    found = {name: np.empty((len(disturbed), int(clean.is_scored.sum()))) for name in MEASURES}
    with torch.inference_mode():
        for part, chosen, before, target in clean.scored(model):
            for i, resid in enumerate(disturbed):
                values = compare_logits(before, logits_of(model, resid[chosen]), target)
                for name, value in zip(MEASURES, values, strict=True):
                    found[name][i, part] = value.cpu().numpy()
    return found


def clean_losses(model: CausalModel, clean: CleanPass) -> Float[np.ndarray, "scored"]:
    """Return the undisturbed loss at every scored token, in nats; what it is where none follows means nothing."""
    import torch

    with torch.inference_mode():
        found = [
            -before.logits.double().log_softmax(-1).gather(-1, target[:, None])[:, 0]
            for _, _, before, target in clean.scored(model)
        ]
    return torch.cat(found).cpu().numpy()


def compare_logits(
    before: Predictions, after: Float[Tensor, "predicted vocab"], target: Int[Tensor, "predicted"]
) -> tuple[Float[Tensor, "predicted"], Float[Tensor, "predicted"], Float[Tensor, "predicted"]]:
    """Return KL(before ‖ after), loss change (both in nats, float64) and whether both find the same token likeliest.

    `after` is overwritten.
    """
    import torch

    agreement = (after.argmax(-1) == before.likeliest).double()
    change = after.sub_(before.logits)
    mean = (before.probabilities * change).sum(-1, keepdim=True)
    change -= mean
    at_target = change.gather(-1, target[:, None])[:, 0].double()
    curved = torch.expm1(change).sub_(change).mul_(before.probabilities)
    kl = torch.log1p(curved.sum(-1, dtype=torch.float64))
    far = ~kl.isfinite()
    if far.any():  # exp overflows where a logit rises by 88 or more
        log_before = before.logits[far].double().log_softmax(-1)
        log_after = (before.logits[far].double() + change[far].double()).log_softmax(-1)
        kl[far] = (log_before.exp() * (log_before - log_after)).sum(-1)
    return kl, kl - at_target, agreement


def compare(
    model: CausalModel, clean: CleanPass, disturbed: Sequence[Float[Tensor, "batch pos d_model"]]
) -> dict[str, Float[np.ndarray, "disturbance batch"]]:
    """Return sums over each row's scored tokens: KL(clean ‖ disturbed), loss change and top-1 agreement."""
    rows = clean.is_scored.nonzero(as_tuple=True)[0].cpu().numpy()
    sums = {name: np.zeros((len(disturbed), len(clean.tokens))) for name in MEASURES}
    for name, values in compare_tokens(model, clean, disturbed).items():
        np.add.at(sums[name].T, rows, values.T)
    return sums


def next_token_effects(
    model: CausalModel,
    sentences: Sequence[str],
    targets: Mapping[str, Iterable[int]],
    sigmas: Mapping[str, Sequence[float]] | Sequence[float],
    make_hooks: HookMaker,
    *,
    seed: int,
    tokens: Tokens = "all",
    max_length: int = LENGTH,
    batch_positions: int = POSITIONS,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Measure KL, loss change and top-1 agreement for every target (a name for some blocks) and σ.

    Args:
        sigmas: the same for all targets, or as many for each; a σ of nan gives nan.
        make_hooks: such as `lambda layers, sigma, ids, at: noise_hooks(model, layers, sigma, seed=0, sample_ids=ids,
            positions=at)`. The sample id is the sentence's number.
        tokens: that are disturbed and compared, as `clean_passes`; the theory's closure also counts a last one.

    Returns:
        `kl`, `loss_change` (nats/token) and `agreement` (share), `[target, level]`, each with `_low` and `_high`: 95 %
        bootstrap intervals over sentences; and `sigma`.

    Raises:
        CorpusError: no sentence has two tokens.
        DataError: targets without blocks, or unequal numbers of σ.

    See Also:
        intervene: the whole sweep, with controls and text.

    Example:
        >>> import mspgt_tl
        >>> model = mspgt_tl.load("planted:8:3,6")
        >>> def make(layers, sigma, ids, at):
        ...     return mspgt_tl.noise_hooks(model, layers, sigma, sample_ids=ids, positions=at)
        >>> sentences = mspgt_tl.sample_sentences(8)
        >>> effects = next_token_effects(model, sentences, {"late": range(4, 8)}, [0.0, 0.5], make, seed=0)
        >>> bool(effects["kl"][0, 0] < effects["kl"][0, 1])
        True
    """
    import xarray as xr

    names = list(targets)
    blocks = {name: sorted(layers) for name, layers in targets.items()}
    table = {name: list(sigmas[name] if isinstance(sigmas, Mapping) else sigmas) for name in names}
    if not names or not all(blocks.values()) or len({len(row) for row in table.values()}) != 1:
        raise DataError("Every target needs at least one block, and all equally many values of sigma.")
    n_levels = len(table[names[0]])
    sums = {name: np.full((len(names), n_levels, len(sentences)), np.nan) for name in MEASURES}
    counts = np.zeros(len(sentences))
    # Rows of one pass are a batch's sentences times its levels. Sums are kept in sentence order, so that batches decide
    # nothing beyond rounding.
    positions = max(1, batch_positions // n_levels)
    wanted = [(t, [s for s in range(n_levels) if np.isfinite(table[name][s])]) for t, name in enumerate(names)]
    passes = clean_passes(model, sentences, tokens=tokens, max_length=max_length, batch_positions=positions)
    for clean in passes:
        with passes.fitting():
            where = clean.ids.numpy()
            for group in _groups(wanted, clean.resid[-1].numel()):
                disturbed = [
                    resid
                    for t, levels in group
                    for resid in disturb_levels(
                        model, clean, blocks[names[t]], [table[names[t]][s] for s in levels], make_hooks
                    )
                ]
                at = np.array([(t, s) for t, levels in group for s in levels]).T
                for measure, values in compare(model, clean, disturbed).items():
                    sums[measure][at[0][:, None], at[1][:, None], where] = values
            counts[where] = clean.is_scored.sum(dim=1).cpu().numpy()
            if progress:
                progress("next-token effects", int((counts > 0).sum()), len(sentences))
        del clean  # or it would stay while the next one is made
    used = counts > 0
    data: dict[str, Any] = {"sigma": (("target", "level"), np.array([table[name] for name in names], dtype=float))}
    for measure in MEASURES:
        kept = sums[measure][..., used]
        intervals = ratio_intervals(kept, counts[used], resamples=resamples, seed=seed)
        data[measure] = (("target", "level"), kept.sum(-1) / counts[used].sum())
        data[f"{measure}_low"], data[f"{measure}_high"] = ((("target", "level"), side) for side in intervals)
    attrs = {"sentences": int(used.sum()), "tokens": int(counts.sum()), "seed": seed, "resamples": resamples}
    result = xr.Dataset(data, coords={"target": names}, attrs=attrs)
    for measure in MEASURES:
        result[measure].attrs["unit"] = UNITS[measure]
    return result


def _groups(wanted: Sequence[tuple[int, list[int]]], numbers: int) -> Iterator[list[tuple[int, list[int]]]]:
    """Yield stretches of targets with their levels, as many as may wait at so many numbers for each level."""
    group, size = list[tuple[int, list[int]]](), 0
    for target, levels in wanted:
        if not levels:
            continue
        if group and (size + len(levels)) * numbers > STREAM_NUMBERS:
            yield group
            group, size = [], 0
        group.append((target, levels))
        size += len(levels)
    if group:
        yield group


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
