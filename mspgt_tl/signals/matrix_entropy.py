"""Rival readings 4 and 8: how evenly a sentence's tokens spread over directions (matrix entropy; Skean et al. 2025).

The Gram matrix of a sentence's residual vectors, divided by its trace, has eigenvalues that sum to one; their Shannon
entropy is 0 where all tokens point one way and ln(tokens) where all are orthogonal and equally long. It is computed
sentence by sentence (their "prompt entropy", the limit α → 1), without centring, as they do. Over all tokens it falls
to almost 0 where the first one is massive: the "compression valley" (Queipo-de-Llano et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Bool, Float, Int

from mspgt_tl.contracts import SIGNALS, Batch, Role
from mspgt_tl.signals.sums import MeanSignal

if TYPE_CHECKING:
    from torch import Tensor


def matrix_entropy(rows: Float[Tensor, "*any pos d_model"], is_data: Bool[Tensor, "*any pos"]) -> Float[Tensor, "*any"]:
    """Return the entropy of the trace-normalised Gram matrix of the data rows (Skean et al. 2025, eq. 1, α → 1).

    Unit: nats, in [0, ln min(pos, d_model)]; nan where all rows are zero.

    >>> import torch
    >>> matrix_entropy(torch.eye(4)[None], torch.ones(1, 4, dtype=torch.bool))
    tensor([1.3863], dtype=torch.float64)
    """
    import torch

    x = rows.double() * is_data[..., None]
    # The smaller of the two products has the same eigenvalues other than zero.
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    share = torch.linalg.eigvalsh(gram / torch.where(trace > 0, trace, 1)[..., None, None]).clamp(min=0)
    return torch.where(trace > 0, torch.special.entr(share).sum(-1), torch.nan)


@SIGNALS.register
@dataclass(frozen=True)
class MatrixEntropy(MeanSignal):
    """How far the mean matrix entropy of a sentence moves from layer to layer.

    Unit: nats, in [0, ln(tokens of the longest sentence)]; 0 means that both layers spread alike.
    """

    name: ClassVar[str] = "matrix_entropy"
    title: ClassVar[str] = "Matrix entropy jumps"
    unit: ClassVar[str] = "nats"
    source: ClassVar[str] = "Skean et al. 2025, prompt entropy; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 6
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})
    every_token: ClassVar[bool] = False

    def observe(self, batch: Batch) -> tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]:
        import torch

        counted = batch.is_token if self.every_token else batch.is_data
        found = torch.stack([matrix_entropy(resid, counted) for resid in batch.resid], dim=1)
        return found, torch.ones(len(found), dtype=torch.long)


@SIGNALS.register
@dataclass(frozen=True)
class SpectrumCompression(MatrixEntropy):
    """The same with first tokens and sinks: how far the spectrum is compressed or freed from layer to layer.

    Unit: nats, in [0, ln(tokens of the longest sentence)].
    """

    name: ClassVar[str] = "compression"
    title: ClassVar[str] = "Spectrum compression"
    source: ClassVar[str] = "Queipo-de-Llano et al. 2025; N"
    place: ClassVar[int] = 10
    every_token: ClassVar[bool] = True
