"""TwoNN: known dimensions, the Pareto law, and points that must not count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mspgt_tl.errors import DataError
from mspgt_tl.signals.intrinsic_dimension import IntrinsicDimension, two_nn


def gaussian(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ np.linalg.qr(rng.standard_normal((32, 32)))[0][:d]


def slow_two_nn(rows: np.ndarray) -> float:
    """(n - 1) / Σ ln μ, point by point; DADApy's `ml` algorithm is the same formula."""
    total = 0.0
    for i, row in enumerate(rows):
        first, second = np.sort(np.linalg.norm(np.delete(rows, i, axis=0) - row, axis=1))[:2]
        total += np.log(second / first)
    return (len(rows) - 1) / total


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_dimension_of_an_embedded_gaussian_is_found(d):
    """Rotated into 32 dimensions: within 10 % at 2,000 points."""
    assert two_nn(torch.from_numpy(gaussian(2000, d, 0))) == pytest.approx(d, rel=0.1)


@pytest.mark.parametrize("d", [1, 3, 8])
def test_the_estimate_is_the_formula(d):
    """Against an explicit loop."""
    rows = gaussian(60, d, d)
    assert two_nn(torch.from_numpy(rows)) == pytest.approx(slow_two_nn(rows), rel=1e-9)


@pytest.mark.parametrize(
    ("d", "dadapy"),
    [(1, 0.9974993908337924), (2, 1.8985303640853333), (5, 4.510008254775903), (10, 9.676885538007054)],
)
def test_the_estimate_is_dadapy_s(d, dadapy):
    """Recorded from DADApy 0.3.4 (`compute_id_2NN("ml")`) on the same points: it does not import under numpy 2."""
    assert two_nn(torch.from_numpy(gaussian(500, d, 0))) == pytest.approx(dadapy, rel=1e-8)


def test_scale_shift_and_rotation_do_not_matter():
    """Ratios of distances."""
    rows = torch.from_numpy(gaussian(50, 4, 1))
    assert two_nn(5 * rows.flip(1) + 3) == pytest.approx(two_nn(rows), rel=1e-9)


def test_equal_points_are_left_out():
    """A copy at distance 0 has no ratio; the rest is as without the pair."""
    rows = torch.from_numpy(gaussian(50, 4, 1))
    assert np.isfinite(two_nn(torch.cat([rows, rows[:1]])))


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.zeros(5), torch.full((5, 2), torch.nan)])
def test_unusable_rows_are_refused(bad):
    """Three finite rows are needed."""
    with pytest.raises(DataError, match="3 rows or more"):
        two_nn(bad)


def drawn_rows(batch, layer: int, fold: int, keep=lambda i: True) -> np.ndarray:
    members = [i for i in np.flatnonzero(batch.fold == fold) if keep(i)]
    return np.stack([batch.resid[layer][i, batch.drawn[i]].double().numpy() for i in members])


def test_three_points_have_a_dimension():
    """At 0, 1 and 3 the second neighbour is 3, 2 and 1.5 times as far as the first: 2 / ln 9."""
    assert two_nn(torch.tensor([[0.0], [1], [3]])) == pytest.approx(2 / np.log(9))


def test_the_dimension_follows_from_the_sums():
    """(n − 1) / Σ ln μ, however small; without a ratio, nan."""
    sums = {"log_ratio": np.array([[0.5, 0.0]]), "points": np.array([[3.0, 3.0]])}
    np.testing.assert_array_equal(IntrinsicDimension.levels(sums, np.ones((1, 1))), [[4, np.nan]])


def test_neighbours_are_sought_within_folds(batch, sums_of):
    """n and Σ ln μ of each fold as if it were alone, then added."""
    sums = sums_of(IntrinsicDimension(), batch)
    for fold in range(3):
        for layer in range(4):
            rows = drawn_rows(batch, layer, fold)
            expected = (len(rows) - 1) / slow_two_nn(rows)
            assert sums["log_ratio"][fold, layer] == pytest.approx(expected, rel=1e-5)
    levels = IntrinsicDimension.levels(sums, np.ones((1, 3)))[0]
    np.testing.assert_allclose(levels, (30 - 1) / sums["log_ratio"].sum(0))


def test_equal_beginnings_count_once(batch, sums_of):
    """Two sentences with the same tokens up to the drawn one have the same vector up to rounding: one is left out."""
    first, second = np.flatnonzero(batch.fold == 0)[:2]
    tokens, drawn, resid = batch.tokens.clone(), batch.drawn.clone(), [r.clone() for r in batch.resid]
    tokens[second], drawn[second] = tokens[first], drawn[first]
    for r in resid:
        r[second] = r[first] * (1 + 1e-7)
    twin = replace(batch, tokens=tokens, drawn=drawn, resid=resid)
    sums = sums_of(IntrinsicDimension(), twin)
    rows = drawn_rows(twin, 2, 0, keep=lambda i: i != second)
    assert sums["points"][0].tolist() == [9] * 4
    assert sums["log_ratio"][0, 2] == pytest.approx((len(rows) - 1) / slow_two_nn(rows), rel=1e-4)
