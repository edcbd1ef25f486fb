"""Phrases that carry their own labels: the algebra under the generated treebank.

A phrase is its head word with dependents to its left and right. Attaching a phrase writes down its relation, and a
predicate keeps its arguments as references to nodes, so no index is written by hand and every tree is projective.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mspgt_tl.contracts import Argument, Tree, Word
from mspgt_tl.corpora.lexicon import choose_article


@dataclass(eq=False)
class Node:
    """A word with its dependents: the head of a phrase."""

    form: str
    upos: str
    glued: bool = False
    """Written without a space before it."""
    agreement: str = "sg"
    """Of a noun phrase: `1`, `sg` or `pl`, the suffix of the verb form it needs."""
    deprel: str = "root"
    ner: str = "O"
    is_predicate: bool = False
    left: list[Node] = field(default_factory=list)
    right: list[Node] = field(default_factory=list)
    roles: list[tuple[str, Node]] = field(default_factory=list)

    def before(self, deprel: str, child: Node, role: str | None = None) -> Node:
        """Attach a phrase left of the head, right of what is already there; return self."""
        return self._attach(self.left, deprel, child, role)

    def after(self, deprel: str, child: Node, role: str | None = None) -> Node:
        """Attach a phrase at the right end; return self."""
        return self._attach(self.right, deprel, child, role)

    def first(self, deprel: str, child: Node, role: str | None = None) -> Node:
        """Attach a phrase at the left end; return self."""
        self._attach(self.left, deprel, child, role)
        self.left.insert(0, self.left.pop())
        return self

    def _attach(self, side: list[Node], deprel: str, child: Node, role: str | None) -> Node:
        child.deprel = deprel
        side.append(child)
        if role is not None:
            self.roles.append((role, child))
        return self

    def in_order(self) -> Iterator[tuple[Node, Node | None]]:
        """Yield the words of the phrase from left to right, each with its head."""
        yield from ((node, head or self) for child in self.left for node, head in child.in_order())
        yield self, None
        yield from ((node, head or self) for child in self.right for node, head in child.in_order())

    def linearise(self) -> Tree:
        """Spell the phrase out as a sentence."""
        pairs = list(self.in_order())
        # A comma that closes a phrase is swallowed by the punctuation that follows it.
        followers = [node for node, _ in pairs[1:]] + [None]
        pairs = [
            pair
            for pair, after in zip(pairs, followers, strict=True)
            if not (pair[0].form == "," and after is not None and after.upos == "PUNCT")
        ]
        forms = [node.form for node, _ in pairs]
        for i, following in enumerate(forms[1:]):
            if forms[i] == "a" and pairs[i][0].upos == "DET":
                forms[i] = choose_article(following)
        forms[0] = forms[0][0].upper() + forms[0][1:]
        index = {id(node): i for i, (node, _) in enumerate(pairs)}
        text, words, arguments = "", [], []
        for i, (node, head) in enumerate(pairs):
            text += forms[i] if node.glued or not text else f" {forms[i]}"
            start = len(text) - len(forms[i])
            head_index = None if head is None else index[id(head)]
            words.append(Word(forms[i], start, len(text), node.upos, head_index, node.deprel, node.ner))
            located = sorted((index[id(filler)], role) for role, filler in node.roles)
            arguments += [Argument(predicate=i, head=position, role=role) for position, role in located]
        predicates = tuple(i for i, (node, _) in enumerate(pairs) if node.is_predicate)
        return Tree(text=text, words=tuple(words), arguments=tuple(arguments), predicates=predicates)


def comma_or_stop(form: str) -> Node:
    return Node(form, "PUNCT", glued=True)


def subordinator(form: str) -> Node:
    return Node(form, "PART" if form == "to" else "SCONJ")


def with_case(phrase: Node, preposition: str) -> Node:
    return phrase.first("case", Node(preposition, "ADP"))


def proper_name(forms: tuple[str, ...], kind: str, head: int, deprel: str) -> Node:
    """Return a proper name whose other words hang on its `head`-th."""
    nodes = [Node(form, "PROPN", ner=("B-" if i == 0 else "I-") + kind) for i, form in enumerate(forms)]
    for i, node in enumerate(nodes):
        if i < head:
            nodes[head].before(deprel, node)
        elif i > head:
            nodes[head].after(deprel, node)
    return nodes[head]
