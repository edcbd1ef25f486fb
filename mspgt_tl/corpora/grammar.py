"""The generated treebank: English-like sentences from a seeded grammar, their labels right by construction.

It needs no download and no licence, and it is the treebank used when no other is named. It is far more regular than
written English, so probe scores on it are higher: compare layers with it, not models with the literature.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace

from mspgt_tl.contracts import TASKS, TextCorpus, Tree, Treebank
from mspgt_tl.corpora.sentences import SentenceGrammar
from mspgt_tl.errors import CorpusError

MIN_LENGTH, MAX_LENGTH = 4, 30
"""Words per sentence, punctuation included."""
PATIENCE = 50
"""Draws per sentence asked for before giving up: far beyond what the grammar needs (about 1.2)."""


def generate_treebank(*, seed: int = 0, train: int = 2000, dev: int = 500) -> Treebank:
    """Return distinct generated trees with all four layers; no sentence of `dev` is in `train`.

    Raises:
        CorpusError: a size is below 1 or beyond what the grammar can give.
    """
    if min(train, dev) < 1:
        raise CorpusError(f"One or more trees a split needed, but train={train} and dev={dev} came.")
    trees = _draw_trees(seed, train + dev)
    splits = (trees[:train], trees[train:])
    own = (tuple(replace(tree, document=i) for i, tree in enumerate(split)) for split in splits)
    return Treebank("generated", *own, tasks=TASKS, sha256=_hash_trees(trees))


def generated_corpus(*, seed: int = 0, limit: int = 10_000) -> TextCorpus:
    """Return `limit` distinct generated sentences as plain text.

    The first sentences are those of `generate_treebank` with the same seed; take another seed for unseen ones.

    Raises:
        CorpusError: `limit` is below 1 or beyond what the grammar can give.
    """
    if limit < 1:
        raise CorpusError(f"A limit of 1 or more sentences needed, but {limit} came.")
    trees = _draw_trees(seed, limit)
    texts = tuple(tree.text for tree in trees)
    return TextCorpus("generated", texts, _hash_trees(trees), documents=tuple(range(limit)))


def sample_sentences(n: int, seed: int = 0) -> list[str]:
    """Return `n` distinct generated English-like sentences, for trying things out without a text of one's own.

    Another seed gives other sentences; the same one gives the same, however many.

    Raises:
        CorpusError: `n` is below 1 or beyond what the grammar can give.

    See Also:
        mspgt_tl.measure, mspgt_tl.detect: take sentences, or a text file of your own.

    >>> sample_sentences(3, seed=1) == sample_sentences(5, seed=1)[:3]
    True
    """
    return list(generated_corpus(seed=seed, limit=n).sentences)


def generate_trees(*, seed: int) -> Iterator[Tree]:
    """Yield generated trees without end; sentences may repeat."""
    grammar = SentenceGrammar(random.Random(seed))
    while True:
        tree = grammar.sentence().linearise()
        if MIN_LENGTH <= len(tree.words) <= MAX_LENGTH:
            yield tree


def _draw_trees(seed: int, count: int) -> tuple[Tree, ...]:
    distinct = dict[str, Tree]()
    for draws, tree in enumerate(generate_trees(seed=seed)):
        distinct.setdefault(tree.text, tree)
        if len(distinct) == count:
            return tuple(distinct.values())
        if draws > PATIENCE * count:
            break
    raise CorpusError(f"{count} distinct sentences needed, but the grammar gave {len(distinct)}; ask for fewer.")


def _hash_trees(trees: tuple[Tree, ...]) -> str:
    # What came out is hashed, not the settings: a change to the grammar must change the hash too.
    return hashlib.sha256(repr(trees).encode()).hexdigest()
