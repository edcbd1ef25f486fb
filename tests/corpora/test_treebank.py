"""Treebanks are read, written and aligned as the formats say, and malformed ones are reported by place."""

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mspgt_tl.contracts import Argument, Tree, Word
from mspgt_tl.corpora.treebank import align_words, read_treebank, read_trees, write_conllup
from mspgt_tl.errors import CorpusError

DATA = Path(__file__).parents[2].parent / "shared/data"
needs_data = pytest.mark.skipif(not (DATA / "ewt_merged").is_dir(), reason="shared treebanks are not here")

PLUS = """\
# global.columns = ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC UNER:NER UP:PRED UP:ARGHEADS UP:ARGSPANS
# text = Anna can't stop.
1\tAnna\t_\tPROPN\t_\t_\t4\tnsubj\t_\t_\tB-PER\t_\t_\t_
2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_\t_\t_\t_\t_
2\tca\t_\tAUX\t_\t_\t4\taux\t_\t_\tO\t_\t_\t_
3\tn't\t_\tPART\t_\t_\t4\tadvmod\t_\t_\tO\t_\t_\t_
3.1\tnever\t_\tADV\t_\t_\t_\t_\t_\t_\t_\t_\t_\t_
4\tstop\t_\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No\tO\tstop.01\tARG0:1|ARGM-NEG:3\tARG0:1-1|ARGM-NEG:3-3
5\t.\t_\tPUNCT\t_\t_\t4\tpunct\t_\t_\tO\t_\t_\t_

"""
PLAIN = """\
1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_
1\tà\t_\tADP\t_\t_\t3\tcase\t_\t_
2\tle\t_\tDET\t_\t_\t3\tdet\t_\t_
3\tMans\t_\tPROPN\t_\t_\t0\troot\t_\tSpaceAfter=No|NER=B-LOC
4\t!\t_\tPUNCT\t_\t_\t3\tpunct\t_\t_

"""


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def row(number: str, form: str = "word", head: str = "0") -> str:
    return f"{number}\t{form}\t_\tNOUN\t_\t_\t{head}\troot\t_\t_\n"


def test_conllu_plus_known_answer(tmp_path):
    """Words, spans inside a multiword token, entities and roles of one sentence, empty nodes left out."""
    (tree,) = read_trees(save(tmp_path / "a.conllup", PLUS))
    assert tree.text == "Anna can't stop."
    assert [tree.text[word.start : word.end] for word in tree.words] == ["Anna", "ca", "n't", "stop", "."]
    assert [word.head for word in tree.words] == [3, 3, 3, None, 3]
    assert [word.ner for word in tree.words] == ["B-PER", "O", "O", "O", "O"]
    assert tree.predicates == (3,)
    assert tree.arguments == (Argument(3, 0, "ARG0"), Argument(3, 2, "ARGM-NEG"))


def test_plain_conllu_has_no_roles_and_entities_in_misc(tmp_path):
    """Words that do not spell their multiword token share its span; words without NER= are outside."""
    (tree,) = read_trees(save(tmp_path / "a.conllu", PLAIN))
    assert tree.text == "au Mans!"
    assert [(word.start, word.end) for word in tree.words] == [(0, 2), (0, 2), (3, 7), (7, 8)]
    assert [word.ner for word in tree.words] == ["O", "O", "B-LOC", "O"]
    assert tree.arguments is None and tree.predicates is None


def test_tasks_are_the_layers_of_both_files(tmp_path):
    """A layer in one file only is no task, and xz files read like plain ones."""
    plus, plain = save(tmp_path / "a.conllup", PLUS), save(tmp_path / "b.conllu", PLAIN)
    packed = tmp_path / "a.conllup.xz"
    packed.write_bytes(lzma.compress(PLUS.encode()))
    assert read_treebank(plus, packed).tasks == ("pos", "deprel", "ner", "srl")
    assert read_treebank(packed, plain).tasks == ("pos", "deprel", "ner")
    assert read_treebank(packed, plain).name == "a"


def test_column_named_ner(tmp_path):
    """CoNLL-U Plus files with few columns and the short name of the entity column are fine."""
    (tree,) = read_trees(save(tmp_path / "a.conllup", "# global.columns = ID FORM NER\n1\tRome\tB-LOC\n"))
    assert tree.words == (Word("Rome", 0, 4, None, None, None, "B-LOC"),)


def test_no_common_layer_names_what_was_found(tmp_path):
    """Files that share no layer are refused with the layers of each."""
    ner = save(tmp_path / "ner.conllup", "# global.columns = ID FORM NER\n1\tRome\tB-LOC\n")
    pos = save(tmp_path / "pos.conllup", "# global.columns = ID FORM UPOS\n1\tRome\tPROPN\n")
    with pytest.raises(CorpusError, match=r"ner\.conllup has ner; pos\.conllup has pos"):
        read_treebank(ner, pos)


