"""The commonest signal: a mean over sentences or tokens, kept as totals and counts by bootstrap fold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.contracts import Batch, StreamSignal

if TYPE_CHECKING:
    from torch import Tensor


class MeanSignal(StreamSignal):
    """A mean at every gap, or how far a mean of layers moves at every gap.

    Subclasses say what a batch adds; see docs/howto/signal.md.
    """

    of: ClassVar[Literal["layer", "gap"]] = "layer"
    """What there is a mean of: of layers, neighbours are compared; of gaps, it is the curve."""

    @abstractmethod
    def observe(self, batch: Batch) -> tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]:
        """Return every sentence's total at every layer or gap, and the number of items in it."""

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> MeanSums:
        return MeanSums(self.observe, len(fold_sizes), n_layers - (self.of == "gap"))

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        mean = self.mean(sums, weights)
        return mean if self.of == "gap" else jumps(mean)

    @staticmethod
    def mean(
        sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample place"]:
        """Return the mean per row of fold weights, nan where no item was drawn."""
        items = weights @ sums["items"]
        return np.where(items[:, None] > 0, weights @ sums["total"] / np.maximum(items, 1)[:, None], np.nan)


@dataclass
class MeanSums:
    """Totals of one value per place (layer or gap) and the number of items, by fold."""

    read: Callable[[Batch], tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]]
    n_folds: int
    n_places: int

    def __post_init__(self) -> None:
        self.total, self.items = np.zeros((self.n_folds, self.n_places)), np.zeros(self.n_folds)

    def observe(self, batch: Batch) -> None:
        for kept, added in zip((self.total, self.items), self.read(batch), strict=True):
            np.add.at(kept, batch.fold, added.double().cpu().numpy())

    def sums(self) -> Mapping[str, np.ndarray]:
        return {"total": self.total, "items": self.items}


def jumps(levels: Float[np.ndarray, "resample layer"]) -> Float[np.ndarray, "resample gap"]:
    """Return how far a quantity of layers moves at every gap: the absolute difference of neighbours."""
    return np.abs(np.diff(levels, axis=1))
