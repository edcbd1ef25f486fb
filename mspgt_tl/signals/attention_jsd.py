"""Attention drift: how much attention patterns differ between neighbouring layers.

Heads of two layers do not correspond, so by default each layer's rows are averaged over heads first. Keys that are no
data (the first token and other sinks, which soak up most of the mass) would make all rows look alike, so they are
dropped and every head's rows renormalised, *before* heads are averaged: otherwise heads that turn to a sink leave the
average to the others, a change that no text has (docs/calibration.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int

from mspgt_tl.config import AttentionMode
from mspgt_tl.contracts import SIGNALS, Batch, Role, StreamSignal
from mspgt_tl.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

MIN_KEYS = 4
"""Rows with fewer visible keys are left out: their divergence is small by construction."""


def jensen_shannon(p: Float[Tensor, "*row key"], q: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """Return the Jensen-Shannon divergence of distributions along the last axis (Lin 1991; docs/method.md, eq. 5).

    Unit: nats, in [0, ln 2]. Rows are taken as they are, so they must sum to one.

    Raises:
        DataError: shapes differ, values are negative or not finite, or rows do not sum to one within 1e-3.

    >>> import torch
    >>> jensen_shannon(torch.tensor([1., 0.]), torch.tensor([0., 1.]))
    tensor(0.6931)
    """
    import torch

    p, q = torch.as_tensor(p), torch.as_tensor(q)
    if p.shape != q.shape or p.ndim < 1:
        raise DataError(f"Two distributions of one shape are needed, got {list(p.shape)} and {list(q.shape)}.")
    for rows in (p, q):
        if not torch.isfinite(rows).all() or (rows < 0).any() or ((rows.double().sum(-1) - 1).abs() > 1e-3).any():
            raise DataError("Rows must be finite, not negative and sum to one.")
    p, q = (rows if rows.is_floating_point() else rows.float() for rows in (p, q))
    return _divergence(p, q, _entropy(p), _entropy(q))


def _entropy(p: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    import torch

    # Half the time of `torch.special.entr`, which tells zeros apart one by one (measured).
    return -p.clamp(min=torch.finfo(p.dtype).tiny).log_().mul_(p).sum(-1)


def _divergence(p: Tensor, q: Tensor, entropy_p: Tensor, entropy_q: Tensor) -> Tensor:
    """Return H((p+q)/2) - (H(p)+H(q))/2, kept within its bounds against rounding."""
    return (_entropy((p + q) / 2) - (entropy_p + entropy_q) / 2).clamp(0, math.log(2))


@dataclass
class _Accumulator:
    signal: AttentionDrift
    n_layers: int
    n_folds: int

    def __post_init__(self) -> None:
        self.rows = np.zeros(self.n_folds)
        self.divergence: np.ndarray | None = None

    def observe(self, batch: Batch) -> None:
        import torch

        keep = batch.is_token if self.signal.sinks else batch.is_data
        seen = torch.tril(keep[:, None, :].expand(-1, keep.shape[1], -1))
        valid = batch.is_data & (seen.sum(-1) >= MIN_KEYS)
        np.add.at(self.rows, batch.fold, valid.sum(-1).double().cpu().numpy())
        mask = keep[:, None, None, :]
        sums = []
        previous: tuple[Tensor, Tensor] | None = None
        for layer in batch.pattern:
            rows = layer.float() if self.signal.sinks else _renormalised(layer.float(), mask)
            rows = rows if self.signal.mode == "matched" else rows.mean(dim=1, keepdim=True)
            entropy = _entropy(rows)
            if previous is not None:
                sums.append(_pairwise(previous[0], rows, previous[1], entropy, valid))
            previous = rows, entropy
        total = torch.stack(sums, dim=1).double().cpu().numpy()
        if self.divergence is None:
            self.divergence = np.zeros((self.n_folds, *total.shape[1:]))
        np.add.at(self.divergence, batch.fold, total)

    def sums(self) -> Mapping[str, np.ndarray]:
        if self.divergence is None:
            raise DataError("Attention drift saw no batch.")
        return {"divergence": self.divergence, "rows": self.rows}


def _renormalised(pattern: Tensor, keep: Tensor) -> Tensor:
    rows = pattern * keep
    return rows / rows.sum(-1, keepdim=True).clamp(min=1e-12)


def _pairwise(
    p: Float[Tensor, "batch head query key"],
    q: Tensor,
    entropy_p: Tensor,
    entropy_q: Tensor,
    valid: Bool[Tensor, "batch query"],
) -> Float[Tensor, "batch head head"]:
    """Return the divergence of every pair of heads of two layers, summed over valid query rows."""
    pairs = [
        (_divergence(p[:, i], q[:, j], entropy_p[:, i], entropy_q[:, j]) * valid).sum(-1)
        for i in range(p.shape[1])
        for j in range(q.shape[1])
    ]
    return rearrange(pairs, "(head other) batch -> batch head other", head=p.shape[1])


@SIGNALS.register
@dataclass(frozen=True)
class AttentionDrift(StreamSignal):
    """Mean over query positions of the Jensen-Shannon divergence of neighbouring layers' attention rows.

    Unit: nats, in [0, ln 2]; 0 means both layers look at the same places.
    """

    name: ClassVar[str] = "attention_jsd"
    title: ClassVar[str] = "Attention drift (JSD)"
    unit: ClassVar[str] = "nats"
    source: ClassVar[str] = "eq. 5 (P; head average R, data tokens N)"
    role: ClassVar[Role] = "fused"
    place: ClassVar[int] = 3
    definition: ClassVar[str] = (
        "S₃(b) = mean over query positions of JSD(a[b−1] ‖ a[b]): Jensen–Shannon divergence of attention rows. "
        "Eq. 5, P; averaging over heads R; dropping sink keys N."
    )
    needs: ClassVar[frozenset[str]] = frozenset({"pattern"})

    mode: AttentionMode = "head_average"
    """`matched` pairs the heads of two layers by optimal assignment instead of averaging them first."""
    sinks: bool = False
    """Keep all keys, the first token and other sinks included: the raw form."""

    @classmethod
    def from_config(cls, config: Any, rule: str) -> Self:
        return cls(mode=config.attention_mode, sinks=config.attention_sinks)

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> _Accumulator:
        return _Accumulator(self, n_layers, len(fold_sizes))

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        from scipy.optimize import linear_sum_assignment

        # The heads are paired once, on all data: a resample should move the estimate, not redefine it.
        total = sums["divergence"].sum(axis=0)
        pairs = [linear_sum_assignment(gap) for gap in total]
        matched = np.stack([sums["divergence"][:, g, i, j].mean(axis=-1) for g, (i, j) in enumerate(pairs)], axis=1)
        rows = weights @ sums["rows"]
        return np.where(rows[:, None] > 0, weights @ matched / np.maximum(rows, 1)[:, None], np.nan)
