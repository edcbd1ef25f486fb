"""From claims to rates: false positives, power, location error and coverage, each with its Monte-Carlo error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mspgt_tl.calibration.detectors import Claim
from mspgt_tl.contracts import WITHIN
from mspgt_tl.stats import share_interval


@dataclass(frozen=True)
class Outcome:
    """How one detector did on one case."""

    claims: int
    false_claims: int
    """Claims further than one layer from every planted gap and every rival."""
    errors: tuple[float, ...]
    """Distance from each planted gap to the nearest claim; nan where nothing within one layer was claimed."""
    covered: tuple[bool, ...]
    """For every claim with an interval: whether it holds a planted gap."""
    widths: tuple[float, ...]
    """Their widths: highest less lowest gap, 0 for a single one."""


def judge(claims: Sequence[Claim], planted: Sequence[int], rivals: Sequence[int] = ()) -> Outcome:
    """Compare claims with the truth.

    >>> judge([Claim(4, (3.0, 5.0)), Claim(9)], planted=[5])
    Outcome(claims=2, false_claims=1, errors=(1.0,), covered=(True,), widths=(2.0,))
    """
    places = np.array([claim.gap for claim in claims], dtype=float)
    errors = []
    for gap in planted:
        nearest = np.abs(places - gap).min() if len(places) else np.nan
        errors.append(float(nearest) if nearest <= WITHIN else np.nan)
    false = sum(all(abs(claim.gap - gap) > WITHIN for gap in (*planted, *rivals)) for claim in claims)
    intervals = [c.interval for c in claims if c.interval and all(abs(c.gap - gap) > WITHIN for gap in rivals)]
    return Outcome(
        len(claims),
        false,
        tuple(errors),
        tuple(any(low <= gap <= high for gap in planted) for low, high in intervals),
        tuple(high - low for low, high in intervals),
    )


@dataclass(frozen=True)
class Rate:
    """A share with its Monte-Carlo error."""

    value: float
    error: float
    """Standard error; cases, not boundaries, are the units."""
    low: float
    high: float
    """95 % interval: Clopper–Pearson for cases, normal where a case holds more than one."""
    cases: int


NO_RATE = Rate(np.nan, np.nan, np.nan, np.nan, 0)


def share_of_cases(hits: Sequence[bool]) -> Rate:
    """Return how often something happened, one answer a case.

    >>> share_of_cases([True] * 5 + [False] * 95).value
    0.05
    """
    n, k = len(hits), int(sum(hits))
    if n == 0:
        return NO_RATE
    return Rate(k / n, float(np.sqrt(k / n * (1 - k / n) / n)), *share_interval(k, n), n)


def pooled_share(parts: Sequence[Sequence[bool]]) -> Rate:
    """Return the share over all parts of all cases; cases are resampling units, so parts of one may depend."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return NO_RATE
    counts = np.array([len(part) for part in filled], dtype=float)
    hits = np.array([sum(part) for part in filled], dtype=float)
    n, value = len(filled), hits.sum() / counts.sum()
    bounds = share_of_cases([bool(h == c) for h, c in zip(hits, counts, strict=True)])
    if value in (0.0, 1.0):
        return Rate(float(value), 0.0, bounds.low if value else 0.0, 1.0 if value else bounds.high, n)
    error = float(np.sqrt(((hits - value * counts) ** 2).sum() / max(n - 1, 1) * n) / counts.sum())
    low, high = (float(np.clip(value + z * error, 0, 1)) for z in (-1.96, 1.96))
    return Rate(float(value), error, low, high, n)


@dataclass(frozen=True)
class Score:
    """One detector on one cell."""

    alarms: Rate
    """Cases with any false claim."""
    found: Rate
    """Planted boundaries found within one layer."""
    exact: Rate
    """Planted boundaries found at their very gap."""
    error: float
    """Mean distance in layers of those found; nan if none."""
    coverage: Rate
    """Intervals that hold a planted gap."""
    width: float
    """Mean width of intervals in layers; nan if none."""


def score(outcomes: Sequence[Outcome]) -> Score:
    """Summarise the cases of a cell."""
    errors = np.array([error for outcome in outcomes for error in outcome.errors])
    widths = np.array([width for outcome in outcomes for width in outcome.widths])
    known: Float[np.ndarray, "found"] = errors[~np.isnan(errors)]
    has_truth = any(outcome.errors for outcome in outcomes)
    return Score(
        alarms=share_of_cases([outcome.false_claims > 0 for outcome in outcomes]),
        found=pooled_share([[not np.isnan(e) for e in outcome.errors] for outcome in outcomes]),
        exact=pooled_share([[e == 0 for e in outcome.errors] for outcome in outcomes]),
        error=float(known.mean()) if len(known) else np.nan,
        coverage=pooled_share([outcome.covered for outcome in outcomes]) if has_truth else NO_RATE,
        width=float(widths.mean()) if len(widths) else np.nan,
    )
