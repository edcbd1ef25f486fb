"""H-VIB meets the KL chain rule, the exact posterior of a linear-Gaussian model, and its own optimum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.config import HVibConfig
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.theory.bottleneck import (
    HVib,
    Terms,
    UnembeddingDecoder,
    _summarise,
    effective_betas,
    fit_bottleneck,
    gaussian_kl,
)

PRIOR = {"global": 1.0, "intermediate": 0.7, "local": 0.5}
"""Standard deviations down the planted chain."""
PULL = (0.8, -1.3)
"""z_I is PULL[0]·z_G plus noise, z_L is PULL[1]·z_I plus noise, y is z_L plus noise."""
NOISE = 0.6
DRAWS = 40_000


def planted_covariance() -> np.ndarray:
    """Covariance of (z_G, z_I, z_L, y)."""
    spread = np.diag([*(value**2 for value in PRIOR.values()), NOISE**2])
    chain = np.eye(4)
    chain[1, 0], chain[2, 1], chain[3, 2] = -PULL[0], -PULL[1], -1
    inverse = np.linalg.inv(chain)
    return inverse @ spread @ inverse.T


def condition(covariance: np.ndarray, of: int, given: list[int]) -> tuple[np.ndarray, float]:
    """Weights and variance of a variable given others, all with mean zero."""
    weights = np.linalg.solve(covariance[np.ix_(given, given)], covariance[given, of]) if given else np.zeros(0)
    return weights, float(covariance[of, of] - covariance[of, given] @ weights)


def set_affine(part: Any, weights: np.ndarray, variance: float) -> None:
    part.mean.data = torch.tensor(weights, dtype=torch.float64)[:, None]
    part.mean_bias.data = torch.zeros(1, dtype=torch.float64)
    part.log_var.data = torch.zeros(len(weights), 1, dtype=torch.float64)
    part.log_var_bias.data = torch.full((1,), math.log(variance), dtype=torch.float64)


@pytest.fixture()
def exact() -> HVib:
    """The planted chain's own prior and its exact posterior given y, which every scale sees."""
    covariance = planted_covariance()
    model = HVib(1, 1, seed=0)
    for i in range(3):
        above = [i - 1] if i else []
        set_affine(model.priors[i], *condition(covariance, i, above))
        set_affine(model.posteriors[i], *condition(covariance, i, [3, *above]))
    return model


def likelihood(latents: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log N(y; z_L, NOISE²)."""
    return -0.5 * ((targets - latents[:, 2, 0]) / NOISE).square() - math.log(NOISE * math.sqrt(2 * math.pi))


def run(model: HVib, y: float, seed: int = 0) -> Terms:
    targets = torch.full((DRAWS,), y, dtype=torch.float64)
    inputs = targets[None, :, None].expand(3, -1, -1)
    with torch.no_grad():
        return model.terms(inputs, targets, likelihood, torch.Generator().manual_seed(seed))


def log_likelihood(y: float) -> float:
    variance = planted_covariance()[3, 3]
    return -0.5 * y**2 / variance - 0.5 * math.log(2 * math.pi * variance)


@pytest.mark.parametrize("y", [-2.0, 0.0, 1.5])
def test_elbo_is_the_likelihood_at_the_exact_posterior(exact: HVib, y: float) -> None:
    """E[reconstruction − KL] = log p(y) (eq. 11–12, equality)."""
    elbo = run(exact, y).objective()
    assert float(elbo.mean()) == pytest.approx(log_likelihood(y), abs=4 * float(elbo.std()) / math.sqrt(DRAWS))
    assert float(elbo.std()) / math.sqrt(DRAWS) < 0.01


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("part", ["mean", "mean_bias", "log_var_bias"])
def test_elbo_is_below_the_likelihood_elsewhere(exact: HVib, scale: int, part: str) -> None:
    """Any change of the posterior costs (eq. 12, inequality)."""
    getattr(exact.posteriors[scale], part).data += 0.5
    elbo = run(exact, 1.5).objective()
    assert float(elbo.mean()) + 4 * float(elbo.std()) / math.sqrt(DRAWS) < log_likelihood(1.5)


def test_kl_chain_is_the_joint_kl(exact: HVib) -> None:
    """The three rates add up to the KL of the joint Gaussians, in closed form from full covariances (eq. 13–17)."""
    y = 1.5
    joint = planted_covariance()
    prior = joint[:3, :3]
    gain = joint[:3, 3] / joint[3, 3]
    mean, posterior = gain * y, prior - np.outer(gain, joint[3, :3])
    inverse = np.linalg.inv(prior)
    logs = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(posterior)[1]
    truth = 0.5 * (np.trace(inverse @ posterior) + mean @ inverse @ mean - 3 + logs)
    total = run(exact, y).rates.sum(dim=1)
    assert float(total.mean()) == pytest.approx(truth, abs=4 * float(total.std()) / math.sqrt(DRAWS))
    assert truth > 0.5


def test_weights_of_one_give_the_elbo() -> None:
    """Eq. 18 with every β at 1 is eq. 17, and other weights weigh their own scale."""
    terms = Terms(torch.tensor([-1.0]), torch.tensor([[0.1, 0.2, 0.4]]))
    assert float(terms.objective()) == pytest.approx(-1.7)
    assert float(terms.objective((1.0, 1.0, 1.0))) == float(terms.objective())
    assert float(terms.objective((2.0, 0.5, 0.0))) == pytest.approx(-1.3)


def test_gaussian_kl_meets_torch() -> None:
    """Against torch's own KL of independent normals."""
    generator = torch.Generator().manual_seed(0)
    mean_q, log_q, mean_p, log_p = torch.randn(4, 50, 3, generator=generator)
    normal = torch.distributions.Normal
    q, p = normal(mean_q, (0.5 * log_q).exp()), normal(mean_p, (0.5 * log_p).exp())
    theirs = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean_q, log_q, mean_p, log_p), theirs, rtol=1e-4, atol=1e-5)


