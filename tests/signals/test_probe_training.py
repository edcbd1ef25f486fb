"""Tests of the arithmetic that trains probes, against torch's own."""

from __future__ import annotations

import pytest
import torch

from mspgt_tl.signals.probe_training import forward, gradients, start_weights


@pytest.mark.parametrize("widths", [(6, 5), (70, 64, 5), (130, 128, 70)], ids=["linear", "narrow", "wide"])
def test_gradients_equal_autograd(widths):
    """The written-out gradient is that of the mean cross-entropy, summed over layers."""
    generator = torch.Generator().manual_seed(0)
    weights = [part + 0.1 * torch.randn(part.shape, generator=generator) for part in start_weights(3, widths, seed=0)]
    x = torch.randn(3, 80, widths[0], generator=generator)
    label = torch.randint(0, widths[-1], (80,), generator=generator)
    ours = gradients(weights, x, label)
    leaves = [part.clone().requires_grad_() for part in weights]
    logits = x
    for depth in range(0, len(leaves), 2):
        logits = torch.baddbmm(leaves[depth + 1], logits.relu() if depth else x, leaves[depth])
    torch.testing.assert_close(forward(weights, x), logits, atol=1e-4, rtol=1e-4)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), label.repeat(3), reduction="sum") / 80
    for ours_part, leaf in zip(ours, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(ours_part, leaf, atol=1e-6, rtol=1e-4)


def test_bfloat16_gradients_are_those_of_float32_up_to_rounding():
    """Float32 results, off by up to 10 % in length: most of it is units that round to the other side of 0."""
    generator = torch.Generator().manual_seed(0)
    weights = start_weights(3, (70, 64, 5), seed=0)
    x = torch.randn(3, 80, 70, generator=generator)
    label = torch.randint(0, 5, (80,), generator=generator)
    exact, rounded = gradients(weights, x, label), gradients(weights, x.bfloat16(), label)
    for wide, narrow in zip(exact, rounded, strict=True):
        assert narrow.dtype == torch.float32
        assert ((narrow - wide).flatten(1).norm(dim=1) < 0.1 * wide.flatten(1).norm(dim=1)).all()
    assert forward(weights, x.bfloat16()).dtype == torch.float32
