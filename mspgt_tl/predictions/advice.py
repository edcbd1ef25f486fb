"""Says what further data would decide a prediction, in one sentence and with a number where one can be had."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mspgt_tl.comparison.effects import Bounded
from mspgt_tl.comparison.families import cv_limit
from mspgt_tl.predictions.registry import Prediction
from mspgt_tl.stats import TAILS

MOST = 1000
"""Models beyond which counting stops."""


def further_data(prediction: Prediction, groups: Sequence[tuple[str, Bounded, str]]) -> str:
    """Return what data would decide a prediction; empty where every group is decided.

    `groups` are name, estimate and verdict.
    """
    open_groups = [(name, found) for name, found, verdict in groups if verdict == "undecided"]
    if groups and not open_groups:
        return ""
    statistic = prediction.statistic
    if not groups:
        return _NOTHING[statistic].format(quantity=prediction.quantity, metric=prediction.metric, n=prediction.min_n)
    if statistic == "cv":
        return by_text((name, _models_for_cv(prediction, found)) for name, found in open_groups) + "."
    if statistic == "drift":
        parts = by_text((name, _text_for(prediction, found)) for name, found in open_groups)
        return f"{parts}. More runs make a large drift likelier by chance, so they cannot firm it up."
    if statistic == "labels":
        return "More families, or more models in them: p cannot fall below 1 / (number of ways to deal the labels)."
    if statistic in ("existence", "mean"):
        return f"More models: at least {prediction.min_n}, until the interval leaves the threshold."
    return by_text((name, _samples_for(prediction, found)) for name, found in open_groups) + "."


def by_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return what is said of each name, names that share a text together.

    >>> by_text([("a", "one"), ("b", "two"), ("c", "one")])
    'a, c: one; b: two'
    """
    names: dict[str, list[str]] = {}
    for name, text in pairs:
        names.setdefault(text, []).append(name)
    return "; ".join(f"{', '.join(group)}: {text}" for text, group in names.items())


_NOTHING = {
    "cv": "Detections of at least {n} models a group, with two boundaries each that count.",
    "mean": "Detections of at least {n} models a group, with two boundaries each that count.",
    "drift": "Detections of at least {n} training runs of one group, with two boundaries each that count.",
    "labels": "Detections of models of two or more families.",
    "existence": "Detections of at least {n} models.",
    "excess": "Effects on {metric} for all three scales, with intervals.",
    "brittleness": "Effects on {metric} in models of at least {n} families, with intervals.",
    "measured": "A measurement of {quantity}, with its interval.",
}


def models_needed(ratio: float, threshold: float) -> int | None:
    """Return the least number of models at which the interval of a CV of `ratio` leaves the threshold behind.

    None where more than 1,000 would be needed.
    """
    if not ratio > 0 or ratio == threshold:
        return 2 if ratio != threshold else None
    share = TAILS[0] if ratio < threshold else TAILS[1]
    for n in range(2, MOST + 1):
        limit = cv_limit(ratio * math.sqrt(n / (n - 1)), n, share)
        if (limit < threshold) == (ratio < threshold) and limit != threshold:
            return n
    return None


def _models_for_cv(prediction: Prediction, found: Bounded) -> str:
    if math.isnan(found.value):
        return f"at least {max(2, prediction.min_n)} models"
    if isinstance(prediction.threshold, tuple):
        return f"more models than {found.n}, until the interval lies inside or outside the range"
    if found.value == 0:
        return f"at least {max(prediction.min_n, found.n + 1)} models; equal gaps are known to one layer only"
    needed = models_needed(found.value, prediction.threshold)
    if needed is None:
        return f"more than {MOST} models, if the CV stays at {found.value:.2g}"
    return f"about {max(needed, prediction.min_n)} models, if the CV stays at {found.value:.2g}"


def _text_for(prediction: Prediction, found: Bounded) -> str:
    if math.isnan(found.value):
        return f"at least {max(2, prediction.min_n)} training runs"
    if math.isnan(found.low):
        return "bootstrap intervals of both positions, from a detection of one's own"
    return _narrower(found, prediction.threshold, "text")


def _samples_for(prediction: Prediction, found: Bounded) -> str:
    if math.isnan(found.value) and prediction.statistic == "brittleness":
        return f"effects on {prediction.metric} in models of at least {max(2, prediction.min_n)} families"
    if math.isnan(found.value):
        return found.reason or "a value"
    if found.n < prediction.min_n:
        return f"at least {prediction.min_n}, here {found.n}"
    if math.isnan(found.low) or math.isnan(found.high):
        return "intervals of the measured values"
    return _narrower(found, prediction.threshold, "samples")


def _narrower(found: Bounded, threshold: float | tuple[float, float], what: str) -> str:
    """Return how much more data would narrow the interval enough, if it narrows as the root of their number."""
    if isinstance(threshold, tuple) or math.isinf(found.high):
        return f"more {what}, until the interval is narrower"
    distance = abs(found.value - threshold)
    reach = found.value - found.low if found.value > threshold else found.high - found.value
    if distance == 0:
        return f"more {what}; the estimate lies on the threshold"
    return f"about {max(2, math.ceil((reach / distance) ** 2))} times as much {what}, if the estimate stays"
