"""Information over depth (eq. 25–28): about the next token, and about the input through a noisy channel.

Two quantities, both in nats per token:

- **V-information** (Xu et al. 2020; N as a reading of eq. 25): I_V(h_l → y) = H_V(y) − H_V(y | h_l), the cross-entropy
  of the best constant prediction less that of the best linear readout, both on texts that the readout has not seen. It
  is a lower bound of I(h_l; y). Unlike I it may grow with depth, since computing makes information easier to read.
- **Gaussian channel** (R): I(x; h_l + noise) ≤ ½ Σ log(1 + λ_i/σ²), with equality for a Gaussian stream; λ are the
  eigenvalues of its covariance. It is an upper bound at this noise, and says nothing without noise, where a
  deterministic network keeps all information.

**Domain.** From n samples nothing beyond ln n can be shown (McAllester & Stratos 2020): such an estimate is nan, with
its reason.

Prediction 1.2 (P; test R): the slope of information over depth jumps at boundaries, eq. 27–28. The jump at gap b is
|slope(b+1) − slope(b−1)|, slope(b) = I(b) − I(b−1), so it exists at gaps 2 … n_layers−2. Its mean over the boundaries
is compared with every other choice of as many gaps.

Cost: one forward pass for the streams; `ridge` adds a linear solve a layer and `softmax` some passes over a linear
layer, with as many logits a token as there are layers times classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from mspgt_tl.codec import stored
from mspgt_tl.contracts import BOUND, GAP, Progress
from mspgt_tl.errors import ConfigError, DataError, unknown_name
from mspgt_tl.stats import TAILS, resampled_ratio
from mspgt_tl.theory.streams import Split, split_texts, sum_by_text

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Readout = Literal["softmax", "ridge"]
Decode: TypeAlias = "Callable[[Float[Tensor, 'token d_model']], Float[Tensor, 'token vocab']]"

POOL = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
"""Weights of a ridge readout against the constant prediction; 0 is the constant, so V-information can be 0."""
PENALTIES = (1e-4, 1e-2, 1e-1, 1.0)
"""Ridge penalties, relative to the mean variance of an input."""
CHUNK = 1 << 23
"""Logits worked on at once: 32 MB in float32."""
MAX_SUBSETS = 20_000
"""Choices of gaps that are enumerated; beyond, as many are drawn."""


@dataclass(frozen=True)
class Information:
    """V-information about the next token, layer by layer."""

    value: Float[np.ndarray, "layer"]
    """Nats per token; nan where `reasons` says why. Slightly negative by chance where there is none."""
    interval: Float[np.ndarray, "2 layer"]
    """95 % bootstrap interval over the measured texts; the readout's own fit is taken as given."""
    entropy: float
    """H_V(y): cross-entropy of the constant prediction, nats."""
    n: int
    """Tokens measured on."""
    readout: Readout
    reasons: tuple[str, ...]
    seed: int
    resampled: Float[np.ndarray, "resample layer"]
    """The value in every bootstrap resample of the measured texts."""


