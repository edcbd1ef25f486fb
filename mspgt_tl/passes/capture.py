"""What hooks show of one forward pass, with its faults told: memory, nan, layers that tell no tokens apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mspgt_tl.errors import ActivationError
from mspgt_tl.models.placement import is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor


def hooks_of(needs: frozenset[str]) -> list[str]:
    return [hook for need, hook in (("resid", "hook_resid_post"), ("pattern", "attn.hook_pattern")) if need in needs]


@contextmanager
def memory_errors(tokens: Tensor) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ActivationError(
            f"Out of memory on a batch of {tokens.shape[0]} × {tokens.shape[1]} tokens. "
            f"Lower --batch-positions (now at least {tokens.numel()}) or --max-length."
        ) from error


def check_finite(resid: Sequence[Tensor], is_token: Tensor) -> None:
    """Raise if a token's activation is nan or inf; the last layer is looked at first, since both spread downstream."""
    import torch

    if not resid or torch.isfinite(resid[-1][is_token]).all():
        return
    layer = next(i for i, r in enumerate(resid) if not torch.isfinite(r[is_token]).all())
    raise ActivationError(
        f"Activations are nan or inf from block {layer} on. The weights may be damaged, "
        f"or {resid[0].dtype} too narrow: try dtype float32."
    )


def check_degenerate(resid: Sequence[Tensor], tokens: Tensor, is_token: Tensor) -> None:
    """Raise if a block gives every token the same vector; rounding then tells tokens apart again in blocks above."""
    import torch

    def is_constant(rows: Tensor) -> bool:
        low, high = rows.amin(0), rows.amax(0)
        rounding = 4 * torch.finfo(rows.dtype).eps * torch.maximum(high.abs(), low.abs())
        # Channel by channel: beside a massive one, any other looks constant.
        return bool((high - low <= rounding).all())

    places = is_token.nonzero()
    few = places[:: max(1, len(places) // 8)].T.unbind()
    # A text of one word repeated is constant by right. A few tokens spare reading all of them at every block.
    suspects = [i for i, layer in enumerate(resid) if is_constant(layer[few])]
    if not suspects or len(tokens[is_token].unique()) < 2:
        return
    layer = next((i for i in suspects if is_constant(resid[i][is_token])), None)
    if layer is None:
        return
    kind = "zero" if not resid[layer][is_token].any() else "the same for every token"
    raise ActivationError(
        f"Activations are {kind} from block {layer} on: nothing can be measured there. The weights may be damaged, "
        f"or overflow within a normalisation in {resid[0].dtype}: try dtype float32."
    )
