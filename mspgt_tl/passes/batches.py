"""Rows of similar length, padded together on the right.

Causal attention never looks at padding on the right, so no mask is needed; padding is left out of every statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Int

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ActivationError
from mspgt_tl.models.placement import is_out_of_memory
from mspgt_tl.models.tokens import pad

if TYPE_CHECKING:
    from torch import Tensor

LENGTH, POSITIONS = StreamConfig.max_length, StreamConfig.batch_positions
"""Tokens of a text and positions of a padded batch unless told otherwise. Enough for a card: at so many rows a product
is bound by its multiplications, not by reading the weights."""
_FITTING: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()
"""Positions of a batch from which on memory ran out before, by model (which stays on its device) and use."""
B = TypeVar("B")


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


class Batches(Generic[B]):
    """Batches of rows, of which those that do not fit into memory come again in halves.

    What did not fit is remembered: later batches of that size, for the same model and use, are halved untried.

        batches = padded_batches(model, ids, "reading")
        for batch in batches:
            with batches.fitting():
                ...  # results are kept by row, so that going over a row again changes nothing
    """

    def __init__(
        self,
        model: CausalModel,
        use: str,
        batches: Iterable[Any],
        positions: Callable[[Sequence[int]], int],
        make: Callable[[Any], B],
        *,
        whole: bool = False,
    ) -> None:
        """Take batches of row numbers.

        Args:
            use: what is done with them; a gradient takes more memory than reading.
            positions: the size of a batch.
            make: turns row numbers into what is iterated over; may run the model.
            whole: batches cannot be halved.
        """
        self._least = _FITTING.setdefault(model, {})
        self._use, self._positions, self._make, self._whole = use, positions, make, whole
        self._waiting, self._rows = list(batches)[::-1], list[int]()

    def __iter__(self) -> Iterator[B]:
        while self._waiting:
            self._rows = self._waiting.pop()
            if self._can_halve() and self._positions(self._rows) >= self._least.get(self._use, np.inf):
                self._halve()
                continue
            with self.fitting():
                batch = self._make(self._rows)
                yield batch
                del batch  # before the next one is made

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Put the batch back in halves if memory runs out inside.

        Raises:
            ActivationError: memory runs out on a single row.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not self._can_halve():
                raise ActivationError(
                    f"Out of memory on {len(self._rows)} texts of {self._positions(self._rows)} tokens with padding, "
                    "and fewer cannot be tried. Take shorter texts (--max-length), or dtype bfloat16."
                ) from error
            self._least[self._use] = self._positions(self._rows)
            self._halve()

    def _can_halve(self) -> bool:
        return len(self._rows) > 1 and not self._whole

    def _halve(self) -> None:
        middle = len(self._rows) // 2
        self._waiting += [self._rows[middle:], self._rows[:middle]]


def padded_batches(
    model: CausalModel, ids: Sequence[Sequence[int]], use: str, *, positions: int = POSITIONS
) -> Batches[Padded]:
    """Return every row once, in padded batches of at most so many positions (one row at least), longest first."""
    return made_batches(model, ids, use, lambda batch: batch, positions=positions)


def made_batches(
    model: CausalModel, ids: Sequence[Sequence[int]], use: str, make: Callable[[Padded], B], *, positions: int
) -> Batches[B]:
    """Return what `make` makes of every padded batch."""
    lengths, pad_id = [len(row) for row in ids], model_pad(model)

    def make_rows(rows: Int[np.ndarray, "batch"]) -> B:
        tokens, mask = pad([ids[row] for row in rows], side="right", pad_id=pad_id)
        return make(Padded(rows, tokens.to(model.cfg.device), mask.bool().to(model.cfg.device)))

    def size(rows: Sequence[int]) -> int:
        return len(rows) * max(lengths[row] for row in rows)

    return Batches(model, use, batch_by_length(lengths, positions), size, make_rows)


def model_pad(model: CausalModel) -> int:
    """Return the id that stands on padding; nothing depends on which."""
    return 0 if model.tokenizer is None else model.tokenizer.pad_token_id or 0
