"""Agreement of readings: the same reading agrees, independent ones do so at the stated rate, drift alone does not."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mspgt_tl.comparison.rival_agreement import FUSED, rival_agreement


def result_of(fused: np.ndarray, boundary: tuple[int, ...] = ()) -> xr.Dataset:
    return xr.Dataset({"fused": ("gap", fused), "boundary": ("found", np.array(boundary, dtype=float))})


def rivals_of(curves: dict[str, np.ndarray], boundary: dict[str, tuple[float, float]] | None = None) -> xr.Dataset:
    names = list(curves)
    gaps = [(boundary or {}).get(name, (np.nan, np.nan)) for name in names]
    return xr.Dataset(
        {
            "curve": (("rival", "gap"), np.stack(list(curves.values()))),
            "boundary": (("rival", "rank"), np.array(gaps)),
        },
        coords={"rival": names},
    )


def test_the_same_reading_agrees_and_boundaries_are_counted():
    """Correlation 1, the smallest p there is, and its boundary shared."""
    curve = np.random.default_rng(0).random(23)
    results = {"m": (result_of(curve, (5, 12)), rivals_of({"copy": 3 * curve + 1}, {"copy": (6.0, np.nan)}))}
    row = rival_agreement(results, draws=199).iloc[0]
    assert (row["one"], row["other"], row["models"]) == (FUSED, "copy", 1)
    assert row["correlation"] == pytest.approx(1)
    assert row["p"] < 0.05
    assert (row["shared"], row["boundaries"]) == (1, 2)
    assert row["by_chance"] == pytest.approx(2 * 3 / 23)


def test_independent_readings_agree_at_the_stated_rate():
    """Uncorrected p below 0.05 in about 5 % of pairs of rough or smooth curves."""
    rng, p_values = np.random.default_rng(1), []
    for _ in range(20):
        curves = {f"r{i}": np.convolve(rng.random(25), [1, 1, 1], "valid") for i in range(5)}
        table = rival_agreement({"m": (result_of(rng.random(23)), rivals_of(curves))}, draws=99)
        p_values += table["p"].tolist()
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_common_decay_is_no_agreement():
    """Two curves that fall along with depth, each with noise of its own."""
    rng, fall, found = np.random.default_rng(2), np.exp(-np.arange(23) / 5), []
    for _ in range(20):
        noisy = {"r": fall + 0.05 * rng.random(23)}
        found.append(
            rival_agreement({"m": (result_of(fall + 0.05 * rng.random(23)), rivals_of(noisy))}, draws=99)["p"][0]
        )
    assert np.mean(np.array(found) < 0.05) < 0.25


def test_curves_that_say_nothing_are_left_out():
    """A reading with nan or without any change has no pair."""
    curves = {"flat": np.ones(11), "missing": np.full(11, np.nan), "good": np.arange(11.0) ** 2 % 7}
    table = rival_agreement({"m": (result_of(np.random.default_rng(3).random(11)), rivals_of(curves))}, draws=9)
    assert table[["one", "other"]].to_numpy().tolist() == [[FUSED, "good"]]
