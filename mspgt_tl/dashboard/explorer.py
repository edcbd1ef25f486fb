"""What the explorer of a detection is given: curves, resamples, audit variants, and p-values made beforehand.

The arithmetic of the fusion runs in the browser (`static/explorer.js`). The test of existence does not: its null curves
are drawn here, for a grid of weights. At any weights only two sets of peaks can be picked, whatever the prominence: the
most prominent one alone, or the two most prominent; so a grid's row holds p-values for both.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.boundaries import (
    ALPHA,
    MAX_WIDTH,
    MIN_PRESENCE,
    MIN_RELIABILITY,
    NEAR_TIE,
    PROMINENCE,
    rank_peaks,
    reliability,
    scale_signals,
    simplex_grid,
)
from mspgt_tl.config import json_values
from mspgt_tl.contracts import GAP, RESAMPLE, SIGNAL, TASK, Existence
from mspgt_tl.nulls import MIN_GAPS, concordance_test
from mspgt_tl.stats import TAILS

if TYPE_CHECKING:
    import xarray as xr

PACKED_BYTES = 140_000
"""A page carries no more of the resamples than this, before base64; a deep model's page has fewer of them."""
VARIANTS_SHARE = 0.3
"""Of these bytes, for the resamples of the audit's variants."""
GRID_POINTS = 70
"""Weights at which p-values are computed beforehand, at most."""
VARIANT_POINTS = 16
"""The same for each variant of the audit."""
NULL_CURVES = 500
"""Of each kind at each of these weights."""
REACH = 0.2
"""Weights farther than this from every tested choice get no p."""
DIGITS = 6
P_GRID = "p_grid"
"""Variable of a result that holds the grid as JSON, so that it is computed once and not at every drawing."""


