"""Rows of similar length, padded together on the right.

Causal attention never looks at padding on the right, so no mask is needed; padding is left out of every statistic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.models.tokens import pad

if TYPE_CHECKING:
    from torch import Tensor

LENGTH, POSITIONS = StreamConfig.max_length, StreamConfig.batch_positions
"""Tokens of a text and positions of a padded batch unless told otherwise."""


@dataclass(frozen=True)
class Padded:
    """Some rows of token ids, on the model's device."""

    rows: Int[np.ndarray, "batch"]
    """Which rows these are."""
    tokens: Int[Tensor, "batch pos"]
    is_token: Bool[Tensor, "batch pos"]
    """False on padding."""


def batch_by_length(lengths: Sequence[int], positions: int) -> Iterator[Int[np.ndarray, "row"]]:
    """Yield row indices of similar length whose padded batch has at most `positions` positions."""
    rows: list[int] = []
    # Longest first: a batch that does not fit into memory fails at once, not after an hour.
    for row in np.argsort(lengths, kind="stable")[::-1]:
        if rows and lengths[rows[0]] * (len(rows) + 1) > positions:
            yield np.array(rows)
            rows = []
        rows.append(int(row))
    if rows:
        yield np.array(rows)


def padded_batches(model: CausalModel, ids: Sequence[Sequence[int]], *, positions: int = POSITIONS) -> Iterator[Padded]:
    """Yield every row once, in padded batches of at most so many positions (one row at least), longest first."""
    for rows in batch_by_length([len(row) for row in ids], positions):
        tokens, mask = pad([ids[row] for row in rows], side="right", pad_id=model_pad(model))
        yield Padded(rows, tokens.to(model.cfg.device), mask.bool().to(model.cfg.device))


def model_pad(model: CausalModel) -> int:
    """Return the id that stands on padding; nothing depends on which."""
    return 0 if model.tokenizer is None else model.tokenizer.pad_token_id or 0
