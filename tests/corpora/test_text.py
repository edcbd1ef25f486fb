"""Running text becomes clean sentences, whatever its source, and unusable sources say why."""

import hashlib
import json
import lzma
from pathlib import Path

import pytest

from mspgt_tl.corpora.text import MAX_WORDS, MIN_WORDS, detokenise, hash_path, read_text_corpus
from mspgt_tl.errors import CorpusError

DATA = Path(__file__).parents[2].parent / "shared/data"
needs_data = pytest.mark.skipif(not (DATA / "wikitext").is_dir(), reason="shared texts are not here")

WIKITEXT = """\
 \n = Old Town = \n \n Dr. Smith 's 2 @.@ 5 @-@ inch map , drawn by H. Lee , shows the town . It did n't sell . \n
 = = History = = \n \n The town grew to 20 @,@ 000 people ( 1914 – 18 ) . " It is old , " he said . \n"""


@pytest.mark.parametrize(
    ("tokenised", "natural"),
    [
        ("a hard @-@ shelled male", "a hard-shelled male"),
        ("20 @,@ 000 or 0 @.@ 7 kg", "20,000 or 0.7 kg"),
        ('only becoming " lobster red " on cooking .', 'only becoming "lobster red" on cooking.'),
        ('" Meridian , " he said ; " no " .', '"Meridian," he said; "no".'),
        ("the world 's end ; I don 't , he didn 't , we did n't", "the world's end; I don't, he didn't, we didn't"),
        ("Linnaeus ' concept", "Linnaeus' concept"),
        ("the 1960s and ' 70s", "the 1960s and '70s"),
        ("the ' new ' one", "the 'new' one"),
        ("60 cm ( 24 in ) [ sic ]", "60 cm (24 in) [sic]"),
        ("up to 5 – 6 kg", "up to 5–6 kg"),
        ("( 15 July 1914 – 23 December 1976 )", "(15 July 1914 – 23 December 1976)"),
        ("Newaygo – Oceana", "Newaygo – Oceana"),
        ("it cost $ 5 or £ 3 , 40 %", "it cost $5 or £3, 40%"),
        ("and / or at 9 : 30", "and/or at 9:30"),
        ("the list : one", "the list: one"),
        ("wait ... what ? No !", "wait... what? No!"),
    ],
)
def test_detokenise_known_answers(tokenised, natural):
    """WikiText's spacing turns into ordinary spelling."""
    assert detokenise(tokenised) == natural


def test_wikitext_is_recognised(tmp_path):
    """Headings go, spelling is natural, abbreviations do not end sentences."""
    path = tmp_path / "wiki.txt"
    path.write_text(WIKITEXT, encoding="utf-8")
    corpus = read_text_corpus(path)
    assert corpus.sentences == (
        "Dr. Smith's 2.5-inch map, drawn by H. Lee, shows the town.",
        "The town grew to 20,000 people (1914–18).",
        '"It is old," he said.',
    )
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert corpus.name == "wiki.txt"


@pytest.mark.parametrize("suffix", [".txt", ".txt.xz"])
def test_plain_text_keeps_its_spelling(tmp_path, suffix):
    """Natural text passes unchanged, headings and sentences of unusable length are dropped, Windows line ends too."""
    content = f'\ufeff= Title =\r\nOne two three.\r\nOne two – 3 three " four.\r\n\r\n{"word " * (MAX_WORDS + 1)}.\r\n'
    path = tmp_path / f"a{suffix}"
    path.write_bytes(lzma.compress(content.encode()) if suffix.endswith("xz") else content.encode())
    assert read_text_corpus(path).sentences == ('One two – 3 three " four.',)


def test_limit_takes_the_first_sentences(tmp_path):
    """A limit cuts in reading order; a text with fewer gives all it has."""
    path = tmp_path / "a.txt"
    path.write_text("".join(f"This is sentence number {i}.\n" for i in range(5)), encoding="utf-8")
    everything = read_text_corpus(path, limit=None).sentences
    assert len(everything) == 5
    assert read_text_corpus(str(path), limit=2).sentences == everything[:2]
    assert read_text_corpus(path, limit=100).sentences == everything
    with pytest.raises(CorpusError, match="limit of 1 or more"):
        read_text_corpus(path, limit=0)


