"""Estimates as labelled arrays, ready for a run's folder: what a page or a table reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.codec import pack, pack_all
from mspgt_tl.contracts import BOUND, CURVE, FROM_ABOVE, GAP, LAYER, SCALE, SET, SIGMA
from mspgt_tl.theory.closure import Closure
from mspgt_tl.theory.fisher import Fisher, scale_sensitivity
from mspgt_tl.theory.mutual_information import Information, slope_test
from mspgt_tl.theory.rate_distortion import RankTest, RateDistortion
from mspgt_tl.theory.texts import Texts

if TYPE_CHECKING:
    import xarray as xr

    from mspgt_tl.theory.bottleneck import Bottleneck

ENDS = {BOUND: ["low", "high"]}


def _dataset(variables: Mapping[str, Any], coords: Mapping[str, Any], **attributes: Any) -> xr.Dataset:
    import xarray as xr

    return xr.Dataset(variables, coords=coords, attrs=attributes)


def label_units(units: Mapping[int, float], texts: Texts) -> xr.Dataset:
    """Return the activation unit of every layer."""
    found = (LAYER, np.array(list(units.values())), {"long_name": "median of |h| / sqrt(d_model)"})
    return _dataset({"unit": found}, {LAYER: list(units)}, tokens=int(texts.counts.sum()), texts=len(texts))


def label_fisher(
    fisher: Fisher, units: Mapping[int, float], blocks: Mapping[str, range], *, resamples: int
) -> xr.Dataset:
    """Return traces, sensitivities s² tr F by layer, and their sums by scale, with intervals."""
    squares = np.array([units[layer] ** 2 for layer in range(len(units))])
    interval = fisher.interval(resamples=resamples)
    sums = [scale_sensitivity(fisher, list(part), units, resamples=resamples) for part in blocks.values()]
    return _dataset(
        {
            "trace": (LAYER, fisher.trace, {"units": "nats per token and squared unit of the stream"}),
            "trace_interval": ((BOUND, LAYER), interval),
            "sensitivity": (LAYER, squares * fisher.trace, {"units": "nats per token", "long_name": "s^2 tr F"}),
            "sensitivity_interval": ((BOUND, LAYER), squares * interval),
            "label_error": (LAYER, fisher.label_error),
            "left_out_trace": (LAYER, fisher.left_out.sum(axis=0) / fisher.counts.sum()),
            **pack_all(SCALE, sums),
        },
        {LAYER: np.arange(len(units)), SCALE: list(blocks), **ENDS},
        tokens=int(fisher.counts.sum()),
        texts=len(fisher.counts),
        samples=len(fisher.sums),
        seed=fisher.seed,
    )


def label_unmeasured(names: Sequence[str], sigmas: Sequence[float], dtype: str, reason: str) -> xr.Dataset:
    """Label a closure that was not measured: nan everywhere, and why."""
    empty = np.full((len(names), len(sigmas)), np.nan)
    return _dataset(
        {
            **{name: ((SET, SIGMA), empty.copy()) for name in ("measured", "predicted", "ratio", "error")},
            "exit_sigma": (SET, empty[:, 0].copy()),
        },
        {SET: list(names), SIGMA: list(sigmas)},
        dtype=dtype,
        reasons=json.dumps([reason]),
    )


def label_closure(closure: Closure) -> xr.Dataset:
    """Return measured over predicted KL by set of layers and sigma."""
    # With one sigma there is no exit to look for.
    found = zip(closure.names, closure.reasons, strict=True) if len(closure.sigmas) > 1 else ()
    grouped: dict[str, list[str]] = {}
    for name, why in found:
        if why:
            grouped.setdefault(why, []).append(name)
    reasons = [f"No exit from closure for {', '.join(names)}: {why}." for why, names in grouped.items()]
    told = {"dtype": closure.dtype, "tokens": closure.n_tokens, "seed": closure.seed, "reasons": json.dumps(reasons)}
    return _dataset(pack(closure)[0], {}, **told)


def label_information(
    found: Mapping[str, Information],
    channel: Mapping[float, tuple[np.ndarray, Sequence[str]]],
    boundaries: Sequence[int],
    *,
    seed: int,
    told: Sequence[str] = (),
) -> xr.Dataset:
    """Return every curve of information over layers with its slope test.

    Args:
        found: V-information by readout.
        channel: the Gaussian channel's information by noise, with reasons for what is nan.
        told: what else is to be said beside the reasons.
    """
    one = next(iter(found.values()))
    unknown = np.full((2, len(one.value)), np.nan)
    curves: dict[str, tuple[np.ndarray, np.ndarray, Sequence[str]]] = {
        f"next token, {name} readout": (info.value, info.interval, info.reasons) for name, info in found.items()
    }
    drawn = dict(zip(curves, (info.resampled for info in found.values()), strict=True))
    for sigma, (values, why) in channel.items():
        name = f"Gaussian channel, sigma {sigma:g}"
        curves[name] = (values, unknown, [f"{name}: {reason}" for reason in why])
    tests = {
        name: slope_test(values, boundaries, seed=seed, resampled=drawn.get(name))
        for name, (values, _, _) in curves.items()
    }
    reasons = [*told, *(reason for _, _, parts in curves.values() for reason in parts)]
    known = [name for name, (values, _, _) in curves.items() if np.isfinite(values).any()]
    reasons += dict.fromkeys(reason for name in known for reason in tests[name].reasons)
    return _dataset(
        {
            "information": ((CURVE, LAYER), np.stack([v for v, _, _ in curves.values()]), {"units": "nats per token"}),
            "interval": ((CURVE, BOUND, LAYER), np.stack([i for _, i, _ in curves.values()])),
            **pack_all(CURVE, tests.values()),
            "readout": (CURVE, [*found, *[""] * len(channel)], {"long_name": "readout; empty for the channel"}),
            "channel_sigma": (CURVE, [*[np.nan] * len(found), *channel]),
        },
        {CURVE: list(curves), LAYER: np.arange(len(one.value)), GAP: np.arange(1, len(one.value)), **ENDS},
        entropy=one.entropy,
        tokens=one.n,
        boundaries=list(boundaries) or "none",
        seed=seed,
        reasons=json.dumps(reasons),
    )


def label_rates(found: RateDistortion, conditional: np.ndarray, test: RankTest | None, why: str) -> xr.Dataset:
    """Return rates, distortions and beta by set of layers, and their comparison with eq. 23's entropies."""
    return _dataset(
        {**pack(found)[0], "conditional_rate": (LAYER, conditional, {"units": "nats per token"})},
        {LAYER: np.arange(len(conditional)), **ENDS},
        operating_step=found.operating_step,
        rank_correlation=np.nan if test is None else test.correlation,
        rank_p_value=np.nan if test is None else test.p_value,
        reasons=json.dumps([why] if why else []),
    )


def label_bottleneck(found: Bottleneck, width: int) -> xr.Dataset:
    """Return the H-VIB sweep."""
    told = {"tokens": found.n, "width": width, "seed": found.seed, "reasons": json.dumps(found.reasons)}
    return _dataset(pack(found)[0], {SCALE: list(FROM_ABOVE), **ENDS}, **told)
