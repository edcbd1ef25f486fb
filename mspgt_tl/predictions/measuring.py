"""The numbers that predictions are judged by: estimates with intervals by group, and what chance gives instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mspgt_tl.boundaries import ALPHA
from mspgt_tl.comparison.effects import (
    Bounded,
    brittleness,
    brittleness_of,
    doses,
    excess,
    excess_of,
    noisy_effects,
    of_dose,
    paper_effects,
    read_table,
    standard_errors,
    untold,
)
from mspgt_tl.comparison.families import coefficient_of_variation, cv_interval, label_permutation, mean_interval
from mspgt_tl.comparison.models import drift, grouped, positions, resolution
from mspgt_tl.comparison.positions import RANKS, Located, paper_models
from mspgt_tl.contracts import SCALES
from mspgt_tl.errors import DataError
from mspgt_tl.predictions import chance as by_chance
from mspgt_tl.predictions.registry import Prediction
from mspgt_tl.stats import share_interval

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("model", "quantity", "value", "low", "high")
"""Columns of a table of measurements."""


@dataclass(frozen=True)
class Evidence:
    """What predictions are judged on; any part may be missing."""

    models: tuple[Located, ...] = ()
    """Random-weight twins are no evidence, and take no part."""
    effects: pd.DataFrame | None = None
    """As `read_effects` returns it."""
    measurements: pd.DataFrame | None = None
    """As `read_measurements` returns it."""
    name: str = "given data"


def paper_evidence() -> Evidence:
    """Return the paper's own tables as evidence."""
    return Evidence(paper_models(), paper_effects(), name="the paper's tables")


