"""The words of the generated treebank: nouns by class, verbs by frame, names by kind, and how they inflect.

Many words stand in several lists on purpose (`plan`, `record`, `light`; `Jordan`, `Lincoln`): only the context tells
their part of speech or their kind of entity, so a probe cannot read the label off the word type.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def _words(name: str) -> tuple[str, ...]:
    return tuple(_DATA[name].split())


def _by_class(name: str) -> dict[str, tuple[str, ...]]:
    return {kind: tuple(words.split()) for kind, words in _DATA[name].items()}


def _rows(name: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row.split()) for row in _DATA[name].split(","))


NOUNS, ADJECTIVES, COMPOUNDS = _by_class("nouns"), _by_class("adjectives"), _by_class("compounds")
MASS = frozenset(NOUNS["drink"])
FIRST_NAMES, LAST_NAMES, TITLES = _words("first_names"), _words("last_names"), _words("titles")
PLACE_NAMES, FLAT_PLACES, PLACE_TYPES = _words("place_names"), _rows("flat_places"), _words("place_types")
ORG_NAMES, ORG_TYPES = _words("org_names"), _words("org_types")
MONTHS, DAYS, NUMBERS = _words("months"), _words("days"), _words("numbers")
MANNER, DEGREE, FREQUENCY = _words("manner"), _words("degree"), _words("frequency")
FURNITURE, MODALS = _words("furniture"), _words("modals")
SENTENCE_ADVERBS, SUBORDINATORS = _rows("sentence_adverbs"), _rows("subordinators")
"""With the roles that they give."""
UNGRADED = frozenset(_words("ungraded"))
"""Adjectives that take no degree adverb."""
STATIVE = frozenset(_words("stative"))
"""Verbs that take no progressive and that nobody is told to do."""
_DOUBLING = frozenset(_words("doubling"))
_AUXILIARIES = {lemma: {form: word for form, word in _rows(lemma)} for lemma in ("be", "have", "do")}
_IRREGULAR_PLURALS = {singular: plural for singular, plural in _rows("irregular_plurals")}
_IRREGULAR_VERBS = {base: (past, participle) for base, past, participle in _rows("irregular_verbs")}


@dataclass(frozen=True)
class Frame:
    """One use of a verb: what its subject and complements are and which roles they fill."""

    lemma: str
    kind: str
    """transitive, intransitive, ditransitive, placing, saying, telling, wanting, asking, or oblique."""
    particle: str | None
    """The preposition of an oblique, or a transitive verb's particle."""
    subject: tuple[str, ...]
    objects: tuple[str, ...]
    roles: tuple[str, ...]
    """Of the subject, then of the complements in the order of the basic clause."""


def _parse_frames() -> tuple[Frame, ...]:
    frames = []
    for line in _DATA["frames"].strip().splitlines():
        subject, kind, objects, roles, lemmas = (cell.split() for cell in line.split("|"))
        name, _, particle = kind[0].partition(":")
        frames += [
            Frame(lemma, name, particle or None, tuple(subject), tuple(objects), tuple(roles)) for lemma in lemmas
        ]
    return tuple(frames)


FRAMES = _parse_frames()


def inflect(lemma: str, form: str) -> str:
    """Return a verb's form: base, present_1, present_sg, present_pl, past_1, past_sg, past_pl, participle or ing.

    >>> inflect("plan", "past_sg"), inflect("carry", "present_sg"), inflect("be", "present_1")
    ('planned', 'carries', 'am')
    """
    if lemma in _AUXILIARIES:
        return _AUXILIARIES[lemma].get(form, lemma)
    if form in ("base", "present_1", "present_pl"):
        return lemma
    if form == "present_sg":
        return _add_s(lemma)
    doubled = lemma + lemma[-1] if lemma in _DOUBLING else lemma
    if form == "ing":
        return (lemma[:-1] if lemma.endswith("e") and not lemma.endswith("ee") else doubled) + "ing"
    if lemma in _IRREGULAR_VERBS:
        return _IRREGULAR_VERBS[lemma][form == "participle"]
    if lemma.endswith("e"):
        return lemma + "d"
    return lemma[:-1] + "ied" if _ends_in_consonant_y(lemma) else doubled + "ed"


def pluralise(noun: str) -> str:
    """Return a noun's plural.

    >>> pluralise("church"), pluralise("child"), pluralise("city")
    ('churches', 'children', 'cities')
    """
    return _IRREGULAR_PLURALS.get(noun) or _add_s(noun)


def _add_s(word: str) -> str:
    if _ends_in_consonant_y(word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def _ends_in_consonant_y(word: str) -> bool:
    return word.endswith("y") and word[-2] not in "aeiou"


def choose_article(following: str) -> str:
    """Return "a" or "an" for the word that follows.

    >>> choose_article("hour"), choose_article("useful"), choose_article("apple")
    ('an', 'a', 'an')
    """
    if following.startswith(("hour", "honest", "heir")):
        return "an"
    if following.startswith(("use", "uni", "euro", "one", "Uni", "Euro")) and not following.startswith("unim"):
        return "a"
    return "an" if following[0].lower() in "aeiou" else "a"
