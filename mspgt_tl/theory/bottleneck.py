"""H-VIB: the paper's variational model, fitted to the frozen stream at the scales' last blocks (eq. 1, 9–22; R).

Latents z_G → z_I → z_L summarise a token's context; x_G, x_I, x_L are the stream after the last block of the Global,
Intermediate and Local scale. All conditionals are diagonal Gaussians whose mean and log-variance are affine:

    prior      p(z_G),       p(z_I | z_G),       p(z_L | z_I)          learned (eq. 9)
    posterior  q(z_G | x_G), q(z_I | x_I, z_G),  q(z_L | x_L, z_I)     (eq. 10)
    decoder    p(y | z_G, z_I, z_L): an affine map to the last block's output, then the model's own unembedding

    objective  E_q[log p(y | z)] − Σ_k β_k KL_k,   KL_k = E_q KL(q(z_k | ·) ‖ p(z_k | ·))           (eq. 14–18)

The sum of the three KL terms is the KL of the joint posterior to the joint prior (eq. 13–17), and with every β at 1
the objective is the ELBO. Sweeping β traces D = −E log p(y | z) against R = Σ KL_k; at an optimum −∂D/∂R is β itself
(eq. 22), so the slope between two weights must lie between them. How far it does not is how far the fit is from an
optimum.

**Domain.** A posterior is fitted per token, so rates are nats per token. Everything is measured on texts held out from
the fit. The result is that of this family with this many dimensions; a wider one would have other rates.

Cost: one forward pass for the streams; a fit is `steps` × `batch` unembeddings with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mspgt_tl.codec import stored
from mspgt_tl.config import HVibConfig
from mspgt_tl.contracts import BETA, BOUND, FROM_ABOVE, SCALE, SEEDS, STEP, Progress
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.stats import TAILS, resampled_ratio
from mspgt_tl.theory.streams import Split, split_texts, sum_by_text

EVALUATION_DRAWS = 4
LIMIT = 12.0
"""Log-variances are kept within ± this; beyond, exp overflows in the first steps of a fit."""
Likelihood: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""From latents `[token, 3, width]` and targets to log p(y | z), `[token]`."""


def gaussian_kl(mean_q: Tensor, log_var_q: Tensor, mean_p: Tensor, log_var_p: Tensor) -> Tensor:
    """Return KL(q ‖ p) of diagonal Gaussians, summed over the last axis, in nats.

    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> float(gaussian_kl(one, zero, zero, zero))
    0.5
    """
    ratio = (log_var_q - log_var_p).exp()
    shift = (mean_q - mean_p).square() * (-log_var_p).exp()
    return 0.5 * (ratio + shift - 1 + log_var_p - log_var_q).sum(-1)


