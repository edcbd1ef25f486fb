"""Interval width against sample size on planted curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.theory.consistency import _fit, resample_exponent, width_exponent


@pytest.fixture(scope="module")
def by_blocks() -> Any:
    return width_exponent(seed=0, sizes=(10, 40, 160), repeats=25)


def test_width_falls_with_the_data_at_about_the_usual_rate(by_blocks: Any) -> None:
    """The exponent is negative beyond doubt and near −1/2, and the planted gap is hit more often."""
    assert by_blocks.exponent + 4 * by_blocks.exponent_error < 0
    assert by_blocks.exponent == pytest.approx(-0.5, abs=0.15)
    assert by_blocks.hit[-1] > 0.4


def test_width_does_not_fall_with_resamples() -> None:
    """More resamples make the interval exact, not narrow: the exponent is zero within its error."""
    found = resample_exponent(seed=0, sizes=(100, 400, 1600), repeats=10)
    assert abs(found.exponent) < 0.1
    assert found.width[0] > 1


def test_no_power_is_fitted_to_widths_of_a_single_gap() -> None:
    """Where every interval is one gap the exponent is nan, with its reason."""
    found = width_exponent(seed=0, sizes=(50, 100), noise=0.01, repeats=4)
    assert np.isnan(found.exponent)
    assert "mean width" in found.reason
    assert (found.hit == 1).all()


def test_fit_recovers_a_planted_power() -> None:
    """Widths that fall as n^−0.7 with small scatter give back −0.7 within three standard errors."""
    sizes = np.array([10.0, 30.0, 90.0, 270.0])
    rng = np.random.default_rng(0)
    widths = 40 * sizes[:, None] ** -0.7 * rng.lognormal(0, 0.1, size=(4, 50))
    found = _fit(sizes, np.stack([widths, np.ones_like(widths)], axis=-1), 0)
    assert abs(found.exponent + 0.7) < 3 * found.exponent_error < 0.1


@pytest.mark.parametrize("options", [{"sizes": (10,)}, {"sizes": (20, 10)}, {"sizes": (1, 10)}, {"peak": 24}])
def test_refuses_unusable_settings(options: dict[str, Any]) -> None:
    """Sizes must rise and the peak must be a gap."""
    with pytest.raises(ConfigError):
        width_exponent(seed=0, **options)


def test_refuses_a_single_repeat() -> None:
    """One repeat has no error."""
    with pytest.raises(DataError):
        width_exponent(seed=0, repeats=1)
