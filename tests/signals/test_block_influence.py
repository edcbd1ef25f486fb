"""Block influence and angular distance against slow loops and known angles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mspgt_tl.signals.block_influence import AngularDistance, BlockInfluence, neighbour_cosines


def test_known_angles():
    """Same direction 1, right angle 0, opposite -1, whatever the lengths."""
    x = torch.tensor([[[1.0, 0]], [[3.0, 0]], [[0.0, 2]], [[0.0, -5]]])
    assert neighbour_cosines(x)[:, 0].tolist() == pytest.approx([1, 0, -1])


def slow(batch, tokens_of, value):
    """Mean of a value over chosen tokens of every gap, one pair of vectors at a time."""
    curve = []
    for gap in range(len(batch.resid) - 1):
        found = []
        for sentence in range(len(batch.fold)):
            for token in tokens_of(batch, sentence):
                x, y = (batch.resid[gap + i][sentence, token].double().numpy() for i in (0, 1))
                found.append(value(x @ y / np.linalg.norm(x) / np.linalg.norm(y)))
        curve.append(np.mean(found))
    return curve


def test_block_influence_is_over_all_data_tokens(batch, sums_of):
    """1 - mean cosine (ShortGPT, eq. 1)."""
    expected = slow(batch, lambda b, s: np.flatnonzero(b.is_data[s].numpy()), lambda c: 1 - c)
    curve = BlockInfluence().curves(sums_of(BlockInfluence(), batch), np.ones((1, 3)))[0]
    np.testing.assert_allclose(curve, expected, rtol=1e-5)


def test_angular_distance_is_at_the_last_token(batch, sums_of):
    """arccos / π (Gromov et al., eq. 7)."""
    expected = slow(batch, lambda b, s: [np.flatnonzero(b.is_data[s].numpy())[-1]], lambda c: np.arccos(c) / np.pi)
    curve = AngularDistance().curves(sums_of(AngularDistance(), batch), np.ones((1, 3)))[0]
    np.testing.assert_allclose(curve, expected, rtol=1e-4)
