"""Legal oddities of treebanks are read, what the labels or the text would lose is refused or counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.corpora.treebank import read_treebank, read_trees, write_conllup
from mspgt_tl.errors import CorpusError
from mspgt_tl.pipeline.inputs import find_splits

CASES = Path(__file__).parents[3] / "shared/cases/treebank"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")

UNFIT = "sentences whose # text does not spell their words"
FOLLOWED = "sentences whose # text was followed, not SpaceAfter"
FROM_RANGE = "multiword tokens whose entity was given to their words"


def row(number: str, form: str, misc: str = "_", upos: str = "NOUN", head: str = "0") -> str:
    return "\t".join([number, form, "_", upos, "_", "_", head, "root", "_", misc])


def save(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def notes_of(path: Path) -> dict[str, int]:
    """Counts of one file, read as both splits, so everything counts twice."""
    notes = read_treebank(path, path).notes
    return {what: count // 2 for what, count in notes.items() if "also in train" not in what}


@needs_cases
@pytest.mark.parametrize(
    ("name", "text", "words", "entities", "notes"),
    [
        ("text_disagrees", "Hello, world!", ["Hello", ",", "world", "!"], None, {FOLLOWED: 1}),
        ("ner_range", "del Rio", ["del", "del", "Rio"], ["B-LOC", "I-LOC", "I-LOC"], {UNFIT: 1, FROM_RANGE: 1}),
        ("mwt_contraction", "don't go", ["do", "n't", "go"], None, {UNFIT: 1}),
        ("feats_misc_spaces", "Dogs.", ["Dogs", "."], None, {UNFIT: 1}),
        ("empty_nodes", "likes tea", ["likes", "tea"], None, {UNFIT: 1}),
        ("space_form", "công việc tốt", ["công việc", "tốt"], None, {UNFIT: 1}),
    ],
)
def test_shared_treebanks_are_read(name, text, words, entities, notes):
    """The model reads the sentence as it is written, every word keeps its place and its entity."""
    path = CASES / f"{name}.conllu"
    (tree,) = read_trees(path)
    assert tree.text == text
    assert [tree.text[word.start : word.end] for word in tree.words] == words
    assert [word.ner for word in tree.words] == (entities or [None] * len(words))
    assert notes_of(path) == notes


@needs_cases
def test_shared_masked_treebank_is_refused():
    """Underscores are no words."""
    with pytest.raises(CorpusError, match=r":2: Words needed, but 2 of 2 are masked as '_'; restore the text"):
        read_trees(CASES / "underscore_unannotated.conllu")


@pytest.mark.parametrize("mask", ["_", "[WORD]", "XXXX", "<unk>", "____"])
@pytest.mark.parametrize("told", [False, True])
def test_masked_words_are_refused(tmp_path, mask, told):
    """Whatever stands for the words, whether `# text` is masked as well or not; a good rest can be kept."""
    masked = [row("1", mask), row("2", mask, upos="VERB"), row("3", "."), row("4", mask)]
    comment = [f"# text = {mask} {mask} . {mask}"] if told else []
    path = save(tmp_path / "a.conllu", *comment, *masked, "", row("1", "Rivers"), row("2", "flow", upos="VERB"))
    with pytest.raises(CorpusError, match=r"1 of 2 sentences malformed.*3 of 4 are masked"):
        read_trees(path)
    with pytest.warns(UserWarning, match="1 of 2 sentences skipped"):
        assert [tree.text for tree in read_trees(path, skip_bad=True)] == ["Rivers flow"]


def test_a_line_of_underscores_is_a_word(tmp_path):
    """A rule in an e-mail is spelled in `# text` as it is in the word; a single underscore in a sentence is a word."""
    path = save(tmp_path / "a.conllu", "# text = _______", row("1", "_______"), "",
                "# text = a _ b", row("1", "a"), row("2", "_"), row("3", "b"))  # fmt: skip
    assert [tree.text for tree in read_trees(path)] == ["_______", "a _ b"]


@pytest.mark.parametrize(
    ("said", "forms", "text", "places"),
    [
        ("The  river  flows", ["The", "river", "flows"], "The river flows", ["The", "river", "flows"]),
        ("10\u00a0000 men", ["10 000", "men"], "10 000 men", ["10 000", "men"]),
        ("10 000 men", ["10\u00a0000", "men"], "10 000 men", ["10 000", "men"]),
        ("100km now", ["100", "km", "now"], "100km now", ["100", "km", "now"]),
        ("caf\u00e9 now", ["cafe\u0301", "now"], "caf\u00e9 now", ["caf\u00e9", "now"]),
        ("cafe\u0301 now", ["caf\u00e9", "now"], "cafe\u0301 now", ["cafe\u0301", "now"]),
        ("the ri\u00adver\u200b flows", ["the", "river", "flows"], "the river flows", ["the", "river", "flows"]),
        ("công  việc tốt", ["công việc", "tốt"], "công việc tốt", ["công việc", "tốt"]),
        ("in to it", ["into", "it"], "in to it", ["in to", "it"]),
    ],
)
def test_text_is_followed_where_it_spells_the_words(tmp_path, said, forms, text, places):
    """Spaces of any kind and number, accents composed or not, characters of no width."""
    path = save(tmp_path / "a.conllu", f"# text = {said}", *(row(str(i), f) for i, f in enumerate(forms, 1)))
    (tree,) = read_trees(path)
    assert (tree.text, [tree.text[word.start : word.end] for word in tree.words]) == (text, places)
    assert UNFIT not in notes_of(path)


@pytest.mark.parametrize("said", ["The river", "The river flows south", "A river flows", ""])
def test_text_that_does_not_fit_is_counted(tmp_path, said):
    """Missing, further or other words: forms and SpaceAfter give the text then."""
    path = save(
        tmp_path / "a.conllu",
        f"# text = {said}",
        row("1", "The"),
        row("2", "river", "SpaceAfter=No"),
        row("3", "flows"),
    )
    (tree,) = read_trees(path)
    assert tree.text == "The riverflows"
    assert notes_of(path) == {UNFIT: 1}


@pytest.mark.parametrize(
    ("misc", "tag"),
    [
        ("NER=B-LOC", "B-LOC"),
        ("Lang=en | NER = B-LOC | SpaceAfter=No", "B-LOC"),
        ("ner=B-LOC", "B-LOC"),
        ("NER=S-LOC", "B-LOC"),
        ("NER=U-LOC", "B-LOC"),
        ("NER=O", "O"),
        ("NER=_", None),
        ("NER=", None),
    ],
)
def test_entities_in_misc(tmp_path, misc, tag):
    """Spaces, case, BIOES and empty values."""
    (tree,) = read_trees(save(tmp_path / "a.conllu", row("1", "Rio", misc)))
    assert tree.words[0].ner == tag


def test_entities_of_multiword_tokens(tmp_path):
    """They reach their words in MISC and in a column, inside and at the beginning; the words' own come first."""
    misc = save(tmp_path / "a.conllu", row("1", "A", "NER=B-LOC"), row("2-3", "del", "NER=I-LOC"),
                row("2", "de"), row("3", "el"), row("4-5", "dal", "NER=B-PER"), row("4", "da", "NER=O"),
                row("5", "il"))  # fmt: skip
    (tree,) = read_trees(misc)
    assert [word.ner for word in tree.words] == ["B-LOC", "I-LOC", "I-LOC", "O", "O"]
    column = save(tmp_path / "a.conllup", "# global.columns = ID FORM UPOS NER", "1-2\tdel\t_\tB-LOC",
                  "1\tde\tADP\t_", "2\tel\tDET\t_", "3\tRio\tPROPN\tI-LOC")  # fmt: skip
    (tree,) = read_trees(column)
    assert [word.ner for word in tree.words] == ["B-LOC", "I-LOC", "I-LOC"]
    bare = save(tmp_path / "b.conllu", row("1", "Rio", "NER=I-LOC"))
    assert notes_of(bare) == {"entities that begin with I-": 1}


