"""Blocks of the bootstrap: equal, or whole documents."""

from __future__ import annotations

import numpy as np
import pytest

from mspgt_tl.errors import CorpusError
from mspgt_tl.passes.folds import assign_blocks


def test_blocks_are_equal_and_disjoint() -> None:
    """Blocks hold each sentence at most once, and leave out fewer than fill a block."""
    blocks = assign_blocks(1013, seed=0)
    assert len(set(blocks.order.tolist())) == len(blocks.order) == blocks.count * blocks.size
    assert 1013 - len(blocks.order) < blocks.size
    assert np.array_equal(blocks.order, assign_blocks(1013, seed=0).order)
    assert assign_blocks(10_000, seed=0).count == 80


def test_whole_documents_stay_in_one_block() -> None:
    """No document is in two blocks, each block has two or more, no sentence is lost, sizes are nearly equal."""
    documents = np.repeat(np.arange(60), np.random.default_rng(0).integers(5, 40, 60)).tolist()
    blocks = assign_blocks(len(documents), seed=0, documents=documents)
    assert sorted(blocks.order.tolist()) == list(range(len(documents)))
    held = [set(np.array(documents)[part]) for part in np.split(blocks.order, np.cumsum(blocks.sizes)[:-1])]
    assert sum(map(len, held)) == 60 and min(map(len, held)) >= 2
    assert blocks.count == 30 and blocks.sizes.max() <= 1.5 * blocks.sizes.min()
    assert blocks.rule == "60 documents"
    other = assign_blocks(len(documents), seed=1, documents=documents)
    assert not np.array_equal(blocks.order, other.order)


@pytest.mark.parametrize("lengths", [[300] * 5, [900, *[1] * 20], [250], [700, 200, 100]])
def test_few_documents_are_dealt_out_in_contiguous_pieces(lengths: list[int]) -> None:
    """Neighbouring sentences stay together, and the rule says that documents were cut and why."""
    documents = np.repeat(np.arange(len(lengths)), lengths).tolist()
    blocks = assign_blocks(len(documents), seed=0, documents=documents)
    assert blocks.count >= 8 and blocks.sizes.min() >= 8
    assert sorted(blocks.order.tolist()) == list(range(len(documents)))
    block_of = np.empty(len(documents), dtype=int)
    block_of[blocks.order] = np.repeat(np.arange(blocks.count), blocks.sizes)
    cuts = (np.diff(block_of) != 0).sum()
    assert cuts < len(documents) / 3  # by chance nearly every two neighbours would be in different blocks
    assert "contiguous pieces" in blocks.rule and f"{len(lengths)} documents" in blocks.rule


def test_a_giant_document_is_cut_and_the_others_are_not() -> None:
    """A block compares all of its rows, so a book among articles goes in pieces, which the rule tells."""
    documents = np.repeat(np.arange(31), [3000, *[40] * 30]).tolist()
    blocks = assign_blocks(len(documents), seed=0, documents=documents)
    assert blocks.rule == "31 documents, 1 of them in contiguous pieces of at most 500 sentences"
    block_of = np.empty(len(documents), dtype=int)
    block_of[blocks.order] = np.repeat(np.arange(blocks.count), blocks.sizes)
    assert all(len(set(block_of[np.array(documents) == d])) == 1 for d in range(1, 31))


def test_sentences_that_are_documents_of_their_own_are_dealt_as_ever() -> None:
    """Generated sentences give the blocks that they gave before documents were known."""
    one, other = assign_blocks(1013, seed=3), assign_blocks(1013, seed=3, documents=range(1013))
    assert np.array_equal(one.order, other.order) and one.size == other.size


def test_too_short_a_corpus_is_refused() -> None:
    """The error says how many sentences are needed."""
    with pytest.raises(CorpusError, match="At least 200 usable sentences"):
        assign_blocks(199, seed=0)
