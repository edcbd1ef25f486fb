"""Where one model's boundaries lie, as a comparison of models needs it: by rank, with the peaks of every resample."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float

from mspgt_tl.comparison.reference import paper_tables
from mspgt_tl.contracts import Existence, Published
from mspgt_tl.errors import ConfigError, StoreError, unknown_name
from mspgt_tl.evidence import peak_draws

if TYPE_CHECKING:
    import xarray as xr

RANKS = ("LI", "IG")
"""Local to Intermediate, Intermediate to Global."""


class Result(Protocol):
    """A finished detection; `Detection` is one."""

    @property
    def data(self) -> xr.Dataset: ...
    @property
    def manifest(self) -> Mapping[str, Any]: ...
    @property
    def folder(self) -> Path | None: ...


Count = Literal["found", "supported"]
"""Which boundaries count: every peak that was found, or only those that exist by the test of the detection."""


@dataclass(frozen=True)
class Located:
    """One model's two boundaries; `nan` throughout where there are not exactly two, with the reason."""

    name: str
    family: str
    architecture: str
    n_layers: int
    gaps: Float[np.ndarray, "2"] = field(default_factory=lambda: np.full(2, math.nan))
    """Absolute positions, in 1 … n_layers-1."""
    intervals: Float[np.ndarray, "2 2"] = field(default_factory=lambda: np.full((2, 2), math.nan))
    """95 % bootstrap intervals over text, in gaps."""
    verdicts: tuple[str, str] = ("", "")
    """As the detection gave them; empty where there is no such boundary."""
    draws: Float[np.ndarray, "resample 2"] = field(default_factory=lambda: np.empty((0, 2)))
    """Gaps in every bootstrap resample, nan where it had no such peak; no rows where nothing was resampled."""
    reason: str | None = None
    random_weights: bool = False
    result: xr.Dataset | None = field(default=None, repr=False, compare=False)
    """The detection that it was read from."""

    @property
    def relative(self) -> Float[np.ndarray, "2"]:
        """Positions as fractions of depth."""
        return self.gaps / self.n_layers

    @property
    def exists(self) -> bool | None:
        """Whether both boundaries passed the existence test; None where it was not made (the published rule)."""
        if any(verdict and verdict not in list(Existence) for verdict in self.verdicts):
            return None
        return all(verdict == Existence.SUPPORTED for verdict in self.verdicts)

    def counting(self, count: Count) -> Located:
        """Return the model with its positions taken away unless they count."""
        if count == "found" or self.exists or self.reason:
            return self
        why = f"its boundaries are not supported by a test of existence ({'; '.join(self.verdicts)})"
        empty = Located(self.name, self.family, self.architecture, self.n_layers)
        return replace(self, gaps=empty.gaps, intervals=empty.intervals, draws=empty.draws, reason=why)


def locate(result: xr.Dataset, *, name: str, family: str, architecture: str) -> Located:
    """Return the two boundaries of a detection's result."""
    found, n_layers = result["boundary"].to_numpy(), int(result.attrs["n_layers"])
    if len(found) != 2:
        few = "no boundary" if len(found) == 0 else f"one boundary, at gap {found[0]}, which may be either"
        return Located(name, family, architecture, n_layers, reason=few)
    first, second = (str(verdict) for verdict in result["verdict"].to_numpy())
    gaps, intervals = found.astype(np.float64), result["interval"].to_numpy().astype(np.float64)
    return Located(name, family, architecture, n_layers, gaps, intervals, (first, second), peak_draws(result))


