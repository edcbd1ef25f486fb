"""Does the boundary estimator close in as data grow (eq. 32–34)? Prints both exponents of docs/theory.md.

    python benchmarks/consistency.py

Planted curves: every signal peaks at the same gap; each fold of sentences shows the curve with independent Gaussian
noise, so the mean of n folds has noise 1/√n. The estimator is the package's own (`find_boundaries`), its interval the
bootstrap over folds. The width is averaged over repeats and a power of n is fitted to it (eq. 34, R: the paper's
formula is lost; the text says the width "decays" with the number of resamples B).

Two readings are separated. The width falls with the *data* n, and since gaps are whole numbers it falls faster than any
power once neighbouring gaps can be told apart: where the mean width is below `FLOOR`, no power is fitted. It does not
fall with the *resamples* B, which only make the percentiles exact; `resample_exponent` shows that.

Cost: no model; `repeats` × sizes × `resamples` fusions of small arrays: minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.stats import bootstrap_counts

if TYPE_CHECKING:
    from jaxtyping import Float

FLOOR = 0.3
"""Gaps. Below this mean width, most intervals are a single gap, and a power law says nothing."""


@dataclass(frozen=True)
class Consistency:
    """Interval width over a growing size."""

    sizes: Float[np.ndarray, "size"]
    width: Float[np.ndarray, "size"]
    """Mean width of the 95 % interval, gaps; nan where no repeat found the boundary."""
    width_error: Float[np.ndarray, "size"]
    """Standard error over repeats."""
    hit: Float[np.ndarray, "size"]
    """Share of repeats that put a boundary on the planted gap."""
    exponent: float
    """Slope of log width over log size; nan where `reason` says why."""
    exponent_error: float
    """Standard error, by bootstrap over repeats."""
    reason: str
    seed: int


def width_exponent(
    *,
    seed: int,
    sizes: Sequence[int] = (10, 20, 40, 80, 160, 320),
    n_gaps: int = 23,
    peak: int = 9,
    spread: float = 2.5,
    noise: float = 2.0,
    repeats: int = 40,
    resamples: int = 200,
) -> Consistency:
    """Fit the width of a planted boundary's interval to a power of the number of folds.

    Args:
        sizes: numbers of folds.
        peak: the planted gap.
        spread: standard deviation of the planted peak, gaps; its height is 1.
        noise: standard deviation of one fold's noise.

    Raises:
        ConfigError: fewer than two sizes, sizes under 2 that a bootstrap needs, or a peak that is no gap.
        DataError: fewer than two repeats.
    """
    _check(sizes, n_gaps, peak, repeats)
    found = [
        [_one(n_gaps, peak, spread, noise, int(n), resamples, [seed, i, r]) for r in range(repeats)]
        for i, n in enumerate(sizes)
    ]
    return _fit(np.array(sizes, dtype=np.float64), np.array(found), seed)


def resample_exponent(
    *,
    seed: int,
    sizes: Sequence[int] = (100, 200, 400, 800, 1600),
    folds: int = 40,
    n_gaps: int = 23,
    peak: int = 9,
    spread: float = 2.5,
    noise: float = 2.0,
    repeats: int = 20,
) -> Consistency:
    """Fit the width to a power of the number of bootstrap resamples, folds being fixed (eq. 34 to the letter).

    Raises:
        ConfigError, DataError: as `width_exponent`.
    """
    _check(sizes, n_gaps, peak, repeats)
    found = [[_one(n_gaps, peak, spread, noise, folds, int(b), [seed, 0, r]) for r in range(repeats)] for b in sizes]
    return _fit(np.array(sizes, dtype=np.float64), np.array(found), seed)


def _check(sizes: Sequence[int], n_gaps: int, peak: int, repeats: int) -> None:
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] < 2:
        raise ConfigError(f"Two sizes or more, each 2 or more, rising, are needed; got {list(sizes)}.")
    if not 1 <= peak <= n_gaps:
        raise ConfigError(f"The planted peak is a gap from 1 to {n_gaps}, got {peak}.")
    if repeats < 2:
        raise DataError(f"An error needs two repeats or more, got {repeats}.")


def _one(
    n_gaps: int, peak: int, spread: float, noise: float, n_folds: int, resamples: int, seed: Sequence[int]
) -> tuple[float, float]:
    """Return the interval's width (nan if there is none) and whether the boundary was hit."""
    rng = np.random.default_rng([*seed, 11])
    gaps = np.arange(1, n_gaps + 1)
    shape = np.exp(-0.5 * ((gaps - peak) / spread) ** 2)
    folds = shape + noise * rng.normal(size=(n_folds, 3, n_gaps))
    draw = int(rng.integers(2**31))
    weights = bootstrap_counts(n_folds, resamples, seed=draw) / n_folds
    resampled = np.einsum("rb,bsg->rsg", weights, folds)
    found = find_boundaries(folds.mean(axis=0), resampled=resampled, rule="paper", seed=draw, n_null=1)
    if not found.boundaries:
        return np.nan, 0.0
    # The most prominent peaks come first in no order of ours: take the one nearest to what was planted.
    i = int(np.abs(np.array(found.boundaries) - peak).argmin())
    low, high = found.intervals[i]
    return float(high - low), float(found.boundaries[i] == peak)


def _fit(sizes: np.ndarray, found: Float[np.ndarray, "size repeat 2"], seed: int) -> Consistency:
    widths, hits = found[..., 0], found[..., 1].mean(axis=1)
    known = np.isfinite(widths).sum(axis=1)
    mean = np.array([row[np.isfinite(row)].mean() if n else np.nan for row, n in zip(widths, known, strict=True)])
    error = np.array(
        [
            row[np.isfinite(row)].std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
            for row, n in zip(widths, known, strict=True)
        ]
    )
    usable = np.isfinite(mean) & (mean >= FLOOR)
    if usable.sum() < 2:
        reason = f"fewer than two sizes have a mean width of {FLOOR} gaps or more"
        return Consistency(sizes, mean, error, hits, np.nan, np.nan, reason, seed)
    logs = np.log(sizes[usable])
    rng = np.random.default_rng([seed, 12])
    slopes = []
    for _ in range(500):
        chosen = rng.integers(widths.shape[1], size=widths.shape[1])
        again = widths[usable][:, chosen]
        # A resample in which every repeat of a size is missing or of zero width has no logarithm.
        heights = np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in again])
        if (heights > 0).all():
            slopes.append(np.polyfit(logs, np.log(heights), 1)[0])
    slope = float(np.polyfit(logs, np.log(mean[usable]), 1)[0])
    return Consistency(sizes, mean, error, hits, slope, float(np.std(slopes, ddof=1)), "", seed)


if __name__ == "__main__":
    for what, found in (("folds", width_exponent(seed=0)), ("resamples", resample_exponent(seed=0))):
        widths = ", ".join(f"{size:g}: {width:.2f}" for size, width in zip(found.sizes, found.width, strict=True))
        print(f"{what}: exponent {found.exponent:.2f} ± {found.exponent_error:.2f} {found.reason}; widths {widths}")
