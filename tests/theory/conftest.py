"""Models so small that everything about them can be computed exactly."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def build(n_layers: int, *, seed: int, gain: float, dtype: Any, **changes: Any) -> Any:
    """A HookedTransformer without a tokenizer, with Gaussian weights of standard deviation `gain` over √fan-in."""
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    settings: dict[str, Any] = {
        "n_layers": n_layers,
        "d_model": 8,
        "n_ctx": 16,
        "d_head": 4,
        "n_heads": 2,
        "d_mlp": 16,
        "d_vocab": 11,
        "act_fn": "silu",
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "init_weights": False,
        "dtype": dtype,
        "device": "cpu",
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig(**(settings | changes)))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-2] if parameter.ndim > 1 else 1
        if name.endswith(".w"):
            parameter.data.fill_(1)
        elif parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            size = 1 if name == "embed.W_E" else gain / fan_in**0.5
            parameter.data.copy_((noise * size).to(parameter.dtype))
        else:
            parameter.data.zero_()
    model.eval().requires_grad_(False)
    return model


@pytest.fixture(scope="session")
def build_tiny() -> Any:
    """The function that builds them, for tests that want one of their own."""
    return build


@pytest.fixture(scope="session")
def two_blocks() -> Any:
    """Two blocks in float64, every part of them active."""
    import torch

    return build(2, seed=0, gain=1.5, dtype=torch.float64)


@pytest.fixture(scope="session")
def linear_softmax() -> Any:
    """No block does anything and nothing is normalised: logits are h W_U, float64."""
    import torch

    model = build(1, seed=1, gain=2.0, dtype=torch.float64, normalization_type=None, attn_only=True)
    for name, parameter in model.named_parameters():
        if "W_O" in name:
            parameter.data.zero_()
    return model
