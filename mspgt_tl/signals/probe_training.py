"""Trains the probes of all layers of one task together, as one batched module.

Layers never mix: the loss is a sum over layers and Adam works entry by entry, so the batch gives what a loop
over layers would (the tests hold us to it).

What matters here is the difference between neighbouring layers, and the bootstrap over test items does not
see the luck of training. So all layers start from the same draw and see the same minibatches (common random
numbers), and the step size falls towards 0. Measured (small model, 1,000 sentences, parts of speech; standard
deviation of a jump over seeds): own starts, constant 1e-3, 20 epochs, 0.016; common starts 0.012; falling
from 3e-3 in 10 epochs 0.008, at equal F1 and 0.6 of the time.

Speed is bound by matrix products, so these run in bfloat16 where the processor has it (`has_bfloat16`); torch adds up
their terms in float32. Weights, Adam's sums, softmax, losses and the logits that are compared stay float32. Rows are
standardised once, and gradients are written out, which saves autograd's bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.config import ProbeConfig
from mspgt_tl.errors import ActivationError
from mspgt_tl.models.placement import has_bfloat16
from mspgt_tl.passes.words import Vectors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Features = Float[np.ndarray, "word layer d_model"] | Vectors
    """Words' vectors; an array may be a memory map, of any float type."""

    Moments = tuple[Float[np.ndarray, "layer d_model"], Float[np.ndarray, "layer d_model"]]
    """Mean and standard deviation of every channel."""

    Weights = list[Tensor]
    """Hidden weights `[layer, d_in, hidden]`, biases `[layer, 1, hidden]`, then the same to the labels; a
    linear probe has the last two only."""

CHUNK_VALUES, CACHED_VALUES = 2**24, 2**19
"""Values of a product that are handled at once (64 MB in float32), and of rows that are gone over a few times (2 MB,
which processors keep close)."""


@dataclass(frozen=True)
class Labelled:
    """Items with integer labels."""

    rows: Int[np.ndarray, "item part"]
    label: Int[np.ndarray, "item"]


@dataclass(frozen=True)
class Trained:
    """Probes of all layers."""

    weights: Weights
    best_epoch: Int[np.ndarray, "layer"]
    """Epoch (from 1) whose weights were kept; 0 if no epoch beat the start."""
    held_out_loss: Float[np.ndarray, "layer"]
    """Mean cross-entropy (nats) on the held-out items at that epoch; nan without held-out items."""


class Inputs:
    """Standardised rows of some layers, in memory, gathered a minibatch at a time."""

    def __init__(
        self,
        features: Features,
        moments: Moments,
        device: str = "cpu",
        *,
        layers: slice = slice(None),
        dtype: torch.dtype | None = None,
    ) -> None:
        """Read and standardise these layers.

        Args:
            dtype: of the rows and of the products with them; None is `product_dtype(device)`.
        """
        import torch

        self.device = torch.device(device)
        self.dtype = dtype or product_dtype(device)
        chosen = range(*layers.indices(features.shape[1]))
        mean, scale = (torch.from_numpy(part.astype(np.float32)) for part in moments)
        self.n_layers, self.d_model = len(chosen), features.shape[2]
        self._model_layers = features.shape[1]
        self._rows = torch.empty((self.n_layers, len(features), self.d_model), dtype=self.dtype, device=self.device)
        for index, layer in enumerate(chosen):
            for part in chunks(len(features), self.d_model, CACHED_VALUES):
                self._rows[index, part] = rows_at(features, layer, part).sub_(mean[layer]).div_(scale[layer])

    def gather(
        self, rows: Int[np.ndarray, "item part"], live: Int[Tensor, "live"] | None = None
    ) -> Float[Tensor, "live item part_d_model"]:
        """Return the inputs of these items at all layers, or only at the `live` ones."""
        import torch

        chosen = torch.from_numpy(rows.ravel()).to(self.device)
        if live is None:
            x = self._rows.index_select(1, chosen)
        else:
            x = torch.stack([self._rows[layer].index_select(0, chosen) for layer in live.tolist()])
        return x.reshape(len(x), len(rows), -1)

    def chunks(self, n_items: int, n_parts: int) -> list[slice]:
        """Cut items into slices that fit the memory, the same for any group of layers: rounding follows the shapes."""
        return chunks(n_items, self._model_layers * self.d_model * n_parts)


def product_dtype(device: str) -> torch.dtype:
    """Return the dtype that probes are multiplied in on a device."""
    import torch

    return torch.bfloat16 if torch.device(device).type == "cpu" and has_bfloat16() else torch.float32


