"""Two-way layouts of models by corpora: the largest complete block, shares of variance, effects by permutation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.comparison.families import MAX_EXACT

CHUNK = 2000
"""Permutations that are looked at together."""


def complete_block(cells: Mapping[tuple[str, str], Any]) -> tuple[list[str], list[str]]:
    """Return the models and corpora of the largest block of two by two or more without a gap; empty if there is none.

    Of equally large blocks the one with more corpora counts, then the first.
    """
    models, corpora = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    best: tuple[list[str], list[str]] = ([], [])
    for size in range(len(corpora), 1, -1):
        for some in combinations(corpora, size):
            there = [model for model in models if all((model, corpus) in cells for corpus in some)]
            if len(there) > 1 and len(there) * size > len(best[0]) * len(best[1]):
                best = there, list(some)
    return best


def variance_shares(values: Float[np.ndarray, "model corpus gap"]) -> Float[np.ndarray, "3"]:
    """Return the shares of variance, summed over gaps, between models, between corpora and the rest, in [0, 1].

    Two-way layout without replication: the rest is interaction and noise together. nan where nothing varies.

    >>> variance_shares(np.array([[[0.0], [0.0]], [[1.0], [1.0]]]))
    array([1., 0., 0.])
    """
    centred = values - values.mean(axis=(0, 1))
    total = (centred**2).sum()
    # Equal values leave rounding behind.
    if total <= 1e-20 * (values**2).sum():
        return np.full(3, math.nan)
    models, corpora = centred.mean(axis=1, keepdims=True), centred.mean(axis=0, keepdims=True)
    parts = [np.broadcast_to(part, centred.shape) for part in (models, corpora)]
    parts.append(centred - models - corpora)
    return np.array([(part**2).sum() for part in parts]) / total


def effect_p(values: Float[np.ndarray, "row column gap"], *, seed: int = 0) -> tuple[float, float]:
    """Test by permutation whether rows differ, whatever columns do: values change rows within each column (N).

    The statistic is the variance between rows. It depends on how columns are permuted against the first, so there are
    (rows!)^(columns - 1) ways; all are looked at up to 20,000 of them, beyond that 9,999 random ones and the observed.

    Returns:
        The p-value, and the smallest one that this many rows and columns could give (1/2 for two and two).
    """
    n_rows, n_columns = values.shape[:2]
    centred = values - values.mean(axis=0)
    ways = math.factorial(n_rows) ** (n_columns - 1)
    if ways <= MAX_EXACT:
        orders = np.array(list(product(permutations(range(n_rows)), repeat=n_columns - 1)))
    else:
        rows = np.tile(np.arange(n_rows), (MAX_EXACT // 2, n_columns - 1, 1))
        orders = np.random.default_rng(seed).permuted(rows, axis=-1)
        orders[0] = np.arange(n_rows)
    spread = np.concatenate(
        [
            ((centred[:, 0] + sum(centred[part[:, c - 1], c] for c in range(1, n_columns))) ** 2).sum(axis=(1, 2))
            for part in np.split(orders, range(CHUNK, len(orders), CHUNK))
        ]
    )
    observed = (centred.sum(axis=1) ** 2).sum()
    # Sums in another order differ in the last digits.
    return float((spread >= observed * (1 - 1e-9)).mean()), 1 / len(orders)