class AffineGaussian(nn.Module):
    """A diagonal Gaussian whose mean and log-variance are affine in what it is conditioned on."""

    def __init__(self, given: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.randn(given, width, generator=generator) / max(given, 1) ** 0.5
        self.mean = nn.Parameter(start)
        self.mean_bias = nn.Parameter(torch.zeros(width))
        self.log_var = nn.Parameter(torch.zeros(given, width))
        self.log_var_bias = nn.Parameter(torch.zeros(width))

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, `[token, width]`."""
        spread = (given @ self.log_var + self.log_var_bias).clamp(-LIMIT, LIMIT)
        return given @ self.mean + self.mean_bias, spread


@dataclass(frozen=True)
class Terms:
    """The parts of the objective, token by token, nats."""

    reconstruction: Float[Tensor, "token"]
    """log p(y | z) at one draw of z."""
    rates: Float[Tensor, "token 3"]
    """KL of every scale's posterior to its prior, given the drawn latents above it; global, intermediate, local."""

    def objective(self, betas: Sequence[float] = (1.0, 1.0, 1.0)) -> Float[Tensor, "token"]:
        """Return eq. 18; with the default weights, the ELBO."""
        return self.reconstruction - self.rates @ torch.tensor(list(betas), dtype=self.rates.dtype)


class HVib(nn.Module):
    """The chain of priors and posteriors; what decodes the latents is given with every call.

    Args:
        inputs: width of each scale's input.
        width: dimensions of each latent.
    """

    def __init__(self, inputs: int, width: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        above = (0, width, width)
        self.width = width
        self.priors = nn.ModuleList(AffineGaussian(n, width, generator=generator) for n in above)
        self.posteriors = nn.ModuleList(AffineGaussian(inputs + n, width, generator=generator) for n in above)

    def terms(
        self, inputs: Float[Tensor, "3 token d"], targets: Tensor, likelihood: Likelihood, generator: torch.Generator
    ) -> Terms:
        """Draw the latents once and return the parts of the objective.

        Args:
            inputs: x_G, x_I, x_L.
        """
        above = inputs.new_zeros(inputs.shape[1], 0)
        latents, rates = [], []
        for given, prior, posterior in zip(inputs, self.priors, self.posteriors, strict=True):
            mean, spread = posterior(torch.cat([given, above], dim=-1))
            rates.append(gaussian_kl(mean, spread, *prior(above)))
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
            above = mean + (0.5 * spread).exp() * noise
            latents.append(above)
        return Terms(likelihood(torch.stack(latents, dim=1), targets), torch.stack(rates, dim=-1))


class UnembeddingDecoder(nn.Module):
    """Decodes latents to the next token: an affine map to the last block's output, then the model's own logits."""

    def __init__(self, width: int, mean_output: Float[Tensor, "d_model"], unembed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.unembed = unembed
        self.weight = nn.Parameter(torch.zeros(3 * width, len(mean_output)))
        self.bias = nn.Parameter(mean_output.clone())

    def forward(self, latents: Tensor, targets: Tensor) -> Tensor:
        """Return log p(y | z), where the latents are; the model may be elsewhere."""
        logits = self.unembed(latents.flatten(1) @ self.weight + self.bias).float()
        found = logits.gather(-1, targets[:, None].to(logits.device))[:, 0] - logits.logsumexp(-1)
        return found.to(latents.device)


@dataclass(frozen=True)
class Bottleneck:
    """H-VIB at several weights, on held-out texts. Nats per token."""

    betas: Float[np.ndarray, "weight"] = field(metadata=stored(BETA, name=BETA))
    reconstruction: Float[np.ndarray, "weight"] = field(metadata=stored(BETA, units="nats per token"))
    """Mean log p(y | z)."""
    rates: Float[np.ndarray, "weight 3"] = field(metadata=stored(BETA, SCALE, name="rate", units="nats per token"))
    """Mean KL of the global, intermediate and local scale."""
    elbo: Float[np.ndarray, "weight"] = field(metadata=stored(BETA, units="nats per token"))
    """Reconstruction less all rates, whatever weight the fit used."""
    elbo_interval: Float[np.ndarray, "2 weight"] = field(metadata=stored(BOUND, BETA))
    rate_interval: Float[np.ndarray, "2 weight 3"] = field(metadata=stored(BOUND, BETA, SCALE))
    effective_beta: Float[np.ndarray, "step"] = field(metadata=stored(STEP))
    """−ΔD/ΔR between neighbouring weights (eq. 22); nan where the rate did not fall."""
    effective_interval: Float[np.ndarray, "2 step"] = field(metadata=stored(BOUND, STEP))
    n: int
    """Tokens measured on."""
    reasons: tuple[str, ...]
    seed: int


def fit_bottleneck(
    vectors: Mapping[str, Float[np.ndarray, "token d_model"]],
    last: Float[np.ndarray, "token d_model"],
    following: Int[np.ndarray, "token"],
    row: Int[np.ndarray, "token"],
    unembed: Callable[[Tensor], Tensor],
    config: HVibConfig,
    *,
    seed: int,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> Bottleneck:
    """Fit H-VIB at every weight of the sweep and measure it on texts held out from the fit.

    Args:
        vectors: the stream at the last block of `global`, `intermediate` and `local`.
        last: the stream after the last block of all, which says where the decoder starts.
        unembed: from last-block outputs to logits, with gradients.

    Raises:
        ConfigError: a scale is missing.
        DataError: too few texts or tokens, or a fit that diverges.
    """
    if set(vectors) != set(FROM_ABOVE):
        raise ConfigError(f"H-VIB needs the scales {', '.join(FROM_ABOVE)}; got {', '.join(vectors) or 'none'}.")
    split = split_texts(row, seed=seed)
    if split.fit.sum() < 10 * config.width or split.fit.sum() < config.batch:
        raise DataError(
            f"H-VIB of width {config.width} needs {max(10 * config.width, config.batch)} tokens to fit, "
            f"got {split.fit.sum()}."
        )
    inputs = torch.stack([_standardise(vectors[name], split) for name in FROM_ABOVE])
    targets = torch.from_numpy(following)
    start = torch.from_numpy(np.asarray(last[split.fit], dtype=np.float32).mean(axis=0))
    measure = torch.from_numpy(np.flatnonzero(split.measure))
    sums: list[np.ndarray] = []
    counts = np.zeros(0)
    for i, beta in enumerate(config.betas):
        model = HVib(inputs.shape[-1], config.width, seed=seed)
        decoder = UnembeddingDecoder(config.width, start, unembed)

        def report(done: int, i: int = i) -> None:
            if progress:
                progress("H-VIB", i * config.steps + done, len(config.betas) * config.steps)

        train(model, decoder, inputs, targets, split, (beta,) * 3, config, seed=seed, report=report)
        found, counts = sum_by_text(_evaluate(model, decoder, inputs, targets, measure, seed), row[split.measure])
        sums.append(found)
    return _summarise(np.stack(sums), counts, np.array(config.betas), seed, resamples)


def train(
    model: HVib,
    likelihood: nn.Module,
    inputs: Float[Tensor, "3 token d"],
    targets: Tensor,
    split: Split,
    betas: Sequence[float],
    config: HVibConfig,
    *,
    seed: int,
    report: Callable[[int], None] | None = None,
) -> None:
    """Maximise eq. 18 with these weights for the global, intermediate and local scale, in place.

    Raises:
        ConfigError: a weight below zero.
        DataError: the objective is not finite.
    """
    if len(betas) != 3 or not min(betas) >= 0:
        raise ConfigError(f"Three weights, none below zero, are needed; got {list(betas)}.")
    fit, rng = np.flatnonzero(split.fit), np.random.default_rng([seed, 9])
    generator = torch.Generator().manual_seed(seed)
    parameters = [*model.parameters(), *likelihood.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (1 - 0.9 * step / config.steps)
        part = torch.from_numpy(rng.choice(fit, min(config.batch, len(fit)), replace=False))
        with torch.enable_grad():
            loss = -model.terms(inputs[:, part], targets[part], likelihood, generator).objective(betas).mean()
            optimiser.zero_grad()
            loss.backward()
        if not bool(torch.isfinite(loss)):
            raise DataError(f"H-VIB diverged at step {step}: lower hvib.learning_rate, now {config.learning_rate}.")
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        if report:
            report(step + 1)


def _evaluate(
    model: HVib, likelihood: nn.Module, inputs: Tensor, targets: Tensor, chosen: Tensor, seed: int
) -> Float[np.ndarray, "4 token"]:
    """Return reconstruction and the three rates of every token, averaged over draws of the latents."""
    generator = torch.Generator().manual_seed((seed + 1) % SEEDS)
    found = np.zeros((4, len(chosen)))
    with torch.no_grad():
        for start in range(0, len(chosen), 1024):
            part = chosen[start : start + 1024]
            for _ in range(EVALUATION_DRAWS):
                terms = model.terms(inputs[:, part], targets[part], likelihood, generator)
                both = torch.cat([terms.reconstruction[:, None], terms.rates], dim=1)
                found[:, start : start + len(part)] += both.T.double().numpy() / EVALUATION_DRAWS
    return found


def _standardise(vectors: Any, split: Split) -> Float[Tensor, "token d_model"]:
    given = np.asarray(vectors, dtype=np.float32)
    spread = given[split.fit].std(axis=0)
    return torch.from_numpy((given - given[split.fit].mean(axis=0)) / np.where(spread > 0, spread, 1))


def _summarise(
    sums: Float[np.ndarray, "weight 4 text"], counts: np.ndarray, betas: np.ndarray, seed: int, resamples: int
) -> Bottleneck:
    n = counts.sum()
    means = sums.sum(axis=-1) / n
    resampled = resampled_ratio(sums, counts, resamples=resamples, seed=seed)
    elbo = resampled[..., 0] - resampled[..., 1:].sum(axis=-1)
    effective, again = effective_betas(means), effective_betas(resampled)
    reasons = [
        f"Effective β between {low:g} and {high:g} is nan: the rate did not fall by more than 0.001 nats."
        for low, high, value in zip(betas, betas[1:], effective, strict=False)
        if np.isnan(value)
    ]
    again[:, np.isnan(effective)] = np.nan
    known = np.isfinite(effective)
    interval = np.full((2, len(effective)), np.nan)
    if known.any():
        interval[:, known] = np.nanquantile(again[:, known], TAILS, axis=0)
    return Bottleneck(
        betas=betas,
        reconstruction=means[:, 0],
        rates=means[:, 1:],
        elbo=means[:, 0] - means[:, 1:].sum(axis=-1),
        elbo_interval=np.quantile(elbo, TAILS, axis=0),
        rate_interval=np.quantile(resampled[..., 1:], TAILS, axis=0),
        effective_beta=effective,
        effective_interval=interval,
        n=int(n),
        reasons=tuple(reasons),
        seed=seed,
    )


def effective_betas(means: Float[np.ndarray, "*any weight 4"]) -> Float[np.ndarray, "*any step"]:
    """Return −ΔD/ΔR between neighbouring weights, D the negative reconstruction and R the sum of rates (eq. 22).

    >>> effective_betas(np.array([[-3.0, 1.0, 1.0, 0.0], [-3.5, 0.5, 0.5, 0.0]]))
    array([0.5])
    """
    gained = -np.diff(means[..., 0], axis=-1)
    spared = -np.diff(means[..., 1:].sum(axis=-1), axis=-1)
    return np.divide(gained, spared, out=np.full_like(gained, np.nan), where=spared > 1e-3)
