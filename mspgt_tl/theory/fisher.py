"""Fisher sensitivity of the residual stream: how much the output changes when a layer is disturbed (eq. 29–31).

Definition (P; which Fisher information, R). A text x has output distributions p(y_t | x_≤t), one for each of its data
positions t. With h a vector of the stream after block l at data position p, and everything else fixed, its Fisher
matrix is that of the text's *whole* output, all positions together:

    F_l[p] = E_y[g gᵀ],  g = ∇_h Σ_t log p(y_t | x_≤t),  y_t ~ p(· | x_≤t) independently.

Positions t > p contribute through attention. The trace of layer l is the mean of tr F_l[p] over data positions p, in
nats per token (per squared unit of the stream). So with independent noise of standard deviation σ·s_l on every data
position of the layers S, the mean over data tokens of KL(clean ‖ noised) is ½ σ² Σ_{l∈S} s_l² tr F_l up to
higher orders (eq. 30): scores of different positions have mean zero given the text, so their cross terms vanish in
the trace, and noise of different positions and layers is independent, so theirs vanish in the KL.

One backward pass over sampled labels gives |g|² of every layer and position at once, and E|g|² = tr F. What noise on
first tokens and sinks would add is kept apart (`Fisher.left_out`): they are no data, but an intervention may
disturb them.

Cost: one forward and `samples` backward passes to the first block's output, whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import reduce

from mspgt_tl.codec import stored
from mspgt_tl.contracts import BOUND, MIN_TEXTS, RESAMPLE, CausalModel, Progress, check_seed
from mspgt_tl.errors import ActivationError, ConfigError, DataError
from mspgt_tl.interventions import philox
from mspgt_tl.passes.batches import POSITIONS
from mspgt_tl.stats import TAILS, resampled_ratio
from mspgt_tl.theory.texts import TokenBatch, Tokens, read_texts, text_batches

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

VOCAB_CHUNK = 1 << 22
"""Probabilities that labels are drawn from at once: 32 MB in float64."""


@dataclass(frozen=True)
class Fisher:
    """Squared score norms, summed text by text. Unit: nats per squared unit of the stream."""

    sums: Float[np.ndarray, "sample row layer"]
    """Sum over a row's data positions of |g|², for every draw of the labels."""
    left_out: Float[np.ndarray, "row layer"]
    """The same at the tokens that are no data, averaged over draws."""
    counts: Int[np.ndarray, "row"]
    """Data tokens of every row."""
    seed: int

    @property
    def trace(self) -> Float[np.ndarray, "layer"]:
        """tr F of every layer, mean over data tokens; not negative."""
        return self.sums.mean(axis=0).sum(axis=0) / self.counts.sum()

    @property
    def label_error(self) -> Float[np.ndarray, "layer"]:
        """Standard error of the trace from the draw of the labels alone, given the text.

        From the scatter of the draws; with one draw it cannot be told and is nan.
        """
        n = len(self.sums)
        totals = self.sums.sum(axis=1) / self.counts.sum()
        return totals.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(totals.shape[1], np.nan)

    def resample(self, resamples: int = 1000) -> Float[np.ndarray, "resample layer"]:
        """Return bootstrap resamples of the trace over texts.

        Raises:
            DataError: fewer than 20 texts.
        """
        if len(self.counts) < MIN_TEXTS:
            raise DataError(f"An interval needs {MIN_TEXTS} texts or more, got {len(self.counts)}.")
        return resampled_ratio(self.sums.mean(axis=0).T, self.counts, resamples=resamples, seed=self.seed)

    def interval(self, *, resamples: int = 1000) -> Float[np.ndarray, "2 layer"]:
        """Return the 95 % bootstrap interval over texts of every layer's trace."""
        return np.quantile(self.resample(resamples), TAILS, axis=0)

    def predicted_kl(self, sigma: float, layers: Iterable[int], units: Mapping[int, float]) -> float:
        """Return ½ σ² Σ s_l² tr F_l over `layers` (eq. 30), in nats per token.

        >>> fisher = Fisher(np.array([[[3.0, 5.0]]]), np.zeros((1, 2)), np.array([1]), seed=0)
        >>> round(fisher.predicted_kl(0.1, [0, 1], {0: 1.0, 1: 2.0}), 6)
        0.115
        """
        return 0.5 * sigma**2 * float(sum(units[layer] ** 2 * self.trace[layer] for layer in layers))


@dataclass(frozen=True)
class Sensitivity:
    """A scale's summed sensitivity Σ_{l∈scale} s_l² tr F_l, in nats per token: twice its KL over σ²."""

    value: float = field(metadata=stored(name="scale_sensitivity"))
    interval: tuple[float, float] = field(metadata=stored(BOUND, name="scale_interval"))
    """95 % bootstrap interval over texts."""
    resampled: Float[np.ndarray, "resample"] = field(metadata=stored(RESAMPLE, name="scale_resampled"))


def fisher_trace(
    model: CausalModel, tokens: Tokens, *, seed: int, samples: int = 1, mask: Any = None
) -> Float[np.ndarray, "layer"]:
    """Return tr F of every layer's residual stream, mean over the data tokens (eq. 30, P; see the module).

    Args:
        tokens: ids `[row, pos]`, or lists of ids; padding is told by `mask` (1 on tokens). Or `read_texts` of them.
        seed: of the labels that are drawn from the model.
        samples: draws of the labels, one backward pass each.

    Returns:
        Float64, not negative, in nats per token and squared unit of the stream.

    Raises:
        DataError: unusable tokens.
        ConfigError: unusable seed or samples, or a float16 model, whose gradients underflow.
        ActivationError: a gradient is not finite, or a batch does not fit into memory.
    """
    return measure_fisher(model, tokens, seed=seed, samples=samples, mask=mask).trace


