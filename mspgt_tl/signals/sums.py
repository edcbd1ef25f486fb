"""The commonest state of a signal: totals and counts by bootstrap fold, whose quotient is a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class MeanSums:
    """Totals of one value per place (layer or gap) and the number of items, by fold."""

    n_folds: int
    n_places: int

    def __post_init__(self) -> None:
        self.total, self.items = np.zeros((self.n_folds, self.n_places)), np.zeros(self.n_folds)

    def add(
        self,
        fold: Int[np.ndarray, "batch"],
        total: Float[Tensor, "batch place"],
        items: Int[Tensor, "batch"],
    ) -> None:
        """Add what a batch of sentences gives to their folds."""
        np.add.at(self.total, fold, total.double().cpu().numpy())
        np.add.at(self.items, fold, items.double().cpu().numpy())

    def sums(self) -> Mapping[str, np.ndarray]:
        return {"total": self.total, "items": self.items}

    @staticmethod
    def mean(
        sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample place"]:
        """Return the mean per row of fold weights, nan where no item was drawn."""
        items = weights @ sums["items"]
        return np.where(items[:, None] > 0, weights @ sums["total"] / np.maximum(items, 1)[:, None], np.nan)


def jumps(levels: Float[np.ndarray, "resample layer"]) -> Float[np.ndarray, "resample gap"]:
    """Return how far a quantity of layers moves at every gap: the absolute difference of neighbours."""
    return np.abs(np.diff(levels, axis=1))
