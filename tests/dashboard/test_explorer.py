"""The explorer's arithmetic agrees with Python's in a real browser, and what it is given is what a result holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mspgt_tl.boundaries import find_boundaries, reliability
from mspgt_tl.contracts import Existence
from mspgt_tl.dashboard.explorer import weight_grid
from mspgt_tl.dashboard.sheet import static_text

CONSTANTS = {
    "min_reliability": 0.5,
    "min_presence": 0.5,
    "near_tie": 0.2,
    "max_width": 5,
    "alpha": 0.05,
    "verdicts": list(Existence),
}
FIND = """
const [curves, resampled, weights, prominence, rule, constants] = arguments, m = window.maths;
const flat = Float64Array.from(resampled), run = {curves, resampled: flat, reliability: m.reliability(curves, flat)};
const found = m.findBoundaries(run, {weights, prominence, rule, reliability: true}, constants);
return {...found, refused: null, shown: found.shown.map(s => Array.from(s)), fused: Array.from(found.fused),
  band: m.fusedBand(found), reliability: run.reliability};
"""


@pytest.fixture(scope="module")
def maths(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A function that runs the explorer's `findBoundaries` in Chromium."""
    page = tmp_path_factory.mktemp("maths") / "maths.html"
    exported = "window.maths = {findBoundaries, fusedBand, reliability};"
    page.write_text(f'<script type="module">{static_text("explorer.js")}\n{exported}</script>', encoding="utf-8")
    browser.get(page.as_uri())

    def find(curves: np.ndarray, resampled: np.ndarray, weights: Any, prominence: float, rule: str) -> Any:
        arguments = (curves.tolist(), resampled.ravel().tolist(), list(weights), prominence, rule, CONSTANTS)
        return browser.execute_script(FIND, *arguments)

    return find


def noisy_curves(case: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random curves of two to five signals over 4 to 40 gaps, with resamples; some signals are mostly noise."""
    rng = np.random.default_rng(case)
    n_signals, n_gaps = int(rng.integers(2, 6)), int(rng.integers(4, 41))
    curves = rng.normal(size=(n_signals, n_gaps)) * 10.0 ** rng.integers(-4, 4, (n_signals, 1))
    spread = rng.choice([0.05, 0.4, 1.2], (n_signals, 1)) * curves.std(axis=1, keepdims=True)
    return curves, curves + spread * rng.normal(size=(120, n_signals, n_gaps))


def nan_list(values: Any) -> np.ndarray:
    return np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float).reshape(-1, 2)


@pytest.mark.browser
@pytest.mark.parametrize("rule", ["mspgt", "paper"])
@pytest.mark.parametrize("case", range(12))
def test_browser_agrees_with_python(maths: Callable[..., Any], case: int, rule: Any) -> None:
    """Fusion, reliability, peaks, intervals, presence and near ties are Python's to 1e-9 on random curves."""
    curves, resampled = noisy_curves(case)
    weights = np.random.default_rng(case).random(len(curves)).round(2)
    weights[case % len(curves)] = 0.0 if case % 3 == 0 else 0.5
    ours = find_boundaries(curves, weights=weights, rule=rule, resampled=resampled, n_null=20)
    theirs = maths(curves, resampled, weights, 0.3, rule)
    near = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(theirs["reliability"], reliability(curves, resampled), **near)
    np.testing.assert_allclose(theirs["shown"], ours.normalised, **near)
    np.testing.assert_allclose(theirs["fused"], ours.fused, **near)
    np.testing.assert_allclose(theirs["weights"], ours.weights, **near)
    assert tuple(theirs["boundaries"]) == ours.boundaries
    np.testing.assert_allclose(nan_list(theirs["intervals"]), ours.intervals, **near)
    if ours.weights.any():
        refused = np.einsum("s,rsg->rg", ours.weights, _scaled(resampled, ours.gain))
        np.testing.assert_allclose(theirs["band"], np.quantile(refused, [0.025, 0.975], axis=0), **near)
    if ours.boundaries:
        np.testing.assert_allclose(theirs["presence"], ours.presence, **near)
        np.testing.assert_allclose(theirs["counts"], ours.peak_counts, **near)
        assert tuple(theirs["nearTies"]) == ours.near_ties


def _scaled(resampled: np.ndarray, gain: np.ndarray) -> np.ndarray:
    low, high = resampled.min(axis=-1, keepdims=True), resampled.max(axis=-1, keepdims=True)
    return (resampled - low) / (high - low) * gain[:, None]


@pytest.mark.browser
def test_plateaus_and_ends_are_peaks_as_in_python(maths: Callable[..., Any]) -> None:
    """A plateau counts once, at its middle rounded down; the first and last gap can be peaks."""
    curves = np.array([[1, 0, 0.5, 0.5, 0.5, 0.5, 0, 0.2, 0.9], [1, 0, 0.5, 0.5, 0.5, 0.5, 0, 0.2, 0.9]], dtype=float)
    resampled = np.stack([curves, curves])
    assert maths(curves, resampled, (1, 1), 0.3, "mspgt")["boundaries"] == [1, 9]
    low = curves.copy()
    low[:, 0], low[:, -2:] = 0, 0
    ours = find_boundaries(low, resampled=np.stack([low, low]), n_null=20)
    assert tuple(maths(low, np.stack([low, low]), (1, 1), 0.3, "mspgt")["boundaries"]) == ours.boundaries == (4,)


@pytest.mark.parametrize(("n_signals", "points"), [(2, 70), (3, 70), (4, 70), (6, 70)])
def test_weight_grid_covers_the_simplex(n_signals: int, points: int) -> None:
    """Weights sum to one, no choice comes twice, every corner is there, and there are not too many."""
    grid = weight_grid(n_signals, points)
    assert len(grid) == len({tuple(row) for row in grid.round(9).tolist()}) <= points
    np.testing.assert_allclose(grid.sum(axis=1), 1)
    assert {int(row.argmax()) for row in grid[(grid == 1).any(axis=1)]} == set(range(n_signals))
