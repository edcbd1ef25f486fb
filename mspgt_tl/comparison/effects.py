"""Effects of noise in a scale, model by model, read from a plain table; and how far they differ between families.

The table has one row for a model, scale, metric and dose, so it can come from this package, a paper or a spreadsheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.comparison.reference import METRICS, paper_tables
from mspgt_tl.contracts import SCALES
from mspgt_tl.errors import DataError
from mspgt_tl.stats import TAILS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "model": "name",
    "family": "name",
    "scale": "local, intermediate or global",
    "metric": "name",
    "effect": "relative change in per cent",
    "low": "95 % limit, may be empty",
    "high": "95 % limit, may be empty",
    "dose": "MODE or MODE=LEVEL, such as kl=0.1, may be empty",
}
DRAWS = 20_000
"""Monte-Carlo draws behind intervals of ratios and differences."""
Z = 1.959963984540054
"""Standard errors between an estimate and its 95 % limit."""


def read_effects(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Return a table of effects, checked, with the columns of `COLUMNS`.

    Args:
        source: a CSV file, or a frame. Extra columns are left alone; `low`, `high` and `dose` may be missing.

    Raises:
        DataError: it cannot be read, a column is missing, a value is no number or no scale, limits that do not hold
            the effect, or two rows for one model, scale, metric and dose.
    """
    import pandas as pd

    table, where = read_table(source, "The table of effects")
    for name, default in (("low", math.nan), ("high", math.nan), ("dose", "")):
        if name not in table:
            table[name] = default
    if missing := [name for name in COLUMNS if name not in table]:
        needed = ", ".join(f"{name} ({what})" for name, what in COLUMNS.items())
        raise DataError(f"{where} lacks the column {', '.join(missing)}. Needed: {needed}.")
    if table.empty:
        raise DataError(f"{where} has no rows; one for each model, scale and metric is needed.")
    for name in ("effect", "low", "high"):
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = table.index[numbers.isna() & table[name].notna()]
        if len(bad):
            raise DataError(f"{where}, row {bad[0] + 1}: {name} must be a number, got {table[name][bad[0]]!r}.")
        table[name] = numbers.astype(np.float64)
    for name in ("model", "family", "scale", "metric", "dose"):
        table[name] = table[name].fillna("").astype(str)
    _check_rows(table, where)
    return table


def read_table(source: str | Path | pd.DataFrame, noun: str) -> tuple[pd.DataFrame, str]:
    """Return a copy of a table, or what a CSV file holds, and what messages call it.

    Raises:
        DataError: it cannot be read.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source.copy(), noun
    try:
        return pd.read_csv(source), str(source)
    except (OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read as a CSV table: {error}.") from error


def _check_rows(table: pd.DataFrame, where: str) -> None:
    for row, (scale, effect, low, high) in enumerate(
        zip(table["scale"], table["effect"], table["low"], table["high"], strict=True), 1
    ):
        if scale not in SCALES:
            raise DataError(f"{where}, row {row}: scale must be {', '.join(SCALES)}; got '{scale}'.")
        if not (math.isnan(effect) or math.isnan(low) or math.isnan(high)) and not low <= effect <= high:
            raise DataError(f"{where}, row {row}: limits {low:g} … {high:g} do not hold the effect {effect:g}.")
    twice = table[table.duplicated(["model", "scale", "metric", "dose"])]
    if len(twice):
        row = twice.iloc[0]
        raise DataError(
            f"{where} has two rows for {row['model']}, {row['scale']}, {row['metric']}, dose '{row['dose']}'. Keep one."
        )


def sweep_effects(statistics: pd.DataFrame, *, model: str, family: str) -> pd.DataFrame:
    """Return the statistics table of a noise sweep as a table of effects of one model.

    Args:
        statistics: with the columns metric, scale, dose, level, change, change_low, change_high (per cent) and
            is_control; controls, and scales other than the three, are left out.

    Raises:
        DataError: a column is missing, or nothing is left.
    """
    needed = ("metric", "scale", "dose", "level", "change", "change_low", "change_high", "is_control")
    if missing := [name for name in needed if name not in statistics]:
        raise DataError(f"The sweep's statistics lack the column {', '.join(missing)}. Needed: {', '.join(needed)}.")
    kept = statistics[~statistics["is_control"].astype(bool) & statistics["scale"].isin(SCALES)]
    doses = [f"{dose}={level:g}" for dose, level in zip(kept["dose"], kept["level"], strict=True)]
    columns = {"change": "effect", "change_low": "low", "change_high": "high"}
    table = kept[["metric", "scale", *columns]].rename(columns=columns)
    return read_effects(table.assign(model=model, family=family, dose=doses).reset_index(drop=True))


def paper_effects() -> pd.DataFrame:
    """Return Table 2 of the paper as a table of effects; no limits are published."""
    import pandas as pd

    rows = [
        {key: row[key] for key in ("model", "family", "scale")} | {"metric": metric, "effect": row[metric]}
        for row in paper_tables()["effects"]
        for metric in METRICS
    ]
    return read_effects(pd.DataFrame(rows))


@dataclass(frozen=True)
class Bounded:
    """An estimate with its 95 % interval; nan where `reason` says why."""

    value: float
    low: float
    high: float
    n: int
    reason: str | None = None

    def row(self, value: str, prefix: str = "") -> dict[str, Any]:
        """Return the estimate as a table's row has it, under this name, with its limits and the reason."""
        limits = {f"{prefix}low": self.low, f"{prefix}high": self.high}
        return {value: self.value, **limits, "reason": self.reason or ""}


