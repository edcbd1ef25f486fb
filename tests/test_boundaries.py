"""Fusion, peaks, bootstrap and verdicts against known answers and error rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from mspgt_tl.boundaries import (
    find_boundaries,
    match_peaks,
    normalise,
    pick_peaks,
    pick_peaks_by_row,
    reliability,
    weight_map,
)
from mspgt_tl.errors import ConfigError, DataError

Rng = np.random.Generator


def planted(gaps: tuple[int, ...], *, n_gaps: int = 15, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """Return three noisy signals that all peak at these gaps."""
    curves = noise * np.random.default_rng(seed).standard_normal((3, n_gaps))
    curves[:, [gap - 1 for gap in gaps]] += 1
    return curves


def resamples(curves: np.ndarray, error: float, n: int = 200, seed: int = 1) -> np.ndarray:
    """Return curves with independent measurement error."""
    return curves + error * np.random.default_rng(seed).standard_normal((n, *curves.shape))


def test_planted_boundaries_are_found_in_depth_order() -> None:
    """Two planted peaks come back as supported once their intervals are known to be narrow."""
    curves = planted((4, 11))
    found = find_boundaries(curves, resampled=resamples(curves, 0.05))
    assert found.boundaries == (4, 11)
    assert found.verdicts == ("supported", "supported")
    assert (found.p_values < 0.05).all()
    assert (found.intervals == [[4, 4], [11, 11]]).all()
    assert found.scales(16) == {"local": range(4), "intermediate": range(4, 11), "global": range(11, 16)}


@pytest.mark.parametrize("gaps", [(1, 8), (7, 15), (1, 15), (1, 4)])
def test_boundaries_at_the_ends_are_found(gaps: tuple[int, int]) -> None:
    """The first and the last gap can be boundaries."""
    found = find_boundaries(planted(gaps))
    assert found.boundaries == gaps
    assert (found.p_values < 0.05).all()


def test_curves_alone_give_no_interval_and_say_so() -> None:
    """Without resamples the intervals are nan, the verdict is not `supported`, and a reason says why."""
    found = find_boundaries(planted((4, 11)))
    assert np.isnan(found.intervals).all()
    assert found.verdicts == ("significant, not localised",) * 2
    assert any("bootstrap" in reason for reason in found.reasons)


def test_one_boundary_is_an_ordinary_result() -> None:
    """A single peak gives one boundary, and no scales follow from it."""
    curves = np.zeros((3, 15))
    curves[:, 6] = 1
    found = find_boundaries(curves)
    assert found.boundaries == (7,)
    assert len(found.verdicts) == len(found.p_values) == len(found.intervals) == 1
    with pytest.raises(DataError, match="two boundaries"):
        found.scales(16)


def test_all_flat_signals_find_nothing() -> None:
    """With every signal left out the result is empty and says why."""
    found = find_boundaries(np.ones((3, 15)))
    assert found.boundaries == ()
    assert found.verdict == "not found"
    assert len(found.reasons) == 4


def test_unreliable_signal_is_left_out_and_the_others_reweighted() -> None:
    """A signal that is mostly bootstrap noise is flat; `rule="paper"` keeps it."""
    curves = planted((4, 11))
    curves[2] = 0.01 * np.random.default_rng(3).standard_normal(15)
    noisy = resamples(curves, 0.02)
    found = find_boundaries(curves, resampled=noisy)
    assert found.flat == (False, False, True)
    assert np.allclose(found.weights, [0.5, 0.5, 0])
    assert find_boundaries(curves, resampled=noisy, rule="paper").flat == (False, False, False)


def test_reliability_is_one_minus_error_over_spread() -> None:
    """The estimate approaches its definition for a known error."""
    curves = planted((4, 11), noise=0)
    expected = 1 - 0.1**2 / curves.var(axis=1)
    assert np.allclose(reliability(curves, resamples(curves, 0.1, n=5000)), expected, atol=0.01)


def test_reliability_is_never_negative() -> None:
    """A signal with more error than spread is worth nothing, not less."""
    curves = np.array([[0.0, 1.0, 0.0, 1.0]])
    assert reliability(curves, resamples(curves, 5.0)) == 0


@pytest.mark.parametrize(("share", "left_out"), [(0.4, False), (0.6, True)])
def test_a_signal_is_flat_below_half(share: float, left_out: bool) -> None:
    """Error of more than half of the variance over gaps leaves a signal out; less does not."""
    curves = np.tile(np.eye(15)[6], (3, 1)) + np.tile(np.linspace(0, 0.1, 15), (3, 1))
    drawn = np.tile(curves, (400, 1, 1))
    drawn[::2, 0] += np.sqrt(share * curves[0].var())
    drawn[1::2, 0] -= np.sqrt(share * curves[0].var())
    found = find_boundaries(curves, resampled=drawn)
    assert found.reliability[0] == pytest.approx(1 - share)
    assert found.flat == (left_out, False, False)


def test_interval_holds_95_per_cent_of_the_resamples() -> None:
    """A boundary that moves by one gap in 4 % of the resamples, to either side, has those gaps in its interval."""
    places = np.repeat([2, 3, 4], [8, 184, 8])
    drawn = np.repeat(np.eye(11)[places][:, None], 3, axis=1)
    found = find_boundaries(np.tile(np.eye(11)[3], (3, 1)), resampled=drawn)
    assert found.intervals.tolist() == [[3, 5]]
    drawn = np.repeat(np.eye(11)[np.repeat([2, 3, 4], [4, 192, 4])][:, None], 3, axis=1)
    assert find_boundaries(np.tile(np.eye(11)[3], (3, 1)), resampled=drawn).intervals.tolist() == [[4, 4]]


def test_nan_signal_is_left_out_with_its_reason() -> None:
    """A signal that could not be computed at one gap takes no part."""
    curves = planted((4, 11))
    curves[0, 3] = np.nan
    found = find_boundaries(curves, names=["cka", "probe", "attention_jsd"])
    assert found.weights[0] == 0
    assert found.reasons[0].startswith("cka left out: nan at 1 of 15 gaps")


def test_single_signal_cannot_be_tested() -> None:
    """Existence is agreement: one signal gives a place, but a nan p-value with its reason."""
    found = find_boundaries(planted((4, 11))[:1])
    assert found.boundaries == (4, 11)
    assert np.isnan(found.p_values).all()
    assert any("agreement" in reason for reason in found.reasons)


def test_paper_rule_is_the_published_rule_alone() -> None:
    """Two most prominent peaks of at least 0.3, accepted by the width of the interval and nothing else."""
    noise = np.random.default_rng(0).standard_normal((3, 31))
    found = find_boundaries(noise, rule="paper", resampled=resamples(noise, 0.01))
    assert len(found.boundaries) == 2
    assert found.verdicts == ("accepted", "accepted")
    assert np.isnan(found.p_values).all()


def test_near_tie_names_the_rival() -> None:
    """Two places that share the resamples make a near tie."""
    curves = np.zeros((3, 15))
    curves[:, 3], curves[:, 10] = 1.0, 0.99
    noisy = resamples(curves, 0.0)
    noisy[::2, :, 3] = 0.2
    noisy[::2, :, 12] = 0.8
    found = find_boundaries(curves, resampled=noisy)
    assert found.near_ties == (11, 13)
    assert "Gap 4 is a near tie: 50% of the resamples prefer gap 11." in found.reasons


def test_interval_needs_the_boundary_in_most_resamples() -> None:
    """A boundary that most resamples do not find has no interval, and a reason."""
    curves = planted((4, 11), noise=0)
    noisy = resamples(curves, 0.0)
    noisy[:150, :, 10] = 0.1
    found = find_boundaries(curves, resampled=noisy)
    assert found.presence.tolist() == [1.0, 0.25]
    assert np.isnan(found.intervals[1]).all()
    assert any("only 25%" in reason for reason in found.reasons)


def test_curve_without_a_peak_can_have_resamples_with_one() -> None:
    """A fused curve without a prominent peak is "not found", whatever its resamples show."""
    curves = np.array([[0.0, 0.7, 0.7, 0.7, 0.7], [0.6, 0.1, 0.7, 0.0, 0.2], [0.4, 0.4, 0.1, 0.4, 0.6]])
    noisy = resamples(curves, 0.1)
    found = find_boundaries(curves, resampled=noisy)
    assert found.boundaries == ()
    assert found.peak_counts[1:].sum() > 0
    assert found.intervals.shape == (0, 2)


def test_interval_of_one_boundary_does_not_span_the_other() -> None:
    """Resamples that swap the first peak for a rival behind the second widen the published interval only."""
    curves = planted((4, 10), noise=0)
    noisy = resamples(curves, 0.0)
    noisy[::5, :, 3], noisy[::5, :, 13] = 0.2, 0.8
    assert find_boundaries(curves, resampled=noisy).intervals.tolist() == [[4, 4], [10, 10]]
    published = find_boundaries(curves, resampled=noisy, rule="paper").intervals
    assert (published[:, 1] > [4, 10]).all()


NULLS: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "white": lambda rng, n: rng.standard_normal((3, n)),
    "heavy-tailed": lambda rng, n: np.abs(rng.standard_t(2, size=(3, n))),
    "random walk pieces": lambda rng, n: np.cumsum(rng.standard_normal((3, n)), axis=1),
    "common linear drift": lambda rng, n: np.linspace(0, 1, n) + 0.05 * rng.standard_normal((3, n)),
    "common decay": lambda rng, n: np.exp(-4 * np.linspace(0, 1, n)) + 0.03 * rng.standard_normal((3, n)),
    "one signal jumps": lambda rng, n: rng.standard_normal((3, n)) + 10 * np.eye(3)[0][:, None] * np.eye(n)[n // 3],
}


@pytest.mark.parametrize("n_gaps", [11, 31])
@pytest.mark.parametrize("kind", NULLS)
def test_false_boundaries_are_rare(kind: str, n_gaps: int) -> None:
    """Without a boundary, any p below 0.05 comes in at most 5 % of cases, within Monte-Carlo error."""
    rng = np.random.default_rng(n_gaps)
    cases = 200
    alarms = sum(
        (find_boundaries(NULLS[kind](rng, n_gaps), n_null=500, seed=case).p_values < 0.05).any()
        for case in range(cases)
    )
    assert alarms <= binom.ppf(0.999, cases, 0.05)


@pytest.mark.parametrize("n_gaps", [11, 31])
def test_second_boundary_is_not_invented_beside_a_true_one(n_gaps: int) -> None:
    """With one planted boundary, another one is claimed in at most 5 % of cases."""
    rng = np.random.default_rng(n_gaps)
    cases, alarms = 200, 0
    for case in range(cases):
        gap = int(rng.integers(1, n_gaps + 1))
        found = find_boundaries(planted((gap,), n_gaps=n_gaps, noise=0.2, seed=1000 + case), n_null=500, seed=case)
        alarms += any(b != gap and p < 0.05 for b, p in zip(found.boundaries, found.p_values, strict=True))
    assert alarms <= binom.ppf(0.999, cases, 0.05)


@pytest.mark.parametrize(("n_gaps", "power"), [(11, 0.75), (31, 0.9)])
def test_planted_pairs_are_found(n_gaps: int, power: float) -> None:
    """Two boundaries in all signals, with noise of a fifth of their height, are both significant."""
    rng = np.random.default_rng(n_gaps)
    cases, hits = 100, 0
    for case in range(cases):
        first = int(rng.integers(1, n_gaps - 3))
        second = int(rng.integers(first + 3, n_gaps + 1))
        found = find_boundaries(planted((first, second), n_gaps=n_gaps, noise=0.2, seed=case), n_null=500)
        hits += found.boundaries == (first, second) and bool((found.p_values < 0.05).all())
    assert hits >= binom.ppf(0.001, cases, power)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (3, 12), elements=st.floats(-5, 5)), st.floats(0.01, 100), st.floats(-10, 10))
def test_units_do_not_matter(curves: np.ndarray, factor: float, shift: float) -> None:
    """Scaling and shifting a signal changes no boundary."""
    curves = curves.round(2)
    moved = curves.copy()
    moved[1] = factor * moved[1] + shift
    assert np.allclose(normalise(moved), normalise(curves), atol=1e-6)
    if np.ptp(curves, axis=1).min() > 0.01:
        kept, changed = find_boundaries(curves, n_null=50), find_boundaries(moved, n_null=50)
        assert np.allclose(kept.fused, changed.fused, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1)))
def test_peaks_are_at_most_two_and_in_order(fused: np.ndarray) -> None:
    """Any curve gives zero to two distinct peaks in depth order, none of them a strict valley."""
    peaks = pick_peaks(fused)
    assert len(peaks) <= 2
    assert list(peaks) == sorted(set(peaks))
    for peak in peaks:
        assert fused[peak] >= max(fused[max(peak - 1, 0)], fused[min(peak + 1, len(fused) - 1)])


def test_two_most_prominent_peaks_win() -> None:
    """Of three peaks the least prominent goes, whatever its place."""
    assert pick_peaks(np.array([0, 0.5, 0, 1, 0, 0.8, 0])).tolist() == [3, 5]


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 24)), elements=st.floats(0, 1)),
    st.sampled_from([0, 1, 16]),
)
def test_peaks_of_all_rows_are_those_of_each_row(fused: np.ndarray, decimals: int) -> None:
    """Picked at once or one by one, the peaks are the same, plateaus and ties included."""
    fused = fused.round(decimals)
    for row, picked in zip(fused, pick_peaks_by_row(fused), strict=True):
        assert picked[np.isfinite(picked)].tolist() == pick_peaks(row).tolist()


def test_weight_map_covers_the_simplex() -> None:
    """Every point sums to one, corners see one signal, and agreement counts the map."""
    curves = np.zeros((3, 12))
    curves[0, [2, 8]], curves[1, [2, 8]], curves[2, [5, 10]] = 1, 1, 1
    simplex = weight_map(curves, steps=10)
    assert len(simplex.weights) == 66
    assert np.allclose(simplex.weights.sum(axis=1), 1)
    corner = np.flatnonzero(simplex.weights[:, 2] == 1)[0]
    assert simplex.boundaries[corner].tolist() == [6, 11]
    assert 0.5 < simplex.agreement(3) < 1


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("curves", "options", "error", "message"),
    [
        (np.zeros(5), {}, DataError, "signal, gap"),
        (np.zeros((3, 1)), {}, DataError, "at least 2 gaps"),
        (np.full((3, 9), np.inf), {}, DataError, "infinite"),
        (np.zeros((3, 9)), {"weights": [1, 1]}, ConfigError, "3 numbers"),
        (np.zeros((3, 9)), {"weights": [0, 0, 0]}, ConfigError, "positive sum"),
        (np.zeros((3, 9)), {"rule": "papre"}, ConfigError, "Did you mean 'paper'"),
        (np.zeros((3, 9)), {"resampled": np.zeros((10, 3, 8))}, DataError, "resampled"),
    ],
)
def test_bad_input_is_named(curves: np.ndarray, options: dict, error: type[Exception], message: str) -> None:
    """Each mistake gives its own error."""
    with pytest.raises(error, match=message):
        find_boundaries(curves, **options)


def test_boundaries_show_themselves() -> None:
    """In a notebook: the verdict, a row a boundary and the curve; without any, why there is none."""
    found = find_boundaries(np.eye(11)[[3, 3, 8]] + np.eye(11)[[8, 8, 3]], seed=0)
    assert found.summary()["gap"].tolist() == list(found.boundaries)
    html = found._repr_html_()
    assert "<svg" in html and html.count("<tr") == 1 + len(found.boundaries)
    html = find_boundaries(np.zeros((2, 8)))._repr_html_()
    assert "every signal was left out" in html and "<table" not in html


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_unusable_seeds_are_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="A seed is a whole number"):
        find_boundaries(np.eye(8)[:2], seed=seed)


@pytest.mark.parametrize("curves", ["abc", [[1, 2, 3], [1, 2]], [["a", "b"]]])
def test_curves_are_numbers(curves: Any) -> None:
    with pytest.raises(DataError, match="Curves must be numbers"):
        find_boundaries(curves)


def test_peaks_of_resamples_stand_for_the_nearest_boundary() -> None:
    """One boundary takes the nearer of two peaks, one peak goes to the nearer of two boundaries, two go in order."""
    nan = float("nan")
    one = match_peaks(np.array([5]), np.array([[1.0, 6.0], [4.0, 9.0], [7.0, nan], [nan, nan]]))
    np.testing.assert_array_equal(one, [[6], [4], [7], [nan]])
    two = match_peaks(np.array([5, 9]), np.array([[1.0, 6.0], [6.0, nan], [8.0, nan], [nan, nan]]))
    np.testing.assert_array_equal(two, [[1, 6], [6, nan], [nan, 8], [nan, nan]])


def test_shares_of_resamples_by_their_number_of_peaks() -> None:
    """Half of the resamples with two peaks, half with one; together they are one."""
    two, one = planted((4, 11), noise=0), planted((4,), noise=0)
    found = find_boundaries(two, resampled=np.stack([two] * 60 + [one] * 60), seed=0)
    np.testing.assert_allclose(found.peak_counts, [0, 0.5, 0.5])
