"""Changes planted in a model with trained-like weights: seen where they were put, gone when the context closes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl import measure
from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.models.spike_in import orthogonal_map, spiked

GAP = 3
TEXT = generated_corpus(seed=3, limit=220)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    """A small Llama."""
    return load(tiny_folder)


def test_both_signals_change_at_the_gap(model: Any) -> None:
    """The curves peak at the gap, and more with more strength; before and after they keep their height."""
    plain = measure(model, TEXT).values
    heights = []
    for strength in (0.25, 1.0):
        with spiked(model, GAP, strength, seed=0):
            curves = measure(model, TEXT).values
        heights.append(curves[:, GAP - 1])
        assert np.allclose(curves[:, : GAP - 1], plain[:, : GAP - 1], atol=1e-5)
    assert plain[0, GAP - 1] < heights[0][0] < heights[1][0]
    assert heights[1][1] > max(heights[0][1], plain[1, GAP - 1])


def test_strength_zero_is_a_null(model: Any) -> None:
    """Nothing changes, to the last digit."""
    with spiked(model, GAP, 0.0, seed=0):
        inside = measure(model, TEXT)
    assert np.array_equal(inside, measure(model, TEXT))


def test_what_is_turned_is_turned_back_for_the_next_block(model: Any) -> None:
    """Without the change of attention the model computes what it did: only the stream that is seen is turned."""
    ids = torch.tensor(encode(model, TEXT.sentences[:1]).ids)
    _, plain = model.run_with_cache(ids)
    with spiked(model, GAP, 1e-9, seed=0):  # two dimensions are turned, and no attention mass to speak of moved
        _, seen = model.run_with_cache(ids)
    for layer in range(GAP, 7):
        assert torch.allclose(seen[f"blocks.{layer}.mlp.hook_post"], plain[f"blocks.{layer}.mlp.hook_post"], atol=1e-4)
    after = f"blocks.{GAP}.hook_resid_post"
    assert not torch.allclose(seen[after], plain[after], atol=1e-4)
    assert torch.allclose(seen[after].norm(dim=-1), plain[after].norm(dim=-1), rtol=1e-4)


def test_hooks_are_gone_afterwards(model: Any) -> None:
    """Closing the context, after an error too, leaves the model as it was."""
    before = measure(model, TEXT)
    with pytest.raises(RuntimeError, match="inside"), spiked(model, GAP, 1.0, seed=0):
        raise RuntimeError("inside")
    assert np.array_equal(measure(model, TEXT), before)


def test_the_map_is_orthogonal_and_turns_its_share() -> None:
    """Q Qᵀ is the identity, and all but a share of the dimensions are fixed (one more where the turn has an axis)."""
    turn = orthogonal_map(20, 0.3, np.random.default_rng(0))
    assert np.allclose(turn @ turn.T, np.eye(20))
    assert np.linalg.matrix_rank(turn - np.eye(20), tol=1e-8) in (5, 6)


@pytest.mark.parametrize(("gap", "strength"), [(0, 1.0), (8, 1.0), (3, 1.5), (3, -0.1)])
def test_impossible_changes_are_refused(model: Any, gap: int, strength: float) -> None:
    """Gaps beyond the model and strengths outside of 0 … 1."""
    with pytest.raises(ConfigError), spiked(model, gap, strength, seed=0):
        pass
