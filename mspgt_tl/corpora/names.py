"""Proper names of the generated treebank; one word may name a person, a place or an organisation."""

from __future__ import annotations

import random

from mspgt_tl.corpora import lexicon
from mspgt_tl.corpora.phrase import Node, proper_name


def draw_person(rng: random.Random) -> Node:
    """Draw the name of a person, sometimes with a title."""
    first, last = rng.choice(lexicon.FIRST_NAMES), rng.choice(lexicon.LAST_NAMES)
    form = rng.random()
    if form < 0.4:
        return proper_name((first,), "PER", 0, "flat")
    if form < 0.75 and first != last:
        return proper_name((first, last), "PER", 0, "flat")
    name = proper_name((last,), "PER", 0, "flat")
    return name.before("nmod:desc", Node(rng.choice(lexicon.TITLES), "PROPN"))


def draw_place(rng: random.Random) -> Node:
    """Draw the name of a place."""
    form = rng.random()
    if form < 0.7:
        return proper_name((rng.choice(lexicon.PLACE_NAMES),), "LOC", 0, "flat")
    if form < 0.82:
        return proper_name(rng.choice(lexicon.FLAT_PLACES), "LOC", 0, "flat")
    return proper_name((rng.choice(lexicon.PLACE_NAMES), rng.choice(lexicon.PLACE_TYPES)), "LOC", 1, "compound")


def draw_org(rng: random.Random) -> Node:
    """Draw the name of an organisation."""
    form = rng.random()
    if form < 0.6:
        return proper_name((rng.choice(lexicon.ORG_NAMES),), "ORG", 0, "flat")
    type_, place = rng.choice(lexicon.ORG_TYPES), rng.choice(lexicon.PLACE_NAMES)
    if form < 0.85:
        return proper_name((place, type_), "ORG", 1, "compound")
    head = Node(rng.choice(("University", "Bank")), "PROPN", ner="B-ORG")
    inside = Node(place, "PROPN", ner="I-ORG").before("case", Node("of", "ADP", ner="I-ORG"))
    return head.before("det", Node("the", "DET")).after("nmod", inside)
