"""Resampling: the one place where bootstrap weights are drawn."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def bootstrap_counts(n_blocks: int, resamples: int, *, seed: int) -> Float[np.ndarray, "resample block"]:
    """Return how often each block is drawn in each of `resamples` draws of `n_blocks` with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=resamples).astype(np.float64)


def split_blocks(n_items: int, n_blocks: int, *, seed: int) -> Int[np.ndarray, "item"]:
    """Assign items to blocks of nearly equal size at random; no more blocks than items."""
    blocks = np.arange(n_items) % min(n_items, n_blocks)
    return np.random.default_rng(seed).permutation(blocks)
