"""Turns the signals' sums into the labelled result of a detection: curves, boundaries, and what they rest on.

Everything after the sums happens here, in arrays: no model runs again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.boundaries import (
    PROMINENCE,
    Boundaries,
    find_boundaries,
    match_peaks,
    pick_peaks_by_row,
    scale_signals,
    weight_map,
)
from mspgt_tl.codec import pack, unpack
from mspgt_tl.config import BoundaryConfig, SignalConfig
from mspgt_tl.contracts import GAP, LAYER, RESAMPLE, SIGNAL, TASK, TASKS, Signal, signals_of
from mspgt_tl.nulls import null_band
from mspgt_tl.signals.cka import CkaChange, cka_matrix
from mspgt_tl.signals.probe import KINDS, ProbeSignal, f1_table
from mspgt_tl.stats import TAILS, bootstrap_counts

if TYPE_CHECKING:
    import xarray as xr


def make_signals(config: SignalConfig, rule: str = "mspgt") -> dict[str, Signal]:
    """Return every fused signal, the paper's three first, in the forms that the config and the rule ask for."""
    return {part.name: part.from_config(config, rule) for part in signals_of("fused")}


def resample_curves(
    signals: Mapping[str, Signal], sums: Mapping[str, Mapping[str, np.ndarray]], *, resamples: int, seed: int
) -> tuple[Float[np.ndarray, "signal gap"], Float[np.ndarray, "resample signal gap"]]:
    """Return every signal's curve and its bootstrap resamples.

    Signals that saw the same sentences are resampled together; the treebank's sentences are drawn on their own.
    """
    curves, resampled = [], []
    for name, signal in signals.items():
        n_folds = len(next(iter(sums[name].values())))
        counts = bootstrap_counts(n_folds, resamples, seed=2 * seed + (signal.resampled_with == "trees"))
        curves.append(signal.curves(sums[name], np.ones((1, n_folds)))[0])
        resampled.append(signal.curves(sums[name], counts))
    return np.stack(curves), np.stack(resampled, axis=1)


def weigh_evidence(
    signals: Mapping[str, Signal],
    sums: Mapping[str, Mapping[str, np.ndarray]],
    config: BoundaryConfig,
    *,
    seed: int,
    reasons: Sequence[str] = (),
) -> xr.Dataset:
    """Compute curves, resamples, boundaries, weight map, probe table and similarity matrix from the signals' sums.

    `reasons` say what was already left out on the way to the sums; they join those of the boundaries.
    """
    curves, resampled = resample_curves(signals, sums, resamples=config.resamples, seed=seed)
    found = find_boundaries(
        curves,
        weights=config.weights,
        rule=config.rule,
        seed=seed,
        resampled=resampled,
        names=list(signals),
        n_null=config.null_curves,
    )
    found = replace(found, reasons=(*reasons, *found.reasons))
    return label_result(signals, sums, found, curves, resampled, n_null=config.null_curves)


def reweigh(
    result: xr.Dataset, *, weights: Sequence[float | int] | None, rule: Any, prominence: float, n_null: int = 2000
) -> xr.Dataset:
    """Return a labelled result with its signals fused anew; the audit belongs to the old boundaries and is left out.

    Raises:
        ConfigError: as `find_boundaries`.
    """
    resampled = result["resampled"].transpose(RESAMPLE, SIGNAL, GAP).values.astype(np.float64)
    names = [str(name) for name in result[SIGNAL].values]
    found = find_boundaries(
        result["curve"].values,
        weights=weights,
        rule=rule,
        seed=int(result.attrs["seed"]),
        resampled=resampled,
        names=names,
        n_null=n_null,
        prominence=prominence,
    )
    changed = _found_variables(found, resampled, prominence, n_null=n_null)
    kept = result.drop_dims(["found", "variant", "told_gap"], errors="ignore")
    kept = kept.drop_vars([*changed, "p_grid", "power"], errors="ignore")
    return kept.assign(changed).assign_attrs(pack(found)[1] | {"prominence": prominence})


def label_result(
    signals: Mapping[str, Signal],
    sums: Mapping[str, Mapping[str, np.ndarray]],
    found: Boundaries,
    curves: np.ndarray,
    resampled: np.ndarray,
    n_null: int = 2000,
) -> xr.Dataset:
    """Return a detection's curves and boundaries as labelled arrays."""
    import xarray as xr

    n_layers = curves.shape[1] + 1
    return xr.Dataset(
        {
            "curve": ((SIGNAL, GAP), curves, {"long_name": "signal, in its own unit"}),
            "resampled": ((RESAMPLE, SIGNAL, GAP), resampled.astype(np.float32)),
            "unit": (SIGNAL, [signal.unit for signal in signals.values()]),
            "definition": (SIGNAL, [signal.definition or signal.source for signal in signals.values()]),
            "title": (SIGNAL, [signal.title for signal in signals.values()]),
            **_found_variables(found, resampled, n_null=n_null),
            "f1": ((TASK, "kind", LAYER), f1_table(sums[ProbeSignal.name])),
            "cka": ((LAYER, "other_layer"), cka_matrix(sums[CkaChange.name])),
        },
        coords={
            SIGNAL: list(signals),
            GAP: np.arange(1, n_layers),
            LAYER: np.arange(n_layers),
            "other_layer": np.arange(n_layers),
            TASK: list(TASKS),
            "kind": list(KINDS),
            "bound": ["low", "high"],
        },
        attrs=pack(found)[1] | {"n_layers": n_layers},
    )


def _found_variables(
    found: Boundaries, resampled: np.ndarray, prominence: float = PROMINENCE, *, n_null: int
) -> dict[str, Any]:
    """Return every variable of the labelled result that follows from the boundaries."""
    fused = np.einsum("s,rsg->rg", found.weights, scale_signals(resampled, found.gain))
    simplex = weight_map(found.normalised, prominence=prominence)
    active, band = found.weights > 0, (np.nan, np.nan)
    if active.any():
        band = null_band(found.normalised[active], found.weights[active], n_null=n_null, seed=found.seed)
    return {
        **pack(found)[0],
        **pack(simplex)[0],
        "fused_interval": (("bound", GAP), np.nanquantile(fused, TAILS, axis=0)),
        "null_band": ("bound", np.array(band)),
    }


def read_boundaries(result: xr.Dataset) -> Boundaries:
    """Return the `Boundaries` that a labelled result was made from."""
    return unpack(Boundaries, result, peaks=resampled_peaks(result))


def resampled_peaks(result: xr.Dataset) -> Float[np.ndarray, "resample 2"]:
    """Return the gaps of the two peaks of every bootstrap resample of a detection, nan where it has fewer."""
    if "peak" in result:
        return result["peak"].to_numpy()
    # Format 1 did not store them; its resamples were rounded to float32 since they were picked.
    return pick_peaks_by_row(fused_resamples(result), prominence=result.attrs.get("prominence", PROMINENCE)) + 1


def fused_resamples(result: xr.Dataset) -> Float[np.ndarray, "resample gap"]:
    """Return the fused curve of every bootstrap resample of a detection."""
    resampled = result["resampled"].to_numpy().astype(np.float64)
    return np.einsum("s,rsg->rg", result["weight"].to_numpy(), scale_signals(resampled, result["gain"].to_numpy()))


def peak_draws(result: xr.Dataset) -> Float[np.ndarray, "resample found"]:
    """Return the gap of every found boundary in every bootstrap resample of a detection, nan where it was not found."""
    return match_peaks(result["boundary"].to_numpy() - 1, resampled_peaks(result) - 1) + 1
