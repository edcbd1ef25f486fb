"""Judges predictions: supported, refuted or undecided, with the interval, n, and how often chance would pass.

- A group is `supported` when its whole interval passes the threshold, `refuted` when none of it does, else `undecided`;
  without an interval, or with fewer models than the prediction asks for, it is undecided.
- `every`: one refuted group refutes, and all must be supported; `any`: one supported group supports, and all must be
  refuted. Groups without an estimate (one model, say) take no part.
- The *point verdict* takes the estimates at their word, as the paper does.

Intervals over models (CV, mean) ask about the family that the models are a sample of. A drift and an effect are about
these very models, so theirs are over text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from mspgt_tl.comparison.effects import Bounded
from mspgt_tl.config import json_values
from mspgt_tl.predictions import chance as by_chance
from mspgt_tl.predictions.advice import by_text, further_data
from mspgt_tl.predictions.measuring import STATISTICS, Evidence, Measured, fixed_chance
from mspgt_tl.predictions.registry import Prediction, PredictionSet


class Outcome(StrEnum):
    """Verdicts on one prediction or one of its groups."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Group:
    """One group of a prediction: a family, an architecture or a model."""

    name: str
    found: Bounded
    verdict: Outcome
    point: bool | None
    """Whether the estimate itself passes; None without one."""
    chance: float
    reason: str = ""


@dataclass(frozen=True)
class Judgement:
    """The verdict on one prediction and what it rests on."""

    prediction: Prediction
    verdict: Outcome
    point_verdict: Outcome
    """By the estimates alone, without interval and without a minimum of models."""
    groups: tuple[Group, ...]
    chance: float
    """How often chance alone passes by the estimates, all groups together; nan where `reason` says why."""
    further: str
    """What data would decide it."""
    reason: str = ""

    @property
    def n(self) -> int:
        """Models (or families) that the verdict rests on."""
        return sum(group.found.n for group in self.groups if group.point is not None)

    def to_plain(self) -> dict[str, Any]:
        """Return the judgement as plain values that JSON can hold."""
        p = self.prediction
        return json_values(
            {
                "id": p.id,
                "tier": p.tier,
                "claim": p.claim,
                "statistic": p.statistic,
                "condition": p.condition,
                "unit": p.shown_unit,
                "verdict": self.verdict,
                "point_verdict": self.point_verdict,
                "n": self.n,
                "min_n": p.min_n,
                "chance": self.chance,
                "reason": self.reason,
                "further_data": self.further,
                "groups": [
                    {
                        "group": g.name,
                        "n": g.found.n,
                        "value": g.found.value,
                        "low": g.found.low,
                        "high": g.found.high,
                        "verdict": g.verdict,
                        "passes": g.point,
                        "chance": g.chance,
                        "reason": g.reason,
                    }
                    for g in self.groups
                ],
            }
        )


def judge(predictions: PredictionSet | Sequence[Prediction], evidence: Evidence) -> tuple[Judgement, ...]:
    """Judge predictions on what is there; what is not there leaves them undecided, with the reason."""
    chosen = predictions.predictions if isinstance(predictions, PredictionSet) else predictions
    trained = replace(evidence, models=tuple(model for model in evidence.models if not model.random_weights))
    return tuple(_judge_one(prediction, trained) for prediction in chosen)


def _judge_one(prediction: Prediction, evidence: Evidence) -> Judgement:
    measured = STATISTICS[prediction.statistic](prediction, evidence)
    groups = []
    for name, found in measured.groups:
        verdict, why = _verdict(prediction, found)
        point = None if math.isnan(found.value) else bool(prediction.passes(found.value))
        simulated = measured.simulated.get(name)
        rate = fixed_chance(prediction) if simulated is None else float(prediction.passes(simulated).mean())
        groups.append(Group(name, found, verdict, point, rate, why))
    telling = [group for group in groups if group.point is not None]
    reason = measured.reason or ("" if telling else by_text((g.name, g.reason) for g in groups))
    overall = _combine([g.verdict for g in telling], prediction.quantifier)
    pointwise = _combine([Outcome.SUPPORTED if g.point else Outcome.REFUTED for g in telling], prediction.quantifier)
    return Judgement(
        prediction,
        overall,
        pointwise,
        tuple(groups),
        _joint_chance(prediction, measured, telling),
        further_data(prediction, [(g.name, g.found, g.verdict) for g in groups]),
        "; ".join(part for part in (reason, measured.chance_reason) if part),
    )


def _verdict(prediction: Prediction, found: Bounded) -> tuple[Outcome, str]:
    """Return the verdict on one group, and why it is undecided."""
    low, high, threshold = found.low, found.high, prediction.threshold
    if math.isnan(found.value):
        return Outcome.UNDECIDED, found.reason or "no value"
    if found.n < prediction.min_n:
        return Outcome.UNDECIDED, f"n = {found.n}, at least {prediction.min_n} needed"
    if prediction.statistic == "labels":
        # A p-value above the threshold is no evidence against the claim.
        if prediction.passes(found.value):
            return Outcome.SUPPORTED, ""
        return Outcome.UNDECIDED, found.reason or "p not below"
    if math.isnan(low) or math.isnan(high):
        return Outcome.UNDECIDED, found.reason or "no interval"
    if isinstance(threshold, tuple):
        inside, outside = threshold[0] <= low and high <= threshold[1], high < threshold[0] or low > threshold[1]
    elif prediction.direction == "above":
        inside, outside = low > threshold, high <= threshold
    else:
        inside, outside = high < threshold, low >= threshold
    if inside or outside:
        return (Outcome.SUPPORTED if inside else Outcome.REFUTED), found.reason or ""
    return Outcome.UNDECIDED, "the interval straddles the threshold"


def _combine(verdicts: Sequence[Outcome], quantifier: str) -> Outcome:
    if not verdicts:
        return Outcome.UNDECIDED
    decisive, unanimous = Outcome.REFUTED, Outcome.SUPPORTED
    if quantifier != "every":
        decisive, unanimous = unanimous, decisive
    if decisive in verdicts:
        return decisive
    return unanimous if all(verdict == unanimous for verdict in verdicts) else Outcome.UNDECIDED


def _joint_chance(prediction: Prediction, measured: Measured, telling: Sequence[Group]) -> float:
    passed = [prediction.passes(measured.simulated[g.name]) for g in telling if g.name in measured.simulated]
    if passed:
        return by_chance.combine(passed, prediction.quantifier)
    rate, n = fixed_chance(prediction), max(1, len(telling))
    return rate**n if prediction.quantifier == "every" else 1 - (1 - rate) ** n