def test_labels_of_multiword_tokens_that_no_word_can_have_are_counted(tmp_path):
    """A part of speech on the range is two words' and cannot be dealt out."""
    path = save(tmp_path / "a.conllu", row("1-2", "del", upos="ADP+DET"), row("1", "de"), row("2", "el"))
    assert notes_of(path) == {"multiword tokens whose own labels were left out": 1}


@pytest.mark.parametrize("misc", ["SpaceAfter=No", "spaceafter=no", "A=b | SpaceAfter=No", "SpaceAfter = No|A=b"])
@pytest.mark.parametrize("on_word", [False, True])
def test_spaces_after_multiword_tokens(tmp_path, misc, on_word):
    """SpaceAfter counts on the range and on its last word, however MISC is spaced."""
    path = save(tmp_path / "a.conllu", row("1-2", "del", "_" if on_word else misc), row("1", "de"),
                row("2", "el", misc if on_word else "_"), row("3", ","))  # fmt: skip
    assert read_trees(path)[0].text == "del,"


@pytest.mark.parametrize(
    "mend",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.rstrip("\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n\n", "\n \t\n"),
        lambda text: "\n\n" + text.replace("\n\n", "\n\n\n"),
        lambda text: text.replace("\tNOUN\t", "\tNOUN \t"),
        lambda text: text.replace("# text = ", "#text="),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_line_ends_and_blanks(tmp_path, mend, encoding):
    """Line ends, byte order marks, a missing last blank line, blanks around fields."""
    text = "# text = Flussübergang.\n" + row("1", "Flussübergang") + "\n" + row("2", ".") + "\n\n"
    text += "# sent_id = 2\n" + row("1", "Hunde") + "\n\n"
    path = tmp_path / "a.conllu"
    path.write_bytes(mend(text).encode(encoding))
    trees = read_trees(path)
    assert [tree.text for tree in trees] == ["Flussübergang.", "Hunde"]
    assert trees[0].words[0].upos == "NOUN"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([row("1", "a"), row("1", "b")], r"'1' came\. Is a blank line missing before it"),
        ([row("1", "a").replace("\t", " "), row("2", "b").replace("\t", " ")], "spaces; restore the tabs"),
        (["# sent_id = 1", row("1", "a").replace("\t", " ")], "10 columns separated by tabs needed, but 1 came"),
        (['{"text": "The river flows."}'], "this is JSON lines; read its text column with --corpus hf:"),
        (["<p>The river flows.</p>"], "this is HTML"),
        (["The river flows through the city."], "10 columns needed, but 1 came"),
        (["version https://git-lfs.github.com/spec/v1"], "git lfs pull"),
    ],
)
def test_what_is_no_treebank_is_refused(tmp_path, lines, message):
    """Joined sentences, tabs that became spaces, and other formats say so."""
    with pytest.raises(CorpusError, match=message):
        read_trees(save(tmp_path / "a.conllu", *lines))


