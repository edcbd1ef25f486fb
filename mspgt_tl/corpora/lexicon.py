"""The words of the generated treebank: nouns by class, verbs by frame, names by kind, and how they inflect.

Many words stand in several lists on purpose (`plan`, `record`, `light`; `Jordan`, `Lincoln`): only the context tells
their part of speech or their kind of entity, so a probe cannot read the label off the word type.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = {
    name: _words(words)
    for name, words in {
        "person": "teacher doctor nurse lawyer student farmer singer driver artist engineer "
        "writer reporter manager guard "
        "judge cook guide pilot soldier sailor child woman man neighbour friend cousin brother sister "
        "uncle aunt girl boy "
        "king queen mayor minister officer player coach host patient witness captain clerk "
        "tailor baker painter editor "
        "scientist professor expert leader worker visitor tourist customer thief hunter",
        "animal": "dog cat horse cow sheep goat bird fish fox wolf bear rabbit mouse duck lion elephant snake",
        "org": "company bank school hospital council club team court newspaper party union army church factory agency "
        "museum committee ministry",
        "place": "city town village park garden forest valley harbour square street river lake "
        "island beach hill field "
        "market station border coast",
        "building": "house hotel castle bridge tower library church theatre school museum hall "
        "shop kitchen office barn",
        "document": "book letter report record study article story poem map list contract note "
        "message review file guide",
        "food": "apple cake pie sandwich egg orange fish salad meal pizza",
        "drink": "water coffee tea milk soup bread rice wine cheese butter",
        "tool": "hammer knife rope lamp camera clock key box ring coat watch light mirror basket "
        "drum violin guitar phone",
        "vehicle": "car truck train boat bus bicycle plane ship van",
        "event": "meeting party wedding concert match race visit walk election dance play trial "
        "strike journey trip ride "
        "game drive test show",
        "disaster": "storm fire flood war attack earthquake fight",
        "idea": "plan idea rule question answer law dream offer order problem decision change claim report promise",
    }.items()
}
MASS = frozenset(NOUNS["drink"])
IRREGULAR_PLURALS = {
    "child": "children", "woman": "women", "man": "men", "thief": "thieves", "sheep": "sheep", "fish": "fish",
    "wolf": "wolves", "mouse": "mice", "knife": "knives",
}  # fmt: skip

ADJECTIVES = {
    name: _words(words)
    for name, words in {
        "person": "young old tall famous honest clever tired kind angry happy quiet brave rich "
        "poor lonely proud nervous",
        "animal": "young old hungry small large wild angry quiet brown black white",
        "org": "new local old large rich small independent foreign powerful national",
        "place": "small old quiet large beautiful busy northern cold dry ancient",
        "building": "old new small empty large expensive beautiful dark tall ancient open",
        "document": "long short new strange important useful early secret final boring",
        "food": "fresh cold hot large small sweet cheap",
        "drink": "fresh cold hot cheap sweet",
        "tool": "old new small heavy light expensive useful broken golden",
        "vehicle": "old new fast slow red blue green expensive empty light",
        "event": "long short early late important final public strange annual",
        "disaster": "terrible sudden long violent",
        "idea": "new simple strange clever difficult useful final secret early unusual",
    }.items()
}
COMPOUNDS = {
    "org": ("city", "state", "research", "insurance", "football"),
    "building": ("stone", "city", "village", "brick"),
    "place": ("city", "mountain", "summer"),
    "document": ("police", "travel", "history", "court"),
    "tool": ("kitchen", "steel", "desk", "garden"),
    "vehicle": ("police", "school", "city"),
    "event": ("summer", "football", "school", "family"),
    "person": ("bank", "school", "team", "night"),
}

FIRST_NAMES = _words(
    "Maria Peter Anna Thomas Laura David Emma Daniel Sophie Robert Helen Martin Alice George Julia Oliver Nora "
    "Simon Jordan Austin Florence Sydney Chelsea Victoria Madison Lincoln Paris Carter Morgan"
)
LAST_NAMES = _words(
    "Smith Lopez Brown Miller Garcia Wilson Taylor Khan Rossi Novak Meyer Silva Adams Baker Cook Hunter Jordan "
    "Lincoln Washington Austin Houston Carter Morgan Ford Chase Preston Kingston Boyd"
)
TITLES = ("Doctor", "President", "Professor", "Captain", "Judge")
PLACE_NAMES = _words(
    "Berlin Rome London Boston Canada Spain Kenya Chicago Vienna Dublin Cairo Peru Norway India Brazil Tokyo "
    "Jordan Lincoln Washington Austin Florence Sydney Chelsea Victoria Madison Houston Paris Preston Kingston "
    "Cambridge Oxford Amazon"
)
FLAT_PLACES = (
    ("Los", "Angeles"),
    ("San", "Antonio"),
    ("Hong", "Kong"),
    ("Buenos", "Aires"),
    ("Costa", "Rica"),
)
PLACE_TYPES = ("Street", "Bridge", "Park", "Island", "Square", "Valley")
ORG_NAMES = _words(
    "Siemens Toyota Reuters Nokia Google Interpol Unicef Boeing Lufthansa Ford Chase Morgan Amazon Chelsea "
    "Lincoln Oxford Cambridge Preston Houston Boyd"
)
ORG_TYPES = ("University", "Bank", "Hospital", "Press", "Airlines", "Group", "College")

MONTHS = ("January", "March", "April", "May", "August", "October")
DAYS = ("Monday", "Tuesday", "Wednesday", "Friday", "Sunday")
NUMBERS = ("two", "three", "four", "five", "six", "ten", "twelve", "20", "50")
MANNER = _words("quickly slowly carefully quietly secretly happily calmly badly fast hard well together alone easily")
DEGREE = ("very", "quite", "rather", "too")
UNGRADED = frozenset(
    _words("final annual national local public secret golden broken northern independent foreign open")
)
"""Adjectives that take no degree adverb."""
FURNITURE = ("table", "shelf", "desk", "floor")
MODALS = ("will", "will", "can", "may", "must", "should", "could", "might", "would")
SENTENCE_ADVERBS = (
    ("however", "ARGM-DIS"),
    ("therefore", "ARGM-DIS"),
    ("fortunately", "ARGM-ADV"),
    ("surprisingly", "ARGM-ADV"),
)
SUBORDINATORS = (
    ("because", "ARGM-CAU"),
    ("after", "ARGM-TMP"),
    ("before", "ARGM-TMP"),
    ("while", "ARGM-TMP"),
    ("although", "ARGM-ADV"),
    ("if", "ARGM-ADV"),
)
FREQUENCY = ("often", "always", "usually", "sometimes", "rarely")


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


_FRAMES = """
person | transitive | document | ARG0 ARG1 | read study copy sign review edit record translate print file quote lose
person | transitive | food drink | ARG0 ARG1 | cook eat order taste prepare serve buy
person | transitive | tool | ARG0 ARG1 | use carry drop lose repair buy sell hide find clean break have
person | transitive | vehicle | ARG0 ARG1 | drive park repair rent buy sell watch have test
person | transitive | building | ARG0 ARG1 | visit enter leave paint own guard light clean
person | transitive | person | ARG0 ARG1 | help call meet thank question trust visit judge watch greet admire remember
person | transitive | animal | ARG0 ARG1 | feed train watch hunt chase find buy have
person | transitive | event | ARG0 ARG1 | plan watch remember attend cancel organise miss enjoy record host book
person | transitive | idea | ARG0 ARG1 | reject accept question support discuss explain change forget study
person | transitive | place | ARG0 ARG1 | leave visit explore paint guard reach
animal | transitive | animal person | ARG0 ARG1 | chase follow watch bite
animal | transitive | food | ARG0 ARG1 | eat smell steal
org | transitive | person | ARG0 ARG1 | hire fire train pay sue thank
org | transitive | building | ARG0 ARG1 | build open close buy sell design plan
org | transitive | document | ARG0 ARG1 | publish review file release record
org | transitive | event idea | ARG0 ARG1 | announce plan cancel review support delay
event idea | transitive | person | ARG0 ARG1 | surprise please worry shock delight
disaster | transitive | building vehicle place | ARG0 ARG1 | damage destroy threaten
person | transitive:up | document tool | ARG0 ARG1 | pick look
person | transitive:off | event | ARG0 ARG1 | call put
person | intransitive | | ARG0 | work walk dance sing laugh travel fish play study dream paint cook wait run swim
animal | intransitive | | ARG0 | run sleep swim walk play jump
person animal | intransitive | | ARG1 | arrive fall disappear
event disaster | intransitive | | ARG1 | begin end start happen
vehicle | intransitive | | ARG1 | stop arrive crash
tool | intransitive | | ARG1 | break fall disappear
org | intransitive | | ARG1 | grow close fail
person | oblique:to | place building | ARG0 ARGM-DIR | walk run drive travel return ride march
animal | oblique:to | place | ARG0 ARGM-DIR | run walk return
person | oblique:for | event person | ARG0 ARG1 | wait look
person | oblique:to | person | ARG0 ARG1 | listen
person | oblique:at | animal person | ARG0 ARG1 | look laugh shout
person | oblique:about | idea event person | ARG0 ARG1 | talk dream worry complain argue
person | oblique:for | org | ARG0 ARG2 | work play
person | ditransitive | document tool food | ARG0 ARG1 ARG2 | give send show sell lend offer hand bring
org | ditransitive | document vehicle | ARG0 ARG1 ARG2 | give send show sell offer
person | placing | tool document food | ARG0 ARG1 ARG2 | put place hide leave
person | saying | | ARG0 ARG1 | say believe think know hope claim argue explain fear admit
org | saying | | ARG0 ARG1 | say claim announce report note deny
person | telling | | ARG0 ARG1 ARG2 | tell warn remind assure
person | wanting | | ARG0 ARG1 | want try plan hope refuse decide begin promise need learn agree
org | wanting | | ARG0 ARG1 | want plan refuse decide promise
person | asking | | ARG0 ARG2 ARG1 | ask tell
person org | asking | | ARG0 ARG1 ARG2 | order persuade allow force encourage teach
"""


def _parse_frames() -> tuple[Frame, ...]:
    frames = []
    for line in _FRAMES.strip().splitlines():
        subject, kind, objects, roles, lemmas = (cell.split() for cell in line.split("|"))
        name, _, particle = kind[0].partition(":")
        frames += [
            Frame(lemma, name, particle or None, tuple(subject), tuple(objects), tuple(roles)) for lemma in lemmas
        ]
    return tuple(frames)


FRAMES = _parse_frames()
STATIVE = frozenset(
    _words(
        "have own need want think believe know hope fear admit agree claim lose forget trust admire remember enjoy "
        "smell note deny"
    )
)
"""Verbs that take no progressive and that nobody is told to do."""

_IRREGULAR_VERBS = {
    line.split()[0]: (line.split()[1], line.split()[2])
    for line in """
    read read read|eat ate eaten|buy bought bought|sell sold sold|hide hid hidden|find found found|break broke broken
    drive drove driven|leave left left|light lit lit|meet met met|feed fed fed|forget forgot forgotten|bite bit bitten
    steal stole stolen|pay paid paid|build built built|sing sang sung|run ran run|swim swam swum|sleep slept slept
    fall fell fallen|begin began begun|grow grew grown|ride rode ridden|give gave given|send sent sent|show showed shown
    lend lent lent|bring brought brought|put put put|say said said|think thought thought|know knew known|tell told told
    teach taught taught|lose lost lost|write wrote written|go went gone
    """.replace("\n", "|").split("|")
    if line.strip()
}
_DOUBLING = frozenset({"admit", "cancel", "travel", "plan", "stop", "drop", "run", "swim", "forget", "begin", "put"})
_BE = {"present_1": "am", "present_sg": "is", "present_pl": "are", "past_1": "was", "past_sg": "was", "past_pl": "were",
       "base": "be", "participle": "been", "ing": "being"}  # fmt: skip
_HAVE = {
    "present_sg": "has",
    "past_1": "had",
    "past_sg": "had",
    "past_pl": "had",
    "participle": "had",
    "ing": "having",
}
_DO = {"present_sg": "does", "past_1": "did", "past_sg": "did", "past_pl": "did"}


def inflect(lemma: str, form: str) -> str:
    """Return a verb's form: base, present_1, present_sg, present_pl, past_1, past_sg, past_pl, participle or ing.

    >>> inflect("plan", "past_sg"), inflect("carry", "present_sg"), inflect("be", "present_1")
    ('planned', 'carries', 'am')
    """
    special = {"be": _BE, "have": _HAVE, "do": _DO}.get(lemma)
    if special is not None:
        return special.get(form, lemma)
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
    return IRREGULAR_PLURALS.get(noun) or _add_s(noun)


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
