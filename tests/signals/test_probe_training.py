"""Tests of the arithmetic that trains probes, against torch's own."""

from __future__ import annotations

import pytest
import torch

from mspgt_tl.signals import probe_training
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


@pytest.mark.parametrize("transposed", [False, True])
def test_both_libraries_give_the_same_product(monkeypatch, transposed):
    """With and without oneDNN, also for transposed views."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 80, 90, generator=generator)
    y = torch.randn(2, 70, 90, generator=generator).transpose(1, 2)
    if transposed:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    fast = probe_training._product(x, y)
    monkeypatch.setattr(probe_training, "_onednn_linear", lambda: None)
    torch.testing.assert_close(fast, probe_training._product(x, y), atol=1e-4, rtol=1e-5)


def test_a_build_without_the_operator_falls_back(monkeypatch):
    """An operator that is missing, or refuses our arguments, is not used."""

    def refuse(*_):
        raise RuntimeError("other arguments wanted")

    for operators in (object(), type("Ops", (), {"_linear_pointwise": staticmethod(refuse)})()):
        probe_training._onednn_linear.cache_clear()
        monkeypatch.setattr(torch.ops, "mkldnn", operators, raising=False)
        assert probe_training._onednn_linear() is None
    probe_training._onednn_linear.cache_clear()
