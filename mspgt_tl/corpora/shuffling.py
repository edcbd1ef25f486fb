"""Null corpora: the same sentences or trees with what a signal could hold on to dealt anew."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from mspgt_tl.contracts import TextCorpus, Tree, Treebank


def shuffle_words(corpus: TextCorpus, *, seed: int) -> TextCorpus:
    """Return the corpus with the words of every sentence in random order: its vocabulary without its syntax."""
    rng = np.random.default_rng([seed, 3])
    shuffled = tuple(" ".join(rng.permutation(sentence.split())) for sentence in corpus.sentences)
    digest = sha256("\n".join(shuffled).encode()).hexdigest()
    return replace(corpus, name=f"{corpus.name} (shuffled words)", sentences=shuffled, sha256=digest)


def shuffle_labels(treebank: Treebank, *, seed: int) -> Treebank:
    """Return the treebank with the labels of every layer dealt anew over the words or arguments of each split."""
    rng = np.random.default_rng([seed, 4])

    def deal(trees: tuple[Tree, ...]) -> tuple[Tree, ...]:
        words = [word for tree in trees for word in tree.words]
        decks = {name: iter(_shuffled([getattr(w, name) for w in words], rng)) for name in ("upos", "deprel", "ner")}
        roles = iter(_shuffled([a.role for tree in trees for a in tree.arguments or ()], rng))
        dealt = []
        for tree in trees:
            words = tuple(replace(w, **{name: next(deck) for name, deck in decks.items()}) for w in tree.words)
            arguments = tree.arguments and tuple(replace(a, role=next(roles)) for a in tree.arguments)
            dealt.append(replace(tree, words=words, arguments=arguments))
        return tuple(dealt)

    name = f"{treebank.name} (shuffled labels)"
    return replace(treebank, name=name, train=deal(treebank.train), dev=deal(treebank.dev))


def _shuffled(values: list[Any], rng: np.random.Generator) -> list[Any]:
    return [values[i] for i in rng.permutation(len(values))]
