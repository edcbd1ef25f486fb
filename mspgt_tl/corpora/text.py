"""Reads running text as sentences: WikiText, plain text, or anything the `datasets` library opens.

Paragraphs stream: with a limit, what lies beyond the last sentence kept is only hashed. What is accepted and what is
refused is listed in docs/inputs.md.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mspgt_tl.contracts import TextCorpus
from mspgt_tl.corpora.formats import recognise
from mspgt_tl.corpora.lines import expand, read_head, read_lines
from mspgt_tl.corpora.paragraphs import Line, peek, read_paragraphs
from mspgt_tl.corpora.rows import is_dataset_name, open_rows
from mspgt_tl.corpora.segmentation import cut_sentences
from mspgt_tl.errors import CorpusError
from mspgt_tl.files import hash_file

MIN_WORDS = 4
"""Shorter pieces are headings, list items and splitting errors, and show attention too few keys."""
MAX_WORDS = 60
"""Longer ones are tables and lists run together; 60 words stay under 128 tokens for most tokenizers."""

_MARK = re.compile(r" @([-,.])@ ")
_WIKITEXT_HEADING = re.compile(r" (= )+.* (= )+")
_MONTH = re.compile(r"(January|February|March|April|May|June|July|August|September|October|November|December)$")
_CLOSING = frozenset([*",.;:!?)]}%'’”′″", "..."])
_OPENING = frozenset("([{$£€₤“‘#")
_JOINING = frozenset("/—‑⁄")


@dataclass(frozen=True)
class Reader:
    """How a file that is no plain prose is read as text."""

    recognises: Callable[[Path], bool]
    """Whether a file is one of these; it exists."""
    read: Callable[[Path], Iterable[Line]]
    """Its prose, line by line; a line may say in which document it lies."""


READERS: dict[str, Reader] = {}
"""By the name of the format; what none recognises is read as plain text, or refused."""


def read_text_corpus(source: str | Path, *, limit: int | None = 10_000) -> TextCorpus:
    """Read the first `limit` sentences of a text, in reading order; fewer when the text has fewer.

    Sentences under `MIN_WORDS` or over `MAX_WORDS` whitespace-separated words are left out, as are headings
    (`= Title =`). A WikiText-style source is recognised by its headings and ` @-@ ` marks and given natural spelling.
    In a hard-wrapped text the lines up to a blank one are joined. All of this is counted in the corpus's `notes`.

    Args:
        source: A text file (`.gz`, `.xz`, `.zst` and `.bz2` are decompressed), or `hf:NAME[/CONFIG][@SPLIT][#COLUMN]`,
            where NAME is `owner/name` on the hub or a local file or folder that the `datasets` library opens; a NAME
            that begins with `/`, `.` or `~` is a path. The split is `train` and the column `text` unless given.
        limit: Most sentences to keep; None keeps all.

    Returns:
        The corpus. `sha256` hashes the bytes of the local file or folder; for a dataset on the hub, its sentences kept.
        `documents` are articles that begin with `= Title =`, or rows that hold several sentences.

    Raises:
        CorpusError: the source is missing, is no prose (JSON, a treebank, …), or holds no usable sentence.
    """
    if limit is not None and limit < 1:
        raise CorpusError(f"A limit of 1 or more sentences needed, but {limit} came; None reads all.")
    name, notes = str(source), Counter[str]()
    path = None
    if is_dataset_name(name):
        lines, path = open_rows(name.removeprefix("hf:"), notes)
    else:
        path = expand(source)
        reader = next((one for one in READERS.values() if path.is_file() and one.recognises(path)), None)
        if reader is None and (found := recognise(read_head(path))):
            raise found.refusal(path, "prose")
        lines = reader.read(path) if reader else (Line(text) for _, text in read_lines(path))
        name = path.name
    kept = tuple(itertools.islice(split_sentences(lines, notes), limit))
    if not kept:
        raise CorpusError(
            f"{source}: prose needed, but no sentence of {MIN_WORDS} to {MAX_WORDS} words came"
            f"{f' ({count_up(notes)})' if notes else ''}."
        )
    sentences, documents = zip(*kept, strict=True)
    sha256 = _hash_texts(sentences) if path is None else hash_path(path)
    known = any(documents)  # 0 until something begins a document
    return TextCorpus(name, sentences, sha256, documents=documents if known else None, notes=dict(notes))


def count_up(notes: dict[str, int] | Counter[str]) -> str:
    """Return counts as a clause.

    >>> count_up({"lines joined": 3, "headings left out": 1})
    '3 lines joined, 1 headings left out'
    """
    return ", ".join(f"{count:,} {what}" for what, count in notes.items())


def split_sentences(lines: Iterable[Line], notes: Counter[str]) -> Iterator[tuple[str, int]]:
    """Yield the sentences of usable length of a stream of lines with their documents, WikiText in natural spelling."""
    stream = iter(lines)
    head = peek(stream)
    tokenised = any(_MARK.search(line.text) or _WIKITEXT_HEADING.fullmatch(line.text.strip("\r\n")) for line in head)
    for paragraph in read_paragraphs(itertools.chain(head, stream), notes, tokenised=tokenised):
        for sentence in cut_sentences(detokenise(paragraph.text) if tokenised else paragraph.text):
            words = MAX_WORDS + 1 if sentence is None else len(sentence.split())
            if words < MIN_WORDS:
                notes[f"pieces under {MIN_WORDS} words left out"] += 1
            elif words > MAX_WORDS:
                notes[f"pieces over {MAX_WORDS} words left out"] += 1
            elif sentence is not None:
                yield sentence, paragraph.document


def detokenise(text: str) -> str:
    """Return a space-tokenised paragraph of WikiText in natural spelling.

    The straight double quote opens and closes in turn. An en dash closes up between numbers, except before a full date.

    >>> detokenise('He said , " It \\'s a 2 @.@ 5 @-@ inch ( 64 mm ) gun . "')
    'He said, "It\\'s a 2.5-inch (64 mm) gun."'
    """
    tokens = _MARK.sub(r"\1", text).split()
    out, glue, quoted, single = [], True, False, False
    for i, token in enumerate(tokens):
        before = tokens[i - 1] if i else ""
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        left = right = False
        if token == '"':
            left, right, quoted = quoted, not quoted, not quoted
        elif token == "'":
            opens = not single and (
                bool(re.match(r"\d0s", after)) or (not before.endswith("s") and "'" in tokens[i + 1 :])
            )
            left, right = not opens, opens
            single = opens and not after[:1].isdigit()
        elif token == "–":
            left = right = before[-1:].isdigit() and after[:1].isdigit() and not _is_date(tokens[i + 1 : i + 3])
        elif token == ":":
            left, right = True, before.isdigit() and bool(re.fullmatch(r"\d\d", after))
        elif token == "°":
            left, right = after not in ("C", "F"), after in ("C", "F")
        elif token in _JOINING:
            left = right = True
        else:
            left = token in _CLOSING or token == "n't" or (token[0] == "'" and token[1:2].isalpha())
            right = token in _OPENING
        out.append(token if glue or left else f" {token}")
        glue = right
    return "".join(out)


def _is_date(tokens: list[str]) -> bool:
    return len(tokens) == 2 and bool(_MONTH.match(tokens[1]))


def hash_path(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of a folder's file names and bytes in sorted order."""
    if path.is_file():
        return hash_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return _hash_texts(f"{p.relative_to(path).as_posix()} {hash_path(p)}" for p in files)


def _hash_texts(texts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\n")
    return total.hexdigest()
