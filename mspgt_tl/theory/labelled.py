"""Estimates as labelled arrays, ready for a run's folder: what a page or a table reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mspgt_tl.contracts import FROM_ABOVE, GAP, LAYER, RESAMPLE
from mspgt_tl.theory.closure import Closure
from mspgt_tl.theory.fisher import Fisher, scale_sensitivity
from mspgt_tl.theory.mutual_information import Information, slope_test
from mspgt_tl.theory.rate_distortion import RankTest, RateDistortion
from mspgt_tl.theory.texts import Texts

if TYPE_CHECKING:
    import xarray as xr

    from mspgt_tl.theory.bottleneck import Bottleneck

BOUND, SCALE, SET, SIGMA, CURVE, STEP, BETA = "bound", "scale_name", "set", "sigma", "curve", "step", "beta"
"""Axis names beside those of the contracts."""
ENDS = {BOUND: ["low", "high"]}


def label_scales(norms: Mapping[int, float], texts: Texts) -> xr.Dataset:
    """Return the activation unit of every layer."""
    import xarray as xr

    return xr.Dataset(
        {"scale": (LAYER, np.array(list(norms.values())), {"long_name": "median of |h| / sqrt(d_model)"})},
        coords={LAYER: list(norms)},
        attrs={"tokens": int(texts.counts.sum()), "texts": len(texts)},
    )


def label_fisher(
    fisher: Fisher, norms: Mapping[int, float], blocks: Mapping[str, range], *, resamples: int
) -> xr.Dataset:
    """Return traces, sensitivities s² tr F by layer, and their sums by scale, with intervals."""
    import xarray as xr

    squares = np.array([norms[layer] ** 2 for layer in range(len(norms))])
    interval = fisher.interval(resamples=resamples)
    sums = {name: scale_sensitivity(fisher, list(b), norms, resamples=resamples) for name, b in blocks.items()}
    return xr.Dataset(
        {
            "trace": (LAYER, fisher.trace, {"units": "nats per token and squared unit of the stream"}),
            "trace_interval": ((BOUND, LAYER), interval),
            "sensitivity": (LAYER, squares * fisher.trace, {"units": "nats per token", "long_name": "s^2 tr F"}),
            "sensitivity_interval": ((BOUND, LAYER), squares * interval),
            "label_error": (LAYER, fisher.label_error),
            "left_out_trace": (LAYER, fisher.left_out.sum(axis=0) / fisher.counts.sum()),
            "scale_sensitivity": (SCALE, np.array([found.value for found in sums.values()])),
            "scale_interval": ((SCALE, BOUND), np.array([found.interval for found in sums.values()])),
            "scale_resampled": ((SCALE, RESAMPLE), np.stack([found.resampled for found in sums.values()])),
        },
        coords={LAYER: np.arange(len(norms)), SCALE: list(sums), **ENDS},
        attrs={
            "tokens": int(fisher.counts.sum()),
            "texts": len(fisher.counts),
            "samples": len(fisher.sums),
            "seed": fisher.seed,
        },
    )


def label_unmeasured(names: Sequence[str], sigmas: Sequence[float], dtype: str, reason: str) -> xr.Dataset:
    """Label a closure that was not measured: nan everywhere, and why."""
    import xarray as xr

    empty = np.full((len(names), len(sigmas)), np.nan)
    return xr.Dataset(
        {
            **{name: ((SET, SIGMA), empty.copy()) for name in ("measured", "predicted", "ratio", "error")},
            "exit_sigma": (SET, empty[:, 0].copy()),
        },
        coords={SET: list(names), SIGMA: list(sigmas)},
        attrs={"dtype": dtype, "reasons": json.dumps([reason])},
    )


def label_closure(closure: Closure) -> xr.Dataset:
    """Return measured over predicted KL by set of layers and sigma."""
    import xarray as xr

    # With one sigma there is no exit to look for.
    found = zip(closure.names, closure.reasons, strict=True) if len(closure.sigmas) > 1 else ()
    grouped: dict[str, list[str]] = {}
    for name, why in found:
        if why:
            grouped.setdefault(why, []).append(name)
    return xr.Dataset(
        {
            "measured": ((SET, SIGMA), closure.measured, {"units": "nats per token"}),
            "predicted": ((SET, SIGMA), closure.predicted, {"units": "nats per token"}),
            "ratio": ((SET, SIGMA), closure.ratio),
            "error": ((SET, SIGMA), closure.error),
            "exit_sigma": (SET, closure.exit_sigma),
        },
        coords={SET: list(closure.names), SIGMA: closure.sigmas},
        attrs={
            "dtype": closure.dtype,
            "tokens": closure.n_tokens,
            "seed": closure.seed,
            "reasons": json.dumps([f"No exit from closure for {', '.join(n)}: {why}." for why, n in grouped.items()]),
        },
    )


def label_information(
    found: Mapping[str, Information],
    channel: Mapping[float, tuple[np.ndarray, Sequence[str]]],
    boundaries: Sequence[int],
    *,
    seed: int,
) -> xr.Dataset:
    """Return every curve of information over layers with its slope test.

    Args:
        found: V-information by readout.
        channel: the Gaussian channel's information by noise, with reasons for what is nan.
    """
    import xarray as xr

    unknown = np.full((2, len(next(iter(found.values())).value)), np.nan)
    curves: dict[str, tuple[np.ndarray, np.ndarray, Sequence[str]]] = {
        f"next token, {name} readout": (info.value, info.interval, info.reasons) for name, info in found.items()
    }
    for sigma, (values, why) in channel.items():
        name = f"Gaussian channel, sigma {sigma:g}"
        curves[name] = (values, unknown, [f"{name}: {reason}" for reason in why])
    drawn = {f"next token, {name} readout": info.resampled for name, info in found.items()}
    tests = {
        name: slope_test(values, boundaries, seed=seed, resampled=drawn.get(name))
        for name, (values, _, _) in curves.items()
    }
    reasons = [reason for _, _, parts in curves.values() for reason in parts]
    known = [name for name, (values, _, _) in curves.items() if np.isfinite(values).any()]
    reasons += dict.fromkeys(reason for name in known for reason in tests[name].reasons)
    one = next(iter(found.values()))
    return xr.Dataset(
        {
            "information": ((CURVE, LAYER), np.stack([v for v, _, _ in curves.values()]), {"units": "nats per token"}),
            "interval": ((CURVE, BOUND, LAYER), np.stack([i for _, i, _ in curves.values()])),
            "slope": ((CURVE, GAP), np.stack([t.slope for t in tests.values()])),
            "jump": ((CURVE, GAP), np.stack([t.jump for t in tests.values()])),
            "statistic": (CURVE, np.array([t.statistic for t in tests.values()])),
            "elsewhere": (CURVE, np.array([t.elsewhere for t in tests.values()])),
            "excess_interval": ((CURVE, BOUND), np.array([t.excess_interval for t in tests.values()])),
            "p_value": (CURVE, np.array([t.p_value for t in tests.values()])),
            "smallest_p": (CURVE, np.array([t.smallest_p for t in tests.values()])),
        },
        coords={
            CURVE: list(curves),
            LAYER: np.arange(len(one.value)),
            GAP: np.arange(1, len(one.value)),
            **ENDS,
        },
        attrs={
            "entropy": one.entropy,
            "tokens": one.n,
            "boundaries": list(boundaries) or "none",
            "seed": seed,
            "reasons": json.dumps(reasons),
        },
    )


def label_rates(found: RateDistortion, conditional: np.ndarray, test: RankTest | None, why: str) -> xr.Dataset:
    """Return rates, distortions and beta by set of layers, and their comparison with eq. 23's entropies."""
    import xarray as xr

    return xr.Dataset(
        {
            "rate": ((SET, SIGMA), found.rate, {"units": "nats per token"}),
            "distortion": ((SET, SIGMA), found.distortion, {"units": "nats per token"}),
            "distortion_interval": ((BOUND, SET, SIGMA), found.distortion_interval),
            "beta": ((SET, STEP), found.beta),
            "beta_interval": ((BOUND, SET, STEP), found.beta_interval),
            "beta_sigma": (STEP, found.beta_sigmas),
            "conditional_rate": (LAYER, conditional, {"units": "nats per token"}),
        },
        coords={SET: list(found.names), SIGMA: found.sigmas, LAYER: np.arange(len(conditional)), **ENDS},
        attrs={
            "operating_step": found.operating_step,
            "rank_correlation": np.nan if test is None else test.correlation,
            "rank_p_value": np.nan if test is None else test.p_value,
            "reasons": json.dumps([why] if why else []),
        },
    )


def label_bottleneck(found: Bottleneck, width: int) -> xr.Dataset:
    """Return the H-VIB sweep."""
    import xarray as xr

    return xr.Dataset(
        {
            "reconstruction": (BETA, found.reconstruction, {"units": "nats per token"}),
            "rate": ((BETA, SCALE), found.rates, {"units": "nats per token"}),
            "rate_interval": ((BOUND, BETA, SCALE), found.rate_interval),
            "elbo": (BETA, found.elbo, {"units": "nats per token"}),
            "elbo_interval": ((BOUND, BETA), found.elbo_interval),
            "effective_beta": (STEP, found.effective_beta),
            "effective_interval": ((BOUND, STEP), found.effective_interval),
        },
        coords={BETA: found.betas, SCALE: list(FROM_ABOVE), **ENDS},
        attrs={"tokens": found.n, "width": width, "seed": found.seed, "reasons": json.dumps(found.reasons)},
    )
