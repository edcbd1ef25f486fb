"""Models side by side: where their boundaries lie, how far that differs, and whether families explain it (Table 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.cards import card
from mspgt_tl.comparison.effects import Bounded, brittleness, doses, read_effects, untold
from mspgt_tl.comparison.families import coefficient_of_variation, cv_interval, label_permutation
from mspgt_tl.comparison.positions import RANKS, Count, Located, Result, read_runs
from mspgt_tl.comparison.replicates import replicate_frame
from mspgt_tl.config import json_values
from mspgt_tl.contracts import SCALES
from mspgt_tl.errors import DataError
from mspgt_tl.stats import TAILS, correct_p_values

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SHOWN, MAX_NAME = 6, 40
"""Models that a one-line summary names, and characters of each name."""
MIN_DRAWS = 100
"""With fewer bootstrap draws of both boundaries, a pair is not tested."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Several models compared. Frames have one row for what their name says; positions are fractions of depth."""

    located: tuple[Located, ...]
    models: pd.DataFrame
    """Model and boundary: gap, relative, interval of both, verdict, reason."""
    families: pd.DataFrame
    """Family and boundary: n, mean, cv (ddof = 0), its interval over models, drift in points and its interval."""
    pairs: pd.DataFrame
    """Pair of models and boundary: difference in points, interval, p, p after Holm's correction."""
    labels: pd.DataFrame
    """Boundary: p of the family labels by permutation, and the smallest p that so many models could give."""
    brittleness: pd.DataFrame
    """Metric, scale and dose: ratio of the most to the least affected family, and its interval."""
    replicates: pd.DataFrame
    """Architecture of several training runs and pair of signals: do they agree run by run? See `replicate_frame`."""

    def __repr__(self) -> str:
        names = ", ".join(shorten(model.name, MAX_NAME, placeholder="…") for model in self.located[:SHOWN])
        more = f" and {len(self.located) - SHOWN} more" if len(self.located) > SHOWN else ""
        doubt = f" The boundaries of {len(self.doubts)} of them are not supported: see doubts." if self.doubts else ""
        return f"Comparison of {len(self.located)} models ({names}{more}).{doubt}"

    def _repr_html_(self) -> str:
        return card(repr(self), self.doubts, self.summary()) + card("Pairs", [], self.pairs)

    def summary(self) -> pd.DataFrame:
        """Return one row a model and boundary: `models`."""
        return self.models

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a pair of models and boundary: `pairs`."""
        return self.pairs

    @property
    def doubts(self) -> tuple[str, ...]:
        """Which models' boundaries the existence test does not support: their differences say nothing of scales."""
        return tuple(
            f"The boundaries of {model.name} are not supported ({'; '.join(model.verdicts)}): differences from them "
            "compare places, not scales."
            for model in self.located
            if model.exists is False and not model.reason
        )

    def to_xarray(self) -> xr.Dataset:
        """Return positions by model and boundary, and draws where there are any, as a labelled dataset."""
        import xarray as xr

        length = max((len(m.draws) for m in self.located), default=0)
        draws = np.full((len(self.located), length, 2), math.nan)
        for row, model in zip(draws, self.located, strict=True):
            row[: len(model.draws)] = model.draws
        return xr.Dataset(
            {
                "gap": (("model", "boundary"), np.array([m.gaps for m in self.located])),
                "relative": (("model", "boundary"), np.array([m.relative for m in self.located])),
                "interval": (("model", "boundary", "bound"), np.array([m.intervals for m in self.located])),
                "draw": (("model", "resample", "boundary"), draws),
                "n_layers": ("model", [m.n_layers for m in self.located]),
            },
            coords={
                "model": [m.name for m in self.located],
                "family": ("model", [m.family for m in self.located]),
                "architecture": ("model", [m.architecture for m in self.located]),
                "boundary": list(RANKS),
                "bound": ["low", "high"],
            },
        )

    def to_plain(self) -> dict[str, Any]:
        """Return every table as lists of rows that JSON can hold; what is not finite becomes None or "inf"."""
        tables = {
            name: getattr(self, name).to_dict("records")
            for name in ("models", "families", "pairs", "labels", "brittleness", "replicates")
        }
        return json_values({**tables, "doubts": list(self.doubts)})


