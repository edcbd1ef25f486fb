"""The clauses and sentences of the generated treebank.

Parts of speech and relations follow Universal Dependencies as UD English-EWT 2.16 spells them, roles PropBank (an
argument is the head of its span). Copulas and auxiliaries are not predicates here; existential `be` is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from mspgt_tl.corpora import lexicon
from mspgt_tl.corpora.lexicon import FRAMES, Frame, inflect
from mspgt_tl.corpora.nouns import MAX_DEPTH, NounGrammar
from mspgt_tl.corpora.phrase import Node, comma_or_stop, subordinator, with_case


@dataclass(frozen=True)
class Shape:
    """What a verb group expresses."""

    tense: str = "past"
    """past, present, future, would, or infinitive and imperative for the bare form."""
    modal: str | None = None
    perfect: bool = False
    progressive: bool = False
    passive: bool = False
    negative: bool = False
    inverted: bool = False


def finite_be(shape: Shape, subject: Node) -> str:
    return "be" if shape.modal else inflect("be", f"{shape.tense}_{subject.agreement}")


class SentenceGrammar(NounGrammar):
    """Draws phrases; every method returns a fresh phrase and uses nothing but its own random stream."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.transitives = [f for f in FRAMES if f.kind == "transitive" and f.lemma != "have"]
        # Frames first by kind, then by line and verb: rare constructions would drown in 258 equally likely ones.
        self.by_kind: dict[str, list[Frame]] = {}
        for frame in FRAMES:
            self.by_kind.setdefault(frame.kind, []).append(frame)

    def relative_clause(self, noun: Node, kind: str, depth: int) -> Node:
        """Draw a clause with a gap for `noun`: its subject, or the object of a transitive verb."""
        pronoun = Node("who" if kind == "person" and self.chance(0.7) else "that", "PRON", agreement=noun.agreement)
        as_object = [f for f in self.transitives if kind in f.objects and f.particle is None]
        as_subject = [f for f in FRAMES if kind in f.subject and f.kind in ("transitive", "intransitive", "oblique")]
        shape = self.finite_shape(simple=True)
        if as_subject and (not as_object or self.chance(0.6)):
            frame = self.rng.choice(as_subject)
            verb = self.verb_group(frame, noun, shape)
            verb.first("nsubj", pronoun)
            verb.roles += [(frame.roles[0], noun), (f"R-{frame.roles[0]}", pronoun)]
            self.complement(verb, frame, depth, controller=noun, shape=shape)
            return verb
        frame = self.rng.choice(as_object)
        subject = self.noun_phrase(frame.subject, MAX_DEPTH, pronouns=True, subject=True)
        verb = self.verb_group(frame, subject, shape).first("nsubj", subject, frame.roles[0])
        verb.roles.append((frame.roles[1], noun))
        if self.chance(0.6):
            verb.first("obj", Node("that", "PRON"), f"R-{frame.roles[1]}")
        return verb

    # Verbs and their complements

    def finite_shape(self, *, simple: bool = False, tense: str | None = None) -> Shape:
        tense = tense or self.rng.choice(("past", "past", "past", "present", "present", "modal"))
        if tense == "modal":
            return Shape("present", modal=self.rng.choice(lexicon.MODALS))
        if simple:
            return Shape(tense)
        aspect, negative = self.rng.random(), self.chance(0.13)
        return Shape(tense, perfect=aspect < 0.14, progressive=0.14 <= aspect < 0.26, negative=negative)

    def verb_group(self, frame: Frame, subject: Node | None, shape: Shape) -> Node:
        """Return the main verb with its auxiliaries and negation, which are all to its left."""
        chain, form = list[tuple[str, str, str | None]](), shape.tense
        progressive = shape.progressive and frame.lemma not in lexicon.STATIVE
        if form in ("past", "present"):
            form = f"{form}_{subject.agreement if subject else 'sg'}"
        if shape.modal:
            chain.append((shape.modal, "aux", "ARGM-MOD"))
            form = "base"
        for wanted, lemma, deprel, following in (
            (shape.perfect, "have", "aux", "participle"),
            (progressive, "be", "aux", "ing"),
            (shape.passive, "be", "aux:pass", "participle"),
        ):
            if wanted:
                chain.append((inflect(lemma, form), deprel, None))
                form = following
        if (shape.negative or shape.inverted) and not chain:
            chain.append((inflect("do", form), "aux", None))
            form = "base"
        verb = Node(inflect(frame.lemma, form), "VERB", is_predicate=True)
        for i, (word, deprel, role) in enumerate(chain):
            verb.before(deprel, Node(word, "AUX"), role)
            if i == 0 and shape.negative:
                short = word not in ("am", "can", "will", "may", "might") and not shape.inverted and self.chance(0.5)
                verb.before("advmod", Node("n't" if short else "not", "PART", glued=short), "ARGM-NEG")
        return verb

    def complement(self, verb: Node, frame: Frame, depth: int, *, controller: Node | None, shape: Shape) -> None:
        """Attach what the frame asks for after the verb; `controller` is the subject that an infinitive shares."""
        roles = frame.roles
        match frame.kind:
            case "transitive":
                if frame.particle:
                    verb.after("compound:prt", Node(frame.particle, "ADP"))
                    verb.after("obj", self.common_noun(self.rng.choice(frame.objects), depth), roles[1])
                else:
                    verb.after("obj", self.noun_phrase(frame.objects, depth, pronouns=True), roles[1])
            case "oblique":
                phrase = self.noun_phrase(frame.objects, depth, pronouns=True)
                verb.after("obl", with_case(phrase, frame.particle or ""), roles[1])
            case "ditransitive":
                thing = self.noun_phrase(frame.objects, depth)
                person = self.noun_phrase(("person",), MAX_DEPTH, pronouns=True)
                if self.chance(0.5):
                    verb.after("iobj", person, roles[2]).after("obj", thing, roles[1])
                else:
                    verb.after("obj", thing, roles[1]).after("obl", with_case(person, "to"), roles[2])
            case "placing":
                verb.after("obj", self.noun_phrase(frame.objects, MAX_DEPTH), roles[1])
                verb.after("obl", self.location(), roles[2])
            case "saying" | "telling":
                if frame.kind == "telling":
                    verb.after("iobj", self.noun_phrase(("person",), MAX_DEPTH, pronouns=True), roles[2])
                verb.after("ccomp", self.embedded(depth, "that", shape, optional=frame.kind == "saying"), roles[1])
            case "wanting":
                verb.after("xcomp", self.infinitive(depth, controller), roles[1])
            case "asking":
                person = self.noun_phrase(("person",), MAX_DEPTH, pronouns=True)
                verb.after("obj", person, roles[1]).after("xcomp", self.infinitive(depth, person), roles[2])

    def infinitive(self, depth: int, controller: Node | None) -> Node:
        """Draw a `to` clause whose unspoken subject is `controller`."""
        frame = self.choose_action(depth + 1)
        verb = Node(frame.lemma, "VERB", is_predicate=True).before("mark", subordinator("to"))
        if controller is not None:
            verb.roles.append((frame.roles[0], controller))
        self.complement(verb, frame, depth + 1, controller=controller, shape=Shape("present"))
        return verb

    def embedded(self, depth: int, mark: str, outer: Shape, *, optional: bool = False) -> Node:
        """Draw a finite clause behind a conjunction, in the outer clause's tense."""
        tense = "past" if outer.tense == "past" else self.rng.choice(("present", "present", "modal"))
        clause = self.clause(depth + 1, tense=tense)
        return clause if optional and self.chance(0.3) else clause.first("mark", subordinator(mark))

    def choose_frame(self, depth: int, *, subject: str | None = None) -> Frame:
        weights = {"transitive": 40, "intransitive": 14, "oblique": 10, "ditransitive": 8, "placing": 6}
        if depth < MAX_DEPTH:
            weights |= {"saying": 9, "telling": 4, "wanting": 8, "asking": 6}
        (kind,) = self.rng.choices(list(weights), list(weights.values()))
        return self.rng.choice([f for f in self.by_kind[kind] if subject is None or subject in f.subject])

    def choose_action(self, depth: int) -> Frame:
        """Choose a frame of something that people do on purpose."""
        while True:
            frame = self.choose_frame(depth, subject="person")
            if frame.lemma not in lexicon.STATIVE and frame.roles[0] == "ARG0":
                return frame

    # Adjuncts

    def time(self, shape: Shape) -> tuple[str, Node]:
        """Return a time adjunct that agrees with the tense, with its relation."""
        if shape.tense == "past" and not shape.perfect and self.chance(0.3):
            draw = self.rng.choice(("day", "month", "year"))
            if draw == "year":
                return "obl", with_case(Node(str(self.rng.randint(1950, 2019)), "NUM"), "in")
            names, preposition = (lexicon.DAYS, "on") if draw == "day" else (lexicon.MONTHS, "in")
            return "obl", with_case(Node(self.rng.choice(names), "PROPN"), preposition)
        if self.chance(0.35):
            event = self.common_noun(self.rng.choice(("event", "disaster")), MAX_DEPTH, number="sg", determiner="the")
            return "obl", with_case(event, self.rng.choice(("before", "after", "during")))
        if shape.perfect:
            return "advmod", Node(self.rng.choice(("recently", "twice", "before")), "ADV")
        units = ("week", "month", "year", "night" if shape.tense == "past" else "weekend")
        unit = Node(self.rng.choice(units), "NOUN")
        if shape.modal:
            adverb, modifier = "tomorrow", ("amod", Node("next", "ADJ"))
        elif shape.tense == "past":
            adverb, modifier = "yesterday", ("amod", Node("last", "ADJ"))
        else:
            adverb, determiner = ("now", "this") if shape.progressive else ("daily", "every")
            modifier = ("det", Node(determiner, "DET"))
        if self.chance(0.5):
            return "advmod", Node(adverb, "ADV")
        return "obl:unmarked", unit.before(*modifier)

    def adjoin(self, verb: Node, frame: Frame, shape: Shape, subject: Node | None, depth: int) -> None:
        """Attach adjuncts to a finished clause."""
        if frame.kind in ("saying", "telling", "wanting", "asking"):
            return  # heavy as they are
        agent = frame.roles[0] == "ARG0" and "person" in frame.subject
        if agent and not shape.passive and self.chance(0.16):
            manner = self.rng.choice(lexicon.MANNER if frame.kind == "intransitive" else lexicon.MANNER[:7])
            verb.after("advmod", Node(manner, "ADV"), "ARGM-MNR")
        if frame.kind != "placing" and frame.roles[-1] != "ARGM-DIR" and self.chance(0.2):
            verb.after("obl", self.location(), "ARGM-LOC")
        if self.chance(0.26):
            deprel, adjunct = self.time(shape)
            if deprel == "obl" and depth == 0 and self.chance(0.4):
                verb.first("punct", comma_or_stop(",")).first(deprel, adjunct, "ARGM-TMP")
            else:
                verb.after(deprel, adjunct, "ARGM-TMP")
        if depth >= MAX_DEPTH:
            return
        draw = self.rng.random()
        if draw < 0.06 and agent and subject is not None and not shape.passive:
            verb.after("advcl", self.infinitive(depth, subject), "ARGM-PRP")
        elif draw < 0.2:
            mark, role = self.rng.choice(lexicon.SUBORDINATORS)
            clause = self.embedded(depth, mark, shape)
            if depth == 0 and self.chance(0.4):
                clause.after("punct", comma_or_stop(","))
                verb.first("advcl", clause, role)
            else:
                verb.after("advcl", clause, role)

    # Clauses

    def clause(self, depth: int, *, tense: str | None = None) -> Node:
        """Draw a declarative clause without its final punctuation; its head is the root of a sentence."""
        draw = self.rng.random()
        shape = self.finite_shape(tense=tense)
        if draw < 0.13:
            return self.copular(depth, shape)
        if draw < 0.17:
            return self.existential(depth, shape)
        if draw < 0.3:
            return self.passive(depth, replace(shape, progressive=False, passive=True))
        frame = self.choose_frame(depth)
        subject = self.noun_phrase(frame.subject, depth, pronouns=True, subject=True)
        verb = self.verb_group(frame, subject, shape)
        if not (shape.perfect or shape.progressive or shape.negative) and self.chance(0.08):
            never = self.chance(0.4)
            word = "never" if never else self.rng.choice(lexicon.FREQUENCY)
            verb.before("advmod", Node(word, "ADV"), "ARGM-NEG" if never else "ARGM-TMP")
        verb.first("nsubj", subject, frame.roles[0])
        self.complement(verb, frame, depth, controller=subject, shape=shape)
        plain = frame.kind in ("transitive", "intransitive") and "person" in frame.subject
        if depth < MAX_DEPTH and plain and self.chance(0.1):
            self.coordinate(verb, subject, shape, depth)
        else:
            self.adjoin(verb, frame, shape, subject, depth)
        return verb

    def coordinate(self, verb: Node, subject: Node, shape: Shape, depth: int) -> None:
        """Attach a second verb phrase that shares the subject."""
        frame = self.choose_frame(MAX_DEPTH, subject="person")
        # With a modal the second verb shares it, so it stands in the bare form.
        plain = Shape("base") if shape.modal else Shape(shape.tense)
        second = self.verb_group(frame, subject, plain)
        second.first("cc", Node(self.rng.choice(("and", "and", "or")), "CCONJ"))
        second.roles.append((frame.roles[0], subject))
        self.complement(second, frame, MAX_DEPTH, controller=subject, shape=plain)
        verb.after("conj", second)

    def passive(self, depth: int, shape: Shape) -> Node:
        frame = self.rng.choice([f for f in self.transitives if f.particle is None])
        subject = self.noun_phrase(frame.objects, depth, pronouns=True, subject=True)
        verb = self.verb_group(frame, subject, shape).first("nsubj:pass", subject, frame.roles[1])
        if self.chance(0.45):
            agent = self.noun_phrase(frame.subject, MAX_DEPTH)
            verb.after("obl:agent", with_case(agent, "by"), frame.roles[0])
        self.adjoin(verb, frame, shape, None, depth)
        return verb

    def copular(self, depth: int, shape: Shape) -> Node:
        """Draw a clause with `be` whose head is an adjective, a noun or a place."""
        kinds = ("person", "person", "building", "document", "event", "vehicle", "place", "org", "animal")
        kind = self.rng.choice(kinds)
        subject = self.noun_phrase((kind,), depth, pronouns=True, subject=True)
        draw = self.rng.random()
        if draw < 0.55 or kind == "place":
            said = {child.form for child in subject.left}
            head = Node(self.rng.choice([word for word in lexicon.ADJECTIVES[kind] if word not in said]), "ADJ")
            if head.form not in lexicon.UNGRADED and self.chance(0.4):
                head.before("advmod", Node(self.rng.choice(lexicon.DEGREE), "ADV"))
        elif draw < 0.8 and subject.agreement == "sg" and kind == "person":
            head = self.common_noun(kind, MAX_DEPTH, number="sg", determiner=self.rng.choice(("a", "a", "the")))
        else:
            place = self.noun_phrase(("place",), MAX_DEPTH)
            head = with_case(place, self.rng.choice(("in", "near", "from") if kind == "person" else ("in", "near")))
        group = [("aux", Node(shape.modal, "AUX"))] if shape.modal else []
        group.append(("cop", Node(finite_be(shape, subject), "AUX")))
        if shape.negative:
            group.insert(1, ("advmod", Node("not", "PART")))
        for deprel, node in reversed(group):
            head.first(deprel, node)
        return head.first("nsubj", subject)

    def existential(self, depth: int, shape: Shape) -> Node:
        kind = self.rng.choice(("person", "animal", "building", "document", "tool", "vehicle", "event", "org"))
        number, determiner = self.rng.choice((("sg", "a"), ("sg", "a"), ("sg", "another"), ("pl", "some")))
        thing = self.common_noun(kind, depth, number=number, determiner=determiner)
        verb = Node(finite_be(shape, thing), "VERB", is_predicate=True).before("expl", Node("there", "PRON"))
        if shape.modal:
            verb.before("aux", Node(shape.modal, "AUX"), "ARGM-MOD")
        verb.after("nsubj", thing, "ARG1")
        return verb.after("obl", self.location(), "ARGM-LOC") if self.chance(0.6) else verb

    # Sentences

    def sentence(self) -> Node:
        """Draw a whole sentence with its punctuation."""
        self.addressed = False
        draw = self.rng.random()
        if draw < 0.07:
            return self.polar_question().after("punct", comma_or_stop("?"))
        if draw < 0.14:
            return self.content_question().after("punct", comma_or_stop("?"))
        if draw < 0.19:
            return self.imperative().after("punct", comma_or_stop("."))
        clause = self.clause(0)
        if draw < 0.26:
            second = self.clause(MAX_DEPTH)
            second.first("cc", Node(self.rng.choice(("and", "but", "but")), "CCONJ")).first("punct", comma_or_stop(","))
            clause.after("conj", second)
        elif draw < 0.3:
            adverb, role = self.rng.choice(lexicon.SENTENCE_ADVERBS)
            clause.first("punct", comma_or_stop(","))
            clause.first("advmod", Node(adverb, "ADV"), role if clause.is_predicate else None)
        return clause.after("punct", comma_or_stop("."))

    def polar_question(self) -> Node:
        frame = self.choose_frame(1)
        subject = self.noun_phrase(frame.subject, 1, pronouns=True, subject=True)
        shape = replace(self.finite_shape(simple=True), inverted=True)
        verb = self.invert(frame, subject, shape)
        self.complement(verb, frame, 1, controller=subject, shape=shape)
        self.adjoin(verb, frame, shape, subject, MAX_DEPTH)
        return verb

    def invert(self, frame: Frame, subject: Node, shape: Shape) -> Node:
        """Return a verb group whose first auxiliary stands before the subject."""
        verb = self.verb_group(frame, subject, shape)
        auxiliary = verb.left.pop(0)
        return verb.first("nsubj", subject, frame.roles[0]).first("aux", auxiliary)

    def content_question(self) -> Node:
        """Draw a question about the subject, the object, the place, the time or the cause."""
        word = self.rng.choice(("who", "what", "where", "when", "why"))
        shape = self.finite_shape(simple=True)
        if word == "who":
            frame = self.choose_frame(1, subject="person")
            who = Node("who", "PRON")
            verb = self.verb_group(frame, who, shape).first("nsubj", who, frame.roles[0])
            self.complement(verb, frame, 1, controller=who, shape=shape)
            return verb
        kinds = ("document", "food", "tool", "vehicle", "building", "idea")
        frame = self.rng.choice([f for f in self.transitives if f.particle is None and set(f.objects) & set(kinds)])
        subject = self.noun_phrase(frame.subject, 1, pronouns=True, subject=True)
        verb = self.invert(frame, subject, replace(shape, inverted=True))
        if word == "what":
            return verb.first("obj", Node("what", "PRON"), frame.roles[1])
        self.complement(verb, frame, 1, controller=subject, shape=shape)
        role = {"where": "ARGM-LOC", "when": "ARGM-TMP", "why": "ARGM-CAU"}[word]
        return verb.first("advmod", Node(word, "ADV"), role)

    def imperative(self) -> Node:
        frame = self.choose_action(1)
        verb = self.verb_group(frame, None, Shape("base", negative=self.chance(0.3)))
        if self.chance(0.5):
            verb.first("discourse", Node("please", "INTJ"))
        self.complement(verb, frame, 1, controller=None, shape=Shape("present"))
        return verb
