"""The generated treebank is distinct, repeatable and valid by Universal Dependencies' and PropBank's rules."""

import random
import re
from collections import Counter, defaultdict

import pytest

from mspgt_tl.contracts import TASKS, Tree
from mspgt_tl.corpora.grammar import MAX_LENGTH, MIN_LENGTH, generate_treebank, generated_corpus
from mspgt_tl.corpora.lexicon import FRAMES, NOUNS, inflect
from mspgt_tl.corpora.phrase import Node, comma_or_stop
from mspgt_tl.corpora.treebank import read_trees, write_conllup
from mspgt_tl.errors import CorpusError

NOMINAL = {"NOUN", "PROPN", "PRON", "NUM"}
CONTENT = {"VERB", "ADJ", *NOMINAL}
UPOS_OF = {
    "root": CONTENT, "nsubj": NOMINAL, "nsubj:pass": NOMINAL, "obj": NOMINAL, "iobj": NOMINAL, "obl": NOMINAL,
    "obl:agent": NOMINAL, "obl:unmarked": NOMINAL, "nmod": NOMINAL, "nmod:poss": NOMINAL, "nmod:desc": {"PROPN"},
    "appos": NOMINAL, "expl": {"PRON"}, "det": {"DET"}, "amod": {"ADJ"}, "nummod": {"NUM"}, "advmod": {"ADV", "PART"},
    "compound": {"NOUN", "PROPN"}, "compound:prt": {"ADP"}, "flat": {"PROPN"}, "case": {"ADP", "PART"},
    "mark": {"SCONJ", "PART"}, "aux": {"AUX"}, "aux:pass": {"AUX"}, "cop": {"AUX"}, "cc": {"CCONJ"},
    "punct": {"PUNCT"}, "discourse": {"INTJ"}, "conj": CONTENT, "ccomp": CONTENT, "xcomp": CONTENT, "advcl": CONTENT,
    "acl:relcl": CONTENT,
}  # fmt: skip
LEAVES = {"det", "nummod", "expl", "case", "mark", "aux", "aux:pass", "cop", "cc", "punct", "discourse", "compound:prt"}
ROLE = re.compile(r"(R-)?(ARG[0-2]|ARGM-(TMP|LOC|MNR|NEG|MOD|DIR|ADV|CAU|PRP|DIS))")


def faults(tree: Tree) -> list[str]:
    """Say all that is wrong with a tree."""
    words, found = tree.words, []
    if [word.deprel for word in words if word.head is None] != ["root"]:
        found.append("not one root")
    for i, word in enumerate(words):
        if tree.text[word.start : word.end] != word.form:
            found.append(f"span of {word.form}")
        if word.upos not in UPOS_OF[word.deprel or ""]:
            found.append(f"{word.deprel} on {word.upos}")
        if word.head is None:
            continue
        chain, seen = word.head, {i}
        while chain is not None and chain not in seen:
            seen.add(chain)
            chain = words[chain].head
        if chain is not None:
            found.append(f"cycle at {word.form}")
        if words[word.head].deprel in LEAVES:
            found.append(f"{word.form} hangs on a function word")
        between = range(min(i, word.head) + 1, max(i, word.head))
        inside = {min(i, word.head), max(i, word.head), *between}
        if any(words[k].head is None or words[k].head not in inside for k in between if k != i):
            found.append(f"crossing over {word.form}")
        if (
            word.ner
            and word.ner.startswith("I-")
            and (i == 0 or words[i - 1].ner not in (word.ner, "B" + word.ner[1:]))
        ):
            found.append(f"{word.ner} without beginning")
    for child_count in ("nsubj", "nsubj:pass", "obj", "iobj", "cop"):
        heads = Counter(word.head for word in words if word.deprel == child_count)
        found += [f"two {child_count}" for count in heads.values() if count > 1]
    found += [f"predicate {words[i].form}" for i in tree.predicates or () if words[i].upos != "VERB"]
    for argument in tree.arguments or ():
        if argument.predicate not in (tree.predicates or ()) or argument.predicate == argument.head:
            found.append(f"argument {argument}")
        if not ROLE.fullmatch(argument.role):
            found.append(f"role {argument.role}")
    core = Counter((a.predicate, a.role) for a in tree.arguments or () if not a.role.startswith("ARGM"))
    found += [f"{role} twice" for (_, role), count in core.items() if count > 1]
    return found


@pytest.fixture(scope="module")
def treebank():
    return generate_treebank(seed=0)


def test_checker_finds_faults(treebank):
    """The checker below is not blind: a tree with a shifted label layer fails."""
    tree = treebank.train[0]
    labels = [word.deprel for word in tree.words]
    words = tuple(
        type(word)(word.form, word.start, word.end, word.upos, word.head, label, word.ner)
        for word, label in zip(tree.words, labels[1:] + labels[:1], strict=True)
    )
    assert faults(Tree(tree.text, words, tree.arguments, tree.predicates))


def test_every_tree_is_valid(treebank):
    """One root, no cycles, no crossing arcs, relations on fitting words, well-formed entities and roles."""
    wrong = {tree.text: faults(tree) for tree in (*treebank.train, *treebank.dev)}
    assert {text: found for text, found in wrong.items() if found} == {}


