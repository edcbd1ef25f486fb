"""Turns labelled trees into the items that probes learn: rows of a feature array, and a label.

A word's vector is that of its last sub-token; the caller extracts it and says, per tree, in which row of the
feature array each word lies (-1 where the word was truncated or could not be aligned; its items are left
out).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mspgt_tl.contracts import TASKS, Tree
from mspgt_tl.errors import ConfigError, DataError, unknown_name

NO_LABEL = {"ner": "O", "srl": "none"}
"""The label of a task that says "nothing here": learnt, but left out of macro-F1."""

Item = tuple[tuple[int, ...], str, int]
"""Words whose vectors are concatenated, the label, the word whose type a control task relabels."""


@dataclass(frozen=True)
class TaskItems:
    """What a probe of one task learns or is measured on."""

    task: str
    rows: Int[np.ndarray, "item part"]
    """Rows of the feature array whose vectors are concatenated: one for words, two for pairs of words."""
    labels: np.ndarray
    """Label of each item, as strings."""
    words: np.ndarray
    """Lowercased form of the word, the dependent or the argument head: the word type of the control task."""
    tree: Int[np.ndarray, "item"]
    """Index of each item's tree."""

    def __len__(self) -> int:
        return len(self.tree)

    def take(self, chosen: np.ndarray) -> TaskItems:
        """Return the items at these indices, or where this mask is true."""
        return TaskItems(self.task, self.rows[chosen], self.labels[chosen], self.words[chosen], self.tree[chosen])


def make_items(
    trees: Sequence[Tree], task: str, word_row: Sequence[Int[np.ndarray, "_word"]], *, seed: int
) -> TaskItems:
    """Return the items of one task, tree by tree.

    The tasks are those of the probe signal (eq. 4, P): `pos` and `ner` look at a word, `deprel` at a word and
    its head (the root has none and is left out), `srl` at a predicate and an argument's head word. For each
    predicate, as many of its non-arguments as it has arguments (at least one) are drawn and labelled `none`;
    `seed` fixes the draw, which does not depend on the other trees' contents.

    Raises:
        ConfigError: the task is unknown.
        DataError: `word_row` does not fit the trees.
    """
    if task not in TASKS:
        raise ConfigError(unknown_name("task", task, TASKS))
    if len(trees) != len(word_row):
        raise DataError(f"word_row needs one array a tree: {len(trees)} trees, {len(word_row)} arrays.")
    rows, labels, words, sources = [], list[str](), list[str](), list[int]()
    for index, (tree, row) in enumerate(zip(trees, word_row, strict=True)):
        if len(tree.words) != len(row):
            raise DataError(f"Tree {index} has {len(tree.words)} words, its word_row {len(row)} entries.")
        for parts, label, word in _items_of_tree(tree, task, row, [seed, index]):
            if all(row[part] >= 0 for part in parts):
                rows.append([row[part] for part in parts])
                labels.append(label)
                words.append(tree.words[word].form.lower())
                sources.append(index)
    n_parts = 2 if task in ("deprel", "srl") else 1
    return TaskItems(
        task,
        rows=np.asarray(rows, dtype=np.int64).reshape(-1, n_parts),
        labels=np.asarray(labels, dtype=np.str_),
        words=np.asarray(words, dtype=np.str_),
        tree=np.asarray(sources, dtype=np.int64),
    )


def _items_of_tree(tree: Tree, task: str, row: np.ndarray, seed: list[int]) -> Iterator[Item]:
    if task == "srl":
        yield from _role_items(tree, row, seed)
        return
    for index, word in enumerate(tree.words):
        if task == "pos" and word.upos is not None:
            yield (index,), word.upos, index
        elif task == "ner" and word.ner is not None:
            yield (index,), word.ner, index
        elif task == "deprel" and word.deprel is not None and word.head is not None:
            yield (index, word.head), word.deprel, index


def _role_items(tree: Tree, row: np.ndarray, seed: list[int]) -> Iterator[Item]:
    if tree.arguments is None:
        return
    rng = np.random.default_rng(seed)
    named = tree.predicates or ()
    for predicate in sorted({*named, *(argument.predicate for argument in tree.arguments)}):
        arguments = [argument for argument in tree.arguments if argument.predicate == predicate]
        for argument in arguments:
            yield (predicate, argument.head), argument.role, argument.head
        taken = {predicate, *(argument.head for argument in arguments)}
        free = [word for word in range(len(tree.words)) if word not in taken and row[word] >= 0]
        wanted = min(len(free), max(1, len(arguments)))
        for word in sorted(rng.choice(free, size=wanted, replace=False).tolist() if wanted else ()):
            yield (predicate, word), NO_LABEL["srl"], word


def label_ids(train: np.ndarray, dev: np.ndarray) -> tuple[list[str], int, np.ndarray, np.ndarray]:
    """Return (names, number of trained labels, train ids, dev ids).

    Labels of training come first, sorted; labels that only dev has follow. A probe has outputs for the first
    only, so a dev item with an unseen label is always a false negative of that label, and a false positive of
    the one predicted.
    """
    trained = sorted(set(train.tolist()))
    names = trained + sorted(set(dev.tolist()) - set(trained))
    ids = {name: index for index, name in enumerate(names)}
    as_ids = [np.array([ids[label] for label in part.tolist()], dtype=np.int64) for part in (train, dev)]
    return names, len(trained), as_ids[0], as_ids[1]


def control_items(items: TaskItems, training_labels: np.ndarray, *, seed: int) -> TaskItems:
    """Return the items with every word type relabelled at random (N: control task, Hewitt & Liang 2019).

    A type's label is drawn from the empirical distribution of `training_labels` by a hash of the seed, the
    task and the word, so it is the same in every split. A probe can learn it only by memorising words.
    """
    names, counts = np.unique(training_labels, return_counts=True)
    edges = np.cumsum(counts) / counts.sum()
    types, of_item = np.unique(items.words, return_inverse=True)
    draws = np.array([_uniform(f"{seed}\0{items.task}\0{word}") for word in types.tolist()])
    drawn = names[np.minimum(np.searchsorted(edges, draws, side="right"), len(names) - 1)]
    return TaskItems(items.task, items.rows, drawn[of_item], items.words, items.tree)


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
