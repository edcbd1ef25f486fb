"""Rival readings 6 and 7: what the first token does. Most of what looks like depth in raw activations is this.

The first token's norm grows by orders of magnitude from one block to the next and stays (Sun et al. 2024); heads put
their mass on it meanwhile (Xiao et al. 2024, Gu et al. 2025). Where an evidence curve agrees with these, it may be
reading them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from mspgt_tl.contracts import SIGNALS, Batch, Role
from mspgt_tl.signals.sums import MeanSignal, jumps

if TYPE_CHECKING:
    from torch import Tensor

SINK_SHARE = 0.3
"""A head has its sink there if it puts more than this share of its mass on the first token (Gu et al. 2025)."""


def relative_first_norm(
    resid: Float[Tensor, "batch pos d_model"], is_data: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch"]:
    """Return the norm of each sentence's first token over the median of its data tokens' norms."""
    import torch

    norms = resid.float().norm(dim=-1)
    median = norms.masked_fill(~is_data, float("nan")).nanmedian(dim=1).values
    return norms[:, 0] / median.clamp(min=torch.finfo(torch.float32).tiny)


@SIGNALS.register
@dataclass(frozen=True)
class FirstTokenNorm(MeanSignal):
    """How far the logarithm of the first token's relative norm moves at each gap.

    Relative to the median of its sentence's data tokens, mean over sentences. Unit: nats, in [0, inf).
    """

    name: ClassVar[str] = "first_token_norm"
    title: ClassVar[str] = "First-token norm"
    unit: ClassVar[str] = "nats"
    source: ClassVar[str] = "Sun et al. 2024; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 8
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    def observe(self, batch: Batch) -> tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]:
        import torch

        ratios = [relative_first_norm(resid, batch.is_data) for resid in batch.resid]
        return torch.stack(ratios, dim=1), torch.ones(len(batch.fold), dtype=torch.long)

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        return jumps(np.log(np.maximum(self.mean(sums, weights), np.finfo(float).tiny)))


@SIGNALS.register
@dataclass(frozen=True)
class SinkRate(MeanSignal):
    """How far the share of heads that put over 0.3 of their mass on the first token moves from layer to layer.

    Queries are data tokens; the share is of heads and sentences. Unit: ratio, in [0, 1].
    """

    name: ClassVar[str] = "sink_rate"
    title: ClassVar[str] = "Sink rate jumps"
    unit: ClassVar[str] = "share"
    source: ClassVar[str] = "Gu et al. 2025; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 9
    needs: ClassVar[frozenset[str]] = frozenset({"pattern"})

    def observe(self, batch: Batch) -> tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]:
        import torch

        queries = batch.is_data.float()
        count = queries.sum(dim=1).clamp(min=1)
        shares = []
        for pattern in batch.pattern:
            on_first = torch.einsum("bq,bhq->bh", queries, pattern[..., 0].float()) / count[:, None]
            shares.append((on_first > SINK_SHARE).float().mean(dim=1))
        return torch.stack(shares, dim=1), torch.ones(len(batch.fold), dtype=torch.long)
