"""Rate and distortion of noise in the stream, and the β that a layer's trade between them amounts to (eq. 19–23, R).

Noise of size σ·s_l on layer l makes it a channel of rate R_l(σ) = ½ Σ log(1 + λ_i/(σ s_l)²), λ the eigenvalues of the
layer's covariance: an upper bound of what the channel lets through, exact for a Gaussian stream. Its distortion
D_l(σ) is the measured loss increase. As σ moves, both move, and β_l(σ) = −∂D/∂R, a finite difference between
neighbouring σ. It depends on σ (it falls with σ² as σ → 0), so layers are compared at one σ.

Several layers disturbed together have the smallest of their rates, since information passes through all of them.

Cost: the rates, one forward pass for the covariances; the distortions, one for every layer or set and σ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from mspgt_tl.codec import stored
from mspgt_tl.contracts import BOUND, MIN_TEXTS, SET, SIGMA, STEP
from mspgt_tl.errors import DataError
from mspgt_tl.stats import TAILS, resampled_ratio
from mspgt_tl.theory.mutual_information import channel_information
from mspgt_tl.theory.noise_effects import NoiseEffects

OPERATING_SIGMA = 0.5
"""Layers are compared at the step between two σ whose geometric mean is nearest to this."""


@dataclass(frozen=True)
class RateDistortion:
    """Rate, distortion and β of layers or sets of layers over σ."""

    names: tuple[str, ...] = field(metadata=stored(SET, name=SET))
    sigmas: Float[np.ndarray, "sigma"] = field(metadata=stored(SIGMA, name=SIGMA))
    rate: Float[np.ndarray, "set sigma"] = field(metadata=stored(SET, SIGMA, units="nats per token"))
    """Nats per token; falls with σ."""
    distortion: Float[np.ndarray, "set sigma"] = field(metadata=stored(SET, SIGMA, units="nats per token"))
    """Loss increase, nats per scored token."""
    distortion_interval: Float[np.ndarray, "2 set sigma"] = field(metadata=stored(BOUND, SET, SIGMA))
    beta_sigmas: Float[np.ndarray, "step"] = field(metadata=stored(STEP, name="beta_sigma"))
    """Geometric mean of the two σ of each step."""
    beta: Float[np.ndarray, "set step"] = field(metadata=stored(SET, STEP))
    """−ΔD/ΔR, nats of loss per nat of rate."""
    beta_interval: Float[np.ndarray, "2 set step"] = field(metadata=stored(BOUND, SET, STEP))
    """95 % bootstrap intervals over texts; the covariances are taken as known."""

    @property
    def operating_step(self) -> int:
        """The step at which layers are compared."""
        return int(np.abs(np.log(self.beta_sigmas / OPERATING_SIGMA)).argmin())


def rate_distortion(
    effects: NoiseEffects,
    eigenvalues: Mapping[int, Float[np.ndarray, "eigenvalue"]],
    units: Mapping[int, float],
    *,
    resamples: int = 1000,
) -> RateDistortion:
    """Return rates, distortions and β with intervals.

    Args:
        effects: measured noise, at two σ or more.
        eigenvalues: of each layer's covariance, in squared units of the stream.
        units: the s_l that the noise was relative to.

    Raises:
        DataError: one σ only, fewer than 20 texts, or no text with a token to predict.
    """
    if len(effects.sigmas) < 2:
        raise DataError("β is a slope: noise of two sizes or more is needed.")
    if len(effects.counts) < MIN_TEXTS:
        raise DataError(f"An interval needs {MIN_TEXTS} texts or more, got {len(effects.counts)}.")

    def rate(layers: Sequence[int], sigma: float) -> float:
        return min(float(channel_information(eigenvalues[i], sigma * units[i])) for i in layers)

    rates = np.array([[rate(layers, sigma) for sigma in effects.sigmas] for layers in effects.layers])
    resampled = resampled_ratio(effects.loss.mean(axis=2), effects.predictions, resamples=resamples, seed=effects.seed)
    if np.isnan(resampled).any():
        raise DataError("Too few texts have a token to predict.")
    step = np.diff(rates, axis=1)
    slopes = -np.diff(resampled, axis=2) / step
    return RateDistortion(
        names=effects.names,
        sigmas=effects.sigmas,
        rate=rates,
        distortion=effects.mean_loss,
        distortion_interval=np.quantile(resampled, TAILS, axis=0),
        beta_sigmas=np.sqrt(effects.sigmas[1:] * effects.sigmas[:-1]),
        beta=-np.diff(effects.mean_loss, axis=1) / step,
        beta_interval=np.quantile(slopes, TAILS, axis=0),
    )


def conditional_rate(
    vectors: Float[np.ndarray, "token d_model"], given: Float[np.ndarray, "token d_model"], sigma: float
) -> float:
    """Return ½ log det(I + Σ_{v|g}/σ²): what is left to encode of a layer once another is known, at resolution σ (R).

    Σ_{v|g} is the covariance of what linear regression leaves. It stands in for the conditional entropy of eq. 23,
    which is −∞ for a layer that a network computes without noise from the layer before.

    Returns:
        Nats per token, not negative.

    Raises:
        DataError: fewer than 10 samples a dimension.
    """
    n, width = vectors.shape
    if n < 10 * width or len(given) != n:
        raise DataError(f"A conditional covariance of {width} dimensions needs {10 * width} samples or more, got {n}.")
    left, right = (np.asarray(part, dtype=np.float64) for part in (vectors, given))
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    solved = np.linalg.lstsq(right, left, rcond=None)[0]
    rest = left - right @ solved
    eigenvalues = np.linalg.eigvalsh(rest.T @ rest / (n - given.shape[1] - 1))
    return float(channel_information(eigenvalues, sigma))


@dataclass(frozen=True)
class RankTest:
    """Spearman's correlation with its permutation p-value."""

    correlation: float
    p_value: float
    """Two-sided."""
    n: int


def rank_test(
    x: Float[np.ndarray, "item"], y: Float[np.ndarray, "item"], *, seed: int, draws: int = 10_000
) -> RankTest:
    """Return Spearman's correlation of two curves over layers and its permutation p-value (eq. 23: β against entropy).

    Neighbouring layers are alike, so the p-value is too small wherever both curves drift; it is a description.

    Raises:
        DataError: fewer than five pairs of known values, or a constant curve.
    """
    known = np.isfinite(x) & np.isfinite(y)
    a, b = rankdata(x[known]), rankdata(y[known])
    if known.sum() < 5 or np.ptp(a) == 0 or np.ptp(b) == 0:
        raise DataError(f"A rank correlation needs five pairs or more that are not all alike, got {known.sum()}.")
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    found = float((a * b).mean())
    rng = np.random.default_rng([seed, 8])
    null = (rng.permuted(np.broadcast_to(a, (draws, len(a))), axis=1) * b).mean(axis=1)
    p_value = (1 + (np.abs(null) >= abs(found) - 1e-12).sum()) / (draws + 1)
    return RankTest(found, float(p_value), int(known.sum()))
