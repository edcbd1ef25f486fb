"""Is a peak more than chance? Null curves for boundaries, from the measured signals alone.

A peak of the fused curve is evidence only when *several* signals change at the same gap: one signal peaks somewhere
whatever it measures. So the null keeps each signal's own values and breaks their agreement in depth, by permuting and
by circularly shifting every signal on its own (docs/method.md, "Existence"). The larger p-value counts.

Three things were measured and shaped the statistic:

- Signals that drift smoothly in the same direction agree at the ends of the depth axis without any boundary. The
  statistic is therefore the fused *local contrast*: each gap against a line through its neighbours. At the first and
  last gap, where the line has to extrapolate, a curve that goes on falling behind the gap counts as drift and not as
  a peak.
- Contrasts enter by their roots, and as 0 where a signal does not stand out, so that agreement weighs more than the
  height of one signal: two points more boundaries are found at the same rate of false alarms (docs/calibration.md).
- With two boundaries and 11 gaps, two of three signals' peaks meet by chance in 6 % of shifts, so the highest peak
  alone can never be significant, while the *second* highest meets by chance in under 1 %. The p-value of "any
  boundary" is therefore the smaller of both, calibrated on the same null curves, and "two boundaries" rests on the
  second peak. The two hypotheses are nested, so testing them in order keeps the chance of any false boundary at the
  nominal level. Beside a boundary that is accepted, its own gap can be left out of the null curves of the second; the
  smaller of both p-values counts, which invents a second boundary in 0.7 % more of the cases at most (measured).

Shifts of k signals over n gaps make nᵏ⁻¹ relative orders, so no p lies below 1 / nᵏ⁻¹. All are taken while they are
few: drawn ones add Monte-Carlo error where one order more or less decides (7 gaps: 2 of 49 is significant, 3 is not).
Two signals have n, too few below 20 gaps; there a curve turned round is as good a null, which makes 2n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.stats import TAILS

WINDOW = 4
"""Neighbours that the local line is fitted to; more would reach across boundaries three gaps away."""
END_SLOPE = 3.5
"""An end gap must rise this many times as steeply as the next step: geometric decay by up to 1/3.5 a gap is drift.

With 2.5, random weights of a 30-block Llama had a boundary at gap 1 (p = .005), where all signals begin to decay.
"""
MOST_SHIFTS = 5000
"""All shifts are taken where they are no more than these (three signals: 17 gaps), and drawn beyond."""
ROUNDING = 1e-12
MIN_GAPS = 6
"""With fewer gaps the chance level of the test (1 / gaps², three signals) is not clearly below 0.05."""


@lru_cache(maxsize=64)
def _contrast_operator(n_gaps: int) -> Float[np.ndarray, "gap gap"]:
    """Rows that subtract from each gap the line through its nearest neighbours, scaled to unit noise."""
    rows = np.zeros((n_gaps, n_gaps))
    for gap in range(n_gaps):
        others = sorted((g for g in range(n_gaps) if g != gap), key=lambda g: (abs(g - gap), g))[:WINDOW]
        line = np.stack([np.ones(len(others)), np.array(others) - gap], axis=1)
        at_gap = np.linalg.pinv(line)[0]
        rows[gap, gap] = 1
        rows[gap, others] = -at_gap
        rows[gap] /= np.sqrt(1 + at_gap @ at_gap)
    return rows


def local_contrast(curves: Float[np.ndarray, "*any gap"]) -> Float[np.ndarray, "*any gap"]:
    """Return how far each gap stands out from the line through its four nearest neighbours.

    Scaled so that white noise of unit variance gives unit variance at every gap. The ends are further limited to the
    rise over the next gap less 3.5 times the slope behind it.
    """
    contrast = curves @ _contrast_operator(curves.shape[-1]).T
    for end, step in ((0, 1), (-1, -1)):
        rise = curves[..., end] - curves[..., end + step]
        behind = curves[..., end + step] - curves[..., end + 2 * step]
        contrast[..., end] = np.minimum(contrast[..., end], (rise - END_SLOPE * np.maximum(behind, 0)) / np.sqrt(2))
    return contrast


@dataclass(frozen=True)
class Concordance:
    """p-values of the peaks that were tested, and the statistic they rest on."""

    p_values: Float[np.ndarray, "boundary"]
    contrast: Float[np.ndarray, "gap"]
    """Fused roots of the signals' local contrasts, 0 where a signal does not stand out."""
    threshold: float
    """The contrast that 5 % of the null curves exceed somewhere."""


