"""Unigram and interpolated bigram baselines: the least that a trained language model has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16

from mspgt_tl.errors import DataError


@dataclass(frozen=True)
class NgramLosses:
    """Mean losses on held-out tokens, in nats per token."""

    unigram: float
    bigram: float
    weights: tuple[float, float, float]
    """Interpolation weights of bigram, unigram and uniform, fitted by EM on the last tenth of training."""


def ngram_losses(
    train: UInt16[np.ndarray, "tokens"], valid: UInt16[np.ndarray, "held_out"], vocab_size: int
) -> NgramLosses:
    """Fit the baselines on `train` and measure them on `valid`.

    The bigram is Jelinek-Mercer's: a mixture of the bigram, unigram and uniform estimates, its weights fitted by EM on
    a tenth of the training tokens that the counts do not see.

    Raises:
        DataError: fewer than 1,000 training tokens or 2 held-out tokens.
    """
    if len(train) < 1000 or len(valid) < 2:
        raise DataError(
            f"n-gram baselines need 1,000 training and 2 held-out tokens, got {len(train)} and {len(valid)}."
        )
    cut = len(train) - len(train) // 10
    counts, held = train[:cut].astype(np.int64), train[cut:].astype(np.int64)
    unigram = np.bincount(counts, minlength=vocab_size) / len(counts)
    pair_ids, pair_counts = np.unique(counts[:-1] * vocab_size + counts[1:], return_counts=True)
    context = np.bincount(counts[:-1], minlength=vocab_size)

    def components(tokens: np.ndarray) -> np.ndarray:
        wanted = tokens[:-1] * vocab_size + tokens[1:]
        at = np.minimum(np.searchsorted(pair_ids, wanted), len(pair_ids) - 1)
        found = np.where(pair_ids[at] == wanted, pair_counts[at], 0)
        bigram = found / np.maximum(context[tokens[:-1]], 1)
        return np.stack([bigram, unigram[tokens[1:]], np.full(len(bigram), 1 / vocab_size)])

    def fit(parts: np.ndarray) -> np.ndarray:
        weights = np.full(len(parts), 1 / len(parts))
        for _ in range(100):
            joint = weights[:, None] * parts
            updated = (joint / joint.sum(0)).mean(1)
            if np.abs(updated - weights).max() < 1e-7:
                break
            weights = updated
        return weights

    held_parts, valid_parts = components(held), components(valid.astype(np.int64))
    weights, smoothing = fit(held_parts), fit(held_parts[1:])
    return NgramLosses(
        unigram=float(-np.log(smoothing @ valid_parts[1:]).mean()),
        bigram=float(-np.log(weights @ valid_parts).mean()),
        weights=tuple(weights.tolist()),
    )
