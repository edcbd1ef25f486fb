"""Token ids as the estimators take them: rows of any length, with what of them is data.

That is told by the rule that holds for signals, too (`passes.data.data_tokens`), once for a text, from one pass of the
model; so every estimator, and a copy of the model in another format, looks at the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import DataError
from mspgt_tl.passes.batches import POSITIONS, Batches, Padded, made_batches, padded_batches
from mspgt_tl.passes.capture import capture
from mspgt_tl.passes.data import data_tokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

Tokens: TypeAlias = "Int[Tensor, 'row pos'] | Sequence[Sequence[int]]"


@dataclass(frozen=True)
class Texts:
    """Rows of token ids without padding."""

    ids: tuple[tuple[int, ...], ...]
    is_data: tuple[Bool[np.ndarray, "pos"], ...]
    """For each row, which of its tokens are data."""

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, n: int) -> Texts:
        """Return the first n rows."""
        return Texts(self.ids[:n], self.is_data[:n])

    @property
    def counts(self) -> Int[np.ndarray, "row"]:
        """Data tokens of each row."""
        return np.array([int(row.sum()) for row in self.is_data])

    @property
    def predictions(self) -> Int[np.ndarray, "row"]:
        """Data tokens of each row that another token follows."""
        return np.array([int(row[:-1].sum()) for row in self.is_data])

    def alphabet(self, n_ids: int) -> Int[np.ndarray, "id"] | None:
        """Return the ids that follow a data token, in order; None where texts are long enough to tell all ids apart.

        A prediction that knows nothing gives every id half a count. With more ids than predictions that is mostly mass
        on ids that never follow, which a readout need only take away: estimates are then of the next token among these.
        """
        if n_ids <= self.predictions.sum():
            return None
        following = [np.array(ids[1:])[data[:-1]] for ids, data in zip(self.ids, self.is_data, strict=True)]
        return np.unique(np.concatenate(following))


@dataclass(frozen=True)
class TokenBatch(Padded):
    """Some rows of a `Texts`, padded on the right."""

    is_data: Bool[Tensor, "batch pos"]
    """False on padding, the first token and sinks."""

    def positions(self) -> Int[Tensor, "batch pos"]:
        """Absolute position of every data token, -1 elsewhere: noise made with it leaves all others alone."""
        import torch

        places = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        return torch.where(self.is_data, places, -1)

    def targets(self) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Return the id that follows each position, and where it is a prediction to score: data followed by a token."""
        import torch

        following = torch.cat([self.tokens[:, 1:], torch.zeros_like(self.tokens[:, :1])], 1)
        scored = torch.zeros_like(self.is_data)
        scored[:, :-1] = self.is_data[:, :-1] & self.is_token[:, 1:]
        return following, scored


def read_texts(
    model: CausalModel,
    tokens: Tokens | Texts,
    *,
    mask: Any = None,
    every_token: bool = False,
    batch_positions: int = POSITIONS,
) -> Texts:
    """Check token ids and return them row by row, with what of them is data; rows keep their order.

    Args:
        tokens: a tensor of ids, every position of which is a token unless `mask` says otherwise, or lists of ids.
        mask: for a tensor, 1 on tokens and 0 on padding, on either side.
        every_token: take first tokens and sinks for data, too.

    Raises:
        DataError: not whole numbers, ids beyond the vocabulary, a row beyond the context, or one without data.
        ActivationError: an activation is not finite, or a batch does not fit into memory.
    """
    if isinstance(tokens, Texts):
        return tokens
    rows = _rows(tokens, mask)
    longest, largest = max(map(len, rows)), max(max(row, default=0) for row in rows)
    if min(min(row, default=0) for row in rows) < 0 or largest >= int(model.cfg.d_vocab):
        raise DataError(f"Token ids lie between 0 and {int(model.cfg.d_vocab) - 1}, got up to {largest}.")
    if longest > int(model.cfg.n_ctx):
        raise DataError(f"A row has {longest} tokens; the model's context ends at {int(model.cfg.n_ctx)}.")
    least = 1 if every_token else 2
    short = next((i for i, row in enumerate(rows) if len(row) < least), None)
    if short is not None:
        raise DataError(f"Row {short} holds no data: {least} tokens or more are needed, and padding is none.")
    if every_token:
        return Texts(tuple(rows), tuple(np.ones(len(row), dtype=bool) for row in rows))
    found: list[np.ndarray] = [np.zeros(0, dtype=bool)] * len(rows)
    batches = padded_batches(model, rows, "reading", positions=batch_positions)
    for batch in batches:
        with batches.fitting():
            kept = data_tokens(capture(model, batch).resid, batch.is_token).cpu().numpy()
            for row, is_data in zip(batch.rows, kept, strict=True):
                found[row] = is_data[: len(rows[row])]
    return Texts(tuple(rows), tuple(found))


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


def text_batches(model: CausalModel, texts: Texts, use: str, *, positions: int = POSITIONS) -> Batches[TokenBatch]:
    """Return the rows, longest first, in batches of at most so many positions (one row at least)."""
    import torch

    def with_data(batch: Padded) -> TokenBatch:
        is_data = torch.zeros_like(batch.is_token)
        for i, row in enumerate(batch.rows):
            is_data[i, : len(texts.ids[row])] = torch.from_numpy(texts.is_data[row])
        return TokenBatch(batch.rows, batch.tokens, batch.is_token, is_data)

    return made_batches(model, texts.ids, use, with_data, positions=positions)
