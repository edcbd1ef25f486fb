"""Rows of similar length, padded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int


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
