"""Texts from the wild are read rightly or refused in one line that says what they are; nothing is wrong in silence."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mspgt_tl.corpora.segmentation import WHOLE, cut_sentences
from mspgt_tl.corpora.text import read_text_corpus
from mspgt_tl.errors import CorpusError

CASES = Path(__file__).parents[3] / "shared/cases/text"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")

RIVER = "The river flows through the city and into the sea."
DOGS = "Two dogs were sleeping in the garden."


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """A function that writes text or bytes to a file without a telling name and reads its sentences."""

    def write_and_read(content: str | bytes, name: str = "file") -> tuple[str, ...]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_text_corpus(path).sentences

    return write_and_read


@needs_cases
@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("wrapped.txt", 2, RIVER),
        ("utf16le_nobom.txt", 3, RIVER),
        ("zero_width.txt", 2, "The river flows through the city."),
        ("cr_only.txt", 10, RIVER),
        ("text.txt.gz", 5, RIVER),
    ],
)
def test_shared_texts_are_read(name: str, count: int, first: str) -> None:
    """Wrapping, encodings, line ends and compression are no obstacle."""
    sentences = read_text_corpus(CASES / name).sentences
    assert len(sentences) == count and sentences[0] == first


@needs_cases
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.jsonl", r"JSON lines; read its text column with hf:.*data\.jsonl#COLUMN"),
        ("page.html", "HTML"),
        ("treebank_as_text.conllu", "CoNLL-U; give it as --treebank"),
        ("nul.txt", r"nul\.txt:1: text needed, but a NUL byte"),
    ],
)
def test_shared_files_that_are_no_prose_are_refused(name: str, message: str) -> None:
    """The message says what the file is and which option reads it."""
    with pytest.raises(CorpusError, match=message):
        read_text_corpus(CASES / name)


ROW = "{0}\tdog\tdog\tNOUN\t_\t_\t0\troot\t_\t_\n"
NO_PROSE = {
    "CoNLL-U": "".join(ROW.format(i) for i in range(1, 9)),
    "CoNLL-U whose tabs became spaces": "".join(ROW.format(i).replace("\t", " ") for i in range(1, 9)),
    "tagged words": "The DT O\nriver NN B-LOC\nflows VBZ O\nsouth RB O\n. . O\n",
    "bracketed trees": "(S (NP (DT The) (NN river)) (VP (VBZ flows)) (. .))\n",
    "JSON lines": f'{{"text": "{RIVER}"}}\n' * 3,
    "JSON": f'{{\n "title": "A",\n "text": "{RIVER}"\n}}\n',
    "JSON array": f'[{{"text": "{RIVER}"}},\n {{"text": "{DOGS}"}}]\n',
    "HTML or XML": f"<p>{RIVER}</p>\n<p>{DOGS}</p>\n",
    "XML of wikiextractor": f'<doc id="1" title="A">\n{RIVER}\n{DOGS}\n</doc>\n',
    "LaTeX": f"\\documentclass{{article}}\n\\begin{{document}}\n{RIVER}\n\\end{{document}}\n",
    "wiki markup": f"'''The river''' is a [[river]] in [[Asia]].\n{RIVER}\n",
    "subtitles": f"1\n00:00:01,000 --> 00:00:02,000\n{RIVER}\n\n2\n00:00:03,000 --> 00:00:04,000\n{DOGS}\n",
    "a log": f"2026-11-25 16:00:01 INFO {RIVER}\n2026-11-25 16:00:02 WARNING {DOGS}\n",
    "a log of a server": '1.2.3.4 - - [25/Nov/2026:16:00:01 +0000] "GET /a/b HTTP/1.1" 200 12\n' * 4,
    "e-mail": f"From: a@b.c\nTo: d@e.f\nSubject: The river\n\n{RIVER}\n",
    "source code": "import os\n\n\ndef f(x):\n    y = x + 1\n    return g(y)\n",
    "settings": "name: river\nlength: 10\ncolour: blue\nmouth: sea\n",
    "CSV": f'id,text\n1,"{RIVER}"\n2,"{DOGS}"\n',
    "CSV with commas that nobody quoted": f"id,text\n1,{RIVER}\n2,Yes, {DOGS}\n",
    "CSV of Excel": f"id;text\n1;{RIVER}\n2;{DOGS}\n",
    "CSV without header": f'1,"{RIVER}"\n2,"{DOGS}"\n',
    "TSV": f"id\ttext\n1\t{RIVER}\n2\t{DOGS}\n",
    "Markdown": f"# Rivers\n\n{RIVER} See [the sea](sea.md).\n\n## Dogs\n\n{DOGS}\n",
    "Markdown with a table": f"{RIVER}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "RTF": f"{{\\rtf1\\ansi {RIVER}}}",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "ZIP": b"PK\x03\x04\x14\x00\x06\x00",
    "Parquet": b"PAR1\x15\x04",
    "encoded data": "VGhlIHJpdmVyIGZsb3dzIHRocm91Z2ggdGhlIGNpdHkgYW5kIGludG8gdGhlIHNlYS4gVGhl\n" * 5,
    "sequences": ">one\nACGTACGTACGTACGT\nACGTACGTACGTACGT\n",
    "mostly digits and signs": "12.5 13.7 99.1\n3.2 4.1 8.8 9\n" * 5,
    "without spaces between words": "这条河流经城市，流入大海。两只狗睡在花园里。" * 10,
    "binary": bytes(range(1, 32)) * 20,
}
"""Content by the format's name, and by more than its name where there are two."""


