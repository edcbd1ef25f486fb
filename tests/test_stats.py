"""Paired comparisons and their corrections: known answers, oracles, and what has no answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mspgt_tl.stats import (
    bootstrap_counts,
    correct_p_values,
    cut_documents,
    fold_documents,
    paired_effect,
    ratio_intervals,
    resampled_ratio,
    sign_flip_p,
    split_folds,
)

NAN = float("nan")


def pairs(n: int = 60, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Return a reference and a condition that is higher by `shift` on average."""
    rng = np.random.default_rng(0)
    reference = rng.normal(5, 1, n)
    return reference, reference + rng.normal(shift, 0.5, n)


def test_effect_equals_its_definition_and_scipy() -> None:
    """Change, d_z and t by hand and by scipy."""
    reference, changed = pairs()
    found = paired_effect(reference, changed, seed=0)
    difference = changed - reference
    assert found.change == pytest.approx(100 * difference.mean() / reference.mean())
    assert found.effect_size == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert (found.t, found.t_p) == pytest.approx(tuple(stats.ttest_rel(changed, reference)))
    assert found.change_low < found.change < found.change_high
    assert found.effect_size_low < found.effect_size < found.effect_size_high
    assert found.reason is None


def test_intervals_are_the_middle_95_per_cent_of_the_resamples() -> None:
    """The interval of a change is numpy's 2.5 and 97.5 % quantiles over the same draws, by hand."""
    reference, changed = pairs()
    found = paired_effect(reference, changed, seed=3, resamples=400)
    counts = bootstrap_counts(60, 400, seed=3)
    difference = changed - reference
    drawn = 100 * (counts @ difference) / (counts @ reference)
    np.testing.assert_allclose([found.change_low, found.change_high], np.quantile(drawn, [0.025, 0.975]))
    mean, square = counts @ difference / 60, counts @ difference**2 / 60
    sizes = mean / np.sqrt((square - mean**2) * 60 / 59)
    np.testing.assert_allclose([found.effect_size_low, found.effect_size_high], np.quantile(sizes, [0.025, 0.975]))


def test_the_observed_signs_count_as_one_permutation() -> None:
    """Differences of one sign are reached by no random flip, so p is 1 / (permutations + 1) and never 0."""
    assert sign_flip_p(np.arange(1.0, 41.0), permutations=99, seed=0) == 1 / 100
    assert sign_flip_p(np.arange(1.0, 41.0), permutations=1300, seed=0) == 1 / 1301


def test_two_pairs_are_enough_and_a_zero_mean_has_no_relative_change() -> None:
    """The smallest sample that has an effect, and the reference that nothing can be relative to."""
    assert paired_effect(np.array([1.0, 2.0]), np.array([2.0, 4.0]), seed=0).t == pytest.approx(3)
    assert np.isnan(paired_effect(np.array([-1.0, 1.0, 0.0]), np.array([1.0, 2.0, 0.5]), seed=0).change)
    assert paired_effect(np.array([0.5, 0.25]), np.array([1.0, 0.5]), seed=0).change == pytest.approx(100)


def test_permutation_agrees_with_scipy() -> None:
    """Sign flips give scipy's p-value within three Monte-Carlo errors."""
    reference, changed = pairs(25, shift=0.05)
    difference = changed - reference
    rng: Any = {"rng": np.random.default_rng(1)}
    scipy_p = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=20_000, **rng
    ).pvalue
    ours = sign_flip_p(difference, permutations=20_000, seed=0)
    assert abs(ours - scipy_p) < 3 * np.sqrt(2 * scipy_p * (1 - scipy_p) / 20_000)
    assert 0.01 < ours < 0.3


def test_bootstrap_interval_covers() -> None:
    """95 % intervals of the relative change hold the true one in about 95 of 100 sets of data."""
    rng, held = np.random.default_rng(2), 0
    for seed in range(300):
        reference = rng.normal(5, 1, 80)
        changed = reference + rng.normal(0.5, 1, 80)
        found = paired_effect(reference, changed, seed=seed, resamples=400, permutations=9)
        held += found.change_low <= 10 <= found.change_high
    assert 0.90 <= held / 300 <= 0.985


def test_null_raises_few_alarms() -> None:
    """Where nothing changes on average, p < 0.05 in about 5 of 100."""
    rng = np.random.default_rng(3)
    alarms = [sign_flip_p(rng.normal(size=30), permutations=199, seed=i) < 0.05 for i in range(600)]
    assert 0.025 <= np.mean(alarms) <= 0.08


def test_missing_values_are_left_out_in_pairs() -> None:
    """A pair with one nan is no pair."""
    reference, changed = pairs()
    holes = reference.copy()
    holes[:10] = NAN
    assert paired_effect(holes, changed, seed=0) == paired_effect(reference[10:], changed[10:], seed=0)
    assert paired_effect(holes, changed, seed=0).n == 50


@pytest.mark.parametrize(
    ("reference", "changed", "words"),
    [
        ([1.0], [2.0], "two are needed"),
        ([NAN, 1.0, 2.0], [1.0, NAN, NAN], "0 pairs"),
        ([1.0, 2.0, 3.0], [1.5, 2.5, 3.5], "equal"),
        ([-1.0, 1.0, 0.0], [1.0, 2.0, 0.5], "no relative change"),
    ],
)
def test_what_is_undefined_is_nan_with_a_reason(reference: list[float], changed: list[float], words: str) -> None:
    """Never a quiet zero."""
    found = paired_effect(np.array(reference), np.array(changed), seed=0)
    assert words in str(found.reason)
    assert np.isnan(found.t) or np.isnan(found.change)