def measure_fisher(
    model: CausalModel,
    tokens: Any,
    *,
    seed: int,
    samples: int = 1,
    mask: Any = None,
    batch_positions: int = POSITIONS,
    progress: Progress | None = None,
) -> Fisher:
    """Return the squared score norms behind `fisher_trace`, text by text, for intervals and sums over scales.

    Batches change nothing beyond rounding: a label depends on the seed, the row, the position and the draw.
    """
    import torch

    check_seed(seed)
    if samples < 1:
        raise ConfigError(f"samples must be positive, got {samples}.")
    if model.cfg.dtype == torch.float16:
        raise ConfigError("Fisher traces need float32, bfloat16 or float64: squared gradients underflow in float16.")
    texts = read_texts(model, tokens, mask=mask)
    n_layers = int(model.cfg.n_layers)
    sums, left_out = np.zeros((samples, len(texts), n_layers)), np.zeros((len(texts), n_layers))
    done = 0
    batches = text_batches(model, texts, "gradients", positions=batch_positions)
    for batch in batches:
        with batches.fitting():
            norms = _score_norms(model, batch, seed, samples, len(texts))
            if not bool(torch.isfinite(norms).all()):
                raise ActivationError(
                    f"Gradients are nan or inf in a batch of {len(batch.rows)} rows: try dtype float32."
                )
            found = reduce(norms * batch.is_data, "sample layer text pos -> sample text layer", "sum")
            sums[:, batch.rows] = found.cpu().numpy()
            others = batch.is_token & ~batch.is_data
            left_out[batch.rows] = (norms * others).sum(-1).mean(0).T.cpu().numpy()
            done += len(batch.rows)
            if progress:
                progress("fisher", done, len(texts))
    return Fisher(sums, left_out, texts.counts, seed)


def _score_norms(
    model: CausalModel, batch: TokenBatch, seed: int, samples: int, n_rows: int
) -> Float[Tensor, "sample layer batch pos"]:
    """Return |g|² in float64 at every layer and position."""
    import torch

    streams: dict[int, Tensor] = {}
    layers = range(int(model.cfg.n_layers))
    hooks = [(f"blocks.{layer}.hook_resid_post", partial(_keep, layer=layer, into=streams)) for layer in layers]
    with torch.inference_mode(False), torch.enable_grad(), model.hooks(fwd_hooks=hooks):
        logits = model.forward(batch.tokens)
        # One normalised score for both: drawing the labels and their log-probabilities.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        chosen = batch.is_data.nonzero(as_tuple=True)
        picked = logits[chosen]
        normaliser = picked.logsumexp(-1)
        found = []
        for sample in range(samples):
            labels = _draw_labels(picked.detach(), batch, chosen, seed, sample * n_rows)
            score = (picked.gather(-1, labels[:, None])[:, 0] - normaliser).sum()
            last = sample + 1 == samples
            gradients = torch.autograd.grad(score, [streams[layer] for layer in layers], retain_graph=not last)
            found.append(torch.stack([gradient.double().square().sum(-1) for gradient in gradients]))
    return torch.stack(found)


def _keep(resid: Tensor, hook: Any, *, layer: int, into: dict[int, Tensor]) -> Tensor:
    """Let the stream through as a tensor of our own, at which the gradient can be asked for."""
    # Weights carry no gradient, so the graph starts after the first block: nothing below it is kept or differentiated.
    into[layer] = resid.detach().requires_grad_() if layer == 0 else resid.view_as(resid)
    return into[layer]


def _draw_labels(
    logits: Float[Tensor, "token vocab"], batch: TokenBatch, chosen: tuple[Tensor, ...], seed: int, first_id: int
) -> Int[Tensor, "token"]:
    """Draw one label a position from the model's own distribution, by counter-based uniforms and the inverse CDF."""
    import torch

    rows, places = chosen
    ids = torch.from_numpy(batch.rows).to(rows.device)[rows] + first_id
    uniforms = philox.uniform(seed, sample_ids=ids, positions=places)
    labels = torch.empty_like(rows)
    step = max(1, VOCAB_CHUNK // logits.shape[-1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        labels[part] = philox.categorical(logits[part].softmax(-1), uniforms[part])
    return labels


def scale_sensitivity(
    fisher: Fisher, layers: Sequence[int], units: Mapping[int, float], *, resamples: int = 1000
) -> Sensitivity:
    """Return Σ_{l∈layers} s_l² tr F_l with its interval (eq. 30–31, P).

    Args:
        layers: the blocks of a scale.
        units: s_l of every layer, as from `activation_units`; taken as known.

    Raises:
        ConfigError: a layer does not exist or has no unit.
        DataError: fewer than 20 texts.
    """
    weights = np.array([units.get(layer, np.nan) ** 2 for layer in layers])
    n_layers = fisher.sums.shape[-1]
    if not len(weights) or not np.isfinite(weights).all() or not all(0 <= layer < n_layers for layer in layers):
        raise ConfigError(f"Layers from 0 to {n_layers - 1} with a unit each are needed, got {list(layers)}.")
    resampled = fisher.resample(resamples)[:, list(layers)] @ weights
    low, high = np.quantile(resampled, TAILS)
    return Sensitivity(float(fisher.trace[list(layers)] @ weights), (float(low), float(high)), resampled)
