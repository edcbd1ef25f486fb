"""Rival reading 2: what the model would say if it stopped at a layer (logit lens; nostalgebraist 2020).

Lad et al. (2024) tell stages of inference by two curves: the entropy of the readout at each layer, and how far it
agrees with the last one. Both are taken at one drawn token of each sentence, so the words compared are independent
and the unembedding, the dearest product of the model, is paid for them alone.

A signal is parameters, and the readout is one of them: `readout_of(model)` hands over final normalisation and
unembedding, and nothing else of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.contracts import SIGNALS, Batch, CausalModel, StreamSignal
from mspgt_tl.passes.readout import check_readout, unembed
from mspgt_tl.signals.sums import MeanSums, jumps

if TYPE_CHECKING:
    from torch import Tensor

Readout = Callable[["Tensor"], "Tensor"]
"""Residual vectors `[row, d_model]` in, logits `[row, vocab]` out."""


def readout_of(model: CausalModel) -> Readout:
    """Return the model's own final normalisation and unembedding as one function, in float32.

    Raises:
        ModelError: the model has no `unembed`, or normalises and has no `ln_final`.
    """

    def read(rows: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            return unembed(model, rows).float()

    check_readout(model)
    return read


@dataclass
class _Readouts(MeanSums):
    """One value of the readout per layer, beside that of the last layer."""

    read: Readout
    quantity: Callable[[Tensor, Tensor], Tensor]

    def observe(self, batch: Batch) -> None:
        import torch

        every = torch.arange(len(batch.fold), device=batch.drawn.device)
        last = self.read(batch.resid[-1][every, batch.drawn])
        values = [self.quantity(self.read(resid[every, batch.drawn]), last) for resid in batch.resid[:-1]]
        self.add(batch.fold, torch.stack([*values, self.quantity(last, last)], dim=1), torch.ones_like(every))


def entropy(logits: Float[Tensor, "row vocab"], last: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """Return the entropy of the readout in nats, in [0, ln vocab]; `last` is not looked at."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def agreement(logits: Float[Tensor, "row vocab"], last: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """Return 1 where the likeliest token is that of the last layer, else 0."""
    return (logits.argmax(-1) == last.argmax(-1)).double()


@SIGNALS.register
@dataclass(frozen=True)
class LogitLensEntropy(StreamSignal):
    """How far the entropy of the logit lens moves from layer to layer.

    Unit: nats, in [0, ln vocab]; 0 means that the layer left it as sure as it was.
    """

    name: ClassVar[str] = "logit_lens_entropy"
    title: ClassVar[str] = "Logit lens: entropy jumps"
    unit: ClassVar[str] = "nats"
    source: ClassVar[str] = "nostalgebraist 2020; Lad et al. 2024; N"
    role: ClassVar[Literal["fused", "rival", "audit"]] = "rival"
    place: ClassVar[int] = 3
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    read: Readout

    @classmethod
    def of_model(cls, model: CausalModel) -> Self:
        return cls(readout_of(model))

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> _Readouts:
        return _Readouts(len(fold_sizes), n_layers, self.read, entropy)

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        return jumps(MeanSums.mean(sums, weights))


@SIGNALS.register
@dataclass(frozen=True)
class LogitLensAgreement(StreamSignal):
    """How far the share of tokens on which the logit lens names the final prediction moves from layer to layer.

    Unit: share, in [0, 1]; 0 means that the layer decided nothing.
    """

    name: ClassVar[str] = "logit_lens_agreement"
    title: ClassVar[str] = "Logit lens: agreement jumps"
    unit: ClassVar[str] = "share of tokens"
    source: ClassVar[str] = "nostalgebraist 2020; Lad et al. 2024; N"
    role: ClassVar[Literal["fused", "rival", "audit"]] = "rival"
    place: ClassVar[int] = 4
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    read: Readout

    @classmethod
    def of_model(cls, model: CausalModel) -> Self:
        return cls(readout_of(model))

    def start(self, *, n_layers: int, fold_sizes: Int[np.ndarray, "fold"]) -> _Readouts:
        return _Readouts(len(fold_sizes), n_layers, self.read, agreement)

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        return jumps(MeanSums.mean(sums, weights))
