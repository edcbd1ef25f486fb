"""Rival readings of depth, beside the fused one: where each puts its boundaries, and how far they agree.

A rival is one signal, so its boundaries have intervals but no test of existence (which is agreement between signals).
Rivals saw the same sentences as the fused signals and are resampled with the same draws, so agreement is counted
resample by resample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.boundaries import Boundaries, find_boundaries, scale_signals
from mspgt_tl.config import BoundaryConfig
from mspgt_tl.contracts import GAP, RESAMPLE, WITHIN, CausalModel, StreamSignal, signals_of
from mspgt_tl.evidence import fused_resamples, peak_draws, resample_curves
from mspgt_tl.stats import TAILS

if TYPE_CHECKING:
    import xarray as xr

RIVAL = "rival"


def make_rivals(model: CausalModel) -> dict[str, StreamSignal]:
    """Return the rival signals of a model, by name.

    Raises:
        ModelError: the model has no final normalisation or unembedding to read layers out with.
    """
    made = [part.of_model(model) for part in signals_of("rival")]
    return {signal.name: signal for signal in made if isinstance(signal, StreamSignal)}


def weigh_rivals(
    result: xr.Dataset,
    rivals: Mapping[str, StreamSignal],
    sums: Mapping[str, Mapping[str, np.ndarray]],
    config: BoundaryConfig,
    *,
    seed: int,
) -> xr.Dataset:
    """Find every rival's boundaries and hold them against those of a detection's result.

    Returns:
        By rival: its curve, resamples, reliability, boundaries (at most two, by rank) with intervals; and by rival and
        found boundary: the distance to the rival's nearest one with its interval, the share of resamples in which they
        lie within one gap, and the share that random gaps would; and the rank correlation with the fused curve.
    """
    import xarray as xr

    curves, resampled = resample_curves(rivals, sums, resamples=config.resamples, seed=seed)
    found = [
        find_boundaries(curves[i : i + 1], resampled=resampled[:, i : i + 1], rule=config.rule, seed=seed, names=[name])
        for i, name in enumerate(rivals)
    ]
    rows = [_compare(result, one, resampled[:, i]) for i, one in enumerate(found)]
    n_gaps = curves.shape[1]
    return xr.Dataset(
        {
            "curve": ((RIVAL, GAP), curves),
            "resampled": ((RESAMPLE, RIVAL, GAP), resampled.astype(np.float32)),
            "reliability": (RIVAL, np.array([one.reliability[0] for one in found])),
            "boundary": ((RIVAL, "rank"), np.array([_padded(one.boundaries) for one in found])),
            "interval": ((RIVAL, "rank", "bound"), np.array([_padded(one.intervals) for one in found])),
            "presence": ((RIVAL, "rank"), np.array([_padded(one.presence) for one in found])),
            **{name: (dims, np.array([row[name] for row in rows])) for name, dims in _AGREEMENT.items()},
            "title": (RIVAL, [signal.title for signal in rivals.values()]),
            "unit": (RIVAL, [signal.unit for signal in rivals.values()]),
            "source": (RIVAL, [signal.source for signal in rivals.values()]),
        },
        coords={
            RIVAL: list(rivals),
            GAP: np.arange(1, n_gaps + 1),
            "found": result["boundary"].to_numpy(),
            "bound": ["low", "high"],
        },
        attrs={
            "n_layers": n_gaps + 1,
            "reasons": json.dumps({name: one.reasons for name, one in zip(rivals, found, strict=True)}),
        },
    )


_AGREEMENT = {
    "distance": (RIVAL, "found"),
    "distance_interval": (RIVAL, "found", "bound"),
    "within_one": (RIVAL, "found"),
    "within_one_chance": (RIVAL, "found"),
    "correlation": (RIVAL,),
    "correlation_interval": (RIVAL, "bound"),
}


def _padded(values: Any) -> np.ndarray:
    """Return up to two rows as exactly two, filled up with nan."""
    given = np.asarray(values, dtype=np.float64)
    filled = np.full((2, *given.shape[1:]), math.nan)
    filled[: len(given)] = given
    return filled


def _compare(
    result: xr.Dataset, rival: Boundaries, resampled: Float[np.ndarray, "resample gap"]
) -> dict[str, np.ndarray | float]:
    boundaries = result["boundary"].to_numpy()
    n_found, n_gaps = len(boundaries), resampled.shape[1]
    row: dict[str, Any] = {
        "distance": np.full(n_found, math.nan),
        "distance_interval": np.full((n_found, 2), math.nan),
        "within_one": np.full(n_found, math.nan),
        "within_one_chance": np.array([chance_near(b, len(rival.boundaries), n_gaps) for b in boundaries]),
        **dict(zip(("correlation", "correlation_interval"), _correlation(result, rival, resampled), strict=True)),
    }
    if not rival.boundaries:
        return row
    draws = peak_draws(result)
    for i, boundary in enumerate(boundaries):
        row["distance"][i] = min((b - boundary for b in rival.boundaries), key=abs)
        away = (rival.peaks - draws[:, i, None])[np.isfinite(draws[:, i])]
        nearest = nearest_boundary(away)
        if len(nearest):
            row["within_one"][i] = float((np.abs(nearest) <= WITHIN).mean())
        there = nearest[np.isfinite(nearest)]
        if len(there) >= len(draws) / 2:
            row["distance_interval"][i] = np.quantile(there, TAILS, method="inverted_cdf")
    return row


def nearest_boundary(away: Float[np.ndarray, "row 2"]) -> Float[np.ndarray, "row"]:
    """Return the distance closest to 0 of every row, the first of equal ones; nan where a row has none."""
    first = np.where(np.isnan(away), np.inf, np.abs(away)).argmin(axis=1)
    return np.take_along_axis(away, first[:, None], axis=1)[:, 0]


def chance_near(boundary: int, n_rival: int, n_gaps: int) -> float:
    """Return how often one of `n_rival` different gaps, drawn at random, lies within one gap of a boundary.

    >>> chance_near(5, 1, 11)
    0.2727272727272727
    """
    close = sum(1 <= gap <= n_gaps for gap in range(boundary - WITHIN, boundary + WITHIN + 1))
    return 1 - math.comb(n_gaps - close, n_rival) / math.comb(n_gaps, n_rival)


def _correlation(result: xr.Dataset, rival: Boundaries, resampled: np.ndarray) -> tuple[float, Float[np.ndarray, "2"]]:
    """Return Spearman's rank correlation of the rival's curve with the fused one, and its bootstrap interval."""
    shown, fused = rival.normalised[0], result["fused"].to_numpy()
    missing = math.nan, np.full(2, math.nan)
    # A curve that was left out is all zero: there is nothing to rank.
    if not shown.any() or not fused.any():
        return missing
    drawn = rank_correlation(scale_signals(resampled[:, None], rival.gain)[:, 0], fused_resamples(result))
    value = float(rank_correlation(shown[None], fused[None])[0])
    return value, np.nanquantile(drawn, TAILS)


def rank_correlation(x: Float[np.ndarray, "row gap"], y: Float[np.ndarray, "row gap"]) -> Float[np.ndarray, "row"]:
    """Return Spearman's correlation row by row, in [-1, 1]; nan where a row is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(v, axis=1) for v in (x, y))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(scale > 0, (a * b).sum(axis=1) / np.where(scale > 0, scale, 1), np.nan)


def rival_rows(rivals: xr.Dataset) -> list[dict[str, Any]]:
    """Return the table of a detection's rivals: one row each, with plain values; nan where there is none."""
    reasons = json.loads(rivals.attrs["reasons"])
    rows = []
    for name in rivals[RIVAL].values:
        one = rivals.sel({RIVAL: name})
        there = np.isfinite(one["boundary"].values)
        rows.append(
            {
                "rival": str(name),
                "reliability": float(one["reliability"]),
                "boundaries": one["boundary"].values[there].astype(int).tolist(),
                "intervals": one["interval"].values[there].tolist(),
                "presence": one["presence"].values[there].tolist(),
                "agreement": [
                    {
                        "found": int(gap),
                        "distance": float(one["distance"].values[i]),
                        "interval": one["distance_interval"].values[i].tolist(),
                        "within_one": float(one["within_one"].values[i]),
                        "chance": float(one["within_one_chance"].values[i]),
                    }
                    for i, gap in enumerate(rivals["found"].values)
                ],
                "correlation": float(one["correlation"]),
                "correlation_interval": one["correlation_interval"].values.tolist(),
                "reasons": reasons[str(name)],
            }
        )
    return rows
