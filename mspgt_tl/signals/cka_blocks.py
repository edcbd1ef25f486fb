"""Rival reading 5: stages as blocks of alike layers, found in the CKA of all pairs of layers, not only of neighbours.

A stage is a stretch of layers that are alike; a boundary is worth something where taking it away would put layers
together that are not. Kernel change-point search (Arlot, Celisse & Harchaoui 2019) minimises the scatter of layers
around the mean of their block, in the space in which CKA is the inner product, plus a penalty for every block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.contracts import SIGNALS, Accumulator, Role, StreamSignal
from mspgt_tl.signals.cka import CkaChange, cka_matrices

PENALTY = 2.0
"""Price of a block, in units of ln(layers) · noise, where noise is the median 1 − CKA of neighbours: half the squared
distance of two layers of one block. 1 would be the usual BIC with known noise."""
TINY = 1e-9
"""Layers that differ by less are equal; what is left is rounding."""


@SIGNALS.register
@dataclass(frozen=True)
class CkaBlocks(StreamSignal):
    """What a boundary at each gap is worth to the best segmentation of the L × L CKA matrix into blocks.

    At a boundary of that segmentation: by how much the scatter would grow without it; elsewhere: by how much it would
    fall with one more. Unit: penalties, in [0, inf); with exact ties aside, 1 separates the two.
    """

    name: ClassVar[str] = "cka_blocks"
    title: ClassVar[str] = "CKA block segmentation"
    unit: ClassVar[str] = "penalties"
    source: ClassVar[str] = "Arlot et al. 2019, ruptures; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 7
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> Accumulator:
        return CkaChange().start(n_layers=n_layers, fold_sizes=fold_sizes)

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        return np.stack([boundary_worth(cka) for cka in cka_matrices(sums, weights)])


def segment_layers(cka: Float[np.ndarray, "layer layer"], penalty: float) -> list[int]:
    """Return the gaps between blocks of the segmentation with the least scatter plus `penalty` a block.

    >>> cka = np.kron(np.eye(2), np.ones((3, 3)))
    >>> segment_layers(cka, 0.5), segment_layers(cka, 5.0)
    ([3], [])
    """
    import ruptures

    # Debiased CKA need not be positive definite: the nearest features that give it.
    values, vectors = np.linalg.eigh((cka + cka.T) / 2)
    features = vectors * np.sqrt(values.clip(min=0))
    search = ruptures.KernelCPD(kernel="linear", min_size=1).fit(features)
    ends: Any = search.predict(pen=penalty)
    return [int(end) for end in ends[:-1]]


def boundary_worth(cka: Float[np.ndarray, "layer layer"]) -> Float[np.ndarray, "gap"]:
    """Return `CkaBlocks`' curve of one CKA matrix; nan where it holds one, 0 where all layers are alike."""
    n_layers = len(cka)
    if not np.isfinite(cka).all():
        return np.full(n_layers - 1, np.nan)
    penalty = PENALTY * np.log(n_layers) * float(np.median(1 - np.diag(cka, 1)))
    if penalty < TINY:
        return np.zeros(n_layers - 1)
    ends = [0, *segment_layers(cka, penalty), n_layers]
    return np.array([_worth(cka, ends, gap) for gap in range(1, n_layers)]) / penalty


def _worth(cka: np.ndarray, ends: Sequence[int], gap: int) -> float:
    start, end = max(e for e in ends if e < gap), min(e for e in ends if e > gap)
    return max(0.0, _scatter(cka, start, end) - _scatter(cka, start, gap) - _scatter(cka, gap, end))


def _scatter(cka: np.ndarray, start: int, end: int) -> float:
    """Return the summed squared distance of a block's layers from their mean."""
    block = cka[start:end, start:end]
    return float(np.trace(block) - block.sum() / len(block))
