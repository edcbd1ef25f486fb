"""Rival readings beside the fused one."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.config import BoundaryConfig
from mspgt_tl.contracts import StreamSignal
from mspgt_tl.rivals import _padded, chance_near, nearest_boundary, rank_correlation, rival_rows, weigh_rivals
from mspgt_tl.stats import bootstrap_counts

N_FOLDS, N_GAPS, SEED = 40, 11, 3
CONFIG = BoundaryConfig(resamples=200, null_curves=100)


class Planted(StreamSignal):
    """A signal whose sums are curves by fold."""

    name: ClassVar[str] = "planted"
    title: ClassVar[str] = "Planted"
    unit: ClassVar[str] = "1"
    source: ClassVar[str] = "test"
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    def start(self, *, n_layers, fold_sizes):
        raise NotImplementedError

    def curves(self, sums, weights):
        return weights @ sums["curve"] / weights.sum(axis=1, keepdims=True)


def curve_sums(gaps, noise: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = np.zeros(N_GAPS)
    base[[gap - 1 for gap in gaps]] = 1
    return {"curve": base + noise * rng.standard_normal((N_FOLDS, N_GAPS))}


def fused_result(gaps, noise: float = 0.1) -> xr.Dataset:
    """The result of a detection whose one usable signal is planted, resampled as the pipeline does."""
    sums = curve_sums(gaps, noise, 0)
    curves = Planted().curves(sums, np.ones((1, N_FOLDS)))
    resampled = Planted().curves(sums, bootstrap_counts(N_FOLDS, CONFIG.resamples, seed=2 * SEED))[:, None]
    found = find_boundaries(curves, resampled=resampled)
    return xr.Dataset(
        {
            "resampled": (("resample", "signal", "gap"), resampled),
            "weight": ("signal", found.weights),
            "gain": ("signal", found.gain),
            "fused": ("gap", found.fused),
            "boundary": ("found", np.array(found.boundaries, dtype=np.int64)),
        }
    )


def weigh(result: xr.Dataset, **sums) -> dict[str, dict]:
    data = weigh_rivals(result, dict.fromkeys(sums, Planted()), sums, CONFIG, seed=SEED)
    return {row["rival"]: row for row in rival_rows(data)}


def test_a_rival_that_agrees():
    """The same gaps: distance 0, always within one, and a rank correlation that is high."""
    row = weigh(fused_result((3, 8)), same=curve_sums((3, 8), 0.1, 1))["same"]
    assert row["boundaries"] == [3, 8]
    assert row["intervals"] == [[3, 3], [8, 8]]
    assert [(a["found"], a["distance"], a["within_one"]) for a in row["agreement"]] == [(3, 0, 1), (8, 0, 1)]
    assert [a["interval"] for a in row["agreement"]] == [[0, 0], [0, 0]]
    assert row["correlation"] == pytest.approx(row["correlation"]) and row["correlation"] > 0.2


def test_a_rival_that_does_not():
    """Elsewhere: the signed distance to its nearest boundary, never within one."""
    row = weigh(fused_result((3, 8)), other=curve_sums((6, 11), 0.1, 1))["other"]
    assert row["boundaries"] == [6, 11]
    assert [(a["distance"], a["within_one"]) for a in row["agreement"]] == [(3, 0), (-2, 0)]


def test_a_flat_rival_has_no_boundary():
    """Noise alone is flat; nothing is invented, and nothing is compared."""
    row = weigh(fused_result((3, 8)), noise=curve_sums((), 1.0, 1))["noise"]
    assert row["boundaries"] == []
    assert row["reliability"] < 0.5
    assert np.isnan([a["distance"] for a in row["agreement"]]).all()
    assert np.isnan(row["correlation"])
    assert any("flat" in reason for reason in row["reasons"])


@pytest.mark.parametrize("n", [0, 1, 2])
def test_places_without_a_boundary_are_nan(n):
    """Two places whatever was found, of numbers and of intervals."""
    assert np.array_equal(_padded((3, 8)[:n]), [*(3, 8)[:n], *[np.nan] * (2 - n)], equal_nan=True)
    assert _padded(np.ones((n, 2))).shape == (2, 2)


def test_the_interval_is_that_of_the_rival_alone():
    """As `find_boundaries` gives it for the one curve and its resamples."""
    sums = curve_sums((4, 9), 1.0, 5)
    row = weigh(fused_result((3, 8)), alone=sums)["alone"]
    counts = bootstrap_counts(N_FOLDS, CONFIG.resamples, seed=2 * SEED)
    found = find_boundaries(
        Planted().curves(sums, np.ones((1, N_FOLDS))), resampled=Planted().curves(sums, counts)[:, None]
    )
    assert tuple(row["boundaries"]) == found.boundaries
    np.testing.assert_array_equal(np.array(row["intervals"]).reshape(-1, 2), found.intervals)


def test_without_fused_boundaries_only_the_rival_is_told():
    """No agreement to state."""
    row = weigh(fused_result(()), alone=curve_sums((4, 9), 0.1, 1))["alone"]
    assert (row["boundaries"], row["agreement"]) == ([4, 9], [])


@pytest.mark.parametrize(("boundary", "n_rival"), [(1, 1), (5, 1), (5, 2), (11, 2), (5, 0)])
def test_chance_counts_random_gaps(boundary, n_rival):
    """Against all sets of gaps, one by one."""
    every = list(combinations(range(1, N_GAPS + 1), n_rival))
    near = sum(any(abs(gap - boundary) <= 1 for gap in gaps) for gaps in every)
    assert chance_near(boundary, n_rival, N_GAPS) == pytest.approx(near / len(every))


def test_rank_correlation_is_spearman_s():
    """With ties, row by row; a constant row has none."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (6, 9)).astype(float), rng.random((6, 9))
    expected = [float(np.asarray(spearmanr(a, b))[0]) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(rank_correlation(x, y), expected)
    assert np.isnan(rank_correlation(np.ones((1, 9)), y[:1])).all()


def test_the_nearest_of_two_peaks_is_taken():
    """Equal distances: the first in depth; nan where a row has no peak."""
    away = np.array([[-3.0, 1.0], [-2.0, 2.0], [4.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(nearest_boundary(away), [1, -2, 4, np.nan])