def read_runs(
    runs: Sequence[Result],
    *,
    families: Mapping[str, str] | None = None,
    architectures: Mapping[str, str] | None = None,
) -> tuple[Located, ...]:
    """Return the boundaries of finished detections, run by run.

    Args:
        runs: detections, as `load_run` reads them from their folders.
        families: family by model name (or run folder); others go by the letters that their name begins with.
        architectures: architecture by model name (or run folder); others go by the name without `@…`, and models
            named by a folder by their dimensions.

    Raises:
        StoreError: a detection of an older version, which lacks what is compared.
        ConfigError: no detection, a name in `families` or `architectures` that no run has, or a run that is there
            twice.
    """
    places = [_check(run, i) for i, run in enumerate(runs, 1)]
    for i, place in enumerate(places):
        if Path(place).resolve() in [Path(other).resolve() for other in places[:i]]:
            raise ConfigError(f"The run {place} is there twice; it would count as two models. Name it once.")
    models = [run.manifest["identity"]["model"] for run in runs]
    names = _distinct([(place, str(model["name"])) for place, model in zip(places, models, strict=True)])
    for given in (families or {}, architectures or {}):
        for key in given:
            if key not in (known := {*names, *places}):
                raise ConfigError(unknown_name("model", key, known))
    located = []
    for name, place, model, run in zip(names, places, models, runs, strict=True):
        family = _given(families, name, place) or family_of(str(model["name"]), model.get("random_seed"))
        kind = _given(architectures, name, place) or architecture_of(model)
        found = locate(run.data, name=name, family=family, architecture=kind)
        located.append(replace(found, random_weights=model.get("random_seed") is not None, result=run.data))
    return tuple(located)


def _check(run: Result, number: int) -> str:
    """Return a detection's folder, or its number if it has none; what is no detection is refused."""
    command = run.manifest["identity"].get("command", "detect") if hasattr(run, "manifest") else repr(run)
    if command != "detect":
        raise ConfigError(f"A detection is needed, such as `load_run(FOLDER)` gives; run {number} is: {command}.")
    place = f"run {number}" if run.folder is None else str(run.folder)
    if missing := [name for name in ("resampled", "weight", "gain", "boundary", "interval") if name not in run.data]:
        raise StoreError(
            f"{place} was written by an older version: its result lacks {', '.join(missing)}. "
            "Run `mspgt detect` again in a new folder."
        )
    return place


def _given(names: Mapping[str, str] | None, name: str, folder: str) -> str | None:
    return (names or {}).get(name) or (names or {}).get(folder)


def _distinct(named: Sequence[tuple[str, str]]) -> list[str]:
    """Return the models' names, with the run's folder where two runs are of one model."""
    names = [name for _, name in named]
    return [name if names.count(name) == 1 else f"{name} ({folder})" for folder, name in named]


def family_of(name: str, random_seed: int | None = None) -> str:
    """Return the family that a model's name tells: the letters that it begins with, in lower case.

    >>> family_of("meta-llama/Llama-2-7b-hf"), family_of("qwen2.5-mini@seed:1"), family_of("llama2-mini@random:0", 0)
    ('llama', 'qwen', 'llama (random weights)')
    """
    found = re.match(r"[^\W\d_]+", name.rstrip("/").rpartition("/")[2])
    family = found[0].lower() if found else name
    return family if random_seed is None else f"{family} (random weights)"


def architecture_of(model: Mapping[str, Any]) -> str:
    """Return what training runs of one architecture share: the name without seed, or the dimensions of a folder."""
    name, twin = str(model["name"]), " (random weights)" if model.get("random_seed") is not None else ""
    if Path(name.partition("@")[0]).name == name.partition("@")[0]:
        return name.partition("@")[0] + twin
    sizes = [model.get(key) for key in ("n_layers", "d_model", "n_heads", "n_key_value_heads")]
    return f"{model.get('architecture')} {'×'.join(map(str, sizes))}{twin}"


def paper_models() -> tuple[Located, ...]:
    """Return Table 1 of the paper as located models; it has no draws and no interval by model."""
    models = []
    for row in paper_tables()["boundaries"]:
        gaps, verdicts = (
            np.array([row["b_LI"], row["b_IG"]], dtype=np.float64),
            (Published.ACCEPTED, Published.ACCEPTED),
        )
        models.append(Located(row["model"], row["family"], row["model"], row["n_layers"], gaps, verdicts=verdicts))
    return tuple(models)
