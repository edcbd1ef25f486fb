"""What a theory run will take, and settings that fit into a given time."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspgt_tl.config import TheoryConfig
from mspgt_tl.errors import ConfigError
from mspgt_tl.models.pretrained import load
from mspgt_tl.pipeline.theory import spread
from mspgt_tl.pipeline.theory_cost import TheoryCost, read_duration
from mspgt_tl.theory.texts import read_texts

SMOLLM2 = TheoryCost(seconds=2e-3, logits=0.2, n_layers=30, d_model=576, positions=30, texts=1000)


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("10min", 600), ("1.5h", 5400), ("45", 45), (30.0, 30)])
def test_times_are_read_with_their_units(given: str | float, seconds: float) -> None:
    """Seconds without a unit."""
    assert read_duration(given) == seconds


@pytest.mark.parametrize("given", ["soon", "0", "-5min", "10 parsecs", "", "min", 0, float("nan"), "1.2.3h"])
def test_what_is_no_time_is_refused(given: str | float) -> None:
    """The message says what a time looks like."""
    with pytest.raises(ConfigError, match="such as 90s"):
        read_duration(given)


@pytest.mark.parametrize("limit", [1800, 3600, 7200])
def test_settings_fit_into_the_time_given(limit: float) -> None:
    """Less is taken of something, nothing below what an estimate needs, and no more than was needed."""
    asked = TheoryConfig()
    fitted = SMOLLM2.fit(asked, limit)
    assert sum(SMOLLM2.stages(fitted).values()) <= limit < sum(SMOLLM2.stages(asked).values())
    assert sum(SMOLLM2.stages(fitted).values()) > limit / 4
    assert fitted.noise_draws >= 2 and len(fitted.rate_sigmas) >= 2 and fitted.rate_texts >= 20
    assert f"fits into {limit / 60:.0f} min" in SMOLLM2.describe(fitted, limit) or limit > 5400


def test_enough_time_changes_nothing() -> None:
    """Settings stay as they were asked for."""
    assert SMOLLM2.fit(TheoryConfig(), 1e9) == TheoryConfig()


def test_too_little_time_says_so() -> None:
    """The least of everything is kept, and the estimate says that it does not fit."""
    fitted = SMOLLM2.fit(TheoryConfig(), 1)
    assert "does not fit" in SMOLLM2.describe(fitted, 1)
    assert (fitted.closure_layers, fitted.label_samples) == (4, 1)


def test_float64_is_counted_only_where_it_was_asked_for() -> None:
    """Twice and a half of float32."""
    assert "closure-float64" not in SMOLLM2.stages(TheoryConfig())
    assert SMOLLM2.stages(TheoryConfig(exact_draws=32))["closure-float64"] > 0


def test_a_pass_is_timed_on_the_model_itself(tiny_folder: Path) -> None:
    """Sizes are the model's, and a position takes some time."""
    model = load(tiny_folder)
    cost = TheoryCost.measure(model, read_texts(model, [[1, 2, 3, 4], [5, 6, 7]]))
    assert (cost.n_layers, cost.d_model, cost.texts, cost.positions) == (8, int(model.cfg.d_model), 2, 3.5)
    assert 0 < cost.seconds < 1 and 0 < cost.logits < 1


def test_layers_are_spread_with_both_ends() -> None:
    """Never more than there are."""
    assert spread(8, 3) == [0, 4, 7]
    assert spread(3, 9) == [0, 1, 2]
