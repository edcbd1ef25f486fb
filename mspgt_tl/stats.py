"""Statistics that more than one part needs: resampling, paired comparisons, correction for many tests."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
"""Of every interval."""
TAILS = (round((1 - LEVEL) / 2, 9), round((1 + LEVEL) / 2, 9))
"""Quantiles at its ends, without the rounding that would move a percentile by one draw."""
CHUNK = 500
"""Resamples worked on at once."""
NAN = float("nan")


def bootstrap_counts(n_folds: int, resamples: int, *, seed: int) -> Float[np.ndarray, "resample fold"]:
    """Return how often each fold is drawn in each of `resamples` draws of `n_folds` with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_folds, np.full(n_folds, 1 / n_folds), size=resamples).astype(np.float64)


def split_folds(n_items: int, n_folds: int, *, seed: int) -> Int[np.ndarray, "item"]:
    """Assign items to folds of nearly equal size at random; no more folds than items."""
    folds = np.arange(n_items) % min(n_items, n_folds)
    return np.random.default_rng(seed).permutation(folds)


def fold_documents(documents: Int[np.ndarray, "item"], n_folds: int, *, seed: int) -> Int[np.ndarray, "item"]:
    """Assign items to folds of nearly equal size that never cut a document; no more folds than documents.

    The longest document first, each to the fold that is smallest so far; among equals chance decides.

    >>> sorted(np.bincount(fold_documents(np.array([0, 0, 0, 1, 1, 2]), 2, seed=0)).tolist())
    [3, 3]
    """
    names, document, lengths = np.unique(documents, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(names))
    order = order[np.argsort(-lengths[order], kind="stable")]
    folds = [(0, rank, fold) for rank, fold in enumerate(rng.permutation(min(n_folds, len(names))).tolist())]
    heapq.heapify(folds)
    fold_of = np.empty(len(names), dtype=np.int64)
    for one in order:
        size, rank, fold = heapq.heappop(folds)
        fold_of[one] = fold
        heapq.heappush(folds, (size + int(lengths[one]), rank, fold))
    return fold_of[document]


