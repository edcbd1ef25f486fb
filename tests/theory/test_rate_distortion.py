"""Rates and β meet closed forms; their comparison with conditional entropy meets planted covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mspgt_tl.errors import DataError
from mspgt_tl.theory.noise_effects import NoiseEffects
from mspgt_tl.theory.rate_distortion import conditional_rate, rank_test, rate_distortion

SIGMAS = np.array([0.2, 0.25, 0.3, 0.4, 0.5, 0.6])


def planted(curvature: float = 3.0, rows: int = 60, noise: float = 0.05) -> NoiseEffects:
    """Noise effects of two layers and both together, whose loss is ½ c σ² up to scatter over texts."""
    rng = np.random.default_rng(0)
    counts = np.full(rows, 11)
    loss = 0.5 * curvature * np.array([1.0, 2.0, 3.0])[:, None] * SIGMAS**2
    by_row = loss[:, :, None, None] * 10 * (1 + noise * rng.normal(size=(1, 1, 1, rows)))
    layers = ((0,), (1,), (0, 1))
    return NoiseEffects(
        ("layer 0", "layer 1", "both"), layers, SIGMAS, by_row, by_row, np.ones(rows), counts, counts - 1, 0
    )


SPECTRA = {0: np.full(8, 2.0), 1: np.full(8, 0.5)}
SCALES = {0: 1.0, 1: 1.0}


def test_beta_meets_its_closed_form() -> None:
    """With D = ½ c σ² and R = (d/2) log(1 + λ/σ²), β = c σ² (σ² + λ) / (d λ), within 2 % for steps this small."""
    found = rate_distortion(planted(), SPECTRA, SCALES)
    squares = found.beta_sigmas**2
    for layer, (curvature, spread) in enumerate(((3.0, 2.0), (6.0, 0.5))):
        truth = curvature * squares * (squares + spread) / (8 * spread)
        np.testing.assert_allclose(found.beta[layer], truth, rtol=0.02)
        assert (found.beta_interval[0, layer] < truth * 1.02).all()
        assert (found.beta_interval[1, layer] > truth * 0.98).all()


def test_together_layers_have_the_smallest_rate() -> None:
    """Information passes through both, so the rate is that of the narrower channel."""
    found = rate_distortion(planted(), SPECTRA, SCALES)
    np.testing.assert_allclose(found.rate[2], found.rate[1])
    assert (found.rate[0] > found.rate[1]).all()
    assert found.beta_sigmas[found.operating_step] == pytest.approx(np.sqrt(0.5 * 0.6))


def test_scales_set_the_size_of_the_noise() -> None:
    """Twice the scale is twice the noise: R(σ; 2s) = R(2σ; s)."""
    wide = rate_distortion(planted(), SPECTRA, {0: 2.0, 1: 2.0})
    expected = 4 * np.log1p(2.0 / (2 * SIGMAS) ** 2)
    np.testing.assert_allclose(wide.rate[0], expected)


def test_conditional_rate_of_planted_gaussians() -> None:
    """What regression leaves is planted noise: ½ d log(1 + r²/σ²), and nothing is left of a copy."""
    rng = np.random.default_rng(0)
    given = rng.normal(size=(20_000, 5))
    vectors = given @ rng.normal(size=(5, 5)) + 0.5 * rng.normal(size=given.shape)
    assert conditional_rate(vectors, given, 0.25) == pytest.approx(2.5 * np.log1p(4.0), rel=0.02)
    assert conditional_rate(given, given, 0.25) == pytest.approx(0, abs=1e-6)


def test_rank_test_finds_order_and_keeps_its_level() -> None:
    """A falling curve has correlation −1 and p near 0; independent ones pass 0.05 at most as often as they should."""
    x = np.arange(12.0)
    found = rank_test(x, -np.exp(x), seed=0)
    assert found.correlation == pytest.approx(-1)
    assert found.p_value < 0.001
    rng = np.random.default_rng(0)
    hits = [rank_test(x, rng.normal(size=12), seed=i, draws=400).p_value < 0.05 for i in range(300)]
    assert np.mean(hits) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_the_measured_order_counts_as_one_permutation() -> None:
    """Reached by none of 99 random orders, p is 1 / 100."""
    assert rank_test(np.arange(12.0), np.arange(12.0), seed=0, draws=99).p_value == 1 / 100


def test_rank_test_leaves_out_nan() -> None:
    """Layers without a value take no part."""
    x, y = np.arange(8.0), np.arange(8.0)
    y[0] = np.nan
    assert rank_test(x, y, seed=0).n == 7


def test_refuses_what_it_cannot_tell() -> None:
    """One σ has no slope, few texts no interval, few samples no covariance, a constant no order."""
    whole: Any = planted()
    one = NoiseEffects(whole.names, whole.layers, SIGMAS[:1], whole.kl[:, :1], whole.loss[:, :1], *_rest(whole))
    with pytest.raises(DataError, match="two sizes"):
        rate_distortion(one, SPECTRA, SCALES)
    with pytest.raises(DataError, match="20 texts"):
        rate_distortion(planted(rows=10), SPECTRA, SCALES)
    with pytest.raises(DataError, match="needs 50 samples"):
        conditional_rate(np.zeros((20, 5)), np.zeros((20, 5)), 1.0)
    with pytest.raises(DataError, match="not all alike"):
        rank_test(np.ones(9), np.arange(9.0), seed=0)


def _rest(effects: NoiseEffects) -> tuple[Any, ...]:
    return effects.clean_loss, effects.counts, effects.predictions, effects.seed
