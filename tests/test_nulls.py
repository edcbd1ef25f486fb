"""Null curves: error rates on noise, power on planted peaks."""

from __future__ import annotations

import numpy as np
import pytest

from mspgt_tl.nulls import concordance_test, local_contrast, null_band

EQUAL = np.full(3, 1 / 3)


def test_lines_have_no_contrast() -> None:
    """A straight curve does not stand out from the line through its neighbours, ends included."""
    lines = np.stack([np.linspace(0, 1, 11), np.linspace(3, -2, 11), np.full(11, 0.4)])
    assert np.allclose(np.maximum(local_contrast(lines), 0), 0, atol=1e-12)


def test_contrast_of_a_spike_peaks_at_the_spike() -> None:
    """One raised gap has the highest contrast, wherever it is."""
    for gap in range(11):
        assert local_contrast(np.eye(11)[gap]).argmax() == gap


def test_geometric_decay_is_drift_and_a_step_at_the_end_is_not() -> None:
    """A curve that keeps falling behind the first gap has no contrast there; one that is flat behind it has."""
    assert local_contrast(0.5 ** np.arange(11.0))[0] <= 0
    assert local_contrast(np.eye(11)[0])[0] > 0.5


def test_the_contrast_of_an_end_is_known() -> None:
    """1, 0.2, 0, 0 …: it rises by 0.8, less 3.5 times the 0.2 that it goes on falling, over √2."""
    curve = np.zeros(11)
    curve[[0, 1, -2]] = 1, 0.2, -1
    assert local_contrast(curve)[0] == pytest.approx(0.1 / np.sqrt(2))
    assert local_contrast(curve[::-1])[-1] == pytest.approx(0.1 / np.sqrt(2))


def test_contrast_keeps_the_scale_of_white_noise() -> None:
    """Away from the ends, unit white noise has unit variance in contrast."""
    noise = np.random.default_rng(0).standard_normal((20_000, 11))
    assert np.allclose(local_contrast(noise)[:, 2:-2].std(axis=0), 1, atol=0.03)


def test_agreeing_spikes_are_found_and_disagreeing_ones_are_not() -> None:
    """Three signals with a spike at one gap are significant; the same spikes at three gaps are not."""
    noise = 0.05 * np.random.default_rng(1).standard_normal((3, 15))
    together, apart = noise.copy(), noise.copy()
    together[:, 6] += 1
    apart[[0, 1, 2], [3, 7, 11]] += 1
    assert concordance_test(together, EQUAL, np.array([6])).p_values[0] < 0.02
    assert concordance_test(apart, EQUAL, np.array([3])).p_values[0] > 0.2


def test_the_line_reaches_two_neighbours_on_each_side() -> None:
    """A spike is felt two gaps away and no further: three gaps away another boundary may lie."""
    felt = np.flatnonzero(np.abs(local_contrast(np.eye(15)[7])) > 1e-12)
    assert felt.tolist() == [5, 6, 7, 8, 9]


def test_the_second_boundary_is_never_surer_than_the_first() -> None:
    """The hypotheses are nested, so the lower peak's p is at least the higher one's, even where it alone is rarer."""
    rng = np.random.default_rng(8)
    for _ in range(15):
        curves = 0.3 * rng.standard_normal((3, 15))
        curves[:, 4] += 0.6
        curves[:, 10] += 0.57
        found = concordance_test(curves, EQUAL, np.array([4, 10]), n_null=300)
        low, high = np.sort(found.contrast[[4, 10]])
        assert low < high
        order = np.argsort(found.contrast[[4, 10]])
        assert found.p_values[order[0]] >= found.p_values[order[1]]


