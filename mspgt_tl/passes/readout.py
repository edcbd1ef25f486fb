"""The end of a forward pass: final normalisation, unembedding, log-probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


def unembed(
    model: CausalModel, resid: Float[Tensor, "*any d_model"], ids: Int[Tensor, "id"] | None = None
) -> Float[Tensor, "*any vocab"]:
    """Return the logits of vectors taken as the last block's output, with the model's soft cap if it has one.

    Args:
        ids: of these tokens alone; all by default.
    """
    parts: Any = model
    # Its modules take [batch, pos, d_model] alone.
    rows = resid.reshape(-1, 1, resid.shape[-1])
    rows = rows if _is_plain(model) else parts.ln_final(rows)
    logits = parts.unembed(rows) if ids is None else rows @ parts.unembed.W_U[:, ids] + parts.unembed.b_U[ids]
    return soft_cap(logits.reshape(*resid.shape[:-1], -1), float(getattr(model.cfg, "output_logits_soft_cap", 0) or 0))


def logits_of(model: CausalModel, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any vocab"]:
    """Return the same in float32 at least, to be compared."""
    import torch

    logits = unembed(model, resid)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_readout(model: CausalModel) -> None:
    """Raise unless the model can be read out at any layer.

    Raises:
        ModelError: the model has no `unembed`, or normalises and has no `ln_final`.
    """
    needed = ("unembed",) if _is_plain(model) else ("ln_final", "unembed")
    if missing := [name for name in needed if not hasattr(model, name)]:
        raise ModelError(f"The logit lens needs the model's {' and '.join(missing)}, which it does not have.")


def _is_plain(model: CausalModel) -> bool:
    """Whether the model normalises nowhere; TransformerLens then makes no `ln_final`."""
    return getattr(model.cfg, "normalization_type", "") is None


def soft_cap(x: Float[Tensor, "*any"], cap: float) -> Float[Tensor, "*any"]:
    """Return cap · tanh(x / cap), as Gemma limits logits and attention scores; x itself where the cap is 0."""
    return cap * (x / cap).tanh() if cap > 0 else x
