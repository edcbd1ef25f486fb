"""How large a disturbance is made: equal σ is not an equal dose where scales differ in their number of blocks (N).

Every mode turns a *level* that the user asks for into the σ that hooks get:

- `per_layer` (P): the level is σ itself, at every block.
- `per_scale`: σ = level / √k for a scale of k blocks, so that the noise injected into all of them has one total power.
- `exit_norm`: σ is solved so that the relative change ‖h' − h‖/‖h‖ after the scale's last block is the level.
- `kl`: σ is solved so that the mean next-token KL(clean ‖ disturbed) is the level, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from mspgt_tl.config import Dose
from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError, unknown_name
from mspgt_tl.interventions.next_token import CleanPass, HookMaker, compare, disturb, measure_ledger

DOSES = get_args(Dose)
TOLERANCE = 0.02
"""A solved σ meets its target within this share of it."""
SEARCH = 40
"""Evaluations before the search gives up."""
NAN = float("nan")


@dataclass(frozen=True)
class Solved:
    """A σ and what it does."""

    sigma: float
    """`nan` if no σ meets the target."""
    realised: float
    """The measured value at that σ; `nan` where nothing was measured."""
    evaluations: int
    reason: str | None = None


def solve_dose(
    model: CausalModel,
    clean: Sequence[CleanPass],
    layers: Sequence[int],
    dose: Dose,
    level: float,
    make_hooks: HookMaker,
    *,
    largest: float = math.inf,
) -> Solved:
    """Return the σ of a mode and level for some blocks.

    Args:
        clean: the passes that `exit_norm` and `kl` are measured on.
        largest: the largest σ that the kind of disturbance has.

    Raises:
        ConfigError: unknown mode, or a level that is not positive.
    """
    if dose not in DOSES:
        raise ConfigError(unknown_name("dose", str(dose), DOSES))
    if not (math.isfinite(level) and level > 0):
        raise ConfigError(f"A dose is finite and above 0, got {level}.")
    if dose in ("per_layer", "per_scale"):
        sigma = level if dose == "per_layer" else level / math.sqrt(len(layers))
        if sigma > largest:
            return Solved(NAN, NAN, 0, f"σ = {sigma:g} is beyond the largest of this kind, {largest:g}.")
        return Solved(sigma, NAN, 0)
    measure = _exit_norm if dose == "exit_norm" else _mean_kl
    start = min(level / math.sqrt(len(layers)) if dose == "exit_norm" else math.sqrt(level), largest)
    return solve_sigma(lambda sigma: measure(model, clean, layers, sigma, make_hooks), level, start, largest=largest)


def solve_sigma(measure: Callable[[float], float], target: float, start: float, *, largest: float = math.inf) -> Solved:
    """Find σ with `measure(σ)` within 2 % of the target, by bracketing in the logarithm of both.

    `measure` grows with σ and should be deterministic, as counter-based noise makes it. Both effects are close to
    powers of σ while they are small, so a straight line between the logarithms of the bracket's ends finds the root in
    a few steps; every third step halves the bracket, for where they saturate.
    """
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    sigma, count = start, 0
    while count < SEARCH:
        value = measure(sigma)
        count += 1
        if not math.isfinite(value):
            return Solved(NAN, NAN, count, f"The effect at σ = {sigma:.3g} is not finite.")
        if abs(value - target) <= TOLERANCE * target:
            return Solved(sigma, value, count)
        if value < target:
            low = (sigma, value)
        else:
            high = (sigma, value)
        if high is None:
            if sigma >= largest or sigma > 1e6 * start:
                return Solved(NAN, NAN, count, f"Even σ = {sigma:.3g} reaches only {value:.3g}, not {target:g}.")
            sigma = min(4 * sigma, largest)
        elif low is None:
            sigma /= 4
        else:
            sigma = _between(low, high, target, halve=count % 3 == 0)
    return Solved(NAN, NAN, count, f"No σ within 2 % of {target:g} was found in {count} evaluations.")


def _between(low: tuple[float, float], high: tuple[float, float], target: float, *, halve: bool) -> float:
    (a, f), (b, g) = low, high
    share = 0.5
    if not halve and 0 < f < g:
        share = min(0.95, max(0.05, math.log(target / f) / math.log(g / f)))
    return a * (b / a) ** share


def _exit_norm(
    model: CausalModel, clean: Sequence[CleanPass], layers: Sequence[int], sigma: float, make_hooks: HookMaker
) -> float:
    return float(measure_ledger(model, clean, layers, sigma, make_hooks)["deviation"].values[max(layers)])


def _mean_kl(
    model: CausalModel, clean: Sequence[CleanPass], layers: Sequence[int], sigma: float, make_hooks: HookMaker
) -> float:
    total = sum(
        compare(model, batch, [disturb(model, batch, layers, sigma, make_hooks)])["kl"].sum() for batch in clean
    )
    return float(total / sum(int(batch.is_scored.sum()) for batch in clean))