@pytest.mark.parametrize("kind", NO_PROSE)
def test_what_is_no_prose_is_refused_by_content(kind: str, read: Callable[..., tuple[str, ...]]) -> None:
    """No name is needed: the content tells."""
    named = next((name for name in ("JSON", "CSV", "Markdown", "a log") if kind.startswith(f"{name} of")), kind)
    named = named.partition(" array")[0].partition(" of wiki")[0].partition(" with")[0]
    with pytest.raises(CorpusError, match=f"prose needed, but this is .*{named[:4]}"):
        read(NO_PROSE[kind])


@pytest.mark.parametrize("packed", [False, True])
def test_refusals_look_below_compression(packed: bool, read: Callable[..., tuple[str, ...]]) -> None:
    """JSON lines are refused whether they are gzipped or not, under any name."""
    content = NO_PROSE["JSON lines"].encode()
    with pytest.raises(CorpusError, match="this is JSON lines"):
        read(gzip.compress(content) if packed else content, "text.txt")


PROSE = {
    "commas in every line": f"Yes, he came to the city.\nNo, {RIVER.lower()}\n",
    "a hash": f"# The river\n{RIVER}\n",
    "dialogue": f"- {RIVER}\n- {DOGS}\n",
    "speakers": f"HAMLET: {RIVER}\nOPHELIA: {DOGS}\n",
    "footnotes": f"[1] {RIVER}\n[2] {DOGS}\n",
    "unknown words": f"<unk> {RIVER}\n{DOGS}\n",
    "numbers": "In 1914, 20,000 people (12.5 %) lived there, 15,000 of them in 1,200 houses.\n" * 2,
    "a rule": f"{RIVER}\n\n* * *\n\n{DOGS}\n",
    "an address": f"{RIVER} See https://a.b/c?d=1 for it.\n",
    "other letters": "Река течёт через город и впадает в море. Две собаки спали в саду.\n",
}


@pytest.mark.parametrize("kind", PROSE)
def test_prose_is_not_refused(kind: str, read: Callable[..., tuple[str, ...]]) -> None:
    """Signs that markup uses occur in prose, too."""
    assert read(PROSE[kind])


def test_wrapped_lines_are_joined_and_counted(tmp_path: Path) -> None:
    """Paragraphs end at blank lines, short titles and items of lists stay apart, hyphens keep their words together."""
    path = tmp_path / "a.txt"
    path.write_text(
        "The River\r\nThe river flows through the well-\r\nknown city and into\r\nthe sea. Two dogs were sleeping\r\n"
        "in the garden.\r\n \r\nThey were there because of the\r\nrain, which had\r\n- never stopped in that garden\r\n"
        "- never begun in the other one\r\n"
    )
    corpus = read_text_corpus(path)
    assert corpus.sentences[:3] == (
        "The river flows through the well-known city and into the sea.",
        DOGS,
        "They were there because of the rain, which had",
    )
    assert corpus.notes["lines joined to the one before"] == 4


