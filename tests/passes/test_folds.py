"""Folds of the bootstrap: equal, or whole documents."""

from __future__ import annotations

import numpy as np
import pytest

from mspgt_tl.errors import CorpusError
from mspgt_tl.passes.folds import assign_folds


def test_folds_are_equal_and_disjoint() -> None:
    """Folds hold each sentence at most once, and leave out fewer than fill a fold."""
    folds = assign_folds(1013, seed=0)
    assert len(set(folds.order.tolist())) == len(folds.order) == folds.count * folds.size
    assert 1013 - len(folds.order) < folds.size
    assert np.array_equal(folds.order, assign_folds(1013, seed=0).order)
    assert assign_folds(10_000, seed=0).count == 80


def test_whole_documents_stay_in_one_fold() -> None:
    """No document is in two folds, each fold has two or more, no sentence is lost, sizes are nearly equal."""
    documents = np.repeat(np.arange(60), np.random.default_rng(0).integers(5, 40, 60)).tolist()
    folds = assign_folds(len(documents), seed=0, documents=documents)
    assert sorted(folds.order.tolist()) == list(range(len(documents)))
    held = [set(np.array(documents)[part]) for part in np.split(folds.order, np.cumsum(folds.sizes)[:-1])]
    assert sum(map(len, held)) == 60 and min(map(len, held)) >= 2
    assert folds.count == 30 and folds.sizes.max() <= 1.5 * folds.sizes.min()
    assert folds.rule == "60 documents"
    other = assign_folds(len(documents), seed=1, documents=documents)
    assert not np.array_equal(folds.order, other.order)


@pytest.mark.parametrize("lengths", [[300] * 5, [900, *[1] * 20], [250], [700, 200, 100]])
def test_few_documents_are_dealt_out_in_contiguous_pieces(lengths: list[int]) -> None:
    """Neighbouring sentences stay together, and the rule says that documents were cut and why."""
    documents = np.repeat(np.arange(len(lengths)), lengths).tolist()
    folds = assign_folds(len(documents), seed=0, documents=documents)
    assert folds.count >= 8 and folds.sizes.min() >= 8
    assert sorted(folds.order.tolist()) == list(range(len(documents)))
    fold_of = np.empty(len(documents), dtype=int)
    fold_of[folds.order] = np.repeat(np.arange(folds.count), folds.sizes)
    cuts = (np.diff(fold_of) != 0).sum()
    assert cuts < len(documents) / 3  # by chance nearly every two neighbours would be in different folds
    assert "contiguous pieces" in folds.rule and f"{len(lengths)} documents" in folds.rule


def test_a_giant_document_is_cut_and_the_others_are_not() -> None:
    """A fold compares all of its rows, so a book among articles goes in pieces, which the rule tells."""
    documents = np.repeat(np.arange(31), [3000, *[40] * 30]).tolist()
    folds = assign_folds(len(documents), seed=0, documents=documents)
    assert folds.rule == "31 documents, 1 of them in contiguous pieces of at most 500 sentences"
    fold_of = np.empty(len(documents), dtype=int)
    fold_of[folds.order] = np.repeat(np.arange(folds.count), folds.sizes)
    assert all(len(set(fold_of[np.array(documents) == d])) == 1 for d in range(1, 31))


def test_sentences_that_are_documents_of_their_own_are_dealt_as_ever() -> None:
    """Generated sentences give the folds that they gave before documents were known."""
    one, other = assign_folds(1013, seed=3), assign_folds(1013, seed=3, documents=range(1013))
    assert np.array_equal(one.order, other.order) and one.size == other.size


def test_too_short_a_corpus_is_refused() -> None:
    """The error says how many sentences are needed."""
    with pytest.raises(CorpusError, match="At least 200 usable sentences"):
        assign_folds(199, seed=0)
