"""Token ids as the estimators take them: rows of any length, in batches padded on the right.

Which positions count is the same for every estimator: padding never does, and neither does a leading BOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import DataError
from mspgt_tl.models.tokens import pad

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

Tokens: TypeAlias = "Int[Tensor, 'row pos'] | Sequence[Sequence[int]]"
POSITIONS = 2048
"""Positions per forward pass, padding included, unless told otherwise."""


@dataclass(frozen=True)
class Texts:
    """Rows of token ids without padding."""

    ids: tuple[tuple[int, ...], ...]
    bos: Bool[np.ndarray, "row"]
    """Whether the first id of each row is a BOS."""

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, n: int) -> Texts:
        """Return the first n rows."""
        return Texts(self.ids[:n], self.bos[:n])

    @property
    def counts(self) -> Int[np.ndarray, "row"]:
        """Tokens of each row that count as data."""
        return np.array([len(row) for row in self.ids]) - self.bos


@dataclass(frozen=True)
class TokenBatch:
    """Some rows of a `Texts`, padded on the right."""

    rows: Int[np.ndarray, "batch"]
    """Which rows these are."""
    tokens: Int[Tensor, "batch pos"]
    is_data: Bool[Tensor, "batch pos"]
    """False on padding and BOS."""
    is_bos: Bool[Tensor, "batch pos"]

    def positions(self) -> Int[Tensor, "batch pos"]:
        """Absolute position of every data token, -1 elsewhere: noise made with it leaves BOS and padding alone."""
        import torch

        places = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        return torch.where(self.is_data, places, -1)

    def targets(self) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Return the id that follows each position, and where it is a prediction to score: data followed by data."""
        import torch

        following = torch.cat([self.tokens[:, 1:], torch.zeros_like(self.tokens[:, :1])], 1)
        scored = torch.zeros_like(self.is_data)
        scored[:, :-1] = self.is_data[:, :-1] & self.is_data[:, 1:]
        return following, scored


def read_texts(model: CausalModel, tokens: Tokens | Texts, *, mask: Any = None) -> Texts:
    """Check token ids and return them row by row; rows keep their order.

    Args:
        tokens: a tensor of ids, every position of which is a token unless `mask` says otherwise, or lists of ids.
        mask: for a tensor, 1 on tokens and 0 on padding, on either side.

    Raises:
        DataError: not whole numbers, ids beyond the vocabulary, a row beyond the context, or one without data.
    """
    if isinstance(tokens, Texts):
        return tokens
    rows = _rows(tokens, mask)
    longest, largest = max(map(len, rows)), max(max(row, default=0) for row in rows)
    if min(min(row, default=0) for row in rows) < 0 or largest >= int(model.cfg.d_vocab):
        raise DataError(f"Token ids lie between 0 and {int(model.cfg.d_vocab) - 1}, got up to {largest}.")
    if longest > int(model.cfg.n_ctx):
        raise DataError(f"A row has {longest} tokens; the model's context ends at {int(model.cfg.n_ctx)}.")
    start = None if model.tokenizer is None else model.tokenizer.bos_token_id
    # Text never encodes to the BOS id (special tokens are split), so a leading one is a BOS.
    bos = np.array([start is not None and row[:1] == (start,) for row in rows])
    texts = Texts(tuple(rows), bos)
    if (texts.counts < 1).any():
        raise DataError(f"Row {int(np.argmax(texts.counts < 1))} holds no token besides BOS and padding.")
    return texts


def _rows(tokens: Any, mask: Any) -> list[tuple[int, ...]]:
    import torch

    if not isinstance(tokens, torch.Tensor | np.ndarray):
        if mask is not None:
            raise DataError("A mask belongs to a tensor of tokens; lists of ids have no padding.")
        try:
            rows = [tuple(int(i) for i in row) for row in tokens]
        except (TypeError, ValueError):
            raise DataError("Tokens are a tensor [row, pos] of ids or lists of ids.") from None
        if not rows:
            raise DataError("At least one row of tokens is needed.")
        return rows
    found = torch.as_tensor(tokens)
    if found.ndim != 2 or not found.numel() or found.is_floating_point() or found.dtype == torch.bool:
        raise DataError(f"Tokens are whole numbers [row, pos]; got {found.dtype} of shape {list(found.shape)}.")
    kept = torch.ones_like(found, dtype=torch.bool) if mask is None else torch.as_tensor(mask).to(found.device).bool()
    if kept.shape != found.shape:
        raise DataError(f"The mask is {list(kept.shape)}, the tokens are {list(found.shape)}.")
    return [tuple(row[keep].tolist()) for row, keep in zip(found, kept, strict=True)]


def batches(model: CausalModel, texts: Texts, *, positions: int = POSITIONS) -> Iterator[TokenBatch]:
    """Yield the rows, longest first, in batches of at most so many positions (one row at least)."""
    order = np.argsort([-len(row) for row in texts.ids], kind="stable")
    start = 0
    while start < len(order):
        width = len(texts.ids[order[start]])
        rows = order[start : start + max(1, positions // width)]
        start += len(rows)
        tokens, is_token = pad([texts.ids[r] for r in rows], side="right", pad_id=0)
        tokens, is_token = tokens.to(model.cfg.device), is_token.bool().to(model.cfg.device)
        is_bos = is_token.new_zeros(is_token.shape)
        is_bos[:, 0] = is_token.new_tensor(texts.bos[rows].tolist())
        yield TokenBatch(rows, tokens, is_token & ~is_bos, is_bos)