def concordance_test(
    curves: Float[np.ndarray, "signal gap"],
    weights: Float[np.ndarray, "signal"],
    peaks: Int[np.ndarray, "boundary"],
    *,
    n_null: int = 2000,
    seed: int = 0,
) -> Concordance:
    """Test whether the signals agree on `peaks` more than null curves do.

    Args:
        curves: normalised signals, two or more, at least `MIN_GAPS` gaps.
        weights: fusion weights.
        peaks: up to two indices into the gap axis (0-based), any order.

    Returns:
        p-values in the order of `peaks`, adjusted so that any false boundary among them has probability at most 5 %
        at p < 0.05.
    """
    contrast = np.sqrt(np.maximum(local_contrast(curves), 0))
    fused = weights @ contrast
    rng = np.random.default_rng(seed)
    order = np.argsort(-fused[peaks], kind="stable")
    observed = np.full(2, -np.inf)
    observed[: len(peaks)] = fused[peaks][order]
    adjusted, thresholds = [], []
    for null in (_permuted, _shifted):
        highest = _two_highest(np.einsum("s,nsg->ng", weights, null(contrast, n_null, rng)))
        adjusted.append(_peak_p_values(observed, highest))
        thresholds.append(np.quantile(highest[0], 0.95))
    either, both = np.max(adjusted, axis=0)
    if len(peaks) == 2:
        given_first = _p_beside(np.delete(contrast, peaks[order[0]], axis=1), weights, observed[1], n_null, rng)
        both = max(either, min(both, given_first))
    p_values = np.empty(len(peaks))
    p_values[order] = (either, both)[: len(peaks)]
    return Concordance(p_values, fused, float(max(thresholds)))


def _p_beside(rest: np.ndarray, weights: np.ndarray, observed: float, n: int, rng: np.random.Generator) -> float:
    """Return how often null curves of the gaps beside an accepted boundary reach the height of a second one."""
    tops = [np.einsum("s,nsg->ng", weights, null(rest, n, rng)).max(axis=1) for null in (_permuted, _shifted)]
    return max(float(_reached(top, observed).mean()) for top in tops)


def _reached(null: Float[np.ndarray, "*any null"], observed: float | Float[np.ndarray, "2 1"]) -> np.ndarray:
    """Return which null curves are as high; the first is the measured order, which always counts."""
    # Sums in another order differ in the last digits; a tie must count as reaching the observed height.
    reached = null >= observed - ROUNDING
    reached[..., 0] = True
    return reached


def _permuted(curves: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the curves, then n − 1 times with every signal's gaps in a random order."""
    made = rng.permuted(np.broadcast_to(curves, (n, *curves.shape)), axis=2)
    made[0] = curves
    return made


def _shifted(curves: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the curves, then all circular shifts of every signal, or n − 1 drawn ones where these are too many."""
    n_signals, n_gaps = curves.shape
    if n_gaps**n_signals <= MOST_SHIFTS:
        steps = np.indices((n_gaps,) * n_signals).reshape(n_signals, -1).T[:, :, None]
    else:
        steps = rng.integers(0, n_gaps, size=(n, n_signals, 1))
        steps[0] = 0
    places = (np.arange(n_gaps) + steps) % n_gaps
    forms = [curves, np.stack([curves[0], curves[1, ::-1]])] if n_signals == 2 else [curves]
    return np.concatenate([np.take_along_axis(form[None], places, axis=2) for form in forms])


def _two_highest(curves: Float[np.ndarray, "null gap"]) -> Float[np.ndarray, "2 null"]:
    """Return the heights of the two highest local maxima of each curve."""
    padded = np.pad(curves, ((0, 0), (1, 1)), constant_values=-np.inf)
    is_peak = (curves >= padded[:, :-2]) & (curves >= padded[:, 2:])
    return -np.sort(-np.where(is_peak, curves, -np.inf), axis=1)[:, :2].T


def _peak_p_values(observed: Float[np.ndarray, "2"], null: Float[np.ndarray, "2 null"]) -> tuple[float, float]:
    """Return p-values of "any boundary", and of the second one, not nested yet."""
    from scipy.stats import rankdata

    reached = _reached(null, observed[:, None])
    first, second = reached.mean(axis=1)
    tail = rankdata(-null.round(10), method="max", axis=1) / null.shape[1]
    as_rare = tail.min(axis=0) <= min(first, second) + ROUNDING
    as_rare[0] = True
    return float(as_rare.mean()), float(second)


def null_band(
    curves: Float[np.ndarray, "signal gap"], weights: Float[np.ndarray, "signal"], *, n_null: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the range that holds 95 % of the fused values when every signal's gaps are permuted on their own."""
    fused = np.einsum("s,nsg->ng", weights, _permuted(curves, n_null, np.random.default_rng(seed)))
    low, high = np.quantile(fused, TAILS)
    return float(low), float(high)
