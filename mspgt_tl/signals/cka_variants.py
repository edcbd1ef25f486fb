"""Representation change under other choices of rows and channels, in the same pass as `cka` itself.

It is no signal of its own: the artefact audit asks whether a boundary survives these choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from mspgt_tl.contracts import Batch, StreamSignal
from mspgt_tl.passes.data import as_read
from mspgt_tl.signals.cka import centred_kernels, normalised_hsic
from mspgt_tl.signals.rows import FoldRows

if TYPE_CHECKING:
    from torch import Tensor

MASKED_OVER = 20.0
"""A channel is masked where a row exceeds so many times the layer's median magnitude. Sun et al. (2024) say 100 of
raw activations, sinks among them; among data tokens, as blocks read them, 20 masks what they mask and more."""
OF_DRAWN = ("massive masked", "whitened", "raw rows")
"""Variants of the rows that `cka` itself reads."""
OF_OTHERS = ("another token", "last token", "first token kept")
"""Variants that read other rows."""
MASK = "mask"
"""Name of the sums that hold the masked channels."""


def massive_channels(rows: Float[Tensor, "layer row d"]) -> Bool[Tensor, "d"]:
    """Return the channels that are massive at any layer.

    At any, and masked at all: or the mask itself would change the geometry where a massive activation appears.
    """
    size = rows.abs()
    median = size.flatten(1).median(dim=1).values
    return (size.amax(dim=1) > MASKED_OVER * median[:, None]).any(dim=0)


def whiten(rows: Float[Tensor, "layer row d"]) -> Float[Tensor, "layer row row"]:
    """Return rows whose kernel is G (G + λ)⁻¹: directions count alike once their variance exceeds the average, λ.

    With more channels than rows, full whitening would make all layers alike; hence the ridge.
    """
    import torch

    x = rows.double()
    x = x - x.mean(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(x @ x.transpose(1, 2))
    values = values.clamp(min=0)
    ridge = values.mean(dim=1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return vectors * (values / (values + ridge)).sqrt()[:, None, :]


@dataclass
class _Accumulator:
    n_layers: int
    fold_sizes: Int[np.ndarray, "fold"]
    waiting: dict[str, FoldRows] = field(default_factory=dict)
    found: dict[str, np.ndarray] = field(default_factory=dict)
    mask: Tensor | None = None
    """Massive channels, told once from the first fold for all."""
    early: list[tuple[int, Tensor]] = field(default_factory=list)
    """Folds complete before the first."""

    def observe(self, batch: Batch) -> None:
        for full in self._rows("drawn").add(batch):
            rows = as_read(full.rows, centred=batch.centred)
            self._keep("raw rows", full.fold, full.rows)
            self._keep("whitened", full.fold, whiten(rows))
            self._keep_masked(full.fold, rows)
        for name, drawn in _other_rows(batch).items():
            for full in self._rows(name).add(replace(batch, drawn=drawn)):
                self._keep(name, full.fold, as_read(full.rows, centred=batch.centred))

    def _keep_masked(self, fold: int, rows: Tensor) -> None:
        self.early.append((fold, rows))
        if fold == 0:
            self.mask = massive_channels(rows)
            self.found[MASK] = np.tile(self.mask.cpu().numpy().astype(np.float64), (len(self.fold_sizes), 1))
        if self.mask is not None:
            for number, waiting in self.early:
                self._keep("massive masked", number, waiting * ~self.mask)
            self.early.clear()

    def _rows(self, name: str) -> FoldRows:
        return self.waiting.setdefault(name, FoldRows(self.fold_sizes))

    def _keep(self, name: str, fold: int, rows: Tensor) -> None:
        n = rows.shape[1]
        flat = centred_kernels(rows).flatten(1)
        sums = self.found.setdefault(name, np.zeros((len(self.fold_sizes), 2, self.n_layers)))
        sums[fold, 0] = (flat * flat).sum(dim=1).cpu().numpy() / (n * (n - 3))
        sums[fold, 1, 1:] = (flat[:-1] * flat[1:]).sum(dim=1).cpu().numpy() / (n * (n - 3))

    def sums(self) -> Mapping[str, np.ndarray]:
        return self.found


def _other_rows(batch: Batch) -> dict[str, Int[Tensor, "batch"]]:
    """Return other positions to stand for each sentence; fixed by the sentence alone, so batches change nothing."""
    import torch

    n_data = batch.is_data.sum(dim=1)
    number = batch.is_data.cumsum(dim=1) - 1
    sentence = torch.from_numpy(np.asarray(batch.sentence)).to(batch.drawn.device)
    one, two = (((sentence + 1) * factor % 2**32).double() / 2**32 for factor in (2654435761, 2246822519))

    def place(wanted: Tensor) -> Tensor:
        return ((number == wanted[:, None]) & batch.is_data).int().argmax(dim=1)

    first = torch.where(two * (n_data + 1) < 1, torch.zeros_like(batch.drawn), batch.drawn)
    rows = {
        "another token": place((n_data * one).floor().long()),
        "last token": place(n_data - 1),
        "first token kept": first,
    }
    return rows


@dataclass(frozen=True)
class CkaVariants(StreamSignal):
    """One minus CKA of neighbouring layers, once for every variant. Unit: ratio, about [0, 1]."""

    name: ClassVar[str] = "cka_variants"
    title: ClassVar[str] = "Representation change under other choices"
    unit: ClassVar[str] = "1 − CKA"
    source: ClassVar[str] = "eq. 3 (R); variants N"
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    variant: str = OF_DRAWN[0]
    """Which one `curves` returns."""

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> _Accumulator:
        return _Accumulator(n_layers, fold_sizes)

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        total = np.einsum("rb,bkl->rkl", weights, sums[self.variant])
        own, shared = total[:, 0], total[:, 1, 1:]
        return 1 - normalised_hsic(shared, own[:, :-1] * own[:, 1:])
