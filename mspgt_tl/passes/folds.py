"""Sentences dealt into the folds that the bootstrap draws: whole documents where these are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mspgt_tl.contracts import Tree
from mspgt_tl.errors import CorpusError
from mspgt_tl.stats import cut_documents, fold_documents, split_folds

MIN_FOLD, MAX_FOLD, WANTED_FOLDS = 25, 125, 80
"""Folds are as large as the corpus allows between these sizes while there are at least `WANTED_FOLDS` of them."""
MIN_FOLDS = 8
"""Fewer folds give no bootstrap worth the name."""
MAX_DOCUMENT = 500
"""Sentences of a document that stay together at most: a fold compares all of its rows with each other."""
MIN_ROWS = 8
"""Fewest sentences of a fold of documents: the debiased HSIC of fewer is mostly noise."""


@dataclass(frozen=True)
class Folds:
    """Sentences assigned to bootstrap folds."""

    order: Int[np.ndarray, "kept"]
    """Sentence indices, fold after fold."""
    size: int
    """Sentences of a fold; their mean where folds are uneven."""
    uneven: Int[np.ndarray, "fold"] | None = None
    """Sentences of each fold where these hold whole documents; None where all are equal."""
    rule: str = "sentences"
    """What was dealt out to folds, for the manifest."""

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def sizes(self) -> Int[np.ndarray, "fold"]:
        return np.full(len(self.order) // self.size, self.size) if self.uneven is None else self.uneven

    def chunks(self, sentences: int) -> Iterator[slice]:
        """Yield stretches of `order` that hold whole folds and about so many sentences."""
        start, stop = 0, 0
        for size in self.sizes.tolist():
            if stop > start and stop + size - start > sentences:
                yield slice(start, stop)
                start = stop
            stop += size
        if stop > start:
            yield slice(start, stop)


def assign_folds(n_sentences: int, *, seed: int, documents: Sequence[int] | None = None) -> Folds:
    """Assign sentences to folds at random: whole documents where these are known, else single sentences.

    Sentences of one article are alike, so folds that share one are not independent and intervals come out too narrow.
    Folds of documents hold all of their sentences and are uneven. HSIC compares the rows of one fold, so a fold
    holds two documents or more: rows of one alone would not show how documents differ. Where fewer than
    2 × `MIN_FOLDS` documents are known, and for any that is longer than `MAX_DOCUMENT`, contiguous pieces of them are
    dealt out instead. Where every sentence is a document, or nothing is known of them, folds are equal, and the few
    sentences that fill none are left out.

    Raises:
        CorpusError: too few sentences for `MIN_FOLDS` folds of `MIN_FOLD`.
    """
    if n_sentences < MIN_FOLDS * MIN_FOLD:
        raise CorpusError(
            f"At least {MIN_FOLDS * MIN_FOLD} usable sentences are needed for a bootstrap, got {n_sentences}. "
            "Give a longer text."
        )
    size = max(MIN_FOLD, min(MAX_FOLD, n_sentences // WANTED_FOLDS))
    if documents is not None and len(set(documents)) < n_sentences:
        return _deal_documents(np.asarray(documents), n_sentences // size, seed=seed)
    order = np.random.default_rng(seed).permutation(n_sentences)
    return Folds(order[: n_sentences // size * size], size)


def assign_trees(trees: Sequence[Tree], *, seed: int) -> tuple[Int[np.ndarray, "tree"], str]:
    """Assign the trees that probes are measured on to folds: whole documents where enough are known.

    Returns:
        Every tree's fold, and what was dealt out: `documents` or `trees`.
    """
    documents = [tree.document for tree in trees]
    # A probe is scored word by word, so a fold may be a single document.
    if None not in documents and MIN_FOLDS <= len(set(documents)) < len(trees):
        return fold_documents(np.array(documents), WANTED_FOLDS, seed=seed), "documents"
    return split_folds(len(trees), WANTED_FOLDS, seed=seed), "trees"


def _deal_documents(documents: Int[np.ndarray, "sentence"], wanted: int, *, seed: int) -> Folds:
    """Deal whole documents, or pieces of them, into at most `wanted` folds of two of them or more."""
    names, lengths = np.unique(documents, return_counts=True)
    fold, rule = None, ""
    if len(names) >= 2 * MIN_FOLDS:
        rule = f"{len(names)} documents"
        if cut := int((lengths > MAX_DOCUMENT).sum()):
            rule += f", {cut} of them in contiguous pieces of at most {MAX_DOCUMENT} sentences"
        fold = _fill(cut_documents(documents, MAX_DOCUMENT), wanted, seed=seed)
    if fold is None:
        longest = max(1, len(documents) // (2 * wanted))
        rule = f"contiguous pieces of at most {longest} sentences of {len(names)} documents, too few to deal out whole"
        fold = _fill(cut_documents(documents, longest), wanted, seed=seed)
    assert fold is not None, "pieces are short enough to fill every fold"
    sizes = np.bincount(fold)
    shuffled = np.random.default_rng([seed, 6]).permutation(len(documents))
    order = shuffled[np.argsort(fold[shuffled], kind="stable")]
    return Folds(order, len(documents) // len(sizes), sizes, rule)


def _fill(units: Int[np.ndarray, "sentence"], wanted: int, *, seed: int) -> Int[np.ndarray, "sentence"] | None:
    """Return every sentence's fold, as many as get two units and `MIN_ROWS` sentences; None below `MIN_FOLDS`."""
    for count in range(min(wanted, len(np.unique(units)) // 2), MIN_FOLDS - 1, -1):
        fold = fold_documents(units, count, seed=seed)
        if np.bincount(fold).min() >= MIN_ROWS:
            return fold
    return None