def planted_text(n: int = 4000, seed: int = 0) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """Streams in which only the local scale knows the next of eight tokens."""
    rng = np.random.default_rng(seed)
    following = rng.integers(8, size=n)
    local = (3 * np.eye(8)[following] + 0.3 * rng.normal(size=(n, 8))).astype(np.float32)
    vectors: dict[str, Any] = {"local": local}
    for name in ("intermediate", "global"):
        vectors[name] = rng.normal(size=(n, 8)).astype(np.float32)
    return vectors, vectors["global"], following, np.repeat(np.arange(n // 20), 20)


@pytest.fixture(scope="module")
def sweep() -> Any:
    vectors, last, following, row = planted_text()
    config = HVibConfig(betas=(0.2, 0.4, 0.8), width=4, steps=500, batch=512, learning_rate=2e-2)
    return fit_bottleneck(vectors, last, following, row, lambda h: h @ torch.eye(8), config, seed=0)


def test_only_the_scale_that_knows_pays(sweep: Any) -> None:
    """The local rate is most of ln 8; scales that know nothing cost nothing, and the ELBO beats a guess."""
    assert sweep.rates[0, 2] > 1.0
    assert (sweep.rates[:, :2] < 0.05).all()
    assert (sweep.elbo_interval[1] < 0).all()
    assert sweep.reconstruction[0] > -0.5


def test_rates_and_reconstruction_fall_with_the_weight(sweep: Any) -> None:
    """More compression, less rate and a worse reconstruction."""
    assert (np.diff(sweep.rates.sum(axis=1)) < 0).all()
    assert (np.diff(sweep.reconstruction) < 0).all()


def test_the_elbo_is_what_the_reconstruction_leaves_of_the_rates(sweep: Any) -> None:
    """Reconstruction less all three rates."""
    np.testing.assert_allclose(sweep.elbo, sweep.reconstruction - sweep.rates.sum(axis=1), rtol=1e-9)


def test_texts_that_are_alike_have_no_interval() -> None:
    """Every resample of equal texts gives the ELBO, from the same parts."""
    sums = np.tile(np.array([[-2.0, 0.5, 0.3, 0.1], [-2.5, 0.2, 0.1, 0.05]])[:, :, None], 25)
    found = _summarise(sums, np.ones(25), np.array([0.1, 1.0]), 0, 100)
    np.testing.assert_allclose(found.elbo, [-2.9, -2.85])
    np.testing.assert_allclose(found.elbo_interval, [found.elbo] * 2)
    np.testing.assert_allclose(found.rate_interval, [found.rates] * 2)


def test_effective_weights_lie_between_those_used(sweep: Any) -> None:
    """Eq. 22: the slope of the sweep between two weights lies between them, up to a tenth of their distance."""
    for low, high, found in zip(sweep.betas, sweep.betas[1:], sweep.effective_beta, strict=False):
        slack = 0.1 * (high - low)
        assert low - slack < found < high + slack


def test_a_flat_sweep_has_no_slope() -> None:
    """Where the rate does not fall there is no effective weight."""
    flat = np.array([[-2.0, 0.0, 0.0, 0.0], [-2.1, 0.0, 0.0, 0.0]])
    assert np.isnan(effective_betas(flat)).all()


def test_seeds_repeat() -> None:
    """Two fits of one seed agree to the bit; global random state is not touched."""
    vectors, last, following, row = planted_text(1000)
    config = HVibConfig(betas=(0.5, 1.0), width=2, steps=5, batch=128)
    state = torch.get_rng_state()
    one, again = (
        fit_bottleneck(vectors, last, following, row, lambda h: h @ torch.eye(8), config, seed=3) for _ in range(2)
    )
    np.testing.assert_array_equal(one.elbo, again.elbo)
    assert torch.equal(state, torch.get_rng_state())


def test_decoder_starts_at_the_mean_output() -> None:
    """Before any step the latents do not matter."""
    decoder = UnembeddingDecoder(2, torch.tensor([1.0, 0.0]), lambda h: h)
    with torch.no_grad():
        found = decoder(
            torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(5, dtype=torch.long)
        )
    assert found.tolist() == pytest.approx([-math.log(1 + math.exp(-1))] * 5)


def test_refuses_unusable_input() -> None:
    """A missing scale, too little text, weights that do not rise."""
    vectors, last, following, row = planted_text(1000)
    config = HVibConfig(betas=(0.5, 1.0), width=2, steps=2, batch=128)

    def fit(**changes: Any) -> Any:
        given: dict[str, Any] = {"vectors": vectors, "last": last, "following": following, "row": row} | changes
        return fit_bottleneck(**given, unembed=lambda h: h, config=config, seed=0)

    with pytest.raises(ConfigError, match="needs the scales"):
        fit(vectors={"local": vectors["local"]})
    with pytest.raises(DataError, match="20 texts"):
        fit(row=np.zeros(1000, dtype=int))
    with pytest.raises(ConfigError, match="betas"):
        HVibConfig(betas=(1.0, 0.5))
    few = {name: part[:100] for name, part in vectors.items()}
    with pytest.raises(DataError, match="needs 128 tokens"):
        fit(vectors=few, last=last[:100], following=following[:100], row=np.repeat(np.arange(25), 4))