def test_lines_that_end_in_a_word_that_ends_no_sentence_go_on(read: Callable[..., tuple[str, ...]]) -> None:
    """A capital at the beginning of the next line is no sign that something ended."""
    assert read("He told us that the president of\nFrance came to the city.\n") == (
        "He told us that the president of France came to the city.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "The river flows through the city.\nTwo dogs sleep in the garden.\n",
        "the river flows through the city\ntwo dogs sleep in the garden\n",  # no punctuation at all
        "The River Flows to the Sea\nTwo Dogs Sleep in the Garden\nHe said it to us all.\n",
    ],
)
def test_one_sentence_a_line_is_not_joined(text: str, read: Callable[..., tuple[str, ...]]) -> None:
    """Lines that are whole stay whole, with and without punctuation."""
    assert read(text) == tuple(text.splitlines())


def test_wrapping_survives_long_texts(read: Callable[..., tuple[str, ...]]) -> None:
    """A wrapped text without a single blank line loses no sentence where it is cut into pieces."""
    import textwrap

    sentences = [f"The river number {i} flows through the city and into the sea." for i in range(2000)]
    assert read(textwrap.fill(" ".join(sentences), 70)) == tuple(sentences)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-16 without Latin letters"]
)
def test_unicode_encodings_are_told_apart(encoding: str, read: Callable[..., tuple[str, ...]]) -> None:
    """With and without a byte order mark."""
    text = f"{RIVER}\r\n“{DOGS}”\r\n" if "without" not in encoding else PROSE["other letters"]
    assert read(text.encode("utf-16-le" if "without" in encoding else encoding)) == read(text)


def test_other_encodings_are_refused_by_line(read: Callable[..., tuple[str, ...]]) -> None:
    """Latin-1 is told by its first bad byte, with the way out."""
    with pytest.raises(CorpusError, match=r":2: UTF-8 text needed, but byte 0xe9 came; convert the file .*iconv"):
        read(f"{RIVER}\nThe café is in the city.\n".encode("latin-1"))


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\r\r\n", "\u2028", "\x85", "\n\f"])
def test_all_line_ends_are_line_ends(end: str, read: Callable[..., tuple[str, ...]]) -> None:
    """Whatever ends the lines, the sentences are the same, and mixed ends are no obstacle."""
    assert read(end.join([RIVER, DOGS, ""])) == (RIVER, DOGS)
    assert read(f"{RIVER}\r{DOGS}\n{RIVER}\r\n{DOGS}") == (RIVER, DOGS) * 2


def test_what_cannot_be_seen_goes_and_is_counted(tmp_path: Path) -> None:
    """Soft hyphens, byte order marks inside, direction marks; no-break spaces are spaces, accents are composed."""
    path = tmp_path / "a.txt"
    path.write_text(
        "The ri\xadver\u200b flows\u00a0through\u2009the\ufeff café and\u200e back.\nThey co\xad\noperate in it.\n"
    )
    corpus = read_text_corpus(path)
    assert corpus.sentences == ("The river flows through the café and back.", "They cooperate in it.")
    path.write_text("The cafe\u0301 is in the city.\n")
    composed = read_text_corpus(path)
    assert composed.sentences == ("The café is in the city.",)
    assert corpus.notes["invisible characters dropped"] == 5
    assert composed.notes == {"lines whose accents were composed (NFC)": 1}


def test_characters_lost_before_are_counted(tmp_path: Path) -> None:
    """What an earlier program could not read stays as it is, and is told."""
    path = tmp_path / "a.txt"
    path.write_text("The caf\ufffd is in the city.\n")
    assert read_text_corpus(path).notes == {"lines with characters lost before (U+FFFD)": 1}


def test_joiners_inside_words_stay(read: Callable[..., tuple[str, ...]]) -> None:
    """Zero-width joiners and non-joiners are spelling."""
    text = "He می‌خواهم said it 👩‍🚒 to us."
    assert read(text) == (text,)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2", ".txt"])
