"""What a detection could have found: its own curves with a step of known size added at one gap, judged again.

"No boundary is supported" says little where the test would have missed one. So every signal is raised at one inner gap
by a share of its own range, in the curve and in all resamples alike, and the boundaries are looked for anew: how often
is that gap supported? The step has no noise of its own and stands in all signals at the same gap, so a change of this
size in a model is found more rarely than these figures say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.boundaries import PROMINENCE, find_boundaries
from mspgt_tl.contracts import GAP, RESAMPLE, SIGNAL, WITHIN, Existence

if TYPE_CHECKING:
    import xarray as xr

STEPS = {0.25: "a quarter", 0.5: "half", 1.0: "all"}
"""Sizes of the step, as shares of each signal's range over gaps, and their words."""
MOST_GAPS = 30
"""Deeper models are tried at this many gaps, evenly spread."""


def power_of(result: xr.Dataset) -> xr.DataArray:
    """Return where a step in all signals would have been a supported boundary.

    Args:
        result: a labelled detection.

    Returns:
        `[step, gap]`: 1 where a boundary within one gap is supported, 0 where none is, and nan where it was not tried:
        at the first and the last gap, where models begin and end, and everywhere if existence was not tested. A
        detection that does not hold it is tried now: about a second for 30 blocks.
    """
    import xarray as xr

    if "power" in result:
        return result["power"]
    n_gaps = result.sizes[GAP]
    reached = np.full((len(STEPS), n_gaps), np.nan)
    if np.isfinite(result["contrast_threshold"]):
        tried = np.unique(np.linspace(1, n_gaps - 2, min(MOST_GAPS, n_gaps - 2)).round().astype(int))
        find = _finder(result)
        for row, step in enumerate(STEPS):
            reached[row, tried] = [find(int(place), step) for place in tried]
    return xr.DataArray(reached, {"step": list(STEPS), GAP: result[GAP].to_numpy()}, ("step", GAP), name="power")


def _finder(result: xr.Dataset) -> Callable[[int, float], bool]:
    """Return a function that says whether a step at a place of the gap axis would have been a supported boundary."""
    curves = result["curve"].transpose(SIGNAL, GAP).to_numpy().astype(np.float64)
    resampled = result["resampled"].transpose(RESAMPLE, SIGNAL, GAP).to_numpy().astype(np.float64)
    settings: dict[str, Any] = {
        "weights": result["weight"].to_numpy(),
        "seed": int(result.attrs["seed"]),
        "prominence": float(result.attrs.get("prominence", PROMINENCE)),
    }
    span = np.ptp(curves, axis=1)

    def find(place: int, step: float) -> bool:
        rise = np.zeros_like(curves)
        rise[:, place] = step * span
        found = find_boundaries(curves + rise, resampled=resampled + rise, **settings)
        return any(
            verdict == Existence.SUPPORTED and abs(gap - (place + 1)) <= WITHIN
            for gap, verdict in zip(found.boundaries, found.verdicts, strict=True)
        )

    return find


def count_power(result: xr.Dataset) -> list[dict[str, Any]]:
    """Return the `supported` ones of how many `gaps` by `step`; nothing where none was tried."""
    power = power_of(result).dropna(GAP)
    steps = zip(power["step"].to_numpy(), power.to_numpy(), strict=True)
    return [{"step": float(step), "supported": int(row.sum()), "gaps": len(row)} for step, row in steps if len(row)]


def tell_power(result: xr.Dataset) -> str:
    """Say in one sentence how large a step would have been found; empty where nothing was tried."""
    counts = count_power(result)
    if not counts:
        return ""
    told = [f"{one['supported']} ({STEPS[one['step']]} of it)" for one in counts]
    return (
        f"With a share of each signal's range added at one of {counts[0]['gaps']} inner gaps, a boundary there would "
        f"have been supported at {', '.join(told)}."
    )