def test_splits_are_distinct_and_disjoint(treebank):
    """The sizes are those asked for and no sentence comes twice."""
    texts = [tree.text for tree in (*treebank.train, *treebank.dev)]
    assert (len(treebank.train), len(treebank.dev), len(set(texts))) == (2000, 500, 2500)
    assert treebank.tasks == TASKS


def test_lengths_and_spelling(treebank):
    """Sentences have 4 to 30 words, a capital, a final stop, and a or an as the next word needs it."""
    for tree in treebank.train:
        assert MIN_LENGTH <= len(tree.words) <= MAX_LENGTH
        assert tree.text[0].isupper() and tree.text[-1] in ".?"
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiouAEIOUh]|, ?[.,?]|  ", tree.text)


def test_subject_and_verb_agree(treebank):
    """A third person singular form never follows a plural noun or `they`."""
    for tree in treebank.train:
        for word in tree.words:
            if word.deprel not in ("nsubj", "nsubj:pass") or word.form.lower() not in ("he", "she", "they", "we", "i"):
                continue
            singular = word.form.lower() in ("he", "she")
            group = [w.form for w in tree.words if w.head == word.head and w.deprel in ("aux", "aux:pass", "cop")]
            if group and group[0] in ("is", "was", "has", "does", "are", "were", "have", "do"):
                expected = singular or (word.form == "I" and group[0] == "was")
                assert (group[0] in ("is", "was", "has", "does")) == expected, tree.text


def test_labels_cannot_be_read_off_the_word(treebank):
    """Many word types carry two parts of speech, or name two kinds of entity."""
    pos, ner = defaultdict(set), defaultdict(set)
    for tree in treebank.train:
        for word in tree.words:
            pos[word.form.lower()].add(word.upos)
            ner[word.form].add(word.ner[2:])
    assert sum(len(tags) > 1 for tags in pos.values()) >= 60
    assert sum(len(kinds - {""}) > 1 for kinds in ner.values()) >= 20
    assert {"PER", "LOC", "ORG"} <= ner["Jordan"] | ner["Lincoln"]
    assert {"NOUN", "VERB"} <= pos["plan"] & pos["visit"]


def test_labels_are_plenty(treebank):
    """Every layer has enough dev items of its main labels to score a probe on."""
    dev = [word for tree in treebank.dev for word in tree.words]
    assert min(Counter(word.ner for word in dev)[tag] for tag in ("B-PER", "B-LOC", "B-ORG", "I-PER")) >= 20
    roles = Counter(argument.role for tree in treebank.dev for argument in tree.arguments)
    assert min(roles[role] for role in ("ARG0", "ARG1", "ARG2", "ARGM-TMP", "ARGM-LOC", "ARGM-NEG", "R-ARG0")) >= 20
    assert len([label for label, n in Counter(word.deprel for word in dev).items() if n >= 20]) >= 20


def test_seeds_repeat_and_differ():
    """The same seed gives the same treebank, another one another, and global random state plays no part."""
    random.seed(1)
    first = generate_treebank(seed=3, train=50, dev=10)
    random.seed(2)
    assert first == generate_treebank(seed=3, train=50, dev=10)
    other = generate_treebank(seed=4, train=50, dev=10)
    assert first.train != other.train and first.sha256 != other.sha256


def test_corpus_has_ten_thousand_distinct_sentences():
    """The text corpus is as long as asked and starts with the treebank's sentences."""
    corpus = generated_corpus(seed=0)
    assert len(corpus.sentences) == len(set(corpus.sentences)) == 10_000
    assert corpus.sentences[:50] == tuple(tree.text for tree in generate_treebank(seed=0, train=50, dev=1).train)


@pytest.mark.parametrize("call", [lambda: generated_corpus(limit=0), lambda: generate_treebank(train=0)])
def test_empty_requests_are_refused(call):
    """Nothing cannot be generated."""
    with pytest.raises(CorpusError, match="needed"):
        call()


def test_generated_trees_survive_writing(treebank, tmp_path):
    """CoNLL-U Plus holds everything a generated tree holds."""
    write_conllup(treebank.dev, tmp_path / "dev.conllup")
    assert read_trees(tmp_path / "dev.conllup") == treebank.dev


def test_phrase_algebra():
    """Attaching phrases gives heads, relations, spans and roles; a comma before a stop is swallowed."""
    verb = Node("ate", "VERB", is_predicate=True)
    apple = Node("apple", "NOUN").before("det", Node("a", "DET"))
    tree = verb.before("nsubj", Node("she", "PRON"), "ARG0").after("obj", apple, "ARG1")
    tree = tree.after("punct", comma_or_stop(",")).after("punct", comma_or_stop(".")).linearise()
    assert tree.text == "She ate an apple."
    assert [(word.head, word.deprel) for word in tree.words] == [
        (1, "nsubj"), (None, "root"), (3, "det"), (1, "obj"), (1, "punct"),
    ]  # fmt: skip
    assert [(a.predicate, a.head, a.role) for a in tree.arguments] == [(1, 0, "ARG0"), (1, 3, "ARG1")]


def test_lexicon_is_broad_and_inflects():
    """There are over 400 lemmas, and irregular and doubling verbs inflect as English wants."""
    assert len({noun for nouns in NOUNS.values() for noun in nouns} | {frame.lemma for frame in FRAMES}) >= 350
    expected = {"plan": "planned", "study": "studied", "write": "wrote", "visit": "visited", "admit": "admitted"}
    assert {lemma: inflect(lemma, "past_sg") for lemma in expected} == expected
