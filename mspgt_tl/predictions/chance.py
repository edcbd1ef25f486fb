"""How often chance alone passes a prediction: the same models and thresholds, with nothing behind the numbers.

Positions: every model's boundaries are two different gaps drawn at random and put in order. Effects: every scale of
every model has the same effect, with measurement noise of the size that the table reports; where it reports none, or
where no effect is known yet, effects are noise alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

SIMULATIONS = 20_000
"""Standard error of a rate of 5 %: 0.15 points."""


def random_boundaries(
    n_layers: Sequence[int | None], simulations: int = SIMULATIONS, *, seed: int = 0
) -> Float[np.ndarray, "simulation model 2"]:
    """Return relative positions of two random ordered boundaries per model, in (0, 1).

    A model of None has any depth: positions are uniform. With L blocks, two different gaps of 1 … L-1 are drawn.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((simulations, len(n_layers), 2))
    for model, depth in enumerate(n_layers):
        if depth is None:
            drawn[:, model] = rng.random((simulations, 2))
            continue
        first = rng.integers(1, depth, simulations)
        # The second skips the first, so the two always differ.
        second = rng.integers(1, depth - 1, simulations)
        drawn[:, model] = np.stack([first, second + (second >= first)], axis=1) / depth
    return np.sort(drawn, axis=-1)


def cv_of(positions: Float[np.ndarray, "simulation model"]) -> Float[np.ndarray, "simulation"]:
    """Return the coefficient of variation (ddof = 0) of every simulation."""
    return positions.std(axis=1) / positions.mean(axis=1)


def drift_of(positions: Float[np.ndarray, "simulation model"]) -> Float[np.ndarray, "simulation"]:
    """Return the largest difference in percentage points of every simulation."""
    return 100 * np.ptp(positions, axis=1)


def combine(passed: Sequence[Bool[np.ndarray, "simulation"]], quantifier: str) -> float:
    """Return how often every group passes, or any does."""
    together = np.all(passed, axis=0) if quantifier == "every" else np.any(passed, axis=0)
    return float(together.mean())
