"""Closure: does the KL that noise really causes meet what the Fisher trace predicts (eq. 30, N)?

The ratio of the two tends to 1 as σ → 0, layer by layer and for a scale's layers together. Where it leaves 1 ± 0.1 the
quadratic expansion ends. Both sides are Monte-Carlo estimates on the same texts: the trace over draws of labels, the
KL over draws of noise; the error given with every ratio is that of both, not of the choice of texts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mspgt_tl.codec import stored
from mspgt_tl.config import TheoryConfig
from mspgt_tl.contracts import SET, SIGMA, CausalModel, Progress, layer_target
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.models.building import is_bridge
from mspgt_tl.passes.batches import POSITIONS
from mspgt_tl.theory.fisher import Fisher, measure_fisher
from mspgt_tl.theory.noise_effects import NoiseEffects, measure_noise
from mspgt_tl.theory.texts import read_texts

SIGMAS = TheoryConfig.closure_sigmas
TOLERANCE = 0.1
"""The expansion holds while measured over predicted KL is within so much of 1."""


@dataclass(frozen=True)
class Closure:
    """Measured over predicted KL for sets of layers over σ."""

    names: tuple[str, ...] = field(metadata=stored(SET, name=SET))
    layers: tuple[tuple[int, ...], ...]
    sigmas: Float[np.ndarray, "sigma"] = field(metadata=stored(SIGMA, name=SIGMA))
    measured: Float[np.ndarray, "set sigma"] = field(metadata=stored(SET, SIGMA, units="nats per token"))
    """Mean KL, nats per data token."""
    predicted: Float[np.ndarray, "set sigma"] = field(metadata=stored(SET, SIGMA, units="nats per token"))
    """½ σ² Σ s_l² tr F_l, nats per data token."""
    ratio: Float[np.ndarray, "set sigma"] = field(metadata=stored(SET, SIGMA))
    """Measured over predicted; nan where nothing is predicted."""
    error: Float[np.ndarray, "set sigma"] = field(metadata=stored(SET, SIGMA))
    """Standard error of the ratio from the draws of noise and labels."""
    exit_sigma: Float[np.ndarray, "set"] = field(metadata=stored(SET))
    """Where the ratio leaves 1 ± 0.1, interpolated in log σ; nan where `reasons` says why."""
    reasons: tuple[str, ...]
    """One for each set; empty where the exit is known."""
    dtype: str
    n_tokens: int
    seed: int


def measure_closure(
    model: CausalModel,
    tokens: Any,
    units: Mapping[int, float],
    *,
    seed: int,
    layers: Sequence[int] | None = None,
    sets: Mapping[str, Sequence[int]] | None = None,
    sigmas: Sequence[float] = SIGMAS,
    samples: int = 16,
    draws: int = 4,
    batch_positions: int = POSITIONS,
    progress: Progress | None = None,
    stage: str = "closure",
) -> Closure:
    """Measure the closure ratio of every layer and of further sets of layers, in the model's own dtype.

    Args:
        tokens: as `fisher_trace`.
        units: s_l of every layer, as from `activation_units`.
        layers: those to disturb one by one; all when None.
        sets: further layers to disturb together, by name, such as the scales.
        samples: draws of the labels, at least 2.
        draws: draws of the noise, at least 2.

    Raises:
        ConfigError: unusable sigmas, units, sets or draws.
        DataError: unusable tokens.
    """
    if samples < 2 or draws < 2:
        raise ConfigError(f"Closure needs 2 draws of labels and of noise to know its error, got {samples} and {draws}.")
    texts = read_texts(model, tokens)
    alone = range(int(model.cfg.n_layers)) if layers is None else layers
    every = {layer_target(layer): (layer,) for layer in alone} | dict(sets or {})
    both: dict[str, Any] = {"seed": seed, "batch_positions": batch_positions}
    effects = measure_noise(model, texts, every, sigmas, units, draws=draws, progress=progress, stage=stage, **both)
    fisher = measure_fisher(model, texts, samples=samples, **both)
    return compare(effects, fisher, units, dtype=str(model.cfg.dtype).removeprefix("torch."))


def compare(effects: NoiseEffects, fisher: Fisher, units: Mapping[int, float], *, dtype: str) -> Closure:
    """Return the closure of noise effects and a Fisher trace measured on the same texts.

    Raises:
        DataError: they saw different texts.
    """
    if not np.array_equal(effects.counts, fisher.counts):
        raise DataError("Noise effects and Fisher trace were measured on different texts.")
    n = int(effects.counts.sum())
    traces = fisher.sums.sum(axis=1) / n
    weighted = np.stack([sum(units[i] ** 2 * traces[:, i] for i in layers) for layers in effects.layers])
    predicted = 0.5 * weighted.mean(axis=1)[:, None] * effects.sigmas**2
    by_draw = effects.kl.sum(axis=-1) / n
    measured = by_draw.mean(axis=-1)
    ratio = np.divide(measured, predicted, out=np.full_like(measured, np.nan), where=predicted > 0)
    error = ratio * np.hypot(_relative_error(by_draw), _relative_error(weighted)[:, None])
    found = [find_exit(effects.sigmas, row) for row in ratio]
    return Closure(
        names=effects.names,
        layers=effects.layers,
        sigmas=effects.sigmas,
        measured=measured,
        predicted=predicted,
        ratio=ratio,
        error=error,
        exit_sigma=np.array([place for place, _ in found]),
        reasons=tuple(reason for _, reason in found),
        dtype=dtype,
        n_tokens=n,
        seed=effects.seed,
    )


def _relative_error(draws: Float[np.ndarray, "*any draw"]) -> Float[np.ndarray, "*any"]:
    """Standard error of the mean over draws, of which there are two or more, over the mean."""
    n, mean = draws.shape[-1], draws.mean(axis=-1)
    return np.divide(draws.std(axis=-1, ddof=1) / np.sqrt(n), mean, out=np.full_like(mean, np.nan), where=mean > 0)


def find_exit(sigmas: Float[np.ndarray, "sigma"], ratio: Float[np.ndarray, "sigma"]) -> tuple[float, str]:
    """Return the σ at which the ratio first leaves 1 ± 0.1, interpolated in log σ, or nan and the reason.

    >>> sigma, reason = find_exit(np.array([0.01, 0.1, 1.0]), np.array([1.0, 1.0, 0.8]))
    >>> round(sigma, 3), reason
    (0.316, '')
    """
    away = np.abs(ratio - 1)
    if not np.isfinite(away).all():
        return np.nan, "nothing is predicted: the trace is zero"
    if away[0] > TOLERANCE:
        return np.nan, f"not closed at the smallest sigma, {sigmas[0]:g}"
    beyond = np.flatnonzero(away > TOLERANCE)
    if not len(beyond):
        return np.nan, f"stays within {TOLERANCE:.0%} up to the largest sigma, {sigmas[-1]:g}"
    right = int(beyond[0])
    logs, edge = np.log(sigmas[right - 1 : right + 1]), 1 + np.sign(ratio[right] - 1) * TOLERANCE
    share = (edge - ratio[right - 1]) / (ratio[right] - ratio[right - 1])
    return float(np.exp(logs[0] + share * (logs[1] - logs[0]))), ""


def copy_as(model: CausalModel, dtype: Literal["float32", "float64"]) -> CausalModel:
    """Return a copy of a model in a wider dtype; the model itself stays as it is.

    Raises:
        ConfigError: a TransformerBridge, whose wrapped model cannot be copied safely: load it with that dtype.
    """
    import torch

    if is_bridge(model):
        raise ConfigError(f"A TransformerBridge is not copied; load the model again with dtype='{dtype}'.")
    wide: Any = copy.deepcopy(model)
    wide.to(getattr(torch, dtype), print_details=False)
    wide.cfg.dtype = getattr(torch, dtype)
    return wide
