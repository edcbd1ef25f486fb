"""Which readings of depth agree with each other beyond chance? Every pair of them, over all models at once.

Two curves that both fall with depth correlate without reading the same thing, so what is compared is each gap's height
over a line through its neighbours (the statistic of the existence test). Chance keeps every curve's own roughness: one
of the two is shifted around the depth axis, and turned, model by model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mspgt_tl.contracts import GAP, WITHIN
from mspgt_tl.nulls import local_contrast
from mspgt_tl.rivals import RIVAL, chance_near, rank_correlation
from mspgt_tl.stats import correct_p_values

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

FUSED = "fused evidence"
COLUMNS = ("one", "other", "models", "correlation", "p", "q", "shared", "boundaries", "by_chance")
DRAWS = 999


def rival_agreement(
    results: Mapping[str, tuple[xr.Dataset, xr.Dataset]], *, seed: int = 0, draws: int = DRAWS
) -> pd.DataFrame:
    """Hold every pair of readings against each other, the fused evidence among them.

    Args:
        results: by model, the labelled result of a detection and that of its rivals.
        draws: random shifts of the null.

    Returns:
        One row a pair: mean rank correlation of the local contrasts over models, its one-sided p-value and the same
        after Benjamini and Hochberg's correction over pairs; how many boundaries of `one` lie within one gap of one of
        `other`, of how many, and how many would at random gaps. Highest correlation first.
    """
    import pandas as pd

    readings = {model: _readings(*pair) for model, pair in results.items()}
    names = list(dict.fromkeys(name for found in readings.values() for name in found))
    rows = []
    for number, (one, other) in enumerate(combinations(names, 2)):
        both = [(found[one], found[other]) for found in readings.values() if one in found and other in found]
        if both:
            rng = np.random.default_rng([seed, number])
            rows.append({"one": one, "other": other, **_compare([(a, b) for a, b in both], rng, draws)})
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "q"])
    table.insert(5, "q", correct_p_values(table["p"].to_numpy(dtype=float), "fdr_bh"))
    return table.sort_values("correlation", ascending=False, ignore_index=True)


Reading = tuple[Float[np.ndarray, "gap"], list[int]]
"""Local contrast over gaps, and the boundaries."""


def _readings(result: xr.Dataset, rivals: xr.Dataset) -> dict[str, Reading]:
    """Return every reading of a model that has a curve: no nan, not constant."""
    curves = {FUSED: (result["fused"].to_numpy(), result["boundary"].to_numpy())}
    for name in rivals[RIVAL].values:
        one = rivals.sel({RIVAL: name})
        curves[str(name)] = one["curve"].to_numpy(), one["boundary"].to_numpy()
    assert result.sizes[GAP] == rivals.sizes[GAP]
    return {
        name: (local_contrast(curve), [int(gap) for gap in gaps if np.isfinite(gap)])
        for name, (curve, gaps) in curves.items()
        if np.isfinite(curve).all() and np.ptp(curve) > 0
    }


def _compare(pairs: Sequence[tuple[Reading, Reading]], rng: np.random.Generator, draws: int) -> dict[str, float]:
    observed = np.mean([rank_correlation(a[None], b[None])[0] for (a, _), (b, _) in pairs])
    null = np.mean(
        [rank_correlation(_moved(a, draws, rng), np.tile(b, (draws, 1))) for (a, _), (b, _) in pairs], axis=0
    )
    shared = by_chance = count = 0
    for (curve, own), (_, other) in pairs:
        count += len(own)
        shared += sum(any(abs(gap - g) <= WITHIN for g in other) for gap in own)
        by_chance += sum(chance_near(gap, len(other), len(curve)) for gap in own)
    return {
        "models": len(pairs),
        "correlation": float(observed),
        "p": float((1 + (null >= observed - 1e-12).sum()) / (1 + draws)),
        "shared": shared,
        "boundaries": count,
        "by_chance": float(by_chance),
    }


def _moved(curve: Float[np.ndarray, "gap"], draws: int, rng: np.random.Generator) -> Float[np.ndarray, "draw gap"]:
    """Return the curve shifted around the axis at random, half of the times turned."""
    n_gaps = len(curve)
    start, step = rng.integers(0, n_gaps, (draws, 1)), rng.choice([-1, 1], (draws, 1))
    return curve[(start + step * np.arange(n_gaps)) % n_gaps]