@pytest.mark.parametrize(
    ("bad", "line", "message"),
    [
        (row("1") + "2\tword\tNOUN\n", 4, "10 columns needed, but 3 came"),
        (row("1", head="x"), 3, "HEAD 'x' is not valid"),
        (row("1", head="2"), 3, "HEAD of another word in 0 to 1 needed, but 2 came"),
        (row("1", head="1"), 3, "HEAD of another word"),
        (row("1") + row("3"), 4, "ID 2 or a range from it needed, but '3' came"),
        (row("x"), 3, "ID 'x' is not valid"),
        (row("1-3") + row("1") + row("2"), 5, "Word 3 needed"),
        (row("1-2") + row("1") + row("2-3") + row("2") + row("3"), 5, "ID 2"),
        (row("1", form=" "), 3, "FORM is empty"),
    ],
)
def test_malformed_rows_are_reported_by_line(tmp_path, bad, line, message):
    """The message has file, line and reason; skip_bad keeps the rest and warns with a count."""
    path = save(tmp_path / "a.conllu", f"{row('1')}\n{bad}\n{row('1')}\n")
    with pytest.raises(CorpusError) as caught:
        read_trees(path)
    assert f"1 of 3 sentences malformed: {path}:{line}: " in str(caught.value) and message in str(caught.value)
    with pytest.warns(UserWarning, match=f"1 of 3 sentences skipped.*:{line}:"):
        assert len(read_trees(path, skip_bad=True)) == 2


@pytest.mark.parametrize("bad", ["ARG0", "ARG0:9", "ARG0:1-2", "ARG0:x", "ARG0:1|"])
def test_bad_roles_are_reported(tmp_path, bad):
    """An argument needs a label and a word of the sentence."""
    path = save(tmp_path / "a.conllup", PLUS.replace("ARG0:1|ARGM-NEG:3\t", f"{bad}\t"))
    with pytest.raises(CorpusError, match=r"a\.conllup:8: UP:ARGHEADS as LABEL:ID"):
        read_trees(path)


def test_roles_without_a_predicate_and_bad_tags_are_reported(tmp_path):
    """Arguments need a predicate on their row; entity tags are BIO."""
    with pytest.raises(CorpusError, match="without UP:PRED"):
        read_trees(save(tmp_path / "a.conllup", PLUS.replace("stop.01", "_")))
    with pytest.raises(CorpusError, match="BIO tag such as O, B-PER or I-PER needed, but 'PER' came"):
        read_trees(save(tmp_path / "b.conllup", PLUS.replace("B-PER", "PER")))


def test_many_malformed_sentences_are_counted(tmp_path):
    """Three places are named, the others counted."""
    with pytest.raises(CorpusError, match=r"5 of 5 sentences malformed.*And 2 more\."):
        read_trees(save(tmp_path / "a.conllu", f"{row('2')}\n" * 5))


def test_unreadable_files_are_one_line_errors(tmp_path):
    """Missing, empty, badly encoded and truncated files say so."""
    cases = {
        "missing.conllu": None,
        "empty.conllu": b"# only\n\n",
        "latin.conllu": b"1\t\xe9\n",
        "cut.xz": b"\xfd7zXZ\x00",
    }
    messages = ("is not a file", "no usable one came", r"latin\.conllu:1: UTF-8", "damaged")
    for (name, content), message in zip(cases.items(), messages, strict=True):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CorpusError, match=message):
            read_trees(tmp_path / name)
    with pytest.raises(CorpusError, match="needs ID and FORM, but FORM is missing"):
        read_trees(save(tmp_path / "a.conllup", "# global.columns = ID UPOS\n1\tNOUN\n"))


FORM = st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=5)
LABEL = st.sampled_from(["A", "b:c", "X-1"])


@st.composite
def trees(draw) -> Tree:
    """Trees whose words stand apart, touch, share a span or differ in case from the text."""
    text, words = "", []
    n_groups = draw(st.integers(1, 5))
    for group in range(n_groups):
        surface, start = draw(FORM), len(text)
        spaced = group < n_groups - 1 and draw(st.booleans())
        text += surface + (" " if spaced else "")
        forms = [surface]
        if draw(st.booleans()):
            forms = [surface + "x", *draw(st.lists(FORM, max_size=2))]  # too long to spell the surface
        words += [(form, start, start + len(surface)) for form in forms]
    n = len(words)
    built = []
    for i, (form, start, end) in enumerate(words):
        head = draw(st.none() | st.integers(0, n - 1).filter(lambda h, i=i: h != i))
        upos, deprel = draw(st.none() | LABEL), draw(st.none() | LABEL)
        built.append(Word(form, start, end, upos, head, deprel, draw(st.sampled_from(["O", "B-PER", "I-LOC"]))))
    predicates = tuple(sorted(draw(st.sets(st.integers(0, n - 1)))))
    arguments = [
        Argument(predicate, draw(st.integers(0, n - 1)), draw(st.sampled_from(["ARG0", "R-ARG1", "ARGM-TMP"])))
        for predicate in predicates
        for _ in range(draw(st.integers(0, 2)))
    ]
    return Tree(text, tuple(built), tuple(arguments), predicates)


