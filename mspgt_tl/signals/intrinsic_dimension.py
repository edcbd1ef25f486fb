"""Rival reading 3: the intrinsic dimension of a layer by two nearest neighbours (TwoNN; Facco et al. 2017).

The ratio μ of a point's second to its first neighbour's distance follows a Pareto law whose exponent is the dimension,
so the maximum-likelihood estimate is (n - 1) / Σ ln μ.

Neighbours are no sum over sentences: they are looked for within a bootstrap fold, and n and Σ ln μ are summed over
folds. So the dimension is that at the scale of a fold's 25 to 125 points, and a fold drawn twice doubles its weight
instead of giving every point a neighbour at distance zero. In a causal model equal beginnings of sentences give equal
vectors up to rounding, whose ratio is noise: a row whose tokens up to the drawn one are already in the fold is
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.contracts import SIGNALS, Batch, Role, StreamSignal
from mspgt_tl.errors import DataError
from mspgt_tl.signals.rows import FoldRows
from mspgt_tl.signals.sums import jumps

if TYPE_CHECKING:
    from torch import Tensor

MIN_ROWS = 3
"""A point needs two neighbours."""


def log_ratios(rows: Float[Tensor, "layer row d"]) -> Float[Tensor, "layer row"]:
    """Return ln μ of every row, the log ratio of its second to its first neighbour's distance; nan at distance 0."""
    import torch

    x = rows.double()
    # Differences, not the expansion of the square: near neighbours of long vectors would drown in rounding.
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    first, second = distance.topk(2, dim=2, largest=False).values.unbind(-1)
    return torch.where(first > 0, (second / first).log(), torch.nan)


def two_nn(rows: Float[Tensor, "row d"]) -> float:
    """Return the intrinsic dimension of a set of different points by maximum likelihood (Facco et al. 2017).

    Unit: dimensions, above 0; inf where every point's two neighbours are equally far. Rows at distance 0 of another
    are left out.

    Raises:
        DataError: not a matrix of at least 3 finite rows.
    """
    import torch

    rows = torch.as_tensor(rows)
    if rows.ndim != 2 or len(rows) < MIN_ROWS or not torch.isfinite(rows).all():
        raise DataError(f"TwoNN needs a finite [row, d] matrix of {MIN_ROWS} rows or more, got {list(rows.shape)}.")
    found = log_ratios(rows[None])[0]
    found = found[torch.isfinite(found)]
    total = float(found.sum())
    return (len(found) - 1) / total if total > 0 else float("inf")


@dataclass
class _Neighbours:
    """Σ ln μ and n of every layer, fold by fold."""

    n_layers: int
    fold_sizes: Int[np.ndarray, "fold"]

    def __post_init__(self) -> None:
        shape = (len(self.fold_sizes), self.n_layers)
        self.log_ratio, self.points = np.zeros(shape), np.zeros(shape)
        self.rows = FoldRows(self.fold_sizes)

    def observe(self, batch: Batch) -> None:
        import torch

        for full in self.rows.add(batch):
            places = {prefix: i for i, prefix in enumerate(full.prefixes)}
            if len(places) < MIN_ROWS:
                continue
            # In an order that does not depend on how sentences were batched.
            kept = torch.tensor([places[prefix] for prefix in sorted(places)], device=full.rows.device)
            found = log_ratios(full.rows[:, kept])
            self.log_ratio[full.fold] = found.nansum(1).cpu().numpy()
            self.points[full.fold] = torch.isfinite(found).sum(1).cpu().numpy()

    def sums(self) -> Mapping[str, np.ndarray]:
        return {"log_ratio": self.log_ratio, "points": self.points}


@SIGNALS.register
@dataclass(frozen=True)
class IntrinsicDimension(StreamSignal):
    """How far the intrinsic dimension moves from layer to layer.

    Unit: dimensions, in [0, inf); 0 means that both layers are as wide.
    """

    name: ClassVar[str] = "intrinsic_dimension"
    title: ClassVar[str] = "Intrinsic dimension jumps (TwoNN)"
    unit: ClassVar[str] = "dimensions"
    source: ClassVar[str] = "Facco et al. 2017; Valeriani et al. 2023; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 5
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> _Neighbours:
        return _Neighbours(n_layers, fold_sizes)

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        return jumps(self.levels(sums, weights))

    @staticmethod
    def levels(
        sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample layer"]:
        """Return the dimension of every layer per row of fold weights, nan where no ratio was drawn."""
        total, points = weights @ sums["log_ratio"], weights @ sums["points"]
        return np.where(total > 0, (points - 1) / np.where(total > 0, total, 1), np.nan)