def explorer_data(
    data: xr.Dataset,
    manifest: Mapping[str, Any] | None = None,
    others: Mapping[str, xr.Dataset] | None = None,
    *,
    packed_bytes: int = PACKED_BYTES,
) -> dict[str, Any]:
    """Return everything the explorer shows of a detection, as JSON can hold it; nan becomes None.

    Args:
        data: the labelled result.
        manifest: of the run, for its name and the weights that were asked for.
        others: results that can be laid over it, by name.
        packed_bytes: what the resamples may take; intervals then rest on as many as fit.
    """
    identity = (manifest or {}).get("identity", {})
    weights = _asked_weights(data, identity.get("config", {}).get("boundaries", {}).get("weights"))
    n_signals = data.sizes[SIGNAL]
    resampled = data["resampled"].transpose(RESAMPLE, SIGNAL, GAP).values.astype(float)
    variants = _variants(data, VARIANTS_SHARE * packed_bytes)
    room = packed_bytes * (1 - VARIANTS_SHARE * bool(variants))
    shown = resampled[: max(1, int(room) // (2 * n_signals * data.sizes[GAP]))]
    return json_values(
        {
            "name": Path(identity.get("model", {}).get("name", "this run")).name,
            "n_layers": int(data.attrs["n_layers"]),
            "n_gaps": data.sizes[GAP],
            "rule": data.attrs["rule"],
            "constants": {
                "prominence": float(data.attrs.get("prominence", PROMINENCE)),
                "max_width": MAX_WIDTH,
                "alpha": ALPHA,
                "min_reliability": MIN_RELIABILITY,
                "min_presence": MIN_PRESENCE,
                "near_tie": NEAR_TIE,
                "verdicts": [str(verdict) for verdict in Existence],
            },
            "signals": [
                {**signal, "weight": float(weight)}
                for signal, weight in zip(_signals(data, resampled), weights / weights.sum(), strict=True)
            ],
            "resampled": _pack(shown),
            "resamples": len(resampled),
            "resamples_shown": len(shown),
            "variants": variants,
            "grids": json.loads(str(data[P_GRID].values)) if P_GRID in data else _grids(data, weights, variants),
            "f1": _f1(data),
            "cka": np.round(data["cka"].values, DIGITS),
            "audit": _audit(data),
            "others": [
                {"name": name, "n_layers": int(other.attrs["n_layers"]), "signals": _signals(other)}
                for name, other in (others or {}).items()
            ],
            "profile": _profile(data),
            "own": {
                "gaps": data["boundary"].values,
                "verdicts": [str(v) for v in data["verdict"].values],
                "strongest": _strongest(data),
            },
            **_sentences(data),
        }
    )


def with_p_grid(data: xr.Dataset, weights: Sequence[float] | None) -> xr.Dataset:
    """Return a result with the p-values that its explorer looks up, for a grid of weights.

    Args:
        weights: those that were asked for; None for equal ones.
    """
    grids = json_values(_grids(data, _asked_weights(data, weights), _variants(data)))
    return data.assign({P_GRID: ((), np.array(json.dumps(grids), dtype=object))})


def _asked_weights(data: xr.Dataset, weights: Sequence[float] | None) -> Float[np.ndarray, "signal"]:
    return np.asarray(np.ones(data.sizes[SIGNAL]) if weights is None else weights, dtype=float)


def _signals(data: xr.Dataset, resampled: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Return the signals, with the 95 % interval of each of their values where resamples are given."""
    found = []
    for i, name in enumerate(data[SIGNAL].values):
        signal: dict[str, Any] = {
            "name": str(name),
            "title": str(data["title"].values[i]),
            "unit": str(data["unit"].values[i]),
            "definition": str(data["definition"].values[i]) if "definition" in data else "",
            "curve": data["curve"].values[i],
            "reliability": float(data["reliability"].values[i]),
        }
        if resampled is not None:
            sample = resampled[:, i]
            known = np.isfinite(sample).all(axis=0)
            low, high = np.full((2, sample.shape[1]), np.nan)
            if known.any():
                low[known], high[known] = np.quantile(sample[:, known], TAILS, axis=0)
            signal |= {"low": low, "high": high, "unusable": bool(~known.all())}
        found.append(signal)
    return found


def _variants(data: xr.Dataset, packed_bytes: float = 0) -> list[dict[str, Any]]:
    """Return the audit's variants that put another measurement in a signal's place; not those that leave one out."""
    if "audit_curve" not in data:
        return []
    found = []
    replacing = [i for i, signal in enumerate(data["audit_signal"].values) if str(signal)]
    count = max(1, int(packed_bytes) // (2 * data.sizes[GAP] * max(1, len(replacing))))
    for i in replacing:
        name, signal, curve = (data[part].values[i] for part in ("variant", "audit_signal", "audit_curve"))
        resampled = data["audit_resampled"].values[i].astype(float)
        trust = reliability(curve[None], resampled[:, None])[0] if np.isfinite(resampled).all() else np.nan
        found.append(
            {
                "name": str(name),
                "label": f"{name} ({signal})",
                "signal": str(signal),
                "curve": curve,
                "reliability": float(trust),
                "resampled": _pack(resampled[:count, None]),
            }
        )
    return found


def _audit(data: xr.Dataset) -> dict[str, Any]:
    if "audit_gap" not in data:
        return {"names": [], "gaps": [], "moved": [], "p": [], "grades": [], "fused": []}
    return {
        "names": [str(name) for name in data["variant"].values],
        "gaps": data["boundary"].values,
        "moved": data["audit_gap"].values.T,
        "p": data["audit_p_value"].values.T,
        "grades": [str(grade) for grade in data["grade"].values],
        "fused": np.round(data["audit_fused"].values, DIGITS),
    }


def _f1(data: xr.Dataset) -> list[dict[str, Any]]:
    table = np.round(data["f1"].values, DIGITS)
    kinds = [str(kind) for kind in data["kind"].values]
    return [
        {"task": str(task), **dict(zip(kinds, rows, strict=True))}
        for task, rows in zip(data[TASK].values, table, strict=True)
        if np.isfinite(rows).any()
    ]


def _sentences(data: xr.Dataset) -> dict[str, Any]:
    """Return the sentences that raise the evidence at a boundary most, where the run has kept them."""
    if "told_sentences" not in data:
        return {}
    told = zip(data["told_gap"].values, data["told_sentences"].values, strict=True)
    return {
        "sentences": {str(int(gap)): json.loads(str(rows)) for gap, rows in told},
        "sentence_note": (
            "Evidence here with all sentences, less the evidence without this one; from the two folds of sentences "
            "that raise it most. The marked token is the one whose vector stands for its sentence."
        ),
    }


def _strongest(data: xr.Dataset) -> int | None:
    """Return the boundary where the evidence is highest: what a reader sees first, before any click."""
    gaps = data["boundary"].values.astype(int)
    return int(gaps[np.argmax(data["fused"].values[gaps - 1])]) if len(gaps) else None


def _profile(data: xr.Dataset) -> dict[str, Any] | None:
    """Return what the first token and sinks do at every block, where it was measured."""
    if "first_norm" not in data:
        return None
    near = data["near_onset"].values if "near_onset" in data else np.zeros(len(data["boundary"]), dtype=bool)
    return {
        "first_norm": np.round(data["first_norm"].values, DIGITS),
        "sink_mass": np.round(data["sink_mass"].values, DIGITS),
        "onset": data["onset"].values,
        "chance": float(data["onset_chance"]),
        "near": [int(gap) for gap, is_near in zip(data["boundary"].values, near, strict=True) if is_near],
    }


def weight_grid(n_signals: int, points: int) -> Float[np.ndarray, "point signal"]:
    """Return weights on a regular grid over the simplex, as fine as `points` allow; corners always.

    >>> weight_grid(2, 3).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    steps = 1
    while n_signals > 1 and math.comb(steps + n_signals, n_signals - 1) <= points:
        steps += 1
    return simplex_grid(n_signals, steps)


def _grids(data: xr.Dataset, asked: np.ndarray, variants: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return p-values by weights: with reliability, without it, and for every variant of the audit."""
    curves, trust = data["curve"].values, data["reliability"].values
    seed, names = int(data.attrs["seed"]), [str(name) for name in data[SIGNAL].values]
    known = np.asarray(np.isfinite(curves).all(axis=1) & np.isfinite(data["resampled"].values).all(axis=(0, 2)))
    if data.sizes[GAP] < MIN_GAPS:
        return {}
    grids = {}
    for name, trusts in (("trusted", True), ("plain", False)):
        gain = _gain(curves, trust, known, trusts)
        rows = _grid(curves, gain, asked, GRID_POINTS, seed)
        if trusts and data.attrs["rule"] == "mspgt":
            rows = [*_own_row(data), *rows]
        grids[name] = {"rows": rows, "reach": REACH}
    for variant in variants:
        at = names.index(variant["signal"])
        other, weight = curves.copy(), trust.copy()
        other[at], weight[at] = variant["curve"], variant["reliability"]
        usable = known.copy()
        usable[at] = np.isfinite(other[at]).all()
        gain = _gain(other, weight, usable, True)
        rows = _grid(other, gain, asked, VARIANT_POINTS, seed)
        # So coarse a grid has no near weights: the nearest that gives the same peaks must do.
        grids[f"variant {variant['name']}"] = {"rows": rows, "reach": 2 * REACH}
    return grids


def _gain(curves: np.ndarray, trust: np.ndarray, known: np.ndarray, trusts: bool) -> np.ndarray:
    usable = known & (np.ptp(np.where(known[:, None], curves, 0), axis=1) > 0)
    if not trusts:
        return usable.astype(float)
    weight = np.nan_to_num(trust, nan=1.0)
    return np.where(usable & (weight >= MIN_RELIABILITY), weight, 0.0)


def _grid(curves: np.ndarray, gain: np.ndarray, asked: np.ndarray, points: int, seed: int) -> list[dict[str, Any]]:
    active = gain > 0
    if active.sum() < 2:
        return []
    shown = scale_signals(curves, gain)
    rows, seen = [], set[tuple[float, ...]]()
    for weights in (asked, *weight_grid(len(curves), points)):
        used = np.where(active, weights, 0)
        if (used > 0).sum() < 2:
            continue  # one signal cannot agree with itself
        used = used / used.sum()
        if (key := tuple(np.round(used, 9))) in seen:
            continue
        seen.add(key)
        ranked, part = rank_peaks(used @ shown, prominence=0.0)[:2], used > 0
        tests = [
            concordance_test(shown[part], used[part], np.sort(peaks), n_null=NULL_CURVES, seed=seed).p_values
            for peaks in (ranked[:1], ranked)
        ]
        rows.append(
            {
                "weights": np.round(used, 9),
                "gaps": ranked + 1,
                "alone": np.round(tests[0], DIGITS),
                "both": np.round(tests[1], DIGITS) if len(ranked) == 2 else None,
            }
        )
    return rows


def _own_row(data: xr.Dataset) -> list[dict[str, Any]]:
    """Return the run's own p-values as a row of the grid: for as many peaks as it has, not for fewer."""
    gaps, p = data["boundary"].values, data["p_value"].values
    if not len(gaps) or not np.isfinite(p).all():
        return []
    return [
        {
            "weights": data["weight"].values,
            "gaps": gaps,
            "alone": p if len(gaps) == 1 else None,
            "both": p if len(gaps) == 2 else None,
        }
    ]


def _pack(values: Float[np.ndarray, "resample signal gap"]) -> dict[str, Any] | None:
    """Store resamples as 16-bit shares of the range of each signal and gap: an error of 1e-5 of that range.

    Signals that could not be computed are stored as zeros; the explorer never uses them.
    """
    if not len(values):
        return None
    flat = np.nan_to_num(values.reshape(len(values), -1))
    low, high = flat.min(axis=0), flat.max(axis=0)
    shares = np.round((flat - low) / np.where(high > low, high - low, 1) * 65535).astype("<u2")
    return {"values": base64.b64encode(shares.tobytes()).decode("ascii"), "low": low, "high": high}
