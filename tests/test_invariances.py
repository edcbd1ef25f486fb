"""Properties of the whole judgement: what must not matter, and what must repeat."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.calibration.simulate import CurveCell, simulate
from mspgt_tl.signals.probe import count_labels, macro_f1

seeds = st.integers(0, 2**31)
CELL = CurveCell(13, "pair", 0.2, 0.1, 1)


@settings(max_examples=40, deadline=None)
@given(seeds, st.permutations(range(3)))
def test_order_of_signals_does_not_matter(seed: int, order: list[int]) -> None:
    """The same signals in another order, with their weights, give the same boundaries and intervals."""
    (measured, _), weights = next(simulate(CELL, seed=seed, resamples=60)), np.array([1.0, 2.0, 3.0])
    plain = find_boundaries(measured.curves, resampled=measured.resampled, weights=weights, n_null=20)
    moved = find_boundaries(
        measured.curves[order], resampled=measured.resampled[:, order], weights=weights[order], n_null=20
    )
    assert plain.boundaries == moved.boundaries
    assert np.array_equal(plain.intervals, moved.intervals, equal_nan=True)
    assert np.allclose(plain.reliability[order], moved.reliability)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_depth_has_no_preferred_direction(seed: int) -> None:
    """Turning a model's curves upside down turns its boundaries and contrast upside down."""
    measured, _ = next(simulate(CELL, seed=seed, resamples=60))
    plain = find_boundaries(measured.curves, resampled=measured.resampled, n_null=20)
    turned = find_boundaries(measured.curves[:, ::-1], resampled=measured.resampled[:, :, ::-1], n_null=20)
    assert turned.boundaries == tuple(14 - gap for gap in reversed(plain.boundaries))
    assert np.allclose(turned.contrast[::-1], plain.contrast, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 6))
def test_names_of_labels_do_not_matter(seed: int, n_labels: int) -> None:
    """Renaming labels, in truth and prediction alike, leaves macro-F1 as it was."""
    rng = np.random.default_rng(seed)
    truth, block = rng.integers(0, n_labels, 60), rng.integers(0, 4, 60)
    predicted = np.where(rng.random((3, 60)) < 0.6, truth, rng.integers(0, n_labels, (3, 60)))
    new = rng.permutation(n_labels)
    weights = np.concatenate([np.ones((1, 4)), rng.multinomial(4, np.full(4, 0.25), 5)]).astype(float)
    scores = [
        macro_f1(*count_labels(p, t, block, n_folds=4, n_labels=n_labels), weights)
        for p, t in ((predicted, truth), (new[predicted], new[truth]))
    ]
    assert np.allclose(*scores, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_seeds_repeat_to_the_bit(seed: int) -> None:
    """The same curves and seed give the same result, every number of it."""
    (first, _), (second, _) = (next(simulate(CELL, seed=seed, resamples=60)) for _ in range(2))
    assert np.array_equal(first.resampled, second.resampled)
    a, b = (find_boundaries(m.curves, resampled=m.resampled, n_null=50, seed=seed) for m in (first, second))
    assert a.verdicts == b.verdicts
    assert np.array_equal(a.p_values, b.p_values, equal_nan=True)
    assert a.contrast_threshold == b.contrast_threshold or np.isnan(a.contrast_threshold)
