"""Sentences dealt into the blocks that the bootstrap draws: whole documents where these are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mspgt_tl.errors import CorpusError
from mspgt_tl.stats import cut_documents, fold_documents

MIN_BLOCK, MAX_BLOCK, WANTED_BLOCKS = 25, 125, 80
"""Blocks are as large as the corpus allows between these sizes while there are at least `WANTED_BLOCKS` of them."""
MIN_BLOCKS = 8
"""Fewer blocks give no bootstrap worth the name."""
MAX_DOCUMENT = 500
"""Sentences of a document that stay together at most: a block compares all of its rows with each other."""
MIN_ROWS = 8
"""Fewest sentences of a block of documents: the debiased HSIC of fewer is mostly noise."""


@dataclass(frozen=True)
class Blocks:
    """Sentences assigned to bootstrap blocks."""

    order: Int[np.ndarray, "kept"]
    """Sentence indices, block after block."""
    size: int
    """Sentences of a block; their mean where blocks are uneven."""
    uneven: Int[np.ndarray, "block"] | None = None
    """Sentences of each block where these hold whole documents; None where all are equal."""
    rule: str = "sentences"
    """What was dealt out to blocks, for the manifest."""

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def sizes(self) -> Int[np.ndarray, "block"]:
        return np.full(len(self.order) // self.size, self.size) if self.uneven is None else self.uneven

    def chunks(self, sentences: int) -> Iterator[slice]:
        """Yield stretches of `order` that hold whole blocks and about so many sentences."""
        start, stop = 0, 0
        for size in self.sizes.tolist():
            if stop > start and stop + size - start > sentences:
                yield slice(start, stop)
                start = stop
            stop += size
        if stop > start:
            yield slice(start, stop)


def assign_blocks(n_sentences: int, *, seed: int, documents: Sequence[int] | None = None) -> Blocks:
    """Assign sentences to blocks at random: whole documents where these are known, else single sentences.

    Sentences of one article are alike, so blocks that share one are not independent and intervals come out too narrow.
    Blocks of documents hold all of their sentences and are uneven. HSIC compares the rows of one block, so a block
    holds two documents or more: rows of one alone would not show how documents differ. Where fewer than
    2 × `MIN_BLOCKS` documents are known, and for any that is longer than `MAX_DOCUMENT`, contiguous pieces of them are
    dealt out instead. Where every sentence is a document, or nothing is known of them, blocks are equal, and the few
    sentences that fill none are left out.

    Raises:
        CorpusError: too few sentences for `MIN_BLOCKS` blocks of `MIN_BLOCK`.
    """
    if n_sentences < MIN_BLOCKS * MIN_BLOCK:
        raise CorpusError(
            f"At least {MIN_BLOCKS * MIN_BLOCK} usable sentences are needed for a bootstrap, got {n_sentences}. "
            "Give a longer text."
        )
    size = max(MIN_BLOCK, min(MAX_BLOCK, n_sentences // WANTED_BLOCKS))
    if documents is not None and len(set(documents)) < n_sentences:
        return _deal_documents(np.asarray(documents), n_sentences // size, seed=seed)
    order = np.random.default_rng(seed).permutation(n_sentences)
    return Blocks(order[: n_sentences // size * size], size)


def _deal_documents(documents: Int[np.ndarray, "sentence"], wanted: int, *, seed: int) -> Blocks:
    """Deal whole documents, or pieces of them, into at most `wanted` blocks of two of them or more."""
    names, lengths = np.unique(documents, return_counts=True)
    block, rule = None, ""
    if len(names) >= 2 * MIN_BLOCKS:
        rule = f"{len(names)} documents"
        if cut := int((lengths > MAX_DOCUMENT).sum()):
            rule += f", {cut} of them in contiguous pieces of at most {MAX_DOCUMENT} sentences"
        block = _fill(cut_documents(documents, MAX_DOCUMENT), wanted, seed=seed)
    if block is None:
        longest = max(1, len(documents) // (2 * wanted))
        rule = f"contiguous pieces of at most {longest} sentences of {len(names)} documents, too few to deal out whole"
        block = _fill(cut_documents(documents, longest), wanted, seed=seed)
    assert block is not None, "pieces are short enough to fill every block"
    sizes = np.bincount(block)
    shuffled = np.random.default_rng([seed, 6]).permutation(len(documents))
    order = shuffled[np.argsort(block[shuffled], kind="stable")]
    return Blocks(order, len(documents) // len(sizes), sizes, rule)


def _fill(units: Int[np.ndarray, "sentence"], wanted: int, *, seed: int) -> Int[np.ndarray, "sentence"] | None:
    """Return every sentence's block, as many as get two units and `MIN_ROWS` sentences; None below `MIN_BLOCKS`."""
    for count in range(min(wanted, len(np.unique(units)) // 2), MIN_BLOCKS - 1, -1):
        block = fold_documents(units, count, seed=seed)
        if np.bincount(block).min() >= MIN_ROWS:
            return block
    return None
