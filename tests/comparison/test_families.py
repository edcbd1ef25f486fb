"""Agreement within families: the paper's table, intervals that cover, labels that mean nothing."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mspgt_tl
from mspgt_tl.comparison.families import (
    cv_interval,
    family_table,
    label_permutation,
    mean_interval,
    relative_position,
)
from mspgt_tl.errors import DataError

PAPER = {"Llama": [(13, 16, 32), (13, 16, 32)], "Qwen": [(2, 20, 28), (2, 8, 32)]}


def test_table_3_follows_from_table_1():
    """Rounded to one decimal first: CVs of 0.00, 0.00, 0.06 and 0.48, means as printed."""
    table = mspgt_tl.comparison.family_table(PAPER, decimals=1)
    assert [round(table[f][c], 2) for f in PAPER for c in ("cv_LI", "cv_IG")] == [0.00, 0.00, 0.06, 0.48]
    assert [round(100 * table[f][c], 1) for f in PAPER for c in ("mean_LI", "mean_IG")] == [40.6, 50.0, 6.7, 48.2]


def test_unrounded_positions_give_another_cv():
    """2/28 and 2/32 have a CV of exactly 1/15 = 0.067."""
    assert family_table(PAPER)["Qwen"]["cv_LI"] == pytest.approx(1 / 15)
    assert family_table(PAPER)["Qwen"]["cv_IG"] == pytest.approx(13 / 27)


def test_percentages_round_half_up():
    """2/32 is 6.25 %, which the paper prints as 6.3 %; rounding to even would give 6.2 % and a CV of 0.07."""
    assert relative_position(2, 32, 1) == pytest.approx(0.063)
    assert relative_position(13, 32, 1) == pytest.approx(0.406)
    assert round(6.25, 1) == 6.2


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=2, max_size=6))
def test_cv_is_std_over_mean(pairs):
    """Against numpy, for any gaps."""
    triples = [(min(a, b), max(a, b) + 1, 40) for a, b in pairs]
    row = family_table({"x": triples})["x"]
    first, second = np.array([[t[0] / 40, t[1] / 40] for t in triples]).T
    assert row["cv_LI"] == pytest.approx(np.std(first, ddof=0) / first.mean())
    assert row["cv_IG"] == pytest.approx(np.std(second, ddof=0) / second.mean())
    assert (row["mean_LI"], row["mean_IG"], row["n"]) == (
        pytest.approx(first.mean()),
        pytest.approx(second.mean()),
        len(pairs),
    )


def test_one_model_varies_not():
    """The CV of one model is nan, not a perfect 0."""
    row = family_table({"x": [(2, 5, 12)]})["x"]
    assert np.isnan(row["cv_LI"]) and np.isnan(row["cv_IG"])
    assert row["mean_LI"] == pytest.approx(1 / 6)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"x": []},
        {"x": [(5, 2, 12)]},
        {"x": [(2, 12, 12)]},
        {"x": [(0, 5, 12)]},
        {"x": [(2, 5)]},
        {"x": [(2.5, 5, 12)]},
        {"x": [(2, float("nan"), 12)]},
        {"x": [("two", 5, 12)]},
    ],
)
def test_what_is_no_pair_of_boundaries_is_refused(bad):
    """One line that says what is needed."""
    with pytest.raises(DataError, match=r"needed|b_LI"):
        family_table(bad)


def test_negative_decimals_are_refused():
    """Rounding needs a number of decimals."""
    with pytest.raises(DataError, match="decimals"):
        family_table(PAPER, decimals=-1)


@pytest.mark.parametrize(("n", "cv"), [(2, 0.1), (4, 0.1), (8, 0.25)])
def test_cv_interval_covers(n, cv):
    """The interval holds the family's CV in 95 % of samples (3,000 samples: error 0.4 points)."""
    rng = np.random.default_rng(n)
    samples = 0.4 * (1 + cv * rng.standard_normal((3000, n)))
    limits = np.array([cv_interval(sample) for sample in samples])
    share = ((limits[:, 0] <= cv) & (cv <= limits[:, 1])).mean()
    assert share == pytest.approx(0.95, abs=0.015)


