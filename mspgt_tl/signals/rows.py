"""One residual vector per sentence, gathered until a bootstrap block is complete.

Some statistics of a set of vectors (kernels, nearest neighbours) are no sums over sentences. They are computed within
a block once all its sentences are there, and what is computed is then summed over blocks. The stream finishes a block
before it goes far beyond it, so only a few blocks wait at any time.
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
class FullBlock:
    """All rows of one block; a row is the drawn token of one sentence."""

    block: int
    rows: Float[Tensor, "layer row d_model"]
    prefixes: tuple[bytes, ...]
    """The tokens up to the drawn one, row by row: causal models give equal prefixes equal vectors."""


@dataclass
class BlockRows:
    """Rows that wait for the rest of their block."""

    sizes: Int[np.ndarray, "block"]
    raw: bool = True
    """Rows of the stream as it is, or as the next block reads them."""
    waiting: dict[int, tuple[list[Tensor], list[bytes]]] = field(default_factory=dict)

    def add(self, batch: Batch) -> Iterator[FullBlock]:
        """Take the drawn rows of a batch and yield the blocks that it completes."""
        import torch

        every = torch.arange(len(batch.block), device=batch.drawn.device)
        rows = torch.stack([resid[every, batch.drawn] for resid in batch.resid])
        rows = rows if self.raw else as_read(rows, centred=batch.centred)
        tokens, drawn = batch.tokens.cpu().numpy(), batch.drawn.cpu().numpy()
        for block in np.unique(batch.block):
            members = np.flatnonzero(batch.block == block)
            parts, prefixes = self.waiting.setdefault(int(block), ([], []))
            parts.append(rows[:, torch.from_numpy(members).to(rows.device)])
            prefixes.extend(tokens[i, : drawn[i] + 1].tobytes() for i in members)
            if len(prefixes) == self.sizes[block]:
                del self.waiting[int(block)]
                yield FullBlock(int(block), torch.cat(parts, dim=1), tuple(prefixes))
