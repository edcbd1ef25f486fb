"""Boundary or BOS? What massive activations and sinks do at every depth, beside the evidence.

The first token of a sentence and some delimiters carry massive activations from one block to another and take most of
the attention mass meanwhile. Where that starts or ends, everything measured on all tokens changes, in many models at
the same depths, and none of it is language. Signals leave those tokens out; this profile shows where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from mspgt_tl.contracts import GAP, LAYER, WITHIN, Batch, StreamSignal
from mspgt_tl.passes.data import SINK_NORM
from mspgt_tl.signals.first_token import relative_first_norm
from mspgt_tl.signals.matrix_entropy import matrix_entropy

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

PROFILE = "profile"
"""Name of the stage."""
MASSIVE_OVER = 100.0
"""A channel is massive at a block where it exceeds so many times the block's median magnitude (Sun et al. 2024)."""
JUMP = 2.0
"""The first token's norm over the median that changes by this factor from block to block is an onset or an end."""
SHARE_JUMP = 0.4
"""So does a change of the sinks' share of attention mass by more than this: half as much is usual between blocks."""
ENTROPY_FOLDS = 2
"""Bootstrap folds whose sentences the entropy is measured on: eigenvalues of all would cost as much as the rest."""
PER_LAYER = {
    "first_norm": "norm of the first token over the median of the sentence's data tokens",
    "sink_mass": "share of the attention mass of data tokens that goes to the first token and other sinks",
    "massive_channels": "channels over 100 times the median magnitude, mean over sentences",
    "massive_size": "largest magnitude over the median magnitude, mean over sentences",
    "spectrum_entropy": "entropy of the normalised spectrum of a sentence's Gram matrix, all tokens, nats",
}
"""What is measured at every block, by the name of its variable in a result."""
COUNTS = ("sentences", "tokens", "first_tokens", "sinks", "data")


@dataclass
class _Accumulator:
    n_layers: int
    n_folds: int

    def __post_init__(self) -> None:
        self.total = np.zeros((self.n_folds, self.n_layers, len(PER_LAYER)))
        self.counts = np.zeros((self.n_folds, len(COUNTS)))

    def observe(self, batch: Batch) -> None:
        import torch

        after_first = batch.is_token.clone()
        after_first[:, 0] = False
        every = torch.ones_like(batch.drawn)
        sinks, tokens = (after_first & ~batch.is_data).sum(1), batch.is_token.sum(1)
        counts = torch.stack([every, tokens, tokens - after_first.sum(1), sinks, batch.is_data.sum(1)], dim=1)
        np.add.at(self.counts, batch.fold, counts.double().cpu().numpy())
        dropped = batch.is_token & ~batch.is_data
        early = torch.from_numpy(batch.fold < ENTROPY_FOLDS)
        layers = zip(batch.resid, batch.pattern, strict=True)
        values = [torch.stack(_measures(*layer, batch, dropped, early), dim=1) for layer in layers]
        np.add.at(self.total, batch.fold, torch.stack(values, dim=1).double().cpu().numpy())

    def sums(self) -> Mapping[str, np.ndarray]:
        return {"total": self.total, "counts": self.counts}


def _measures(
    resid: Float[Tensor, "batch pos d_model"],
    pattern: Float[Tensor, "batch head query key"],
    batch: Batch,
    dropped: Bool[Tensor, "batch pos"],
    early: Bool[Tensor, "batch"],
) -> list[Float[Tensor, "batch"]]:
    """Return the quantities of `PER_LAYER` for every sentence; entropy only where it is measured, else 0."""
    import torch

    size = resid.float().abs()
    median = size.masked_fill(~batch.is_data[..., None], float("nan")).flatten(1).nanmedian(dim=1).values
    tiny = torch.finfo(torch.float32).tiny
    top = size.masked_fill(~batch.is_token[..., None], 0).amax(dim=1)
    queries = batch.is_data.float()
    mass = torch.einsum("bq,bqk,bk->b", queries, pattern.float().mean(dim=1), dropped.float())
    entropy = torch.zeros_like(mass)
    if early.any():
        entropy[early] = matrix_entropy(resid[early], batch.is_token[early]).float()
    return [
        relative_first_norm(resid, batch.is_data),
        mass / queries.sum(dim=1).clamp(min=1),
        (top > MASSIVE_OVER * median[:, None]).float().sum(dim=1),
        top.amax(dim=1) / median.clamp(min=tiny),
        entropy,
    ]


