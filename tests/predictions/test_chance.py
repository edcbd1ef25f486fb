"""What chance passes, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from mspgt_tl.predictions.chance import combine, cv_of, drift_of, random_boundaries


def test_two_models_pass_1_1_in_a_quarter_and_3_2_in_two_fifths():
    """Positions uniform: CV < 0.2 in 26 %; a drift above 30 points in 4 (0.095 - 0.000675) = 37.7 %."""
    drawn = random_boundaries([None, None], 100_000)
    assert (cv_of(drawn[:, :, 0]) < 0.2).mean() == pytest.approx(0.262, abs=0.005)
    assert (drift_of(drawn[:, :, 1]) > 30).mean() == pytest.approx(0.3773, abs=0.005)


def test_gaps_are_two_different_ones_and_every_pair_is_as_likely():
    """With 5 blocks there are six pairs."""
    gaps = np.rint(random_boundaries([5], 60_000)[:, 0] * 5).astype(int)
    pairs, counts = np.unique(gaps, axis=0, return_counts=True)
    assert pairs.tolist() == [[1, 2], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4]]
    assert counts / 60_000 == pytest.approx(1 / 6, abs=0.006)


def test_every_and_any_combine_simulation_by_simulation():
    """Of two independent halves."""
    passed = [np.array([True, True, False, False]), np.array([True, False, True, False])]
    assert (combine(passed, "every"), combine(passed, "any")) == (0.25, 0.75)
