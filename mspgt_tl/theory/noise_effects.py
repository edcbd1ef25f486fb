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
from mspgt_tl.interventions.next_token import (
    STREAM_NUMBERS,
    CleanPass,
    HookMaker,
    clean_losses,
    compare_tokens,
    disturb,
)
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.passes.batches import POSITIONS
from mspgt_tl.passes.capture import capture
from mspgt_tl.theory.texts import read_texts, text_batches

if TYPE_CHECKING:
    from jaxtyping import Float, Int


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

    Noise is σ·s_l·ε at data positions only, and the mean is over these, so it says nothing of noise on first tokens and
    sinks; the effects of a sweep are over all tokens (`CleanPass`). One draw of ε serves all σ.

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
    import torch

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
    work: list[tuple[Sequence[int], float, int]] = list(product(sets.values(), grid.tolist(), range(draws)))
    done = 0

    def hooks_of(draw: int) -> HookMaker:
        def make(layers: Any, sigma: Any, ids: Any, at: Any) -> Any:
            given: dict[str, Any] = {"sample_ids": ids + draw * len(texts), "positions": at, "unit": units}
            return noise_hooks(model, layers, sigma, seed=seed, **given)

        return make

    batches = text_batches(model, texts, "noise", positions=batch_positions)
    for batch in batches:
        with batches.fitting():
            rows, is_data = batch.rows, batch.is_data
            resid = capture(model, batch).streams
            clean = CleanPass(torch.from_numpy(rows), batch.tokens, batch.positions(), is_data, is_data, resid)
            is_followed = batch.targets()[1][is_data].cpu().numpy()
            clean_loss[rows] = _by_row(clean, clean_losses(model, clean) * is_followed)
            predictions[rows] = _by_row(clean, is_followed)
            # Several disturbed streams wait for one look at undisturbed predictions that may be too many to keep.
            size = max(1, STREAM_NUMBERS // resid[-1].numel())
            for start in range(0, len(work), size):
                last = []
                for layers, sigma, draw in work[start : start + size]:
                    last.append(disturb(model, clean, layers, sigma, hooks_of(draw)))
                    done += len(rows)
                    if progress:
                        progress(stage, min(done, len(work) * len(texts)), len(work) * len(texts))
                found = compare_tokens(model, clean, last)
                if not np.isfinite(found["kl"]).all():
                    raise ActivationError("Logits are nan or inf; the noise may be too large for the dtype.")
                kl.reshape(len(work), -1)[start : start + size, rows] = _by_row(clean, found["kl"])
                loss.reshape(len(work), -1)[start : start + size, rows] = _by_row(
                    clean, found["loss_change"] * is_followed
                )
    names, chosen = tuple(sets), tuple(tuple(layers) for layers in sets.values())
    return NoiseEffects(names, chosen, grid, kl, loss, clean_loss, texts.counts, predictions, seed)


def _by_row(clean: CleanPass, values: Float[np.ndarray, "*any scored"]) -> Float[np.ndarray, "*any batch"]:
    """Sum over each row's scored tokens."""
    import torch

    whole = torch.zeros((*values.shape[:-1], *clean.is_scored.shape), dtype=torch.float64)
    whole[..., clean.is_scored.cpu()] = torch.from_numpy(values).double()
    return whole.sum(-1).numpy()
