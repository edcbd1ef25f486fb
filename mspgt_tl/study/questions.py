"""Three questions to everything a study has measured, answered from its run folders alone.

*Boundary or BOS?* Which boundaries coincide with the onset or end of a massive activation or a sink. *Two boundaries in
every model?* What each rule says of trained weights, random weights and shuffled words. *An unequal dose?* How many
times as brittle one scale or model is as another, by how the noise is dosed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.contracts import SIGNAL, WITHIN, Existence, Published

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from mspgt_tl.pipeline.intervention import Intervention

OURS = "this package"
READINGS: Mapping[str, tuple[str, ...]] = {
    "published rule, first tokens and sinks among the data": ("first token kept", "sinks kept"),
    "published rule, rows as long as they are": ("raw rows",),
    "published rule, our curves": (),
    OURS: (),
}
"""What is asked of every result, with the audit's variants that take a signal's place."""
RULE_COLUMNS = ("model", "kind", "reading", "boundaries", "count", "near", "chance")
DOSE_COLUMNS = (
    *("model", "dose", "level", "scale", "blocks", "sigma"),
    *("kl", "low", "high", "controls_low", "controls_high"),
)


def rule_rows(model: str, kind: str, data: xr.Dataset) -> list[dict[str, Any]]:
    """Return what each reading accepts in one result, and how much of it coincides with an onset or end.

    Args:
        kind: such as `trained`, `random weights` or `words shuffled`.
        data: the labelled result of a detection, with its audit and profile.
    """
    rows = []
    for reading, variants in READINGS.items():
        gaps = _supported(data) if reading == OURS else accepted_gaps(data, variants)
        row = {"model": model, "kind": kind, "reading": reading, "boundaries": tuple(gaps), "count": len(gaps)}
        near = sum(_is_near(data, gap) for gap in gaps)
        rows.append(row | {"near": near, "chance": float(data["onset_chance"])})
    return rows


def _supported(data: xr.Dataset) -> list[int]:
    said = zip(data["boundary"].values, data["verdict"].values, strict=True)
    return [int(gap) for gap, verdict in said if verdict == Existence.SUPPORTED]


def accepted_gaps(data: xr.Dataset, variants: Sequence[str] = ()) -> list[int]:
    """Return the gaps that the published rule accepts, with these variants in the place of their signals."""
    n_drawn = data.sizes.get("audit_resample", data.sizes["resample"]) if variants else data.sizes["resample"]
    curves = data["curve"].values.copy()
    resampled = data["resampled"].values[:n_drawn].astype(np.float64)
    names = [str(name) for name in data[SIGNAL].values]
    for variant in variants:
        own = data.sel(variant=variant)
        place = names.index(str(own["audit_signal"].item()))
        curves[place], resampled[:, place] = own["audit_curve"].values, own["audit_resampled"].values
    found = find_boundaries(curves, resampled=resampled, rule="paper", seed=int(data.attrs["seed"]))
    return [gap for gap, said in zip(found.boundaries, found.verdicts, strict=True) if said == Published.ACCEPTED]


def _is_near(data: xr.Dataset, gap: int) -> bool:
    onset = data["onset"]
    return bool((onset.values[np.abs(onset["gap"].values - gap) <= WITHIN] != 0).any())


def dose_rows(model: str, sweep: Intervention) -> list[dict[str, Any]]:
    """Return the KL of the next token by scale for every dose: equal σ, equal power, equal exit norm, equal KL.

    Measured at each dose's own σ. Folders of earlier versions hold the scale's levels alone: there it is read off
    between them, and is nan beyond. Controls, stretches of as many blocks elsewhere, have no σ for solved doses.
    """
    effects, rows = sweep.effects, []
    scales = [str(n) for n in effects["target"].values[effects["group"].values == "scale"]]
    planned = sweep.conditions[~sweep.conditions["is_control"].astype(bool) & sweep.conditions["scale"].isin(scales)]
    level = float(sweep.manifest["notes"]["compared_level"])
    doses = sweep.doses
    names = [] if doses is None or not doses.sizes else doses["condition"].values.tolist()
    for condition in planned[planned["level"] == level].to_dict("records"):
        name, sigma = str(condition["scale"]), float(condition["sigma"])
        own = effects.sel(target=name)
        controls = effects["target"].values[effects["control_of"].values == name].tolist()
        same_sigma = condition["dose"] in ("per_layer", "per_scale")
        beside = [read_off(effects.sel(target=c), "kl", sigma) for c in controls] if same_sigma else []
        row = {"model": model, "dose": str(condition["dose"]), "level": level, "scale": name, "sigma": sigma}
        at = None if doses is None or condition["name"] not in names else doses.sel(condition=condition["name"])
        for column, measure in (("kl", "kl"), ("low", "kl_low"), ("high", "kl_high")):
            row[column] = read_off(own, measure, sigma) if at is None else float(at[measure])
        row |= {"controls_low": min(beside, default=math.nan), "controls_high": max(beside, default=math.nan)}
        rows.append(row | {"blocks": str(own["blocks"].item())})
    return rows


def read_off(effects: xr.Dataset, measure: str, sigma: float) -> float:
    """Return a measure of one target at a σ between those it was measured at, on a log–log line; nan beyond them."""
    sigmas, values = effects["sigma"].values.astype(float), effects[measure].values.astype(float)
    known = np.isfinite(sigmas) & np.isfinite(values) & (sigmas > 0) & (values > 0)
    if not (math.isfinite(sigma) and sigma > 0 and known.any()):
        return math.nan
    order = np.argsort(sigmas[known])
    x, y = np.log(sigmas[known][order]), np.log(values[known][order])
    return float(np.exp(np.interp(math.log(sigma), x, y, left=math.nan, right=math.nan)))


def ratio_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return brittleness ratios by dose: largest KL over smallest, over the scales of a model and over models.

    `controls`: the same ratio among the controls' extremes, which is what depth alone gives at that dose.
    """
    rows = []
    for dose, of_dose in table.groupby("dose", sort=False):
        groups = [("scales of " + str(model), rest) for model, rest in of_dose.groupby("model", sort=False)]
        groups += [(f"models, {scale} scale", rest) for scale, rest in of_dose.groupby("scale", sort=False)]
        for between, rest in groups:
            values = rest["kl"].dropna()
            if len(values) < 2:
                continue
            low, high = rest["controls_low"].min(), rest["controls_high"].max()
            ratio = float(values.max() / values.min()) if values.min() > 0 else math.inf
            controls = float(high / low) if low > 0 else math.nan
            rows.append({"dose": dose, "between": between, "ratio": ratio, "controls": controls})
    return rows
