"""Power: a step of known size added to a detection's own curves, judged again."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.power import STEPS, power_of, tell_power


def detection(curves: np.ndarray, noise: float = 0.01, rule: str = "mspgt") -> xr.Dataset:
    """Return what `power_of` reads of a labelled detection."""
    rng = np.random.default_rng(0)
    resampled = curves + noise * rng.standard_normal((200, *curves.shape))
    found = find_boundaries(curves, resampled=resampled, rule=rule)
    return xr.Dataset(
        {
            "curve": (("signal", "gap"), curves),
            "resampled": (("resample", "signal", "gap"), resampled),
            "weight": ("signal", found.weights),
            "contrast_threshold": found.contrast_threshold,
        },
        {"gap": np.arange(1, curves.shape[1] + 1)},
        {"seed": 0},
    )


@pytest.fixture(scope="module")
def noise_alone() -> xr.Dataset:
    """Three signals of 20 gaps that agree nowhere."""
    return detection(np.random.default_rng(1).random((3, 20)))


def test_a_step_of_all_of_the_range_is_found_nearly_everywhere_and_a_small_one_nowhere(noise_alone):
    """Noise over 20 gaps: a step over the whole range tops everything, a quarter drowns."""
    power = power_of(noise_alone)
    assert power.sel(step=1.0, gap=slice(2, 19)).mean() > 0.9
    assert power.sel(step=0.25).sum() <= 2
    shares = power.mean("gap").to_numpy()
    assert (np.diff(shares) >= 0).all()


def test_the_first_and_the_last_gap_are_not_tried(noise_alone):
    """Models begin and end there."""
    power = power_of(noise_alone)
    assert list(power["gap"][np.isnan(power).all("step")]) == [1, 20]
    assert not np.isnan(power.sel(gap=slice(2, 19))).any()


def test_what_is_stored_is_not_measured_again(noise_alone):
    """A detection holds its own."""
    stored = power_of(noise_alone) * 0
    assert power_of(noise_alone.assign(power=stored)).sum() == 0


def test_the_sentence_counts_gaps(noise_alone):
    """One count a step, of the gaps that were tried."""
    power = power_of(noise_alone)
    told = tell_power(noise_alone)
    assert "one of 18 inner gaps" in told
    for step, words in STEPS.items():
        assert f"{int(power.sel(step=step).sum())} ({words} of it)" in told


def test_what_was_not_tested_has_no_power():
    """The published rule makes no test of existence."""
    result = detection(np.random.default_rng(1).random((3, 12)), rule="paper")
    assert np.isnan(power_of(result)).all()
    assert tell_power(result) == ""


def test_signals_left_out_stay_left_out(noise_alone):
    """With one signal left there is no agreement to be tested, whatever is added to the others."""
    alone = noise_alone.assign(weight=("signal", [1.0, 0.0, 0.0]))
    assert power_of(alone).sum() == 0


def test_deep_models_are_tried_at_thirty_gaps():
    """Evenly spread from the second to the last but one."""
    power = power_of(detection(np.random.default_rng(1).random((3, 79)))).dropna("gap")
    assert power.sizes["gap"] == 30
    assert (int(power["gap"][0]), int(power["gap"][-1])) == (2, 78)