def compare(
    runs: Sequence[Result | Located],
    *,
    families: Mapping[str, str] | None = None,
    architectures: Mapping[str, str] | None = None,
    effects: str | Path | pd.DataFrame | None = None,
    count: Count = "found",
    seed: int = 0,
) -> Comparison:
    """Compare the boundaries of two or more models, and the effects of noise in their scales if given.

    Args:
        runs: detections, or located models.
        families: family by model name or folder; see `read_runs`.
        effects: table of effects; see `read_effects`.
        count: `"supported"` takes only boundaries that passed the existence test.
        seed: of permutations that are too many to look at.

    Raises:
        StoreError, ConfigError: as `read_runs`.
        DataError: fewer than two models, or a bad table of effects.
    """
    if isinstance(runs, str | Path) or not isinstance(runs, Iterable):
        raise DataError(f"A comparison needs a list of two or more runs, got {runs!r} alone.")
    runs = list(runs)
    if len(runs) < 2:
        raise DataError(f"A comparison needs two or more runs, got {len(runs)}. Detect another model first.")
    detections = [run for run in runs if not isinstance(run, Located)]
    read = iter(read_runs(detections, families=families, architectures=architectures)) if detections else iter(())
    located = tuple((run if isinstance(run, Located) else next(read)).counting(count) for run in runs)
    return Comparison(
        located,
        models=_model_frame(located),
        families=_family_frame(located),
        pairs=_pair_frame(located),
        labels=_label_frame(located, seed),
        brittleness=_brittleness_frame(read_effects(effects)) if effects is not None else _frame([], _BRITTLENESS),
        replicates=replicate_frame(located),
    )


def grouped(located: Sequence[Located], by: str, rank: int) -> dict[str, list[Located]]:
    """Return the models that have this boundary, by `family`, `architecture` or `all`."""
    groups: dict[str, list[Located]] = {}
    for model in located:
        if np.isfinite(model.gaps[rank]):
            groups.setdefault("all" if by == "all" else getattr(model, by), []).append(model)
    return groups


def positions(models: Sequence[Located], rank: int) -> Float[np.ndarray, "model"]:
    """Return relative positions of one boundary."""
    return np.array([model.relative[rank] for model in models])


def resolution(models: Sequence[Located]) -> float:
    """Return the standard deviation that a gap's width of one layer alone gives, as a fraction of depth."""
    return math.sqrt(float(np.mean([1 / (12 * model.n_layers**2) for model in models])))


def difference(first: Located, second: Located, rank: int) -> tuple[Bounded, float]:
    """Return first minus second in percentage points of depth with its bootstrap interval, and the two-sided p.

    All pairs of draws are compared, as if the models' sentences were independent; those of one corpus are not, and
    then the interval is somewhat too wide. p is at least 1 / (draws + 1).
    """
    value = 100 * float(first.relative[rank] - second.relative[rank])
    drawn = [model.draws[np.isfinite(model.draws[:, rank]), rank] / model.n_layers for model in (first, second)]
    n = min(len(d) for d in drawn)
    if n < MIN_DRAWS:
        return Bounded(value, math.nan, math.nan, n, f"{n} bootstrap draws; {MIN_DRAWS} are needed"), math.nan
    every = 100 * np.subtract.outer(drawn[0], drawn[1]).ravel()
    low, high = np.quantile(every, TAILS)
    tail = min(float((every <= 1e-9).mean()), float((every >= -1e-9).mean()))
    return Bounded(value, float(low), float(high), n), min(1.0, max(2 * tail, 1 / (n + 1)))