def test_reading_stops_at_the_limit(tmp_path):
    """What lies beyond the last sentence kept is not decoded."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"This is a good sentence.\n" * 300 + b"\xff\xfe\n")
    assert len(read_text_corpus(path, limit=10).sentences) == 10
    with pytest.raises(CorpusError, match=r"a\.txt:301: UTF-8 text needed, but byte 0xff came"):
        read_text_corpus(path, limit=None)


def test_unusable_files_are_one_line_errors(tmp_path):
    """Missing, empty and damaged files say what was needed and what came."""
    with pytest.raises(CorpusError, match=r"none\.txt is not a file"):
        read_text_corpus(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("= Title =\n\nToo short.\n")
    with pytest.raises(CorpusError, match=f"no sentence of {MIN_WORDS} to {MAX_WORDS} words"):
        read_text_corpus(tmp_path / "empty.txt")
    (tmp_path / "cut.xz").write_bytes(lzma.compress(b"This is a sentence.\n" * 100)[:-20])
    with pytest.raises(CorpusError, match="damaged after line"):
        read_text_corpus(tmp_path / "cut.xz", limit=None)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A folder of its own for whatever the `datasets` library caches, and three rows of text."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return [{"id": str(i), "text": f"This is row number {i}.", "note": "A note of five words."} for i in range(3)]


def test_saved_dataset_folder(rows, tmp_path):
    """`hf:` opens a folder written by save_to_disk, with or without splits."""
    import datasets

    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"dev": table}).save_to_disk(str(tmp_path / "split"))
    expected = tuple(row["text"] for row in rows)
    corpus = read_text_corpus(f"hf:{tmp_path / 'one'}")
    assert corpus.sentences == expected and corpus.sha256 == hash_path(tmp_path / "one")
    assert read_text_corpus(f"hf:{tmp_path / 'split'}@dev").sentences == expected


def test_local_data_files(rows, tmp_path):
    """`hf:` opens a file or a folder of files, and takes the column asked for."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    expected = tuple(row["text"] for row in rows)
    assert read_text_corpus(f"hf:{path}", limit=2).sentences == expected[:2]
    assert read_text_corpus(f"hf:{path.parent}").sentences == expected
    assert read_text_corpus(f"hf:{path}#note").sentences == ("A note of five words.",) * 3
    with pytest.raises(CorpusError, match=r"'body' is none\. Name one with #COLUMN: id, text, note"):
        read_text_corpus(f"hf:{path}#body")


def test_hub_reference_is_taken_apart(monkeypatch):
    """Owner, name, config and split reach the library as written; the hash is that of the sentences."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*names, **options):
        asked.append((names, options))
        return [{"page": "This is a page of text."}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = read_text_corpus("hf:owner/name/config-1@test#page")
    assert asked == [(("owner/name", "config-1"), {"split": "test", "streaming": True})]
    assert corpus.sentences == ("This is a page of text.",)
    assert corpus.sha256 == hashlib.sha256(b"This is a page of text.\n").hexdigest()


def test_unloadable_dataset_is_a_one_line_error(tmp_path):
    """What the library raises is passed on in one line."""
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(CorpusError, match=r"file of data needed, but this ends in '\.xyz'; known: \.json"):
        read_text_corpus(f"hf:{tmp_path / 'a.xyz'}")


@needs_data
def test_wikitext_validation_articles():
    """The first sentences of WikiText-103 are clean and no tokenisation mark is left in a thousand."""
    corpus = read_text_corpus(DATA / "wikitext" / "valid.raw.txt", limit=1000)
    assert corpus.sentences[1] == "It is closely related to the American lobster, H. americanus."
    assert len(corpus.sentences) == 1000
    assert not [text for text in corpus.sentences if "@-@" in text or " ," in text or " ." in text or "( " in text]


@needs_data
@pytest.mark.slow
def test_all_of_wikitext_validation():
    """All articles give over 7,000 sentences, within a minute."""
    assert 7000 < len(read_text_corpus(DATA / "wikitext" / "valid.raw.txt", limit=None).sentences) < 9000


@needs_data
def test_natural_wikipedia_prose_is_not_detokenised():
    """Text with `= Title =` headings but natural spelling keeps it."""
    corpus = read_text_corpus(DATA / "wikicorpus" / "valid.txt.xz", limit=200)
    assert len(corpus.sentences) == 200
    assert not [text for text in corpus.sentences if text.startswith("=")]
