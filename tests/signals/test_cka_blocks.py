"""Block segmentation of the CKA matrix: planted blocks, the worth of a boundary, and all segmentations tried."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mspgt_tl.signals.cka_blocks import boundary_worth, segment_layers


def planted(sizes: list[int], inside: float = 0.9, outside: float = 0.3) -> np.ndarray:
    """A CKA matrix of blocks: alike inside, less alike between."""
    names = np.repeat(np.arange(len(sizes)), sizes)
    cka = np.where(names[:, None] == names, inside, outside)
    np.fill_diagonal(cka, 1)
    return cka


def scatter(cka: np.ndarray, ends: list[int]) -> float:
    """Scatter of a segmentation, block by block."""
    blocks = [cka[a:b, a:b] for a, b in zip([0, *ends], [*ends, len(cka)], strict=True)]
    return sum(np.trace(block) - block.sum() / len(block) for block in blocks)


@pytest.mark.parametrize("sizes", [[4, 3, 5], [2, 10], [6, 6], [1, 5, 6]])
def test_planted_blocks_are_found(sizes):
    """Boundaries are worth more than a penalty, and no other gap is."""
    worth = boundary_worth(planted(sizes))
    assert (np.flatnonzero(worth > 1) + 1).tolist() == np.cumsum(sizes)[:-1].tolist()


def test_one_block_has_no_boundary():
    """Layers that are equally alike are one stage."""
    assert (boundary_worth(planted([12])) < 1).all()


@pytest.mark.parametrize("penalty", [0.05, 0.3, 1.0, 4.0])
def test_no_segmentation_is_better(penalty):
    """Against all 2^7 segmentations of eight layers of a random walk."""
    rng = np.random.default_rng(3)
    walk = rng.standard_normal((8, 40)).cumsum(axis=0)
    unit = walk / np.linalg.norm(walk, axis=1, keepdims=True)
    cka = unit @ unit.T
    every = [list(ends) for n in range(8) for ends in combinations(range(1, 8), n)]
    best = min(every, key=lambda ends: scatter(cka, ends) + penalty * len(ends))
    assert segment_layers(cka, penalty) == best


def test_worth_is_what_the_scatter_loses():
    """At a boundary: its growth without it."""
    cka = planted([4, 3, 5])
    penalty = 2 * np.log(12) * np.median(1 - np.diag(cka, 1))
    expected = scatter(cka, [7]) - scatter(cka, [4, 7])
    assert boundary_worth(cka)[3] == pytest.approx(expected / penalty)


def test_equal_layers_and_missing_values():
    """No change is worth 0; what cannot be computed is nan."""
    assert (boundary_worth(np.ones((5, 5))) == 0).all()
    missing = planted([3, 3])
    missing[1, 2] = np.nan
    assert np.isnan(boundary_worth(missing)).all()
