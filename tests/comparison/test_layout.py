"""Models by corpora: blocks without gaps, shares that sum to one, permutation tests that keep their level."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from mspgt_tl.comparison.layout import complete_block, effect_p, variance_shares


def test_permutation_p_values_are_uniform_without_effect():
    """At most as often below a level as it says, and 1/2 on average, whatever the columns do."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((400, 3, 4, 2)) + 5 * rng.standard_normal((400, 1, 4, 2))
    p = np.array([effect_p(table)[0] for table in values])
    assert p.mean() == pytest.approx(0.5, abs=0.05)
    assert [(p <= level).mean() for level in (0.05, 0.2, 0.5)] == pytest.approx([0.05, 0.2, 0.5], abs=0.06)


def test_permutation_p_is_the_slow_obvious_one():
    """All ways to permute every column, the first too; random ways come close."""
    values = np.random.default_rng(2).standard_normal((3, 3, 1)) + np.array([0, 0.5, 1])[:, None, None]
    every = [
        sum(values[list(o), c] for c, o in enumerate(orders)).var()
        for orders in product(permutations(range(3)), repeat=3)
    ]
    p, smallest = effect_p(values)
    assert p == pytest.approx(np.mean(np.array(every) >= values.sum(axis=1).var() - 1e-12))
    assert smallest == 1 / 36
    assert effect_p(np.zeros((2, 2, 1))) == (1, 0.5)
    wide = np.random.default_rng(3).standard_normal((6, 4, 1))
    assert effect_p(wide)[1] == 1e-4 and effect_p(wide, seed=1) == effect_p(wide, seed=1)


def test_shares_sum_to_one():
    """Both effects and noise; with random labels the first two are `chance` on average."""
    drawn = [variance_shares(table) for table in np.random.default_rng(4).standard_normal((500, 3, 4, 1))]
    assert np.sum(drawn, axis=1) == pytest.approx(1)
    assert np.mean(drawn, axis=0) == pytest.approx([2 / 11, 3 / 11, 6 / 11], abs=0.03)


def test_the_largest_complete_block_is_taken():
    """The largest block without a gap."""
    assert complete_block(dict.fromkeys(product("abc", "xyz"), 0)) == (list("abc"), list("xyz"))
    some = [key for key in product("abc", "xyz") if key != ("b", "y")]
    assert complete_block(dict.fromkeys(some, 0)) == (list("ac"), list("xyz"))
    assert complete_block({("a", "x"): 0, ("b", "y"): 0}) == ([], [])


@pytest.mark.parametrize("value", [0.1, -0.1, 0.0])
def test_what_is_the_same_everywhere_has_no_shares(value: float):
    """Not those of its rounding."""
    assert np.isnan(variance_shares(np.full((2, 3, 7), value))).all()
