"""Puts a theory run into sentences: what closed, what bends, what holds of the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def findings(parts: Mapping[str, xr.Dataset]) -> list[str]:
    """Return one sentence for each estimator, in the order of the stages."""
    return [
        *(_closure(parts[stage]) for stage in ("closure", "closure-float64")),
        _slope(parts["information"]),
        _entropy(parts["rates"]),
        _bottleneck(parts["bottleneck"]),
    ]


def _closure(part: xr.Dataset) -> str:
    measured = np.isfinite(part["ratio"].values[:, 0])
    if not measured.any():
        return f"Closure in {part.attrs['dtype']} was not measured; the reasons say why."
    if not measured[np.isfinite(part["predicted"].values[:, 0])].all():
        return f"Closure in {part.attrs['dtype']} could not be told everywhere: nothing is predicted for some layers."
    part = part.isel(set=measured)
    ratio, error = part["ratio"].values[:, 0], part["error"].values[:, 0]
    worst = int(np.abs(ratio - 1).argmax())
    return (
        f"Closure in {part.attrs['dtype']} at σ = {part['sigma'].values[0]:g}: measured over predicted KL is within "
        f"{100 * abs(ratio[worst] - 1):.1f} % of 1 everywhere (worst: {part['set'].values[worst]}, "
        f"{ratio[worst]:.3f} ± {error[worst]:.3f}); over all layers {ratio.mean():.3f}."
    )


def _slope(part: xr.Dataset) -> str:
    told = [
        f"{name}: {float(part['statistic'].values[i]):.3g} against {float(part['elsewhere'].values[i]):.3g} elsewhere, "
        f"p = {float(part['p_value'].values[i]):.2g}"
        for i, name in enumerate(part["curve"].values)
        if np.isfinite(part["p_value"].values[i])
    ]
    if not told:
        return "Prediction 1.2 (the slope of information jumps at boundaries) was not tested; the reasons say why."
    return f"Prediction 1.2, mean jump of the slope at boundaries in nats per layer: {'; '.join(told)}."


def _entropy(part: xr.Dataset) -> str:
    found, p_value = part.attrs["rank_correlation"], part.attrs["rank_p_value"]
    if not np.isfinite(found):
        return "Eq. 23 (β falls as conditional entropy grows) was not tested; the reasons say why."
    sigma = part["beta_sigma"].values[int(part.attrs["operating_step"])]
    says = "as the paper says" if found < 0 else "against the paper"
    return (
        f"Eq. 23 over layers, β at σ = {sigma:.2g} against conditional entropy: rank correlation {found:+.2f} "
        f"({says}; permutation p = {p_value:.2g})."
    )


def _bottleneck(part: xr.Dataset) -> str:
    betas = part["beta"].values
    told = []
    for i, found in enumerate(part["effective_beta"].values):
        low, high = part["effective_interval"].values[:, i]
        shown = f"{found:.3g} [{low:.3g}, {high:.3g}]" if np.isfinite(found) else "nan"
        told.append(f"{shown} between {betas[i]:g} and {betas[i + 1]:g}")
    return f"H-VIB, effective β from the slope of the sweep (eq. 22): {'; '.join(told)}."