def test_p_values_count_the_observed_curve_and_ties() -> None:
    """No p is below 1 / null curves, and curves that no shift or permutation can beat reach that bound."""
    curves = np.zeros((3, 31))
    curves[:, [9, 20]] = 1, 1
    p_values = concordance_test(curves, EQUAL, np.array([9, 20]), n_null=200).p_values
    assert (p_values >= 1 / 200).all()
    assert (p_values < 0.03).all()
    flat = np.tile(np.array([0.0, 1.0] * 6), (3, 1))
    assert concordance_test(flat, EQUAL, np.array([5]), n_null=200).p_values[0] > 0.2


@pytest.mark.parametrize(("n_signals", "n_gaps", "least"), [(3, 7, 1 / 49), (3, 11, 1 / 121), (2, 11, 1 / 22)])
def test_no_p_is_below_one_of_the_relative_orders(n_signals: int, n_gaps: int, least: float) -> None:
    """A shift of all signals alike is no other order: k of n gaps have nᵏ⁻¹, two signals twice as many turned round."""
    curve = np.random.default_rng(8).random(n_gaps) + 0.3 * np.eye(n_gaps)[[1, n_gaps - 3]].sum(axis=0)
    weights = np.full(n_signals, 1 / n_signals)
    peaks = np.array([1, n_gaps - 3])
    found = concordance_test(np.tile(curve, (n_signals, 1)), weights, peaks, n_null=4000).p_values
    assert least - 1e-12 <= found.min() < 4 * least


def test_p_values_follow_the_order_of_the_peaks() -> None:
    """Swapping the peaks swaps their p-values."""
    curves = 0.1 * np.random.default_rng(2).standard_normal((3, 15))
    curves[:, 4] += 1
    forward, backward = (concordance_test(curves, EQUAL, np.array(p)).p_values for p in ([4, 10], [10, 4]))
    assert np.array_equal(forward, backward[::-1])
    assert forward[0] < 0.05 < forward[1]


def test_seeds_repeat() -> None:
    """The same seed gives the same p-values, another seed others."""
    curves = np.random.default_rng(3).standard_normal((3, 31))
    curves[:, 3] += 1.5
    a, b, c = (concordance_test(curves, EQUAL, np.array([3, 7]), seed=s).p_values for s in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("n_gaps", [7, 11, 31])
def test_band_holds_most_fused_values(n_gaps: int) -> None:
    """The null band holds 95 % of fused permuted curves."""
    curves = np.random.default_rng(4).random((3, n_gaps))
    low, high = null_band(curves, EQUAL, n_null=4000)
    rng = np.random.default_rng(5)
    fused = EQUAL @ np.stack([rng.permuted(np.tile(c, (2000, 1)), axis=1).ravel() for c in curves])
    assert np.mean((fused >= low) & (fused <= high)) == pytest.approx(0.95, abs=0.01)


def test_a_first_boundary_does_not_hide_a_lower_second_one() -> None:
    """Beside an accepted peak only the other gaps are asked: a tenth as high, it is significant where signals agree."""
    noise = 0.03 * np.random.default_rng(6).standard_normal((3, 15))
    curves = noise.copy()
    curves[:, 4] += 1
    curves[:, 11] += [0.12, 0.1, 0.1]
    found = concordance_test(curves, EQUAL, np.array([4, 11])).p_values
    assert found[1] >= found[0]
    assert (found < 0.05).all()
    apart = noise.copy()
    apart[:, 4] += 1
    apart[[0, 1, 2], [7, 11, 14]] += 0.4
    assert concordance_test(apart, EQUAL, np.array([4, 11])).p_values[1] > 0.2


def test_p_values_are_shares_of_the_null_curves_with_the_observed_one_among_them() -> None:
    """With 99 drawn null curves every p is a whole number of hundredths, the second boundary's included."""
    found = []
    for seed in range(12):
        curves = 0.1 * np.random.default_rng(seed).standard_normal((3, 19))
        curves[:, [4, 11]] += 1, 0.3
        found.append(100 * concordance_test(curves, EQUAL, np.array([4, 11]), n_null=100, seed=seed).p_values)
    np.testing.assert_allclose(found, np.rint(found), atol=1e-9)
    assert (np.diff(found) > 0).any()