def test_compression_is_told_by_content(suffix: str, read: Callable[..., tuple[str, ...]]) -> None:
    """Each kind reads like plain text under its own name and any other; cut short, it is damaged."""
    from mspgt_tl.corpora.lines import zstd_module

    text = (f"{RIVER}\n" * 300).encode()
    packers = (gzip.compress, lzma.compress, zstd_module().compress, bz2.compress)
    for pack, name in itertools.product(packers, (f"a{suffix}", "b")):
        assert len(read(pack(text), name)) == 300
        with pytest.raises(CorpusError, match=r"damaged|no sentence"):
            read(pack(text)[:-9], name)


def test_git_lfs_pointers_and_folders_are_named(tmp_path: Path, read: Callable[..., tuple[str, ...]]) -> None:
    """What stands for the file is not read as the file."""
    with pytest.raises(CorpusError, match="git lfs pull"):
        read("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n")
    with pytest.raises(CorpusError, match=r"is a folder; name the file in it, or a data set as hf:"):
        read_text_corpus(tmp_path)
    with pytest.raises(CorpusError, match=r"not a file; check the path\. Did you mean 'file'\?"):
        read_text_corpus(tmp_path / "fill")


def test_texts_are_no_paths() -> None:
    """A text given in place of its path, a user who is not there, a number: one line each."""
    from mspgt_tl.pipeline.inputs import open_corpus

    for source in (f"{RIVER} " * 100, "~nobody/a.txt", "a\0b"):
        with pytest.raises(CorpusError, match=r"give sentences as a list|not a file"):
            open_corpus(source, 10)
    for given, kind in ((3, "int"), ([RIVER, None], "NoneType"), (b"x", "bytes")):
        with pytest.raises(CorpusError, match=f"but {kind} came"):
            open_corpus(given, 10)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder in Python, too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text(RIVER)
    assert read_text_corpus("~/a.txt").sentences == (RIVER,)


def test_one_huge_line_stops_at_the_limit(tmp_path: Path) -> None:
    """Twenty megabytes without a line end cost no more than the sentences asked for."""
    path = tmp_path / "huge.txt"
    path.write_text(f"{RIVER} " * 400_000)
    start = time.perf_counter()
    assert len(read_text_corpus(path, limit=200).sentences) == 200
    assert time.perf_counter() - start < 10


def test_long_paragraphs_are_cut_like_short_ones() -> None:
    """Pieces lose no sentence and cut none; what never ends is one stretch."""
    sentences = [f"Dr. Smith met {i} dogs near the U.S. border, at 3.15 p.m. sharp." for i in range(500)]
    assert list(cut_sentences(" ".join(sentences))) == sentences
    endless = "word " * WHOLE
    assert list(cut_sentences(f"{RIVER} {endless}end. {DOGS}")) == [RIVER, None, DOGS]
    assert list(cut_sentences(endless)) == [None]
    assert list(cut_sentences("x" * 5 * WHOLE)) == [None]


def test_articles_are_documents(read: Callable[..., tuple[str, ...]], tmp_path: Path) -> None:
    """A line `= Title =` begins an article, deeper headings do not; without titles nothing is known of documents."""
    read(f"= One =\n{RIVER} {DOGS}\n\n== Part ==\n{DOGS}\n\n= Two =\n{RIVER}\n")
    assert read_text_corpus(tmp_path / "file").documents == (1, 1, 1, 2)
    read(f" = One = \n \n {RIVER} \n \n = = Part = = \n {DOGS} \n = Two = \n {RIVER} \n")
    assert read_text_corpus(tmp_path / "file").documents == (1, 1, 2)
    read(f"{RIVER}\n<|endoftext|>\n{DOGS}\n")
    assert read_text_corpus(tmp_path / "file").documents == (0, 1)
    read(f"{RIVER}\n\n{DOGS}\n")
    assert read_text_corpus(tmp_path / "file").documents is None


@pytest.mark.skipif(not CASES.parents[1].joinpath("data").is_dir(), reason="the shared texts are not here")
@pytest.mark.parametrize(("name", "documents"), [("wikitext/valid.raw.txt", 8), ("wikicorpus/valid.txt.xz", 8)])
def test_articles_of_real_corpora(name: str, documents: int) -> None:
    """The first thousand sentences of Wikipedia come from several articles, none of them cut in two."""
    found = read_text_corpus(CASES.parents[1] / "data" / name, limit=1000).documents
    assert found is not None and len(set(found)) >= documents
    assert list(found) == sorted(found)
