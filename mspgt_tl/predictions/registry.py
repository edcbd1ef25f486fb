"""Predictions as data: frozen, versioned files that are checked when they are read, and need no code.

A prediction names a statistic, what it is taken over, and a threshold. Shipped sets: `paper-v2` and `paper-v3` (what
the paper predicts and reports), and `mspgt` (ours). A file of one's own has the same form; docs/predictions.md
describes every field.
"""

from __future__ import annotations

import hashlib
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mspgt_tl.config import NOT_TOML
from mspgt_tl.contracts import ScaleName
from mspgt_tl.errors import ConfigError, unknown_name

SETS = ("paper-v2", "paper-v3", "mspgt")
"""Shipped sets, in the order in which they are listed."""

Statistic = Literal["cv", "mean", "drift", "labels", "existence", "excess", "brittleness", "measured"]

NEEDS = {
    "cv": ("boundary",),
    "mean": ("boundary",),
    "drift": ("boundary",),
    "labels": ("boundary",),
    "existence": (),
    "excess": ("scale", "metric"),
    "brittleness": ("scale", "metric"),
    "measured": ("quantity",),
}
"""Fields that a statistic cannot do without."""
UNITS = {
    "cv": "ratio",
    "mean": "fraction of depth",
    "drift": "points of depth",
    "labels": "p",
    "existence": "share of models",
    "excess": "per-cent points",
    "brittleness": "ratio",
}


class Prediction(BaseModel):
    """One prediction: what is claimed, by which number it is judged, and what it takes to judge it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    tier: Literal[1, 2, 3] | None = None
    """Of the paper's hierarchy."""
    claim: str = Field(min_length=1)
    statistic: Statistic
    boundary: Literal["LI", "IG"] | None = None
    group: Literal["family", "architecture", "all"] = "family"
    """What positions are compared within; effects and measurements go model by model, brittleness over families."""
    only: str | None = None
    """Name of the one group (or model) that the claim is about."""
    scale: ScaleName | None = None
    metric: str | None = None
    dose: str | None = None
    """Only effects of this dose; None takes tables with one dose."""
    quantity: str | None = None
    """Name in a table of measurements."""
    direction: Literal["above", "below", "between"]
    threshold: float | tuple[float, float]
    unit: str = ""
    quantifier: Literal["every", "any"] = "every"
    """Whether every group must pass, or one is enough."""
    min_n: int = Field(default=2, ge=1)
    """Models a group needs (families, for brittleness) before the verdict is anything but undecided."""
    chance: float | None = Field(default=None, ge=0, le=1)
    """Chance-pass rate by construction, for quantities that nothing can simulate."""
    source: str = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Prediction:
        if missing := [name for name in NEEDS[self.statistic] if getattr(self, name) is None]:
            raise ValueError(f"statistic '{self.statistic}' needs {', '.join(missing)}")
        if (self.direction == "between") != isinstance(self.threshold, tuple):
            raise ValueError("'between' needs a threshold [low, high], 'above' and 'below' need one number")
        if isinstance(self.threshold, tuple) and not self.threshold[0] < self.threshold[1]:
            raise ValueError(f"threshold {list(self.threshold)} is empty: low must be below high")
        if self.statistic == "labels" and self.direction != "below":
            raise ValueError("statistic 'labels' is a p-value, so its direction is 'below'")
        return self

    def passes(self, values: ArrayLike) -> Bool[np.ndarray, "*any"]:
        """Return which values pass, taken at their word."""
        given = np.asarray(values, dtype=np.float64)
        if isinstance(self.threshold, tuple):
            return (self.threshold[0] <= given) & (given <= self.threshold[1])
        return given > self.threshold if self.direction == "above" else given < self.threshold

    @property
    def condition(self) -> str:
        """The threshold in words."""
        if isinstance(self.threshold, tuple):
            return f"in {self.threshold[0]:g} … {self.threshold[1]:g}"
        return f"{'>' if self.direction == 'above' else '<'} {self.threshold:g}"

    @property
    def shown_unit(self) -> str:
        """The unit of the statistic."""
        return self.unit or UNITS.get(self.statistic, "")


class PredictionSet(BaseModel):
    """A versioned list of predictions with unique ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal[1] = Field(alias="schema")
    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    frozen: str = Field(min_length=1)
    """Date since when the set has not changed; a change raises `version`."""
    title: str = ""
    predictions: tuple[Prediction, ...] = Field(min_length=1, alias="prediction")
    sha256: str = ""
    """Of the file, set when it is read."""

    @model_validator(mode="after")
    def _unique(self) -> PredictionSet:
        ids = [prediction.id for prediction in self.predictions]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"the id {', '.join(twice)} is there twice")
        return self


def load_set(name: str) -> PredictionSet:
    """Return a shipped set of predictions.

    Raises:
        ConfigError: unknown name, with the closest known one.
    """
    if name not in SETS:
        raise ConfigError(unknown_name("prediction set", name, SETS))
    return _parse((files("mspgt_tl.predictions") / "data" / f"{name}.toml").read_bytes(), f"prediction set {name}")


def read_predictions(path: str | Path) -> PredictionSet:
    """Return a set of predictions from a TOML file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or breaks the schema; the message names the entry and the field.
    """
    try:
        return _parse(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"Prediction file {path} cannot be read: {error.strerror}.") from error


def _parse(raw: bytes, where: str) -> PredictionSet:
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except NOT_TOML as error:
        raise ConfigError(f"{where} is not TOML: {error}.") from error
    try:
        return PredictionSet.model_validate(values | {"sha256": hashlib.sha256(raw).hexdigest()})
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error, values)}") from error


def _first(error: ValidationError, values: dict) -> str:
    """Return the first fault in one line, with the entry's own id."""
    faults = error.errors()
    # A misspelt field is both unknown and missing; the first is what helps.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    path, where = list(fault["loc"]), ""
    if path and path[0] == "prediction" and len(path) > 1 and isinstance(path[1], int):
        entry = values["prediction"][path[1]]
        where = f"prediction {entry.get('id', path[1] + 1) if isinstance(entry, dict) else path[1] + 1}, "
        path = path[2:]
    known = sorted(Prediction.model_fields if where else {"schema", "name", "version", "frozen", "title", "prediction"})
    if fault["type"] == "extra_forbidden":
        return f"{where}{unknown_name('field', str(path[-1]), known)}"
    field = ".".join(str(part) for part in path)
    came = "" if fault["type"] == "missing" else f"; got {_short(fault['input'])}"
    return f"{where}{f'{field}: ' if field else ''}{fault['msg']}{came}."


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
