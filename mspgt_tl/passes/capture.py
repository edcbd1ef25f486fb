"""One forward pass over the blocks, what of it is kept, and its faults: nan, layers that tell no tokens apart.

A pass that is disturbed goes on from a kept one at its first touched block (`resume`), so nothing below is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ActivationError
from mspgt_tl.passes.batches import Padded

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Captured:
    """What a pass over the blocks leaves."""

    entered: Float[Tensor, "batch pos d_model"]
    """What enters the first block."""
    resid: list[Float[Tensor, "batch pos d_model"]]
    """What leaves every block."""
    pattern: list[Float[Tensor, "batch head query key"]]
    """Attention patterns of every block; empty unless asked for."""

    @property
    def streams(self) -> list[Float[Tensor, "batch pos d_model"]]:
        """What enters every block, and last what leaves the last."""
        return [self.entered, *self.resid]


def capture(model: CausalModel, batch: Padded, *, pattern: bool = False) -> Captured:
    """Run the blocks, and nothing after them, and keep the stream at each.

    Raises:
        ActivationError: an activation is not finite, or a block gives every token the same vector.
    """
    import torch

    n_layers = int(model.cfg.n_layers)
    kinds = ["hook_resid_post", *(["attn.hook_pattern"] if pattern else [])]
    names = {f"blocks.{layer}.{kind}" for layer in range(n_layers) for kind in kinds} | {"blocks.0.hook_resid_pre"}
    with torch.inference_mode():
        _, cache = model.run_with_cache(
            batch.tokens, names_filter=lambda name: name in names, stop_at_layer=n_layers, return_cache_object=False
        )
    found = {kind: [cache[f"blocks.{layer}.{kind}"] for layer in range(n_layers)] for kind in kinds}
    check_finite(found["hook_resid_post"], batch.is_token)
    check_degenerate(found["hook_resid_post"], batch.tokens, batch.is_token)
    return Captured(cache["blocks.0.hook_resid_pre"], found["hook_resid_post"], found.get("attn.hook_pattern", []))


def resume(
    model: CausalModel, entered: Float[Tensor, "batch pos d_model"], first: int, hooks: Sequence[tuple[str, Any]]
) -> Float[Tensor, "batch pos d_model"]:
    """Return what leaves the last block when the pass goes on from what enters block `first`, under these hooks."""
    import torch

    anything: Any = model
    with torch.inference_mode(), model.hooks(fwd_hooks=list(hooks)):
        return anything(entered, start_at_layer=first, stop_at_layer=int(model.cfg.n_layers))


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