def v_information(
    vectors: Float[np.ndarray, "layer token d_model"],
    following: Int[np.ndarray, "token"],
    row: Int[np.ndarray, "token"],
    *,
    n_classes: int,
    seed: int,
    readout: Readout = "softmax",
    decode: Decode | None = None,
    epochs: int = 5,
    learning_rate: float = 3e-3,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> Information:
    """Return the V-information of every layer about the next token, with a linear readout.

    Args:
        following: the target of every token, 0 … n_classes−1.
        row: the text of every token; texts are not cut between fitting and measuring, and they are what is resampled.
        readout: `softmax`, a linear softmax layer, trained from the constant prediction on, stopped by held-out loss;
            `ridge`, a ridge regression to the last layer that the model itself decodes (a tuned lens in closed form),
            mixed with the constant prediction by a held-out weight.
        decode: for `ridge`, from last-layer vectors to logits.
        epochs, learning_rate: of `softmax` (Adam; the step falls linearly).

    Raises:
        ConfigError: unknown readout, or `ridge` without `decode`.
        DataError: fewer than 20 texts, fewer tokens to fit than dimensions, or targets out of range.
    """
    if readout not in ("softmax", "ridge"):
        raise ConfigError(unknown_name("readout", str(readout), ("ridge", "softmax")))
    if readout == "ridge" and decode is None:
        raise ConfigError("A ridge readout needs decode, from last-layer vectors to logits.")
    if vectors.ndim != 3 or vectors.shape[1] != len(following) or len(row) != len(following) or not len(row):
        raise DataError(f"Vectors {list(vectors.shape)} do not fit {len(following)} targets in {len(row)} places.")
    if following.min() < 0 or following.max() >= n_classes:
        raise DataError(f"Targets lie between 0 and {n_classes - 1}, got {following.min()} to {following.max()}.")
    split = split_texts(row, seed=seed)
    if split.fit.sum() < 2 * vectors.shape[2]:
        raise DataError(
            f"A linear readout of {vectors.shape[2]} dimensions needs {2 * vectors.shape[2]} tokens to fit or more, "
            f"got {split.fit.sum()}. Give a longer text."
        )
    constant = _constant_prediction(following[split.fit], n_classes)
    if decode is not None and readout == "ridge":
        truth = _ridge(vectors, following, split, constant, decode)
    else:
        truth = _softmax(vectors, following, split, constant, seed, epochs, learning_rate, progress)
    return _summarise(truth, constant[following[split.measure]], row[split.measure], readout, seed, resamples)


def _constant_prediction(following: np.ndarray, n_classes: int) -> Float[np.ndarray, "vocab"]:
    """Return log-probabilities of every class, half a count added to each."""
    counts = np.bincount(following, minlength=n_classes) + 0.5
    return np.log(counts / counts.sum())


def _summarise(
    truth: Float[np.ndarray, "layer token"],
    constant: Float[np.ndarray, "token"],
    row: Int[np.ndarray, "token"],
    readout: Readout,
    seed: int,
    resamples: int,
) -> Information:
    sums, counts = sum_by_text(truth - constant, row)
    n = int(counts.sum())
    resampled = resampled_ratio(sums, counts, resamples=resamples, seed=seed)
    interval = np.quantile(resampled, TAILS, axis=0)
    value, reasons = refuse_beyond(sums.sum(axis=-1) / n, n)
    interval[:, np.isnan(value)] = np.nan
    return Information(value, interval, float(-constant.mean()), n, readout, tuple(reasons), seed, resampled)


def refuse_beyond(
    estimate: Float[np.ndarray, "layer"], n: int, what: str = "layer"
) -> tuple[Float[np.ndarray, "layer"], list[str]]:
    """Return estimates with nan for those beyond ln n, and the reason.

    >>> value, reasons = refuse_beyond(np.array([1.0, 9.0]), 100)
    >>> value.tolist(), reasons
    ([1.0, nan], ['Information is nan at layer 1: 100 samples show at most ln n = 4.61 nats.'])
    """
    beyond = estimate > math.log(n)
    if not beyond.any():
        return estimate.copy(), []
    named = f"every {what}" if beyond.all() else f"{what} " + ", ".join(str(i) for i in np.flatnonzero(beyond))
    why = f"Information is nan at {named}: {n} samples show at most ln n = {math.log(n):.2f} nats."
    return np.where(beyond, np.nan, estimate), [why]


def _softmax(
    vectors: np.ndarray,
    following: np.ndarray,
    split: Split,
    constant: np.ndarray,
    seed: int,
    epochs: int,
    learning_rate: float,
    progress: Progress | None,
) -> Float[np.ndarray, "layer token"]:
    """Return log-probabilities of the measured targets under linear softmax layers, all trained together."""
    import torch

    inputs = _standardise(vectors, split)
    targets = torch.from_numpy(following)
    fit, choose, measure = (np.flatnonzero(part) for part in (split.fit, split.choose, split.measure))
    n_layers, _, width = inputs.shape
    weight = torch.zeros(n_layers, width, len(constant), requires_grad=True)
    bias = torch.tensor(constant, dtype=torch.float32).expand(n_layers, 1, -1).clone().requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    batch = max(16, min(256, len(fit) // 8))
    steps = epochs * math.ceil(len(fit) / batch)
    rng = np.random.default_rng([seed, 6])
    best = _log_probabilities(inputs, targets, choose, weight, bias).mean(axis=1)
    kept = weight.detach().clone(), bias.detach().clone()
    done = 0
    for _ in range(epochs):
        order = rng.permutation(fit)
        for start in range(0, len(order), batch):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * (1 - done / steps)
            part = torch.from_numpy(order[start : start + batch])
            with torch.enable_grad():
                logits = torch.baddbmm(bias, inputs[:, part], weight)
                wanted = targets[part].repeat(n_layers)
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum")
                optimiser.zero_grad()
                (loss / len(part)).backward()
            optimiser.step()
            done += 1
            if progress:
                progress("softmax readout", done, steps)
        score = _log_probabilities(inputs, targets, choose, weight, bias).mean(axis=1)
        better = torch.from_numpy(score > best)[:, None, None]
        kept = torch.where(better, weight.detach(), kept[0]), torch.where(better, bias.detach(), kept[1])
        best = np.maximum(score, best)
    return _log_probabilities(inputs, targets, measure, *kept)


def _standardise(vectors: np.ndarray, split: Split) -> Float[Tensor, "layer token d_model"]:
    """Centre and scale every dimension by the texts to fit on."""
    import torch

    inputs = torch.from_numpy(np.array(vectors, dtype=np.float32))
    fit = inputs[:, np.flatnonzero(split.fit)]
    spread = fit.std(dim=1, keepdim=True)
    return (inputs - fit.mean(dim=1, keepdim=True)) / torch.where(spread > 0, spread, 1)


def _log_probabilities(
    inputs: Tensor, targets: Tensor, chosen: np.ndarray, weight: Tensor, bias: Tensor
) -> Float[np.ndarray, "layer token"]:
    import torch

    found = np.empty((len(inputs), len(chosen)))
    step = max(1, CHUNK // (len(inputs) * weight.shape[-1]))
    with torch.no_grad():
        for start in range(0, len(chosen), step):
            part = torch.from_numpy(chosen[start : start + step])
            logits = torch.baddbmm(bias, inputs[:, part], weight)
            index = targets[part].expand(len(inputs), -1)[..., None]
            logs = logits.gather(-1, index)[..., 0] - logits.logsumexp(-1)
            found[:, start : start + step] = logs.numpy()
    return found


def _ridge(
    vectors: np.ndarray, following: np.ndarray, split: Split, constant: np.ndarray, decode: Decode
) -> Float[np.ndarray, "layer token"]:
    """Return log-probabilities of the measured targets when each layer is mapped to the last and decoded."""
    last = np.asarray(vectors[-1], dtype=np.float64)
    found = np.empty((len(vectors), int(split.measure.sum())))
    for layer, given in enumerate(vectors):
        inputs = np.asarray(given, dtype=np.float64)
        mapped = last if layer == len(vectors) - 1 else _map_to_last(inputs, last, split)
        held_out = _pooled(mapped[split.choose], following[split.choose], constant, decode, POOL)
        best = POOL[int(held_out.mean(axis=1).argmax())]
        found[layer] = _pooled(mapped[split.measure], following[split.measure], constant, decode, (best,))[0]
    return found


def _map_to_last(inputs: np.ndarray, last: np.ndarray, split: Split) -> Float[np.ndarray, "token d_model"]:
    """Return the ridge regression to the last layer, its penalty chosen by held-out squared error."""
    mean_in, mean_out = inputs[split.fit].mean(axis=0), last[split.fit].mean(axis=0)
    centred = inputs - mean_in
    design = centred[split.fit]
    gram, cross = design.T @ design, design.T @ (last[split.fit] - mean_out)
    unit = np.trace(gram) / len(gram)
    best, lowest = centred[:, :1] * 0 + mean_out, np.inf
    for penalty in PENALTIES:
        solved = np.linalg.solve(gram + penalty * unit * np.eye(len(gram)), cross)
        error = np.square(centred[split.choose] @ solved + mean_out - last[split.choose]).mean()
        if error < lowest:
            best, lowest = centred @ solved + mean_out, error
    return best


def _pooled(
    mapped: np.ndarray, following: np.ndarray, constant: np.ndarray, decode: Decode, weights: Sequence[float]
) -> Float[np.ndarray, "weight token"]:
    """Return log-probabilities of the targets under the normalised geometric mixture with the constant prediction."""
    import torch

    found = np.empty((len(weights), len(mapped)))
    base = torch.tensor(constant, dtype=torch.float32)
    step = max(1, CHUNK // len(constant))
    with torch.inference_mode():
        for start in range(0, len(mapped), step):
            part = slice(start, start + step)
            logits = decode(torch.from_numpy(mapped[part])).float().cpu()[:, : len(constant)]
            index = torch.from_numpy(following[part])[:, None]
            for i, weight in enumerate(weights):
                mixed = torch.lerp(base.expand_as(logits), logits, weight)
                found[i, part] = (mixed.gather(-1, index)[:, 0] - mixed.logsumexp(-1)).numpy()
    return found


def channel_information(eigenvalues: Float[np.ndarray, "*any d_model"], sigma: float) -> Float[np.ndarray, "*any"]:
    """Return ½ Σ log(1 + λ_i/σ²) in nats: what a Gaussian of this covariance tells through noise of this size.

    >>> round(float(channel_information(np.array([3.0, 0.0]), 1.0)), 4)
    0.6931
    """
    if not sigma > 0:
        raise ConfigError(f"The noise of a channel is above 0, got {sigma}.")
    return 0.5 * np.log1p(np.maximum(eigenvalues, 0) / sigma**2).sum(axis=-1)


def spectrum(vectors: Float[np.ndarray, "token d_model"]) -> Float[np.ndarray, "eigenvalue"]:
    """Return the eigenvalues of the covariance, rising, in squared units of the stream.

    Raises:
        DataError: fewer than 5 samples a dimension: small eigenvalues would be made up.
    """
    n, width = vectors.shape
    if n < 5 * width:
        raise DataError(f"A covariance of {width} dimensions needs {5 * width} tokens or more, got {n}.")
    return np.linalg.eigvalsh(np.atleast_2d(np.cov(np.asarray(vectors, dtype=np.float64), rowvar=False)))


@dataclass(frozen=True)
class SlopeTest:
    """Whether information bends at boundaries more than elsewhere (prediction 1.2)."""

    slope: Float[np.ndarray, "gap"] = field(metadata=stored(GAP))
    """I(b) − I(b−1), nats per layer."""
    jump: Float[np.ndarray, "gap"] = field(metadata=stored(GAP))
    """|slope(b+1) − slope(b−1)|, nats per layer; nan at the first and the last gap, which lack a neighbour."""
    statistic: float = field(metadata=stored())
    """Mean jump over the boundaries."""
    elsewhere: float = field(metadata=stored())
    """Mean jump over the other gaps."""
    excess_interval: tuple[float, float] = field(metadata=stored(BOUND))
    """95 % bootstrap interval of `statistic - elsewhere`; nan without resamples. Noise lengthens jumps everywhere."""
    p_value: float = field(metadata=stored())
    """Share of choices of as many gaps that jump as much; nan where `reasons` says why."""
    smallest_p: float = field(metadata=stored())
    """The least that this test could give: 1 over the number of choices."""
    reasons: tuple[str, ...]


def slope_test(
    curve: Float[np.ndarray, "layer"],
    boundaries: Sequence[int],
    *,
    seed: int,
    resampled: Float[np.ndarray, "resample layer"] | None = None,
) -> SlopeTest:
    """Test prediction 1.2 on a curve of information over layers (eq. 27–28; test R).

    The p-value is exact over all choices of as many gaps, or over `MAX_SUBSETS` random ones where there are more.

    Raises:
        DataError: fewer than five layers, or a boundary that is no gap.
    """
    n_layers = len(curve)
    if n_layers < 5:
        raise DataError(f"A jump of the slope needs five layers or more, got {n_layers}.")
    chosen = sorted(set(boundaries))
    if not all(1 <= gap < n_layers for gap in chosen):
        raise DataError(f"Boundaries are gaps from 1 to {n_layers - 1}, got {list(boundaries)}.")
    slope, jump = np.diff(curve), _jumps(curve)
    known = [gap for gap in range(1, n_layers) if np.isfinite(jump[gap - 1])]
    inside = [gap for gap in chosen if gap in known]
    reasons = []
    if len(inside) < len(chosen):
        lost = ", ".join(str(gap) for gap in chosen if gap not in known)
        reasons.append(f"No jump of the slope can be told at gap {lost}: a neighbouring slope is missing.")
    if not chosen:
        reasons.append("Nothing is tested at boundaries: there are none.")
    if not inside or len(inside) == len(known):
        return SlopeTest(slope, jump, np.nan, np.nan, (np.nan, np.nan), np.nan, np.nan, tuple(reasons))
    statistic = jump[np.array(inside) - 1].mean()
    rest = [gap for gap in known if gap not in inside]
    interval = (np.nan, np.nan) if resampled is None else _excess_interval(resampled, inside, rest)
    if math.comb(len(known), len(inside)) <= MAX_SUBSETS:
        choices = list(itertools.combinations(known, len(inside)))
    else:
        rng = np.random.default_rng([seed, 7])
        choices = [tuple(inside), *(tuple(rng.choice(known, len(inside), replace=False)) for _ in range(MAX_SUBSETS))]
    null = jump[np.array(choices) - 1].mean(axis=1)
    p_value = float((null >= statistic - 1e-12).mean())
    smallest = 1 / len(choices)
    if smallest > 0.05:
        reasons.append(f"With {len(known)} gaps the slope test cannot give less than p = {smallest:.3f}.")
    elsewhere = float(jump[np.array(rest) - 1].mean())
    return SlopeTest(slope, jump, float(statistic), elsewhere, interval, p_value, smallest, tuple(reasons))


def _jumps(curve: Float[np.ndarray, "*resample layer"]) -> Float[np.ndarray, "*resample gap"]:
    """Return |slope(b+1) − slope(b−1)| at every gap, nan at the first and the last."""
    slope = np.diff(curve, axis=-1)
    jump = np.full(slope.shape, np.nan)
    jump[..., 1:-1] = np.abs(slope[..., 2:] - slope[..., :-2])
    return jump


def _excess_interval(
    resampled: Float[np.ndarray, "resample layer"], inside: Sequence[int], rest: Sequence[int]
) -> tuple[float, float]:
    jump = _jumps(resampled)
    excess = jump[:, np.array(inside) - 1].mean(axis=1) - jump[:, np.array(rest) - 1].mean(axis=1)
    low, high = np.quantile(excess, TAILS)
    return float(low), float(high)