def test_no_change_at_all_is_no_effect() -> None:
    """Identical conditions: p is 1, the change 0, and t undefined."""
    same = np.array([1.0, 2.0, 3.0])
    found = paired_effect(same, same, seed=0)
    assert (found.change, found.effect_size, found.permutation_p) == (0, 0, 1)
    assert np.isnan(found.t_p)


def test_corrections_equal_their_definitions() -> None:
    """Holm and Benjamini–Hochberg by hand; nan takes no part."""
    given = [0.01, NAN, 0.04, 0.03]
    np.testing.assert_allclose(correct_p_values(given, "holm"), [0.03, NAN, 0.06, 0.06])
    np.testing.assert_allclose(correct_p_values(given, "fdr_bh"), [0.03, NAN, 0.04, 0.04])
    assert np.isnan(correct_p_values([NAN], "holm")).all()


def test_ratio_interval_is_of_the_ratio() -> None:
    """A constant ratio has an interval of no width; a varying one holds its mean."""
    weights = np.random.default_rng(0).integers(1, 9, 50).astype(float)
    low, high = ratio_intervals(2 * weights, weights, seed=0)
    assert low == pytest.approx(2) and high == pytest.approx(2)
    low, high = ratio_intervals(np.random.default_rng(1).normal(3, 1, (4, 50)), np.ones(50), seed=0)
    assert low.shape == (4,) and (low < 3.2).all() and (high > 2.8).all()


def test_resampled_ratios_are_those_of_the_drawn_items() -> None:
    """Each resample is Σ over Σ of the items that it drew, over whatever axes the numerator has."""
    numerator, denominator = np.arange(24.0).reshape(2, 3, 4), np.array([1, 2, 0, 3])
    drawn = bootstrap_counts(4, 50, seed=5)
    found = resampled_ratio(numerator, denominator, resamples=50, seed=5)
    assert found.shape == (50, 2, 3)
    for counts, ratio in zip(drawn, found, strict=True):
        items = np.repeat(np.arange(4), counts.astype(int))
        np.testing.assert_allclose(ratio, numerator[..., items].sum(axis=-1) / denominator[items].sum())


def test_a_resample_without_a_denominator_is_nan() -> None:
    """Where only items without any are drawn there is no ratio, and no warning."""
    found = resampled_ratio(np.ones(2), np.array([0.0, 1.0]), resamples=50, seed=0)
    only_first = bootstrap_counts(2, 50, seed=0)[:, 1] == 0
    assert 0 < only_first.sum() < 50
    assert np.isnan(found).tolist() == only_first.tolist()


def test_documents_are_folded_whole_and_evenly() -> None:
    """Folds differ by no more than the longest document, hold every item, and follow the seed."""
    documents = np.repeat(np.arange(40), np.random.default_rng(1).integers(1, 20, 40))
    fold = fold_documents(documents, 6, seed=0)
    sizes = np.bincount(fold)
    assert len(sizes) == 6 and sizes.max() - sizes.min() <= 19
    assert all(len(set(fold[documents == one])) == 1 for one in range(40))
    assert np.array_equal(fold, fold_documents(documents, 6, seed=0))
    assert not np.array_equal(fold, fold_documents(documents, 6, seed=1))
    assert np.bincount(fold_documents(np.array([3, 3, 5]), 9, seed=0)).tolist() in ([2, 1], [1, 2])


def test_pieces_of_documents_are_contiguous_and_short() -> None:
    """No piece holds two documents, none is too long, and those of one document differ by one item at most."""
    documents = np.repeat([7, 2, 9], [23, 1, 10])
    pieces = cut_documents(documents, 6)
    assert (np.diff(pieces) >= 0).all() and np.bincount(pieces).max() <= 6
    assert all(len(set(documents[pieces == piece])) == 1 for piece in set(pieces.tolist()))
    assert sorted(np.bincount(pieces).tolist()) == [1, 5, 5, 5, 6, 6, 6]


def test_intervals_of_clustered_items_need_whole_clusters() -> None:
    """Items alike within documents: resampling documents covers the mean, resampling items does not."""
    rng, covered = np.random.default_rng(0), {"items": 0, "documents": 0}
    documents = np.repeat(np.arange(40), 10)
    for trial in range(200):
        values = rng.normal(size=40)[documents] + rng.normal(size=400)
        for name, fold in (
            ("items", split_folds(400, 40, seed=trial)),
            ("documents", fold_documents(documents, 20, seed=trial)),
        ):
            total, items = np.bincount(fold, values), np.bincount(fold).astype(float)
            low, high = ratio_intervals(total, items, resamples=400, seed=trial)
            covered[name] += low <= 0 <= high
    assert covered["documents"] / 200 > 0.88 and covered["items"] / 200 < 0.7


def test_items_are_dealt_into_equal_folds() -> None:
    """Ten items into three folds of 3 or 4; two items cannot fill more than two."""
    assert sorted(np.bincount(split_folds(10, 3, seed=0)).tolist()) == [3, 3, 4]
    assert sorted(split_folds(2, 5, seed=0).tolist()) == [0, 1]


def test_means_of_pairs_are_told_with_and_without_a_test() -> None:
    """Over the pairs that have both values, be they one or three."""
    one = paired_effect(np.array([2.0, NAN]), np.array([5.0, 1.0]), seed=0)
    assert (one.n, one.reference, one.value) == (1, 2.0, 5.0)
    three = paired_effect(np.array([1.0, 2, 3]), np.array([2.0, 4, 9]), seed=0)
    assert (three.n, three.reference, three.value) == (3, 2.0, 5.0)