@dataclass(frozen=True)
class StreamProfile(StreamSignal):
    """What the first token, the sinks and massive channels look like at every block.

    Its curve is |difference| of the logarithm of `first_norm` at every gap. Unit: nats, in [0, inf).
    """

    name: ClassVar[str] = PROFILE
    title: ClassVar[str] = "First-token norm over the median"
    unit: ClassVar[str] = "nats"
    source: ClassVar[str] = "Sun et al. 2024; Xiao et al. 2024 (N)"
    needs: ClassVar[frozenset[str]] = frozenset({"resid", "pattern"})

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> _Accumulator:
        return _Accumulator(n_layers, len(fold_sizes))

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        ratio = weights @ sums["total"][:, :, list(PER_LAYER).index("first_norm")]
        return np.abs(np.diff(np.log(np.maximum(ratio, np.finfo(float).tiny)), axis=1))


def label_profile(sums: Mapping[str, np.ndarray], boundaries: Int[np.ndarray, "found"]) -> xr.Dataset:
    """Return the profile by block, and which boundaries coincide with an onset or end.

    Variables over `layer`: those of `PER_LAYER`. Over `gap`: `onset`, 1 where a massive activation or a sink starts, −1
    where one ends, else 0 (the first token's norm or the mean massive size moves by a factor of `JUMP` and exceeds
    `SINK_NORM` or `MASSIVE_OVER` on one side, or the sinks' mass moves by `SHARE_JUMP`). Over `found`: `near_onset`,
    whether one lies within `WITHIN` gaps. Scalar: `onset_chance`, the share of all gaps within `WITHIN` of one, which
    is how often a boundary at a random gap would coincide. Over `kind_of_token`: `token_count` (`COUNTS`).
    """
    import xarray as xr

    counts = sums["counts"].sum(axis=0)
    mean = sums["total"].sum(axis=0) / counts[0]
    entropy = list(PER_LAYER).index("spectrum_entropy")
    mean[:, entropy] = sums["total"].sum(axis=0)[:, entropy] / sums["counts"][:ENTROPY_FOLDS, 0].sum()
    by_name = dict(zip(PER_LAYER, mean.T, strict=True))
    onset = find_onsets(by_name["first_norm"], by_name["massive_size"], by_name["sink_mass"])
    gaps = np.arange(1, len(mean))
    near = np.array([bool((onset[np.abs(gaps - gap) <= WITHIN] != 0).any()) for gap in gaps])
    return xr.Dataset(
        {
            **{name: (LAYER, values, {"long_name": PER_LAYER[name]}) for name, values in by_name.items()},
            "onset": (GAP, onset, {"long_name": "massive activation or sink: 1 starts, -1 ends"}),
            "near_onset": ("found", near[np.asarray(boundaries, dtype=int) - 1]),
            "onset_chance": ((), float(near.mean())),
            "token_count": ("kind_of_token", counts),
        },
        coords={"kind_of_token": list(COUNTS)},
    )


def find_onsets(
    first_norm: Float[np.ndarray, "layer"],
    massive_size: Float[np.ndarray, "layer"],
    sink_mass: Float[np.ndarray, "layer"],
) -> Int[np.ndarray, "gap"]:
    """Return 1 at gaps where a massive activation or a sink starts, -1 where one ends, 0 elsewhere.

    >>> find_onsets(np.array([1.0, 1, 90, 80, 1]), np.full(5, 9.0), np.full(5, 0.1)).tolist()
    [0, 1, 0, -1]
    """
    found = np.zeros(len(first_norm) - 1, dtype=np.int64)
    for values, floor in ((first_norm, SINK_NORM), (massive_size, MASSIVE_OVER)):
        step = np.diff(np.log(np.maximum(values, np.finfo(float).tiny)))
        is_massive = np.maximum(values[1:], values[:-1]) > floor
        found = np.where((found == 0) & is_massive & (np.abs(step) > np.log(JUMP)), np.sign(step), found)
    step = np.diff(sink_mass)
    return np.where((found == 0) & (np.abs(step) > SHARE_JUMP), np.sign(step), found).astype(np.int64)
