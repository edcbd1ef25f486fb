"""Rival reading 1: how far a block turns the residual stream.

Block influence (ShortGPT; Men et al. 2024) averages the cosine over all tokens; the angular distance of Gromov et al.
(2024) looks at the last token of each text alone, and at the angle. Both were made to find blocks that can be removed,
not boundaries; they never enter the default fusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float, Int

from mspgt_tl.contracts import SIGNALS, Batch, Role
from mspgt_tl.signals.sums import MeanSignal

if TYPE_CHECKING:
    from torch import Tensor


def neighbour_cosines(resid: Float[Tensor, "layer *row d_model"]) -> Float[Tensor, "gap *row"]:
    """Return the cosine between the residual vectors of neighbouring layers, in [-1, 1]; 0 where one is zero."""
    import torch

    x = resid.float()
    return torch.nn.functional.cosine_similarity(x[:-1], x[1:], dim=-1).clamp(-1, 1)


@SIGNALS.register
@dataclass(frozen=True)
class BlockInfluence(MeanSignal):
    """One minus the mean cosine between a block's input and output, over all data tokens.

    Unit: ratio, in [0, 2]; 0 means that the block turned nothing.
    """

    name: ClassVar[str] = "block_influence"
    title: ClassVar[str] = "Block influence (1 − cosine)"
    unit: ClassVar[str] = "1 − cosine"
    source: ClassVar[str] = "Men et al. 2024 (ShortGPT), eq. 1; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})
    of: ClassVar[Literal["layer", "gap"]] = "gap"

    def observe(self, batch: Batch) -> tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]:
        import torch

        # Layer by layer: a stack of all layers would double the memory of the pass.
        turned = [
            ((1 - neighbour_cosines(torch.stack(pair))[0]) * batch.is_data).sum(-1)
            for pair in zip(batch.resid[:-1], batch.resid[1:], strict=True)
        ]
        return torch.stack(turned, dim=1), batch.is_data.sum(-1)


@SIGNALS.register
@dataclass(frozen=True)
class AngularDistance(MeanSignal):
    """Mean angle between a block's input and output at the last token of each sentence, over π.

    Unit: ratio, in [0, 1]; 0 means that the block turned nothing, 0.5 a right angle.
    """

    name: ClassVar[str] = "angular_distance"
    title: ClassVar[str] = "Angular distance (last token)"
    unit: ClassVar[str] = "angle / π"
    source: ClassVar[str] = "Gromov et al. 2024, eq. 7; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})
    of: ClassVar[Literal["layer", "gap"]] = "gap"

    def observe(self, batch: Batch) -> tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]:
        import torch

        every = torch.arange(len(batch.fold), device=batch.tokens.device)
        length = batch.is_data.shape[1]
        last = length - 1 - batch.is_data.flip(1).int().argmax(1)
        angles = neighbour_cosines(torch.stack([resid[every, last] for resid in batch.resid])).arccos() / torch.pi
        return angles.T, torch.ones_like(every)