def test_cv_interval_is_that_of_vangel():
    """K / √[((u + 2) / n − 1) K² + u / (n − 1)], u the quantiles of chi squared with n − 1 degrees: eq. 3 of 1996."""
    from scipy.stats import chi2

    values = [0.3, 0.4, 0.35, 0.5, 0.25]
    k, n = np.std(values, ddof=1) / np.mean(values), 5
    expected = [k / np.sqrt(((u + 2) / n - 1) * k**2 + u / (n - 1)) for u in chi2.ppf([0.975, 0.025], n - 1)]
    np.testing.assert_allclose(cv_interval(values), expected)


def test_equal_gaps_do_not_prove_a_cv_of_zero():
    """A gap is known to one layer: two equal ones leave the CV open, more of them narrow it."""
    resolution = 1 / (32 * np.sqrt(12))
    low, high = cv_interval([13 / 32] * 2, resolution=resolution)
    assert (low, high > 0.5) == (0.0, True)
    assert cv_interval([13 / 32] * 6, resolution=resolution)[1] < 0.2


def test_a_spread_of_just_the_resolution_is_a_spread():
    """It can be told, so the lower limit is that of Vangel and not 0."""
    apart = cv_interval([0.25, 0.75], resolution=0.25)
    assert apart == cv_interval([0.25, 0.75])
    assert apart[0] > 0
    assert cv_interval([0.25, 0.75], resolution=0.26)[0] == 0


def test_intervals_of_one_model_are_unknown():
    """nan, for CV and mean."""
    assert np.isnan([*cv_interval([0.4]), *mean_interval([0.4])]).all()


def test_mean_interval_is_the_t_interval():
    """Against scipy, for three positions."""
    from scipy import stats

    values = np.array([0.2, 0.3, 0.5])
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


def test_two_and_two_models_can_never_be_significant():
    """Even perfect families of two and two leave p at 1/3."""
    p, smallest = label_permutation(np.array([0.4, 0.4, 0.07, 0.06]), ["a", "a", "b", "b"])
    assert (p, smallest) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_label_permutation_counts_every_deal():
    """Against all orderings, one by one."""
    rng = np.random.default_rng(0)
    values, labels = rng.random(6), ["a", "a", "b", "b", "b", "c"]

    def within(order):
        shuffled = values[list(order)]
        return sum(len(g) * np.var(g) for g in (shuffled[:2], shuffled[2:5], shuffled[5:]))

    all_values = np.array([within(order) for order in permutations(range(6))])
    assert label_permutation(values, labels)[0] == pytest.approx((all_values <= within(range(6)) + 1e-12).mean())


def test_many_deals_are_sampled():
    """Too many ways to look at: perfect families get the smallest p of 20,000 random deals and the one observed."""
    values = np.concatenate([np.full(8, 0.2), np.full(8, 0.6), np.full(8, 0.9)]) + 1e-3 * np.arange(24)
    p, smallest = label_permutation(values, ["a"] * 8 + ["b"] * 8 + ["c"] * 8)
    assert p == smallest == pytest.approx(1 / 20_001)


def test_random_labels_are_as_rarely_significant_as_they_can_be():
    """Four and three models can be dealt in 35 ways, so p < 0.05 is 1/35 = 2.9 % (1,000 cases: error 0.5 points)."""
    rng = np.random.default_rng(1)
    rate = np.mean([label_permutation(rng.random(7), ["a"] * 4 + ["b"] * 3)[0] < 0.05 for _ in range(1000)])
    assert rate == pytest.approx(1 / 35, abs=0.016)


def test_labels_of_one_family_say_nothing():
    """One family, or only single models: nan."""
    assert np.isnan(label_permutation(np.array([0.1, 0.2]), ["a", "a"])).all()
    assert np.isnan(label_permutation(np.array([0.1, 0.2]), ["a", "b"])).all()
