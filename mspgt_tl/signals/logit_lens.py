"""Rival reading 2: what the model would say if it stopped at a layer (logit lens; nostalgebraist 2020).

Lad et al. (2024) tell stages of inference by two curves: the entropy of the readout at each layer, and how far it
agrees with the last one. Both are taken at one drawn token of each sentence, so the words compared are independent
and the unembedding, the dearest product of the model, is paid for them alone.

A signal is parameters, and the readout is one of them: `readout_of(model)` hands over final normalisation and
unembedding, and nothing else of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from jaxtyping import Float, Int

from mspgt_tl.contracts import SIGNALS, Batch, CausalModel, Role
from mspgt_tl.passes.readout import check_readout, unembed
from mspgt_tl.signals.sums import MeanSignal

if TYPE_CHECKING:
    from torch import Tensor

Readout = Callable[["Tensor"], "Tensor"]
"""Residual vectors `[row, d_model]` in, logits `[row, vocab]` out."""
Quantity = Callable[["Tensor", "Tensor"], "Tensor"]
"""Logits of a layer and of the last one in, a number a row out."""


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


def entropy(logits: Float[Tensor, "row vocab"], last: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """Return the entropy of the readout in nats, in [0, ln vocab]; `last` is not looked at."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def agreement(logits: Float[Tensor, "row vocab"], last: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """Return 1 where the likeliest token is that of the last layer, else 0."""
    return (logits.argmax(-1) == last.argmax(-1)).double()


@SIGNALS.register
@dataclass(frozen=True)
class LogitLensEntropy(MeanSignal):
    """How far the entropy of the logit lens moves from layer to layer.

    Unit: nats, in [0, ln vocab]; 0 means that the layer left it as sure as it was.
    """

    name: ClassVar[str] = "logit_lens_entropy"
    title: ClassVar[str] = "Logit lens: entropy jumps"
    unit: ClassVar[str] = "nats"
    source: ClassVar[str] = "nostalgebraist 2020; Lad et al. 2024; N"
    role: ClassVar[Role] = "rival"
    place: ClassVar[int] = 3
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})
    quantity: ClassVar[Quantity] = staticmethod(entropy)
    """What is taken of the readout at a layer, beside that of the last one."""

    read: Readout

    @classmethod
    def of_model(cls, model: CausalModel) -> Self:
        return cls(readout_of(model))

    def observe(self, batch: Batch) -> tuple[Float[Tensor, "batch place"], Int[Tensor, "batch"]]:
        import torch

        every = torch.arange(len(batch.fold), device=batch.drawn.device)
        last = self.read(batch.resid[-1][every, batch.drawn])
        values = [self.quantity(self.read(resid[every, batch.drawn]), last) for resid in batch.resid[:-1]]
        return torch.stack([*values, self.quantity(last, last)], dim=1), torch.ones_like(every)


@SIGNALS.register
@dataclass(frozen=True)
class LogitLensAgreement(LogitLensEntropy):
    """How far the share of tokens on which the logit lens names the final prediction moves from layer to layer.

    Unit: share, in [0, 1]; 0 means that the layer decided nothing.
    """

    name: ClassVar[str] = "logit_lens_agreement"
    title: ClassVar[str] = "Logit lens: agreement jumps"
    unit: ClassVar[str] = "share of tokens"
    place: ClassVar[int] = 4
    quantity: ClassVar[Quantity] = staticmethod(agreement)
