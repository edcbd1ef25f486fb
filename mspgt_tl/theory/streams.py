"""The residual stream of every layer at every data token that another one follows, with that next token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mspgt_tl.contracts import MIN_TEXTS, CausalModel, Progress
from mspgt_tl.errors import DataError
from mspgt_tl.files import scratch_array
from mspgt_tl.passes.batches import POSITIONS
from mspgt_tl.passes.capture import capture
from mspgt_tl.theory.texts import read_texts, text_batches


@dataclass(frozen=True)
class Streams:
    """Vectors and targets of tokens, text by text."""

    vectors: Float[np.ndarray, "layer token d_model"]
    """float32, in memory or on disk."""
    following: Int[np.ndarray, "token"]
    """The id of the next token."""
    row: Int[np.ndarray, "token"]
    """Which text each token belongs to; rising."""


def collect_streams(
    model: CausalModel,
    tokens: Any,
    *,
    store: Path | None = None,
    batch_positions: int = POSITIONS,
    progress: Progress | None = None,
) -> Streams:
    """Run the model once and keep every layer's vector at every data token that another one follows.

    Args:
        tokens: as `fisher_trace`.
        store: a folder whose disk holds the vectors, for more of them than fit into memory; None keeps them in memory.

    Raises:
        DataError: unusable tokens, or no token has a next one.
        ActivationError: a vector is not finite.
    """
    texts = read_texts(model, tokens)
    layers = range(int(model.cfg.n_layers))
    counts = texts.predictions
    starts = np.concatenate([[0], np.cumsum(counts)])
    if not starts[-1]:
        raise DataError("No token of these texts is followed by another: nothing to predict.")
    shape = (len(layers), int(starts[-1]), int(model.cfg.d_model))
    vectors = scratch_array(store, shape)
    following = np.empty(starts[-1], dtype=np.int64)
    done = 0
    batches = text_batches(model, texts, "reading", positions=batch_positions)
    for batch in batches:
        with batches.fitting():
            resid = capture(model, batch).resid
            targets, scored = batch.targets()
            into = np.concatenate([np.arange(int(starts[row]), int(starts[row + 1])) for row in batch.rows])
            following[into] = targets[scored].cpu().numpy()
            for layer in layers:
                vectors[layer, into] = resid[layer][scored].float().cpu().numpy()
            done += len(batch.rows)
            if progress:
                progress("streams", done, len(texts))
    return Streams(vectors, following, np.repeat(np.arange(len(texts)), counts))


@dataclass(frozen=True)
class Split:
    """Tokens by use: to fit, to choose settings, to measure. Texts are never cut."""

    fit: Bool[np.ndarray, "token"]
    choose: Bool[np.ndarray, "token"]
    measure: Bool[np.ndarray, "token"]


def split_texts(row: Int[np.ndarray, "token"], *, seed: int) -> Split:
    """Assign texts at random: 60 % to fit, 10 % to choose, 30 % to measure.

    Raises:
        DataError: fewer than `MIN_TEXTS` texts.
    """
    texts = np.unique(row)
    if len(texts) < MIN_TEXTS:
        raise DataError(
            f"At least {MIN_TEXTS} texts are needed to fit and measure on different ones, got {len(texts)}."
        )
    shuffled = np.random.default_rng([seed, 5]).permutation(texts)
    first, second = round(0.6 * len(texts)), round(0.7 * len(texts))
    parts = (shuffled[:first], shuffled[first:second], shuffled[second:])
    return Split(*(np.isin(row, part) for part in parts))


def sum_by_text(
    values: Float[np.ndarray, "*any token"], row: Int[np.ndarray, "token"]
) -> tuple[Float[np.ndarray, "*any text"], Int[np.ndarray, "text"]]:
    """Return sums over each text's tokens, and how many tokens each has."""
    _, start, counts = np.unique(row, return_index=True, return_counts=True)
    return np.add.reduceat(values, start, axis=-1), counts
