"""What of a forward pass is data, and how a block reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float

from mspgt_tl.contracts import CausalModel

if TYPE_CHECKING:
    from torch import Tensor

SINK_NORM = 4.0
"""A token is a sink where its norm exceeds so many times the median of its sentence at any layer. Norms of pretrained
models fall apart there: of 74,000 tokens of two models 94 % stay under 2.5, 0.6 % lie between 2.5 and 4, the rest is
spread up to 180 (docs/calibration.md)."""


def data_tokens(
    resid: Sequence[Float[Tensor, "batch pos d_model"]], is_token: Bool[Tensor, "batch pos"]
) -> Bool[Tensor, "batch pos"]:
    """Return which tokens are data: neither the first of a sentence nor a sink. The one place that says so.

    Attention puts what it has no use for on the first token, BOS or not, and on some delimiters; those carry massive
    activations (Sun et al. 2024) and tell nothing about language. A sink is a token whose norm exceeds `SINK_NORM`
    times the median of its sentence, first token left out, at *any* layer, so that all layers and gaps look at the
    same tokens. A sentence that would lose all of its tokens to the rule keeps those after the first.
    """
    import torch

    others = is_token.clone()
    others[:, 0] = False
    is_sink = torch.zeros_like(others)
    for layer in resid:
        norms = layer.float().norm(dim=-1)
        # The lower median: of two tokens, one is then the measure and the other can be a sink.
        median = norms.masked_fill(~others, float("nan")).nanmedian(dim=1, keepdim=True).values
        is_sink |= norms > SINK_NORM * median
    kept = others & ~is_sink
    return torch.where(kept.any(dim=1, keepdim=True), kept, others)


def as_read(resid: Float[Tensor, "*any d_model"], *, centred: bool) -> Float[Tensor, "*any d_model"]:
    """Return vectors as the next block reads them: divided by their root mean square, centred before for LayerNorm.

    The norm's own weights are left out, so rotations of the stream still change nothing (without centring). A zero
    vector stays zero.
    """
    import torch

    x = resid.float() if resid.dtype in (torch.float16, torch.bfloat16) else resid
    if centred:
        x = x - x.mean(dim=-1, keepdim=True)
    return x / x.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=torch.finfo(x.dtype).tiny)


def reads_centred(model: CausalModel) -> bool:
    """Return whether a model's blocks subtract the mean of what they read (LayerNorm)."""
    return str(getattr(model.cfg, "normalization_type", None)) in ("LN", "LNPre")