def cut_documents(documents: Int[np.ndarray, "item"], longest: int) -> Int[np.ndarray, "item"]:
    """Number contiguous pieces of documents, each of at most `longest` items and those of one nearly equal in length.

    >>> cut_documents(np.array([4, 4, 4, 4, 7]), 2).tolist()
    [0, 0, 1, 1, 2]
    """
    starts = np.flatnonzero(np.diff(documents, prepend=documents[:1] - 1))
    lengths = np.diff(starts, append=len(documents))
    pieces, first = np.empty(len(documents), dtype=np.int64), 0
    for start, length in zip(starts, lengths, strict=True):
        count = -(-int(length) // longest)
        pieces[start : start + length] = first + np.arange(length) * count // length
        first += count
    return pieces


def resampled_ratio(
    numerator: Float[np.ndarray, "*any item"],
    denominator: Float[np.ndarray, "item"] | Int[np.ndarray, "item"],
    *,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "resample *any"]:
    """Return Σ numerator / Σ denominator in every resample of the items; nan where the denominator is 0."""
    counts = bootstrap_counts(denominator.shape[-1], resamples, seed=seed)
    total = counts @ denominator
    return np.moveaxis(numerator @ counts.T / np.where(total > 0, total, np.nan), -1, 0)


def ratio_intervals(
    numerator: Float[np.ndarray, "*any item"],
    denominator: Float[np.ndarray, "item"],
    *,
    resamples: int = 1000,
    seed: int,
) -> Float[np.ndarray, "2 *any"]:
    """Return 95 % percentile intervals of Σ numerator / Σ denominator, items drawn with replacement."""
    return np.quantile(resampled_ratio(numerator, denominator, resamples=resamples, seed=seed), TAILS, axis=0)


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Clopper and Pearson.

    >>> [round(end, 3) for end in share_interval(0, 10)]
    [0.0, 0.308]
    """
    from statsmodels.stats.proportion import proportion_confint

    low, high = (float(end) for end in np.asarray(proportion_confint(hits, n, alpha=1 - LEVEL, method="beta")))
    return low, high


@dataclass(frozen=True)
class PairedEffect:
    """A changed condition against a reference, over pairs of the same sample; `nan` where undefined."""

    n: int
    """Pairs in which both have a value."""
    reference: float
    """Mean over those pairs."""
    value: float
    """Mean of the changed condition over the same pairs."""
    change: float = NAN
    """Relative change of the mean, in per cent of the reference's size."""
    change_low: float = NAN
    change_high: float = NAN
    """95 % paired bootstrap interval of it."""
    effect_size: float = NAN
    """Cohen's d_z: the mean difference over the standard deviation of differences."""
    effect_size_low: float = NAN
    effect_size_high: float = NAN
    t: float = NAN
    t_p: float = NAN
    """Two-sided paired t-test (P)."""
    permutation_p: float = NAN
    """Two-sided sign-flip permutation test of the mean difference (N)."""
    reason: str | None = None
    """Why something is missing; None when nothing is."""


def paired_effect(
    reference: Float[np.ndarray, "sample"],
    changed: Float[np.ndarray, "sample"],
    *,
    seed: int,
    resamples: int = 2000,
    permutations: int = 9999,
) -> PairedEffect:
    """Compare two conditions sample by sample; pairs in which either is `nan` are left out.

    The permutation test flips the sign of each difference at random, which is exact when the condition does nothing;
    the observed assignment counts as one of them, so p is at least 1 / (permutations + 1).

    >>> round(paired_effect(np.array([1.0, 2, 3, 4]), np.array([2.0, 3, 4, 6]), seed=0).change, 6)
    50.0
    """
    from scipy import stats

    both = np.isfinite(reference) & np.isfinite(changed)
    before, after = reference[both], changed[both]
    difference, n = after - before, int(both.sum())
    if n < 2:
        mean = (float(before.mean()), float(after.mean())) if n else (NAN, NAN)
        return PairedEffect(n, *mean, reason=f"{n} pairs have both values; two are needed.")
    counts = bootstrap_counts(n, resamples, seed=seed)
    means = counts @ np.stack([before, after, difference, difference**2], axis=1) / n
    found, reasons = dict[str, float](), list[str]()
    middle = float(before.mean())
    if middle != 0:
        found["change"] = 100 * float(difference.mean()) / abs(middle)
        if (means[:, 0] != 0).all():
            drawn = 100 * means[:, 2] / np.abs(means[:, 0])
            found["change_low"], found["change_high"] = np.quantile(drawn, TAILS)
        else:
            reasons.append("The reference's mean is 0 in some resamples, so the change has no interval.")
    else:
        reasons.append("The reference's mean is 0, so there is no relative change.")
    spread = float(difference.std(ddof=1))
    # Differences that are equal up to rounding have no spread.
    if spread > 1e-12 * np.abs(difference).max():
        found["effect_size"] = float(difference.mean()) / spread
        variance = (means[:, 3] - means[:, 2] ** 2) * n / (n - 1)
        if (variance > 1e-12 * means[:, 3]).all():
            sizes = means[:, 2] / np.sqrt(variance)
            found["effect_size_low"], found["effect_size_high"] = np.quantile(sizes, TAILS)
        else:
            reasons.append("Differences are equal in some resamples, so the effect size has no interval.")
        test = stats.ttest_rel(after, before)
        found |= {"t": float(test.statistic), "t_p": float(test.pvalue)}
        found["permutation_p"] = sign_flip_p(difference, permutations=permutations, seed=seed)
    elif difference.any():
        reasons.append("All differences are equal, so no test is defined.")
    else:
        # Nothing changed in any sample: there is nothing to reject.
        found |= {"effect_size": 0.0, "effect_size_low": 0.0, "effect_size_high": 0.0, "permutation_p": 1.0}
        reasons.append("No sample changed, so t is undefined.")
    numbers = {name: float(value) for name, value in found.items()}
    return PairedEffect(n, middle, float(after.mean()), **numbers, reason=" ".join(reasons) or None)


def sign_flip_p(difference: Float[np.ndarray, "pair"], *, permutations: int, seed: int) -> float:
    """Return the two-sided p-value of the mean difference under random signs.

    scipy's `permutation_test` gives the same within its own error; this is one matrix product and a hundred times
    faster at 1,000 pairs, which a sweep of hundreds of tests needs.
    """
    rng, observed, as_far = np.random.default_rng(seed), abs(difference.sum()), 0
    for start in range(0, permutations, CHUNK):
        bits = rng.integers(0, 2, size=(min(CHUNK, permutations - start), len(difference)), dtype=np.int8)
        sums = (2 * bits - 1).astype(np.float64) @ difference
        # Equal up to rounding counts as equally far.
        as_far += int((np.abs(sums) >= observed * (1 - 1e-12)).sum())
    return (as_far + 1) / (permutations + 1)


def correct_p_values(
    p_values: Sequence[float] | Float[np.ndarray, "test"], method: Literal["holm", "fdr_bh"]
) -> Float[np.ndarray, "test"]:
    """Return p-values corrected for many tests: Holm's, or Benjamini and Hochberg's; `nan` takes no part.

    >>> correct_p_values([0.01, 0.04, float("nan")], "holm")
    array([0.02, 0.04,  nan])
    """
    from statsmodels.stats.multitest import multipletests

    given = np.asarray(p_values, dtype=np.float64)
    corrected, known = np.full(given.shape, math.nan), np.isfinite(given)
    if known.any():
        corrected[known] = multipletests(given[known], method=method)[1]
    return corrected
