"""Representation change between neighbouring layers: one minus linear CKA.

The debiased HSIC of Song et al. (2012) is used throughout. The biased form calls independent Gaussians of width 4,096
and 256 rows 0.94 similar (measured); the debiased one about 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.contracts import SIGNALS, Batch, Role, StreamSignal
from mspgt_tl.errors import DataError
from mspgt_tl.signals.rows import FoldRows

if TYPE_CHECKING:
    from torch import Tensor

MIN_ROWS = 4
"""The debiased estimator divides by rows - 3."""


def centred_kernels(rows: Float[Tensor, "layer row d"], *, debiased: bool = True) -> Float[Tensor, "layer row row"]:
    """Return linear kernels in float64, centred so that the inner product of two of them is HSIC up to a constant.

    Debiased: U-centred with a zero diagonal (Székely & Rizzo 2014, equal to Song et al. 2012); otherwise H K H.
    """
    n = rows.shape[1]
    x = rows.double()
    x = x - x[:, :1]  # constant rows then give exactly 0, and not rounding whose ratio is noise
    x = x - x.mean(dim=1, keepdim=True)
    kernel = x @ x.transpose(1, 2)
    if not debiased:
        return kernel
    kernel.diagonal(dim1=1, dim2=2).zero_()
    sums = kernel.sum(dim=2) / (n - 2)
    kernel = kernel - sums[:, :, None] - sums[:, None, :] + (sums.sum(dim=1) / (n - 1))[:, None, None]
    kernel.diagonal(dim1=1, dim2=2).zero_()
    return kernel


def linear_cka(x: Float[Tensor, "row d_x"], y: Float[Tensor, "row d_y"], *, debiased: bool = True) -> float:
    """Return the linear CKA of two sets of row vectors (Kornblith et al. 2019; docs/method.md, eq. 3, R).

    Unit: ratio; 1 for equal geometry, about 0 for independent data. The debiased form can be slightly negative, and is
    `nan` where a variance estimate is not positive.

    Raises:
        DataError: not two matrices with the same number of rows, at least 4, all finite.

    >>> import torch
    >>> x = torch.tensor([[0., 1.], [1., 0.], [2., 2.], [3., 1.], [0., 4.]])
    >>> round(linear_cka(x, 3 * x @ torch.tensor([[0., 1.], [-1., 0.]])), 6)
    1.0
    """
    import torch

    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < MIN_ROWS:
        raise DataError(
            f"CKA needs two [row, d] matrices of the same {MIN_ROWS} or more rows, "
            f"got {list(x.shape)} and {list(y.shape)}."
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise DataError("CKA needs finite values; x or y has nan or inf.")
    k, m = (centred_kernels(a[None], debiased=debiased)[0] for a in (x, y))
    product = (k * k).sum() * (m * m).sum()
    return float((k * m).sum() / product.sqrt()) if product > 0 else float("nan")


@dataclass
class _Accumulator:
    """Turns each full fold of one row per sentence into its HSIC of all layer pairs: HSIC is no sum over sentences."""

    n_layers: int
    fold_sizes: Int[np.ndarray, "fold"]
    raw: bool

    def __post_init__(self) -> None:
        self.hsic = np.zeros((len(self.fold_sizes), self.n_layers, self.n_layers))
        self.rows = FoldRows(self.fold_sizes, raw=self.raw)

    def observe(self, batch: Batch) -> None:
        for full in self.rows.add(batch):
            n = full.rows.shape[1]
            flat = centred_kernels(full.rows).flatten(1)
            self.hsic[full.fold] = (flat @ flat.T).cpu().numpy() / (n * (n - 3))

    def sums(self) -> Mapping[str, np.ndarray]:
        return {"hsic": self.hsic}


@SIGNALS.register
@dataclass(frozen=True)
class CkaChange(StreamSignal):
    """One minus the CKA of two neighbouring layers' residual streams, HSIC averaged over folds (Nguyen et al. 2021).

    Rows are one data token per sentence, so they are independent, as the next block reads them: the length of a row
    says nothing to it, while few long rows are all that CKA of raw ones sees. Unit: ratio, about [0, 1]; 0 means the
    block changed no geometry.
    """

    name: ClassVar[str] = "cka"
    title: ClassVar[str] = "Representation change (1 − CKA)"
    unit: ClassVar[str] = "1 − CKA"
    source: ClassVar[str] = "eq. 3 (R)"
    role: ClassVar[Role] = "fused"
    place: ClassVar[int] = 1
    definition: ClassVar[str] = (
        "S₁(b) = 1 − CKA(h[b−1], h[b]): debiased linear CKA of token vectors before and after the gap. Eq. 3, R."
    )
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    raw: bool = False
    """Raw rows of the stream."""

    @classmethod
    def from_config(cls, config: Any, rule: str) -> Self:
        # The published rule always takes raw rows.
        return cls(raw=config.rows == "raw" or rule == "paper")

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> _Accumulator:
        if fold_sizes.min() < MIN_ROWS:
            raise DataError(f"CKA needs {MIN_ROWS} sentences a fold, got {fold_sizes.min()}.")
        return _Accumulator(n_layers, fold_sizes, self.raw)

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        own = weights @ np.einsum("bll->bl", sums["hsic"])
        neighbours = weights @ np.einsum("bll->bl", sums["hsic"][:, :-1, 1:])
        return 1 - normalised_hsic(neighbours, own[:, :-1] * own[:, 1:])


def cka_matrices(
    sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
) -> Float[np.ndarray, "resample layer layer"]:
    """Return the CKA of every pair of layers, one matrix per row of fold weights."""
    hsic = np.einsum("rb,blm->rlm", weights, sums["hsic"])
    own = np.einsum("rll->rl", hsic)
    return normalised_hsic(hsic, own[:, :, None] * own[:, None])


def cka_matrix(sums: Mapping[str, np.ndarray]) -> Float[np.ndarray, "layer layer"]:
    """Return the CKA of every pair of layers."""
    return cka_matrices(sums, np.ones((1, len(sums["hsic"]))))[0]


def normalised_hsic(hsic: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Return HSIC over the root of the product of variances, nan where that is not positive."""
    safe = product > 0
    return np.where(safe, hsic / np.sqrt(np.where(safe, product, 1)), np.nan)
