"""Doses: solved, by arithmetic, or refused with the reason."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError
from mspgt_tl.interventions.dose import DOSES, SEARCH, solve_dose, solve_sigma
from mspgt_tl.interventions.next_token import (
    clean_passes,
    measure_ledger,
    next_token_effects,
)

SENTENCES = generated_corpus(seed=3, limit=24).sentences


@pytest.fixture(scope="module")
def clean(model: Any) -> list[Any]:
    """Undisturbed passes over all sentences."""
    return list(clean_passes(model, SENTENCES, max_length=64, batch_positions=256))


@pytest.mark.parametrize("dose", ["exit_norm", "kl"])
@pytest.mark.parametrize("layers", [range(0, 2), range(3, 8)])
def test_solved_doses_meet_their_target(model: Any, clean: list[Any], dose: Any, layers: range, noise: Any) -> None:
    """Measured anew at the σ that was found, the effect is within 2 % of the target."""
    found = solve_dose(model, clean, layers, dose, 0.05, noise)
    assert found.reason is None
    if dose == "exit_norm":
        again = float(measure_ledger(model, clean, layers, found.sigma, noise)["deviation"][layers[-1]])
    else:
        effects = next_token_effects(
            model, SENTENCES, {"x": layers}, [found.sigma], noise, seed=0, max_length=64, resamples=100
        )
        again = float(effects["kl"][0, 0])
    assert again == pytest.approx(found.realised, rel=1e-3)
    assert again == pytest.approx(0.05, rel=0.02)


def test_plain_doses_are_arithmetic(model: Any, noise: Any) -> None:
    """σ itself, and σ over the root of the number of blocks."""
    assert solve_dose(model, [], range(4), "per_layer", 0.3, noise).sigma == 0.3
    assert solve_dose(model, [], range(4), "per_scale", 0.3, noise).sigma == 0.15
    refused = solve_dose(model, [], range(4), "per_layer", 1.5, noise, largest=1.0)
    assert np.isnan(refused.sigma) and "beyond" in str(refused.reason)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", [1e-4, 1.0, 300.0])
def test_solver_finds_powers_and_saturating_curves(power: float, start: float) -> None:
    """From far above or below, in few steps."""
    straight = solve_sigma(lambda s: 3 * s**power, 0.7, start)
    assert straight.sigma == pytest.approx((0.7 / 3) ** (1 / power), rel=0.05)
    bent = solve_sigma(lambda s: 1 - math.exp(-(s**power)), 0.9, start)
    assert bent.realised == pytest.approx(0.9, rel=0.02)
    assert max(straight.evaluations, bent.evaluations) <= 20


def test_powers_take_four_evaluations_and_steps_are_given_up() -> None:
    """Two for the bracket, one on the line between the logarithms of its ends; a jump is never met."""
    assert solve_sigma(lambda s: s**2, 1e-2, 0.05).evaluations <= 4
    jump = solve_sigma(lambda s: float(s > 0.3), 0.5, 1.0)
    assert math.isnan(jump.sigma) and jump.evaluations == SEARCH and f"{SEARCH} evaluations" in str(jump.reason)


def test_what_cannot_be_reached_says_so() -> None:
    """A saturating effect, a largest σ, and an effect that is not finite."""
    assert "Even σ" in str(solve_sigma(lambda s: s / (1 + s), 2.0, 1.0).reason)
    assert "Even σ = 1 " in str(solve_sigma(lambda s: s, 2.0, 0.5, largest=1.0).reason)
    assert "not finite" in str(solve_sigma(lambda s: math.inf, 2.0, 0.5).reason)


def test_bad_input_is_named(model: Any, noise: Any) -> None:
    """Unknown doses and levels of no size."""
    with pytest.raises(ConfigError, match=r"Unknown dose 'kll'.*'kl'"):
        solve_dose(model, [], [0], "kll", 0.1, noise)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="above 0"):
        solve_dose(model, [], [0], DOSES[0], 0.0, noise)  # pyright: ignore[reportArgumentType]
