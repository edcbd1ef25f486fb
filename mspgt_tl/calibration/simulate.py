"""Cases simulated as curves: no model runs, so that intervals can be judged at measuring noise that models here lack.

Three signals are 1 at planted gaps and 0 elsewhere, plus *background* (what layers really differ by: the same in every
resample) and *error* (what measuring them on other sentences would change: drawn anew in every resample).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mspgt_tl.calibration.measure import Measured

SPACING = 3
"""Planted pairs lie at least this many gaps apart."""


@dataclass(frozen=True)
class CurveCell:
    """One simulated condition."""

    n_gaps: int
    places: Literal["pair", "close", "one", "none"]
    """A random pair at least 3 gaps apart, a pair exactly 3 apart, a single gap, or nothing."""
    background: float
    """Standard deviation over gaps, in units of a planted peak."""
    error: float
    """Standard deviation over resamples, in the same units."""
    cases: int
    width: float = 0.0
    """Standard deviation in gaps of a planted bump; 0 for a single gap."""

    @property
    def name(self) -> str:
        """The condition in words."""
        places = {"pair": "two", "close": "two, 3 gaps apart", "one": "one", "none": "none"}[self.places]
        wide = f", bumps of {self.width:g}" if self.width else ""
        return f"{places}{wide}; {self.n_gaps} gaps, background {self.background:g}, error {self.error:g}"


def simulate(cell: CurveCell, *, seed: int, resamples: int = 200) -> Iterator[tuple[Measured, tuple[int, ...]]]:
    """Yield curves with resamples, and the planted gaps."""
    rng = np.random.default_rng([seed, cell.n_gaps, cell.cases])
    for _ in range(cell.cases):
        gaps = draw_gaps(cell.places, cell.n_gaps, rng)
        truth = cell.background * rng.standard_normal((3, cell.n_gaps))
        for gap in gaps:
            away = np.arange(1, cell.n_gaps + 1) - gap
            truth += np.exp(-0.5 * (away / cell.width) ** 2) if cell.width else away == 0
        curves = truth + cell.error * rng.standard_normal(truth.shape)
        noise = rng.standard_normal((resamples, *truth.shape))
        yield Measured(curves, curves + cell.error * noise), gaps


def draw_gaps(places: str, n_gaps: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw where to plant: no gap, `one`, the two `ends`, two `SPACING` apart (`close`), or two that far or farther."""
    if places == "none":
        return ()
    if places == "ends":
        return (1, n_gaps)
    if places == "one":
        return (int(rng.integers(1, n_gaps + 1)),)
    if places == "close":
        first = int(rng.integers(1, n_gaps - SPACING + 1))
        return (first, first + SPACING)
    first, second = np.sort(rng.choice(n_gaps - SPACING + 1, 2, replace=False))
    return (int(first) + 1, int(second) + SPACING)


def curve_cells(cases: int) -> tuple[CurveCell, ...]:
    """Return the published simulated conditions."""
    planted = [
        CurveCell(n_gaps, places, background, error, cases)
        for n_gaps in (11, 31)
        for places in ("pair", "close", "one")
        for background, error in ((0.1, 0.05), (0.1, 0.2), (0.1, 0.35), (0.2, 0.2))
    ]
    wide = [CurveCell(n_gaps, "pair", 0.1, 0.1, cases, width=1.5) for n_gaps in (11, 31)]
    nulls = [CurveCell(n_gaps, "none", 0.3, error, cases) for n_gaps in (11, 31) for error in (0.05, 0.2)]
    return (*planted, *wide, *nulls)
