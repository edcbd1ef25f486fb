"""Batches made without a model, for signals that watch the residual stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mspgt_tl.contracts import Accumulator, Batch

N_LAYERS, FOLD_SIZE, N_FOLDS, D_MODEL, LENGTH = 4, 10, 3, 6, 7


def make_batch(seed: int = 0) -> Batch:
    """Three folds of ten sentences of 2 to 7 tokens, the first of them BOS; layers are a random walk."""
    rng, n = np.random.default_rng(seed), FOLD_SIZE * N_FOLDS
    lengths = torch.from_numpy(rng.integers(3, LENGTH + 1, n))
    position = torch.arange(LENGTH)
    is_token = position < lengths[:, None]
    resid = torch.from_numpy(rng.standard_normal((N_LAYERS, n, LENGTH, D_MODEL))).cumsum(0)
    # Pads hold numbers as large as any: whoever forgets to mask them is found out.
    resid = torch.where(is_token[None, :, :, None], resid, 100 * resid)
    return Batch(
        sentence=np.arange(n),
        fold=rng.permutation(np.repeat(np.arange(N_FOLDS), FOLD_SIZE)),
        drawn=torch.from_numpy(1 + (rng.random(n) * (lengths.numpy() - 1)).astype(np.int64)),
        tokens=torch.from_numpy(rng.integers(0, 50, (n, LENGTH))),
        is_data=is_token & (position > 0),
        is_token=is_token,
        resid=list(resid.float()),
        pattern=[],
    )


def take_rows(batch: Batch, rows: np.ndarray) -> Batch:
    """Some sentences of a batch."""
    return Batch(
        sentence=batch.sentence[rows],
        fold=batch.fold[rows],
        drawn=batch.drawn[rows],
        tokens=batch.tokens[rows],
        is_data=batch.is_data[rows],
        is_token=batch.is_token[rows],
        resid=[resid[rows] for resid in batch.resid],
        pattern=[pattern[rows] for pattern in batch.pattern],
    )


def observe_parts(accumulator: Accumulator, batch: Batch, parts: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The sums after seeing the batch in parts."""
    for rows in parts:
        accumulator.observe(take_rows(batch, rows))
    return dict(accumulator.sums())


@pytest.fixture(name="batch")
def batch_fixture() -> Batch:
    return make_batch()


@pytest.fixture
def sums_of() -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that gives a signal's sums over the batch, whole or in random parts."""

    def observe(signal, batch: Batch, *, shuffled: int | None = None) -> dict[str, np.ndarray]:
        order = np.arange(len(batch.fold))
        parts = [order]
        if shuffled is not None:
            rng = np.random.default_rng(shuffled)
            cuts = np.sort(rng.choice(np.arange(1, len(order)), 4, replace=False))
            parts = np.split(rng.permutation(order), cuts)
        accumulator = signal.start(n_layers=N_LAYERS, fold_sizes=np.full(N_FOLDS, FOLD_SIZE))
        return observe_parts(accumulator, batch, parts)

    return observe