def drift(models: Sequence[Located], rank: int) -> Bounded:
    """Return the largest difference between two of the models in percentage points (P), with its interval over text.

    The interval is that of the pair that lies farthest apart. Over several models the largest difference is picked, so
    it grows with their number even when nothing but noise moves them.
    """
    if len(models) < 2:
        return untold(len(models), f"{len(models)} models; 2 are needed")
    order = sorted(models, key=lambda model: model.relative[rank])
    found, _ = difference(order[-1], order[0], rank)
    return Bounded(found.value, found.low, found.high, len(models), found.reason)


_MODEL = ("model", "family", "boundary", "gap", "n_layers", "relative", "low", "high", "verdict", "reason")
_FAMILY = ("family", "boundary", "n", "mean", "cv", "cv_low", "cv_high", "drift", "drift_low", "drift_high", "reason")
_PAIR = ("first", "second", "boundary", "difference", "low", "high", "p", "p_holm", "reason")
_LABEL = ("boundary", "n", "p", "smallest_p", "reason")
_BRITTLENESS = ("metric", "scale", "dose", "n", "ratio", "low", "high", "reason")


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    # Reasons are text or None; pandas would turn a column of None into nan.
    return pd.DataFrame(list(rows), columns=list(columns)).astype({"reason": object})


def _model_frame(located: Sequence[Located]) -> pd.DataFrame:
    rows = []
    for model in located:
        head = {"model": model.name, "family": model.family, "n_layers": model.n_layers, "reason": model.reason or ""}
        for rank, boundary in enumerate(RANKS):
            low, high = model.intervals[rank] / model.n_layers
            row = {"boundary": boundary, "gap": model.gaps[rank], "relative": model.relative[rank]}
            rows.append(head | row | {"low": low, "high": high, "verdict": model.verdicts[rank]})
    return _frame(rows, _MODEL)


def _family_frame(located: Sequence[Located]) -> pd.DataFrame:
    rows = []
    for family in dict.fromkeys(model.family for model in located):
        for rank, boundary in enumerate(RANKS):
            models = grouped(located, "family", rank).get(family, [])
            values = positions(models, rank)
            ends = cv_interval(values, resolution=resolution(models)) if models else (math.nan, math.nan)
            varied = Bounded(coefficient_of_variation(values), *ends, len(models))
            head = {"family": family, "boundary": boundary, "n": len(models)}
            mean = {"mean": float(values.mean()) if models else math.nan}
            rows.append(head | mean | varied.row("cv", "cv_") | drift(models, rank).row("drift", "drift_"))
    return _frame(rows, _FAMILY)


def _pair_frame(located: Sequence[Located]) -> pd.DataFrame:
    rows = []
    for rank, boundary in enumerate(RANKS):
        there = [model for model in located if np.isfinite(model.gaps[rank])]
        tested = [(a, b, *difference(a, b, rank)) for a, b in combinations(there, 2)]
        corrected = correct_p_values([p for *_, p in tested], "holm")
        for (a, b, found, p), holm in zip(tested, corrected, strict=True):
            head = {"first": a.name, "second": b.name, "boundary": boundary}
            rows.append(head | found.row("difference") | {"p": p, "p_holm": holm})
    return _frame(rows, _PAIR)


def _label_frame(located: Sequence[Located], seed: int) -> pd.DataFrame:
    rows = []
    for rank, boundary in enumerate(RANKS):
        # Twins would be a family of their own that is easily told apart.
        there = grouped([model for model in located if not model.random_weights], "all", rank).get("all", [])
        p, smallest = label_permutation(positions(there, rank), [model.family for model in there], seed=seed)
        why = "two families are needed, one of them with two models" if math.isnan(p) else ""
        rows.append({"boundary": boundary, "n": len(there), "p": p, "smallest_p": smallest, "reason": why})
    return _frame(rows, _LABEL)


def _brittleness_frame(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for metric in dict.fromkeys(table["metric"]):
        for scale in SCALES:
            for dose in doses(table):
                found = brittleness(table, metric, scale=scale, dose=dose)
                rows.append({"metric": metric, "scale": scale, "dose": dose, "n": found.n} | found.row("ratio"))
    return _frame(rows, _BRITTLENESS)