@given(st.lists(trees(), min_size=1, max_size=3))
def test_written_trees_read_back_equal(tmp_path_factory, drawn):
    """Writing then reading changes nothing."""
    path = tmp_path_factory.mktemp("round") / "a.conllup"
    write_conllup(drawn, path)
    assert list(read_trees(path)) == drawn


def test_missing_layers_survive_writing(tmp_path):
    """Trees without roles come back without roles, in xz too; mixing both kinds is refused."""
    (plain,), (plus,) = read_trees(save(tmp_path / "a", PLAIN)), read_trees(save(tmp_path / "b", PLUS))
    write_conllup([plain], tmp_path / "c.conllup.xz")
    assert read_trees(tmp_path / "c.conllup.xz") == (plain,)
    with pytest.raises(CorpusError, match="both came"):
        write_conllup([plain, plus], tmp_path / "d.conllup")


def spell(*spans: tuple[int, int], text: str) -> Tree:
    words = tuple(Word(text[start:end], start, end, None, None, None, None) for start, end in spans)
    return Tree(text, words, None, None)


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([(0, 3), (4, 6), (6, 9), (9, 10)], (0, 2, 3)),
        ([(0, 0), (0, 3), (3, 6), (6, 9), (9, 10), (0, 0)], (1, 3, 4)),  # specials; spaces inside offsets
        ([(0, 9), (9, 10)], (0, 0, 1)),  # one sub-token over two words
        ([(0, 3), (4, 6)], (0, None, None)),  # cut inside the second word
        ([(0, 3), (4, 8), (9, 10)], (0, 1, 2)),  # a character dropped by the tokenizer
        ([(0, 3), (4, 9), (8, 9), (8, 9), (9, 10)], (0, 3, 4)),  # one character in several byte tokens
        ([], (None, None, None)),
    ],
)
def test_words_meet_their_last_sub_token(offsets, expected):
    """Alignment goes by characters, whatever the tokenizer."""
    assert align_words(spell((0, 3), (4, 9), (9, 10), text="The horse."), offsets) == expected


@pytest.mark.parametrize("prefix_space", [False, True])
def test_alignment_with_a_byte_level_tokenizer(prefix_space):
    """With a real byte-level BPE every word's last sub-token ends where the word ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    text = "Anna can't stop the café 🙂 horses."
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["the horse can stop"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    spans = [(0, 4), (5, 7), (7, 10), (11, 15), (16, 19), (20, 24), (25, 26), (27, 33), (33, 34)]
    encoding = bpe.encode(text)
    aligned = align_words(spell(*spans, text=text), encoding.offsets)
    for index, (_, end) in zip(aligned, spans, strict=True):
        assert index is not None
        covers = [start < end <= stop for start, stop in encoding.offsets[index:]]
        assert covers[0] and not any(covers[1:])


@needs_data
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        pytest.param("train", (12517, 204095, 10535, 40392, 82006, 2870, 2693, 1430), marks=pytest.mark.slow),
        ("dev", (1967, 24869, 1530, 4957, 9639, 343, 393, 221)),
    ],
)
def test_merged_ewt_counts(split, expected):
    """Sentences, words, predicates, arguments and entities are as many as the data's README says."""
    trees = read_trees(DATA / "ewt_merged" / f"{split}.conllup")
    words = [word for tree in trees for word in tree.words]
    assert expected == (
        len(trees),
        len(words),
        sum(bool(tree.predicates) for tree in trees),
        sum(len(tree.predicates or ()) for tree in trees),
        sum(len(tree.arguments or ()) for tree in trees),
        *(sum(word.ner == f"B-{kind}" for word in words) for kind in ("PER", "LOC", "ORG")),
    )


@needs_data
def test_real_trees_survive_writing(tmp_path):
    """Multiword tokens, empty nodes and odd spellings of EWT's dev split read back equal."""
    dev = read_trees(DATA / "ewt_merged" / "dev.conllup")
    write_conllup(dev, tmp_path / "dev.conllup")
    assert read_trees(tmp_path / "dev.conllup") == dev


@needs_data
def test_sentence_text_equals_the_treebanks_own():
    """Text built from forms and SpaceAfter equals every `# text` line of UD English-EWT's dev split."""
    path = DATA / "ewt" / "en_ewt-ud-dev.conllu"
    texts = [line[9:] for line in path.read_text(encoding="utf-8").split("\n") if line.startswith("# text = ")]
    dev = read_trees(path)
    assert [tree.text for tree in dev] == texts
    assert (len(dev), sum(len(tree.words) for tree in dev)) == (2001, 25147)