def chunks(n_rows: int, values: int, most: int = CHUNK_VALUES) -> list[slice]:
    """Cut rows of so many values into slices that hold at most so many."""
    size = max(1, most // values)
    return [slice(start, start + size) for start in range(0, n_rows, size)]


def rows_at(features: Features, layer: int, words: slice) -> Float[Tensor, "word d_model"]:
    """Return a float32 copy of these words' vectors at one layer."""
    import torch

    if isinstance(features, Vectors):
        return features.at(layer, words)
    return torch.from_numpy(np.array(features[words, layer], dtype=np.float32))


def feature_moments(features: Features) -> Moments:
    """Return mean and standard deviation of every channel in float64, streaming; a deviation of 0 becomes 1.

    Raises:
        ActivationError: a value is nan or infinite; the message names the first such layer.
    """
    import torch

    n_words, n_layers, d_model = features.shape
    means, deviations = np.empty((n_layers, d_model)), np.empty((n_layers, d_model))
    for layer in range(n_layers):
        shift = rows_at(features, layer, slice(0, 1))  # a constant channel then gives a variance of exactly 0
        total, squares = (torch.zeros(d_model, dtype=torch.float64) for _ in range(2))
        for part in chunks(n_words, d_model, CACHED_VALUES):
            rows = rows_at(features, layer, part)
            check_finite(rows, layer)
            # Moments of float32 within a chunk, sums of float64 over chunks.
            variance, mean = (found.double() for found in torch.var_mean(rows.sub_(shift), 0, correction=0))
            total += len(rows) * mean
            squares += len(rows) * (variance + mean**2)
        mean = total / n_words
        means[layer] = (shift[0] + mean).numpy()
        deviations[layer] = (squares / n_words - mean**2).clamp(min=0).sqrt().numpy()
    return means, np.where(deviations == 0, 1, deviations)


def check_finite(rows: Float[Tensor, "word d_model"], layer: int) -> None:
    """Raise `ActivationError` naming the layer if it holds nan or infinity."""
    import torch

    # A float64 sum of float32 terms is finite exactly if all terms are.
    if rows.sum(dtype=torch.float64).isfinite():
        return
    bad = int((~rows.isfinite().all(dim=1)).sum())
    raise ActivationError(
        f"Words' activations of layer {layer} hold nan or infinity in {bad} of {len(rows)} words "
        "looked at; extract them in float32 or check the model."
    )


def start_weights(n_layers: int, widths: tuple[int, ...], *, seed: int) -> Weights:
    """Return Glorot-uniform weights and zero biases, the same at every layer.

    `widths` are d_in, hidden and labels for the MLP, d_in and labels for a linear probe. Glorot and not
    torch's default: it reaches scikit-learn's accuracy at equal epochs (measured).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    weights = list[torch.Tensor]()
    for n_in, n_out in pairwise(widths):
        bound = (6 / (n_in + n_out)) ** 0.5
        drawn = (torch.rand(n_in, n_out, generator=generator) * 2 - 1) * bound
        weights += [drawn.repeat(n_layers, 1, 1), torch.zeros(n_layers, 1, n_out)]
    return weights


def forward(weights: Weights, x: Float[Tensor, "layer item d_in"]) -> Float[Tensor, "layer item label"]:
    """Return the float32 logits of every layer's probe; the hidden layer is multiplied in the dtype of `x`."""
    import torch

    *_, last = _hidden(weights, x)
    return torch.baddbmm(weights[-1], last.float(), weights[-2])


def _hidden(weights: Weights, x: Tensor) -> list[Tensor]:
    """Return the input and the hidden units, if there are any."""
    import torch

    found = [x]
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        found.append(torch.baddbmm(bias.to(x.dtype), found[-1], weight.to(x.dtype)).relu_())
    return found


def gradients(weights: Weights, x: Float[Tensor, "layer item d_in"], label: Int[Tensor, "item"]) -> Weights:
    """Return the float32 gradient of each layer's mean cross-entropy, in the order of the weights.

    All products are taken in the dtype of `x`.
    """
    import torch

    inputs = _hidden(weights, x)
    logits = torch.baddbmm(weights[-1].to(x.dtype), inputs[-1], weights[-2].to(x.dtype))
    delta = logits.float().softmax(-1)
    delta[:, torch.arange(len(label), device=label.device), label] -= 1
    delta /= len(label)
    found: Weights = []
    for depth in reversed(range(len(inputs))):
        narrow = delta.to(x.dtype)
        slope = torch.bmm(inputs[depth].transpose(1, 2), narrow).float()
        found = [slope, delta.sum(1, keepdim=True, dtype=torch.float32), *found]
        if depth:
            back = torch.bmm(narrow, weights[2 * depth].to(x.dtype).transpose(1, 2))
            delta = back.mul_(inputs[depth].sign_())
    return found


def train_probes(
    inputs: Inputs,
    items: Labelled,
    start: Weights,
    config: ProbeConfig,
    *,
    held_out: Labelled | None = None,
    on_epoch: Callable[[float], None] | None = None,
) -> Trained:
    """Train from `start` with Adam; each layer keeps its weights of lowest held-out loss and stops on its
    own.

    Layers that stopped leave the batch, so late epochs cost only the layers still running. Without held-out
    items all layers run all epochs and keep their last weights.
    """
    import torch

    rng = np.random.default_rng(config.seed)
    live = torch.arange(len(start[0]), device=inputs.device)
    best = [part.to(inputs.device, copy=True) for part in start]
    best_loss, best_epoch = np.full(len(live), np.inf), np.zeros(len(live), dtype=np.int64)
    weights, adam = _with_adam([part.clone() for part in best], config)
    epochs = config.passes(len(items.label))
    for epoch in range(1, epochs + 1):
        for group in adam.param_groups:
            group["lr"] = config.learning_rate * (1 - (epoch - 1) / epochs)
        _train_epoch(inputs, items, weights, adam, live, rng.permutation(len(items.label)), config.batch)
        if on_epoch is not None:
            on_epoch(epoch / epochs)
        if held_out is None:
            continue
        layers = live.cpu().numpy()
        loss = mean_loss(inputs, held_out, weights, live)
        better = loss < best_loss[layers]
        best_loss[layers[better]], best_epoch[layers[better]] = loss[better], epoch
        chosen = torch.from_numpy(better).to(inputs.device)
        for kept, part in zip(best, weights, strict=True):
            kept[live[chosen]] = part[chosen]
        running = epoch - best_epoch[layers] < config.patience
        if not running.any():
            break
        if not running.all():
            keep = torch.from_numpy(running).to(inputs.device)
            live = live[keep]
            weights, adam = _with_adam([part[keep] for part in weights], config, adam, keep)
    if held_out is None:
        n_layers = len(start[0])
        last = [part for part in weights]
        return Trained(last, np.full(n_layers, epochs), np.full(n_layers, np.nan))
    return Trained(best, best_epoch, best_loss)


def _with_adam(
    weights: Weights,
    config: ProbeConfig,
    before: torch.optim.Adam | None = None,
    keep: Tensor | None = None,
) -> tuple[Weights, torch.optim.Adam]:
    """Return the weights and their optimiser, which takes over the state of the kept layers."""
    import torch

    groups = [
        {"params": weights[::2], "weight_decay": config.weight_decay},
        {"params": weights[1::2], "weight_decay": 0.0},
    ]
    adam = torch.optim.Adam(groups, lr=config.learning_rate, fused=True)
    if before is not None:
        for old_group, group in zip(before.param_groups, adam.param_groups, strict=True):
            for old, new in zip(old_group["params"], group["params"], strict=True):
                state = before.state[old]
                adam.state[new] = {name: value if name == "step" else value[keep] for name, value in state.items()}
    return weights, adam


def _train_epoch(
    inputs: Inputs,
    items: Labelled,
    weights: Weights,
    adam: torch.optim.Adam,
    live: Tensor,
    order: Int[np.ndarray, "item"],
    batch: int,
) -> None:
    import torch

    layers = None if len(live) == inputs.n_layers else live
    label = torch.from_numpy(items.label).to(inputs.device)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        x = inputs.gather(items.rows[chosen], layers)
        found = gradients(weights, x, label[torch.from_numpy(chosen).to(inputs.device)])
        for part, gradient in zip(weights, found, strict=True):
            part.grad = gradient
        adam.step()


def mean_loss(
    inputs: Inputs, items: Labelled, weights: Weights, live: Int[Tensor, "live"]
) -> Float[np.ndarray, "live"]:
    """Return the mean cross-entropy (nats) of each live layer's probe."""
    import torch

    total = np.zeros(len(live))
    with torch.no_grad():
        for part in inputs.chunks(*items.rows.shape):
            logits = forward(weights, inputs.gather(items.rows[part], live))
            target = torch.from_numpy(items.label[part]).to(inputs.device).expand(len(live), -1)
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
            total += loss.double().sum(1).cpu().numpy()
    return total / len(items.label)


def predict(inputs: Inputs, rows: Int[np.ndarray, "item part"], weights: Weights) -> Int[np.ndarray, "layer item"]:
    """Return each layer's most likely label for every item."""
    import torch

    with torch.no_grad():
        parts = [
            forward(weights, inputs.gather(rows[part])).argmax(-1).cpu().numpy() for part in inputs.chunks(*rows.shape)
        ]
    return np.concatenate(parts, axis=1)
