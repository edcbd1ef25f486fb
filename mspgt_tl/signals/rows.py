"""One residual vector per sentence, gathered until a bootstrap fold is complete.

Some statistics of a set of vectors (kernels, nearest neighbours) are no sums over sentences. They are computed within
a fold once all its sentences are there, and what is computed is then summed over folds. The stream finishes a fold
before it goes far beyond it, so only a few folds wait at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.contracts import Batch
from mspgt_tl.passes.data import as_read

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FullFold:
    """All rows of one fold; a row is the drawn token of one sentence."""

    fold: int
    rows: Float[Tensor, "layer row d_model"]
    prefixes: tuple[bytes, ...]
    """The tokens up to the drawn one, row by row: causal models give equal prefixes equal vectors."""


@dataclass
class FoldRows:
    """Rows that wait for the rest of their fold."""

    sizes: Int[np.ndarray, "fold"]
    raw: bool = True
    """Rows of the stream as it is, or as the next block reads them."""
    waiting: dict[int, tuple[list[Tensor], list[bytes]]] = field(default_factory=dict)

    def add(self, batch: Batch) -> Iterator[FullFold]:
        """Take the drawn rows of a batch and yield the folds that it completes."""
        import torch

        every = torch.arange(len(batch.fold), device=batch.drawn.device)
        rows = torch.stack([resid[every, batch.drawn] for resid in batch.resid])
        rows = rows if self.raw else as_read(rows, centred=batch.centred)
        tokens, drawn = batch.tokens.cpu().numpy(), batch.drawn.cpu().numpy()
        for fold in np.unique(batch.fold):
            members = np.flatnonzero(batch.fold == fold)
            parts, prefixes = self.waiting.setdefault(int(fold), ([], []))
            parts.append(rows[:, torch.from_numpy(members).to(rows.device)])
            prefixes.extend(tokens[i, : drawn[i] + 1].tobytes() for i in members)
            if len(prefixes) == self.sizes[fold]:
                del self.waiting[int(fold)]
                yield FullFold(int(fold), torch.cat(parts, dim=1), tuple(prefixes))