def untold(n: int, reason: str) -> Bounded:
    """Return what stands for an estimate that cannot be told."""
    return Bounded(math.nan, math.nan, math.nan, n, reason)


def noisy_effects(
    size: float | Float[np.ndarray, "effect"],
    errors: Float[np.ndarray, "effect"],
    draws: int = DRAWS,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "draw effect"]:
    """Return absolute effects of these true sizes, measured with these standard errors."""
    noise = np.random.default_rng(seed).standard_normal((draws, len(errors)))
    return np.abs(size + errors * noise)


def brittleness_of(effects: Float[np.ndarray, "draw effect"], families: Sequence[str]) -> Float[np.ndarray, "draw"]:
    """Return the ratio of the largest family's mean to the smallest's, draw by draw."""
    labels = np.array(families)
    means = np.stack([effects[:, labels == name].mean(axis=1) for name in sorted(set(families))], axis=1)
    return means.max(axis=1) / means.min(axis=1)


def excess_of(effects: Float[np.ndarray, "draw 3"]) -> Float[np.ndarray, "draw"]:
    """Return the first effect less the larger of the others, draw by draw."""
    return effects[:, 0] - effects[:, 1:].max(axis=1)


def standard_errors(table: pd.DataFrame) -> Float[np.ndarray, "row"]:
    """Return standard errors from the limits, nan where there are none."""
    return (table["high"] - table["low"]).to_numpy() / (2 * Z)


def brittleness(table: pd.DataFrame, metric: str, *, scale: str = "local", dose: str | None = None) -> Bounded:
    """Return the brittleness ratio: the largest family's |effect| over the smallest one's (eq. 8, R).

    A family's effect is the mean |effect| of its models. The interval is by Monte Carlo from the effects' own; it has
    no upper limit where the smallest effect cannot be told from zero. A ratio of largest to smallest is above 1 by
    construction, however alike the families are.
    """
    chosen = _select(table, metric, dose)
    chosen = chosen[chosen["scale"] == scale].dropna(subset=["effect"])
    families = sorted(set(chosen["family"]))
    if len(families) < 2:
        why = f"{len(families)} families with an effect on {metric} in the {scale} scale; 2 are needed"
        return untold(len(families), why)
    members = [chosen["family"].to_numpy() == family for family in families]
    effects, errors = chosen["effect"].to_numpy(), standard_errors(chosen)
    sizes = [np.abs(effects[m]).mean() for m in members]
    if min(sizes) == 0:
        return Bounded(math.inf, math.nan, math.nan, len(families), "the smallest effect is 0")
    value = max(sizes) / min(sizes)
    if np.isnan(errors).any():
        return Bounded(value, math.nan, math.nan, len(families), "some effects have no interval")
    low, high = np.quantile(brittleness_of(noisy_effects(effects, errors), chosen["family"].tolist()), TAILS)
    least = chosen[members[int(np.argmin(sizes))]]
    if ((least["low"] <= 0) & (least["high"] >= 0)).all():
        return Bounded(value, float(low), math.inf, len(families), "the smallest effect cannot be told from zero")
    return Bounded(value, float(low), float(high), len(families))


def excess(table: pd.DataFrame, model: str, metric: str, *, scale: str, dose: str | None = None) -> Bounded:
    """Return |effect| of a scale less the largest |effect| of the other scales on one metric, in per-cent points.

    `n` is 1 where all three scales are there and 0 otherwise. The interval treats the scales as independent, which is
    too wide where they share prompts and random numbers.
    """
    chosen = _select(table, metric, dose)
    chosen = chosen[chosen["model"] == model].dropna(subset=["effect"]).drop_duplicates("scale").set_index("scale")
    if absent := [name for name in SCALES if name not in chosen.index]:
        return untold(0, f"no effect on {metric} for the scale {', '.join(absent)}")
    others = [name for name in SCALES if name != scale]
    effects = chosen["effect"]
    value = abs(float(effects[scale])) - float(np.abs(effects[others]).max())
    chosen = chosen.loc[[scale, *others]]
    errors = standard_errors(chosen)
    if np.isnan(errors).any():
        return Bounded(value, math.nan, math.nan, 1, "some effects have no interval")
    low, high = np.quantile(excess_of(noisy_effects(chosen["effect"].to_numpy(), errors)), TAILS)
    return Bounded(value, float(low), float(high), 1)


def _select(table: pd.DataFrame, metric: str, dose: str | None) -> pd.DataFrame:
    chosen = table[table["metric"] == metric]
    return chosen if dose is None else chosen[chosen["dose"] == dose]


def of_dose(table: pd.DataFrame, dose: str | None) -> pd.DataFrame:
    """Return the rows of one dose; a mode (`kl`) takes all of its levels (`kl=0.1`), None takes everything."""
    if dose is None:
        return table
    return table[(table["dose"] == dose) | table["dose"].str.startswith(f"{dose}=")]


def doses(table: pd.DataFrame) -> list[str]:
    """Return the doses that a table holds, in order of appearance."""
    return list(dict.fromkeys(table["dose"]))
