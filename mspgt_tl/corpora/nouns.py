"""The noun phrases of the generated treebank: pronouns, names, common nouns with their modifiers, places."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from mspgt_tl.corpora import lexicon
from mspgt_tl.corpora.lexicon import NOUNS, pluralise
from mspgt_tl.corpora.names import draw_org, draw_person, draw_place
from mspgt_tl.corpora.phrase import Node, comma_or_stop, with_case

MAX_DEPTH = 2
"""Clauses inside clauses; deeper ones rarely fit into a sentence of 30 words."""


class NounGrammar(ABC):
    """Draws noun phrases; every method returns a fresh phrase and uses nothing but its own random stream.

    Classes of nouns (`person`, `place`, …) are the keys of `lexicon.NOUNS`; `depth` counts the clauses around a phrase.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.addressed = False

    @abstractmethod
    def relative_clause(self, noun: Node, kind: str, depth: int) -> Node:
        """Draw a relative clause about `noun`."""

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def noun_phrase(
        self, classes: tuple[str, ...], depth: int, *, pronouns: bool = False, subject: bool = False
    ) -> Node:
        """Draw a noun phrase of one of the classes: a pronoun, a name, a common noun or a coordination."""
        kind = self.rng.choice(classes)
        if pronouns and kind == "person" and self.chance(0.25):
            return self.pronoun(subject)
        if pronouns and kind not in ("person", "place") and self.chance(0.05):
            return Node("it", "PRON")
        phrase = self.single_phrase(kind, depth)
        if depth < MAX_DEPTH and self.chance(0.07):
            second = self.single_phrase(kind, MAX_DEPTH)
            if second.form != phrase.form:
                phrase.after("conj", second.first("cc", Node("and", "CCONJ")))
                phrase.agreement = "pl"
        return phrase

    def single_phrase(self, kind: str, depth: int) -> Node:
        names = {"person": (draw_person, 0.35), "org": (draw_org, 0.45), "place": (draw_place, 0.5)}
        if kind in names and self.chance(names[kind][1]):
            name = names[kind][0](self.rng)
            if kind == "person" and depth < MAX_DEPTH and self.chance(0.1):
                apposition = self.common_noun("person", MAX_DEPTH, number="sg", determiner="a")
                name.after("appos", apposition.first("punct", comma_or_stop(",")))
                name.after("punct", comma_or_stop(","))
            return name
        return self.common_noun(kind, depth)

    def pronoun(self, subject: bool) -> Node:
        third = [("he", "him", "sg"), ("she", "her", "sg"), ("they", "them", "pl")]
        first_or_second = [("I", "me", "1"), ("we", "us", "pl"), ("you", "you", "pl")]
        # One first or second person a sentence, or "I saw me" would turn up.
        drawn = self.rng.choice(third if self.addressed else third + first_or_second)
        self.addressed = self.addressed or drawn in first_or_second
        nominative, accusative, agreement = drawn
        return Node(nominative if subject else accusative, "PRON", agreement=agreement)

    def common_noun(self, kind: str, depth: int, *, number: str | None = None, determiner: str | None = None) -> Node:
        """Draw a common noun with a determiner and modifiers; `number` is sg or pl."""
        lemma = self.rng.choice(NOUNS[kind])
        plural = lemma not in lexicon.MASS and (number == "pl" or (number is None and self.chance(0.3)))
        noun = Node(pluralise(lemma) if plural else lemma, "NOUN", agreement="pl" if plural else "sg")
        determiner = determiner or self.determiner(noun, kind, mass=lemma in lexicon.MASS, depth=depth)
        if determiner:
            noun.before("det", Node(determiner, "DET"))
        if plural and determiner in ("the", "these", "those") and self.chance(0.15):
            noun.before("nummod", Node(self.rng.choice(lexicon.NUMBERS), "NUM"))
        if self.chance(0.35):
            adjective = Node(self.rng.choice(lexicon.ADJECTIVES[kind]), "ADJ")
            if adjective.form not in lexicon.UNGRADED and self.chance(0.12):
                adjective.before("advmod", Node(self.rng.choice(("very", "very", "rather")), "ADV"))
            noun.before("amod", adjective)
        if kind in lexicon.COMPOUNDS and self.chance(0.12):
            modifier = self.rng.choice(lexicon.COMPOUNDS[kind])
            if modifier != lemma:
                noun.before("compound", Node(modifier, "NOUN"))
        if depth < MAX_DEPTH:
            self.modify(noun, kind, depth)
        return noun

    def determiner(self, noun: Node, kind: str, *, mass: bool, depth: int) -> str | None:
        """Return a determiner, or None when the noun takes a possessor (attached here) or nothing."""
        if self.chance(0.14):
            self.possess(noun, depth)
            return None
        if mass:
            return self.rng.choice(("the", "some", "this", None, None))
        if noun.agreement == "pl":
            bare = None if kind in ("person", "animal", "document", "food") else "the"
            return self.rng.choice(("the", "the", "some", "these", "those", "all", bare, bare))
        return self.rng.choice(("the", "the", "the", "a", "a", "a", "this", "that", "every", "another"))

    def possess(self, noun: Node, depth: int) -> None:
        if self.chance(0.5):
            noun.before("nmod:poss", Node(self.rng.choice(("my", "our", "his", "her", "their", "your")), "PRON"))
            return
        named = depth == MAX_DEPTH or self.chance(0.6)
        owner = draw_person(self.rng) if named else self.common_noun("person", MAX_DEPTH, number="sg", determiner="the")
        noun.before("nmod:poss", owner.after("case", Node("'s", "PART", glued=True)))

    def modify(self, noun: Node, kind: str, depth: int) -> None:
        """Sometimes attach a prepositional phrase or a relative clause."""
        draw = self.rng.random()
        if draw < 0.14:
            noun.after("acl:relcl", self.relative_clause(noun, kind, depth + 1))
        elif draw < 0.26:
            preposition, classes = {
                "document": ("about", ("event", "idea", "person", "place", "disaster")),
                "idea": ("of", ("person", "org")),
                "event": ("in", ("place",)),
                "disaster": ("in", ("place",)),
                "building": (self.rng.choice(("in", "near")), ("place",)),
                "org": ("in", ("place",)),
                "person": ("from", ("place", "org")),
                "tool": ("from", ("place",)),
            }.get(kind, (None, ()))
            if preposition is not None:
                noun.after("nmod", with_case(self.noun_phrase(classes, MAX_DEPTH), preposition))

    def location(self) -> Node:
        """Return a place with a preposition that suits it."""
        kind = self.rng.choice(("place", "place", "building", "building", "tool"))
        if kind == "tool":
            furniture = Node(self.rng.choice(lexicon.FURNITURE), "NOUN").before("det", Node("the", "DET"))
            return with_case(furniture, self.rng.choice(("on", "under", "near")))
        named = kind == "place" and self.chance(0.6)
        phrase = draw_place(self.rng) if named else self.common_noun(kind, MAX_DEPTH, number="sg")
        prepositions = ("in", "in", "near", "at") if phrase.upos == "NOUN" else ("in", "in", "near")
        return with_case(phrase, self.rng.choice(prepositions))
