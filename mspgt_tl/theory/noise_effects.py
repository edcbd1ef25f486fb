"""What noise of a given size in a layer, or in several, does to next-token predictions: KL and loss, text by text.

The KL is the one of `interventions.next_token`, whose terms cannot cancel. For a shift δ of the logits it is about
½ Var(δ), so rounding of float32 *logits* (1e-6 of them) costs 1e-12, while rounding of float32 *probabilities* would
cost 1e-7 and drown every σ below about 1e-2.

Cost: one forward pass from the disturbed block on, for every set of layers, σ and draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import CausalModel, Progress
from mspgt_tl.errors import ActivationError, ConfigError
from mspgt_tl.interventions.next_token import CHUNK_NUMBERS, compare_logits, predict
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.passes.batches import POSITIONS
from mspgt_tl.passes.capture import capture, resume
from mspgt_tl.passes.readout import logits_of
from mspgt_tl.theory.texts import TokenBatch, read_texts, text_batches

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class NoiseEffects:
    """Sums over the data tokens of every text, for every set of layers, σ and draw of the noise."""

    names: tuple[str, ...]
    """Of the sets of layers."""
    layers: tuple[tuple[int, ...], ...]
    sigmas: Float[np.ndarray, "sigma"]
    kl: Float[np.ndarray, "set sigma draw row"]
    """Sum of KL(clean ‖ noised), nats, over data tokens."""
    loss: Float[np.ndarray, "set sigma draw row"]
    """Sum of the loss increase, nats, over tokens that another one follows."""
    clean_loss: Float[np.ndarray, "row"]
    """Sum of the undisturbed loss."""
    counts: Int[np.ndarray, "row"]
    """Data tokens."""
    predictions: Int[np.ndarray, "row"]
    """Tokens that another one follows."""
    seed: int

    @property
    def mean_loss(self) -> Float[np.ndarray, "set sigma"]:
        """Mean loss increase per scored token, over texts and draws."""
        return self.loss.mean(axis=2).sum(axis=-1) / self.predictions.sum()


def measure_noise(
    model: CausalModel,
    tokens: Any,
    sets: Mapping[str, Sequence[int]],
    sigmas: Sequence[float],
    units: Mapping[int, float],
    *,
    seed: int,
    draws: int = 1,
    batch_positions: int = POSITIONS,
    progress: Progress | None = None,
    stage: str = "noise",
) -> NoiseEffects:
    """Disturb each set of layers with noise of each σ and measure next-token KL and loss.

    Noise is σ·s_l·ε at data positions only, so it says nothing of noise on first tokens and sinks. One draw of ε serves
    all σ.

    Args:
        tokens: as `fisher_trace`.
        sets: layers to disturb together, by name.
        sigmas: relative sizes, above 0.
        units: s_l of every layer named, as from `activation_units`.
        draws: of the noise.

    Raises:
        ConfigError: unusable layers, sigmas, units or draws.
        DataError: unusable tokens.
        ActivationError: logits are not finite.
    """
    texts = read_texts(model, tokens)
    grid = np.asarray(sigmas, dtype=np.float64)
    rises = grid.ndim == 1 and len(grid) and bool((np.diff(grid, prepend=0) > 0).all()) and np.isfinite(grid).all()
    if not rises:
        raise ConfigError(f"sigmas are above 0 and rise, got {list(sigmas)}.")
    if draws < 1 or not sets or not all(sets.values()):
        raise ConfigError("At least one draw and one set of layers, none empty, are needed.")
    shape = (len(sets), len(grid), draws, len(texts))
    kl, loss = np.zeros(shape), np.zeros(shape)
    clean_loss, predictions = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    work = len(sets) * len(grid) * draws
    done = 0
    batches = text_batches(model, texts, "noise", positions=batch_positions)
    for batch in batches:
        with batches.fitting():
            runner, rows = _Batch(model, batch), batch.rows
            clean_loss[rows], predictions[rows] = runner.clean_loss, runner.predictions
            for (i, layers), j, draw in product(enumerate(sets.values()), range(len(grid)), range(draws)):
                ids = (rows + draw * len(texts)).tolist()
                at: dict[str, Any] = {"sample_ids": ids, "positions": batch.positions(), "unit": units}
                hooks = noise_hooks(model, layers, float(grid[j]), seed=seed, **at)
                kl[i, j, draw, rows], loss[i, j, draw, rows] = runner.disturb(min(layers), hooks)
                done += len(rows)
                if progress:
                    progress(stage, min(done, work * len(texts)), work * len(texts))
    names, chosen = tuple(sets), tuple(tuple(layers) for layers in sets.values())
    return NoiseEffects(names, chosen, grid, kl, loss, clean_loss, texts.counts, predictions, seed)


class _Batch:
    """A batch with its undisturbed stream and predictions, against which noise is measured."""

    def __init__(self, model: CausalModel, batch: TokenBatch) -> None:
        import torch

        self.model, self.batch = model, batch
        with torch.inference_mode():
            self.found = capture(model, batch)
            self.following, self.scored = (part[batch.is_data] for part in batch.targets())
            size = max(1, CHUNK_NUMBERS // int(model.cfg.d_vocab))
            self.places = [tuple(part.unbind(1)) for part in batch.is_data.nonzero().split(size)]
            self.targets = self.following.split(size)
            self.clean = [predict(logits_of(model, self.found.resid[-1][part])) for part in self.places]
            losses = [
                -found.logits.double().log_softmax(-1).gather(-1, target[:, None])[:, 0]
                for found, target in zip(self.clean, self.targets, strict=True)
            ]
            self.clean_loss = self._by_row(torch.cat(losses) * self.scored)
            self.predictions = self._by_row(self.scored.double()).astype(np.int64)

    def disturb(self, first: int, hooks: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return every row's summed KL and loss increase under these hooks, the first of them after block `first`."""
        import torch

        with torch.inference_mode():
            last = resume(self.model, self.found.entering(first), first, hooks)
            found = [
                compare_logits(before, logits_of(self.model, last[part]), target)
                for part, before, target in zip(self.places, self.clean, self.targets, strict=True)
            ]
            kl, loss = (torch.cat([part[i] for part in found]) for i in range(2))
            if not bool(kl.isfinite().all()):
                raise ActivationError("Logits are nan or inf; the noise may be too large for the dtype.")
            return self._by_row(kl), self._by_row(loss * self.scored)

    def _by_row(self, values: Float[Tensor, "token"]) -> Float[np.ndarray, "batch"]:
        """Sum over each row's data tokens."""
        whole = values.new_zeros(self.batch.is_data.shape)
        whole[self.batch.is_data] = values
        return whole.sum(-1).cpu().numpy()