@dataclass
class Measured:
    """Groups before the verdict, and what chance would have given each in every simulation."""

    groups: list[tuple[str, Bounded]] = field(default_factory=list)
    simulated: dict[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""
    chance_reason: str = ""


def fixed_chance(prediction: Prediction) -> float:
    """Return the chance-pass rate that the prediction itself states, nan if it states none."""
    return math.nan if prediction.chance is None else prediction.chance


def chance_rate(prediction: Prediction, n: int = 2) -> float:
    """Return how often chance passes a prediction in one group of `n` models of any depth, before there are data.

    Brittleness: n families of one model, no effect in any. nan for what nothing can simulate.
    """
    if prediction.statistic in ("cv", "mean", "drift"):
        drawn = by_chance.random_boundaries([None] * n)[:, :, _rank(prediction)]
        return float(prediction.passes(_of_positions(prediction.statistic)(drawn)).mean())
    if prediction.statistic == "brittleness":
        noise = noisy_effects(0.0, np.ones(n))
        return float(prediction.passes(brittleness_of(noise, [str(i) for i in range(n)])).mean())
    if prediction.statistic == "excess":
        return float(prediction.passes(excess_of(noisy_effects(0.0, np.ones(3)))).mean())
    if prediction.statistic == "labels":
        return float(np.max(prediction.threshold))
    if prediction.statistic == "existence":
        return float(prediction.passes(_false_shares(n)).mean())
    return fixed_chance(prediction)


def _rank(prediction: Prediction) -> int:
    return RANKS.index(prediction.boundary or "LI")


def _of_positions(statistic: str) -> Callable[[np.ndarray], np.ndarray]:
    return {"cv": by_chance.cv_of, "drift": by_chance.drift_of, "mean": lambda drawn: drawn.mean(axis=1)}[statistic]


def _positions(prediction: Prediction, evidence: Evidence) -> Measured:
    """Judge the positions of one boundary, group by group."""
    rank, measured = _rank(prediction), Measured()
    wanted = (prediction.only or "").lower()
    groups = grouped(evidence.models, prediction.group, rank)
    groups = {name: models for name, models in groups.items() if not wanted or name.lower() == wanted}
    if not groups:
        measured.reason = _no_positions(prediction, evidence)
    for seed, (name, models) in enumerate(groups.items()):
        values = positions(models, rank)
        if len(models) < 2:
            found = untold(1, f"one model; {max(2, prediction.min_n)} are needed")
        elif prediction.statistic == "drift":
            found = drift(models, rank)
        elif prediction.statistic == "cv":
            interval = cv_interval(values, resolution=resolution(models))
            found = Bounded(coefficient_of_variation(values), *interval, len(models))
        else:
            found = Bounded(float(values.mean()), *mean_interval(values, resolution=resolution(models)), len(models))
        measured.groups.append((name, found))
        if len(models) > 1:
            drawn = by_chance.random_boundaries([model.n_layers for model in models], seed=seed)[:, :, rank]
            measured.simulated[name] = _of_positions(prediction.statistic)(drawn)
    return measured


def _no_positions(prediction: Prediction, evidence: Evidence) -> str:
    if not evidence.models:
        return "no detections given"
    if prediction.only and any(prediction.only.lower() == model.family.lower() for model in evidence.models):
        return f"no model of {prediction.only} has two boundaries that count"
    if prediction.only:
        return f"no model of {prediction.only} was given"
    reasons = "; ".join(f"{model.name}: {model.reason}" for model in evidence.models if model.reason)
    return f"no model has two boundaries that count ({reasons})"


def _labels(prediction: Prediction, evidence: Evidence) -> Measured:
    rank = _rank(prediction)
    models = grouped(evidence.models, "all", rank).get("all", [])
    p, smallest = label_permutation(positions(models, rank), [model.family for model in models])
    if math.isnan(p):
        why = "two families are needed, one of them with two models"
        return Measured([("all", Bounded(p, math.nan, math.nan, len(models), why))], reason="" if models else why)
    why = f"the smallest p that these families could give is {smallest:.3g}"
    why = why if smallest >= np.max(prediction.threshold) else None
    rng = np.random.default_rng(0)
    # Under random labels the p-value itself is what is simulated: uniform on its few values.
    simulated = np.ceil(rng.random(by_chance.SIMULATIONS) / smallest) * smallest
    return Measured([("all", Bounded(p, math.nan, math.nan, len(models), why))], {"all": simulated})


def _existence(prediction: Prediction, evidence: Evidence) -> Measured:
    tested = [model.exists for model in evidence.models if model.exists is not None]
    n, k = len(tested), sum(tested)
    if not n:
        return Measured(reason="no detections given that tested existence")
    return Measured([("all", Bounded(k / n, *share_interval(k, n), n))], {"all": _false_shares(n)})


def _false_shares(n: int) -> np.ndarray:
    """Return shares of n models in which the test of existence errs, simulated; it errs in at most 5 %."""
    return np.random.default_rng(0).binomial(n, ALPHA, by_chance.SIMULATIONS) / n


def _excess(prediction: Prediction, evidence: Evidence) -> Measured:
    """Judge one scale against the others, model by model and dose by dose."""
    metric, scale = prediction.metric or "", prediction.scale or ""
    table, why = _effects_of(prediction, evidence)
    measured = Measured(reason=why)
    if table is None:
        return measured
    for model in dict.fromkeys(table["model"]):
        for dose in doses(table[table["model"] == model]):
            name = f"{model}, {dose}" if dose else str(model)
            found = excess(table, str(model), metric, scale=scale, dose=dose)
            measured.groups.append((name, found))
            if found.n:
                rows = table[(table["model"] == model) & (table["dose"] == dose)].set_index("scale")
                size, errors = _null_effects(rows.loc[[scale, *(s for s in SCALES if s != scale)]], measured)
                measured.simulated[name] = excess_of(noisy_effects(size, errors, seed=len(measured.groups)))
    return measured


def _brittleness(prediction: Prediction, evidence: Evidence) -> Measured:
    metric, scale = prediction.metric or "", prediction.scale or ""
    table, why = _effects_of(prediction, evidence)
    measured = Measured(reason=why)
    if table is None:
        return measured
    for dose in doses(table):
        found = brittleness(table, metric, scale=scale, dose=dose)
        name = dose or "all families"
        measured.groups.append((name, found))
        if found.n >= 2:
            rows = table[(table["dose"] == dose) & (table["scale"] == scale)].dropna(subset=["effect"])
            size, errors = _null_effects(rows, measured)
            drawn = noisy_effects(size, errors, seed=len(measured.groups))
            measured.simulated[name] = brittleness_of(drawn, list(rows["family"]))
    return measured


def _null_effects(rows: pd.DataFrame, measured: Measured) -> tuple[float, np.ndarray]:
    """Return the common true size of effects under chance, and their standard errors."""
    errors = standard_errors(rows)
    if np.isnan(errors).any():
        measured.chance_reason = "chance rate for effects that are noise alone: the table has no intervals"
        return 0.0, np.ones(len(errors))
    return float(np.abs(rows["effect"]).mean()), errors


def _effects_of(prediction: Prediction, evidence: Evidence) -> tuple[pd.DataFrame | None, str]:
    if evidence.effects is None:
        return None, "no table of effects given"
    table = of_dose(evidence.effects, prediction.dose)
    if prediction.dose is not None and table.empty:
        return None, f"the table of effects has no dose '{prediction.dose}'"
    table = table[table["metric"] == prediction.metric]
    if prediction.only:
        table = table[table["model"].str.lower() == prediction.only.lower()]
    if table.empty:
        return None, f"the table of effects says nothing about {prediction.metric}"
    return table, ""


def _measured(prediction: Prediction, evidence: Evidence) -> Measured:
    table = evidence.measurements
    if table is None:
        return Measured(reason="no table of measurements given")
    table = table[table["quantity"] == prediction.quantity]
    if prediction.only:
        table = table[table["model"].str.lower() == prediction.only.lower()]
    if table.empty:
        return Measured(reason=f"the table of measurements has no quantity '{prediction.quantity}'")
    groups = [
        (str(model), Bounded(float(value), float(low), float(high), 1))
        for model, value, low, high in zip(table["model"], table["value"], table["low"], table["high"], strict=True)
    ]
    no_rate = "chance rate unknown: nothing says how the quantity behaves by chance"
    return Measured(groups, chance_reason=no_rate if prediction.chance is None else "")


def read_measurements(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Return a table of measured quantities: model, quantity, value, and 95 % limits low and high (may be empty).

    Raises:
        DataError: it cannot be read, lacks a column or holds something that is no number.
    """
    import pandas as pd

    table, where = read_table(source, "The table of measurements")
    if absent := [name for name in MEASURED if name not in table]:
        raise DataError(f"{where} lacks the column {', '.join(absent)}. Needed: {', '.join(MEASURED)}.")
    for name in MEASURED[2:]:
        try:
            table[name] = pd.to_numeric(table[name]).astype(np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: column {name} must hold numbers: {error}.") from error
    for name in MEASURED[:2]:
        table[name] = table[name].astype(str)
    return table


STATISTICS: dict[str, Callable[[Prediction, Evidence], Measured]] = {
    "cv": _positions,
    "mean": _positions,
    "drift": _positions,
    "labels": _labels,
    "existence": _existence,
    "excess": _excess,
    "brittleness": _brittleness,
    "measured": _measured,
}
