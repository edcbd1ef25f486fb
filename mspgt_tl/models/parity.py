"""Compares a loaded model with the Hugging Face model it came from, on a few short rows.

Nothing that was not compared is trusted: a conversion that drops a bias, a rotary embedding read another way or a
backend that gets an architecture wrong gives a model that runs, and results that are about nothing. So the residual
stream after every block and the logits are compared at the end of every load, in one batch of a row without padding
and a row with it, on the right as in analysis and on the left as in generation.

Rows are a few tokens, so what only longer texts show (a sliding window, a scaled rotary embedding) is left to the
families' own tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mspgt_tl.errors import ModelError
from mspgt_tl.models.tokens import pad

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel

LENGTHS = (6, 3)
"""Tokens of the rows: the first is never padded, the second is."""
ALLOWED = {"float64": 1e-7, "float32": 1e-4, "float16": 0.005, "bfloat16": 0.03}
"""Relative deviation that counts as rounding, times the root of the number of blocks. Measured on models loaded right:
1e-6 in float32, 0.003 in float16 and 0.02 in bfloat16 after 3 blocks, 5e-6 and 0.13 (bfloat16) after 30."""


@dataclass(frozen=True)
class Reference:
    """What the Hugging Face model computes at every token of every row, row after row."""

    rows: list[list[int]]
    resid: list[Float[Tensor, "token d_model"]]
    """After every block; empty where the blocks could not be found."""
    logits: Float[Tensor, "token d_vocab"]
    dtype: torch.dtype


def observe(hf_model: PreTrainedModel) -> Reference:
    """Run the rows through a transformers model, in evaluation mode, which is left as it was."""
    import torch

    config: Any = hf_model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or LENGTHS[0]
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(config.vocab_size, (min(length, longest),), generator=generator).tolist() for length in LENGTHS
    ]
    tokens, mask = (part.to(hf_model.device) for part in pad(rows, side="right", pad_id=0))
    resid: dict[int, Tensor] = {}

    def keep(layer: int, out: Any) -> None:
        resid[layer] = (out[0] if isinstance(out, tuple) else out)[mask.bool()].detach()

    modes = {module: module.training for module in hf_model.modules()}
    handles = [
        block.register_forward_hook(lambda _module, _input, out, layer=layer: keep(layer, out))
        for layer, block in enumerate(_find_blocks(hf_model, config.num_hidden_layers))
    ]
    try:
        with torch.inference_mode():
            hf_model.eval()
            logits = hf_model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[mask.bool()]
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return Reference(rows, [resid[layer] for layer in range(len(resid))], logits, hf_model.dtype)


def check_parity(model: Any, reference: Reference, name: str, backend: str) -> float:
    """Return the largest relative deviation of a TransformerLens model from the reference.

    The deviation of a token is |ours − theirs| / |theirs| over channels; of logits, over the vocabulary with their
    mean taken off, which no probability sees.

    Raises:
        ModelError: it is beyond rounding, and at which block first.
    """

    kinds = [str(kind).removeprefix("torch.") for kind in (reference.dtype, model.cfg.dtype)]
    allowed = max(ALLOWED[kind] for kind in kinds) * model.cfg.n_layers**0.5
    resid, logits, places = _run(model, reference)
    largest = 0.0
    for layer, (ours, theirs) in enumerate(zip(resid, reference.resid, strict=True)):
        found = _deviation(ours, theirs[places])
        _judge(found, allowed, f"block {layer}", name, backend)
        largest = max(largest, found)
    theirs = reference.logits[places]
    found = _deviation(*(part.float() - part.float().mean(-1, keepdim=True) for part in (logits, theirs)))
    _judge(found, allowed, "the logits", name, backend)
    return max(largest, found)


def _run(model: Any, reference: Reference) -> tuple[list[Tensor], Tensor, list[int]]:
    """Return the residual stream and logits at every real token, and which token of the reference each one is."""
    import torch

    long, short = reference.rows
    tokens, mask = pad([long, short, short], side="right", pad_id=0)
    tokens[2], mask[2] = tokens[2].roll(len(long) - len(short)), mask[2].roll(len(long) - len(short))
    tokens, mask = tokens.to(model.cfg.device), mask.to(model.cfg.device)
    resid: dict[int, Tensor] = {}

    def keep(value: Tensor, hook: Any, *, layer: int) -> None:
        resid[layer] = value[mask.bool()].detach()

    n_layers = len(reference.resid)
    hooks = [(f"blocks.{layer}.hook_resid_post", partial(keep, layer=layer)) for layer in range(n_layers)]
    with torch.inference_mode(), model.hooks(fwd_hooks=hooks):
        logits = model(tokens, attention_mask=mask)[mask.bool()]
    ends = [*range(len(long), len(long) + len(short))]
    return [resid[layer] for layer in range(n_layers)], logits, [*range(len(long)), *ends, *ends]


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest relative deviation of a token; tokens that overflow in both count for nothing."""
    import torch

    ours, theirs = ours.double(), theirs.to(ours.device).double()
    both = torch.isfinite(theirs).all(-1) | torch.isfinite(ours).all(-1)
    apart = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-30)
    worst = apart[both].nan_to_num(nan=math.inf).max() if both.any() else torch.zeros(())
    return float(worst)


def _judge(found: float, allowed: float, place: str, name: str, backend: str) -> None:
    if found <= allowed:
        return
    kind = "TransformerBridge" if backend == "bridge" else "HookedTransformer"
    other = "hooked" if backend == "bridge" else "bridge"
    raise ModelError(
        f"'{name}' as a {kind} is another model than the Hugging Face one: from {place} on, a few "
        f"short rows differ by {found:.2g} of their size, where rounding explains {allowed:.2g}. Try "
        f"backend='{other}'; parity=False, or --no-parity, loads it all the same."
    )


def _find_blocks(hf_model: PreTrainedModel, n_layers: int) -> list[Any]:
    import torch

    for module in hf_model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers:
            return list(module)
    return []