def test_repeated_sentences_are_counted(tmp_path):
    """Equal sent_ids within a file, and dev sentences that were trained on."""
    one = ["# sent_id = 1", row("1", "Rivers"), ""]
    train = save(tmp_path / "train.conllu", *one, *one, "# sent_id = 2", row("1", "Dogs"))
    dev = save(tmp_path / "dev.conllu", "# sent_id = 1", row("1", "Rivers"), "", row("1", "Cats"))
    assert read_treebank(train, dev).notes == {
        "sentences whose sent_id came before": 1,
        "dev sentences that are also in train": 1,
    }


@pytest.mark.parametrize("give", [tuple, list, lambda pair: ",".join(map(str, pair)), lambda pair: pair[0].parent])
def test_two_paths_in_any_form(tmp_path, give):
    """A tuple, a list, `TRAIN,DEV`, and a folder whose name has a comma."""
    folder = tmp_path / "a b"
    folder.mkdir()
    pair = (save(folder / "train.conllu", row("1", "a")), save(folder / "dev.conllu", row("1", "b")))
    assert find_splits(give(pair)) == pair


def test_open_treebank_takes_a_tuple(tmp_path):
    """A pair of paths is a treebank, and is named after its first file."""
    from mspgt_tl.config import make_config
    from mspgt_tl.pipeline.inputs import open_treebank

    pair = (save(tmp_path / "rivers-train.conllu", row("1", "a")), save(tmp_path / "dev.conllu", row("1", "b")))
    config = make_config({"signals": {"tasks": ["pos"]}})
    assert open_treebank(pair, config, skip_bad=False).name == "rivers-train"


@pytest.mark.parametrize("given", [("a",), ("a", "b", "c"), (1, 2), "a,b,c"])
def test_other_numbers_of_paths_are_refused(given):
    """One path, three paths, or no paths at all."""
    with pytest.raises(CorpusError, match="A train and a dev file needed"):
        find_splits(given)


def test_one_file_is_not_two(tmp_path):
    """A single file is told that a second is missing; a folder with a comma in its name is a folder."""
    with pytest.raises(CorpusError, match="give a second to measure on, as 'TRAIN,DEV'"):
        find_splits(save(tmp_path / "a.conllu", row("1", "a")))
    folder = tmp_path / "a,b"
    folder.mkdir()
    with pytest.raises(CorpusError, match=r"must hold one \*train\*"):
        find_splits(folder)


def test_documents_are_counted_and_survive_writing(tmp_path):
    """`# newdoc` begins a document, with or without a name; files without it tell nothing."""
    path = save(
        tmp_path / "a.conllu", "# newdoc id = x", row("1", "a"), "", row("1", "b"), "", "# newdoc", row("1", "c")
    )
    trees = read_trees(path)
    assert [tree.document for tree in trees] == [0, 0, 1]
    write_conllup(trees, tmp_path / "b.conllup.gz")
    assert gzip.decompress((tmp_path / "b.conllup.gz").read_bytes()).count(b"# newdoc") == 2
    assert read_trees(tmp_path / "b.conllup.gz") == trees
    assert read_trees(save(path, row("1", "a")))[0].document is None


def test_generated_sentences_are_documents_of_their_own():
    """Nothing ties one to the next."""
    treebank = generate_treebank(seed=0, train=5, dev=3)
    assert [tree.document for tree in treebank.dev] == [0, 1, 2]
