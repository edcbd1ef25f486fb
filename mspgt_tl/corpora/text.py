"""Reads running text as sentences: WikiText, plain text, or anything the `datasets` library opens.

Sentences are split by `pysbd`, whose rules know abbreviations, initials and quotations; it needs no model and costs
4 s for the 217,646 tokens of the WikiText-103 validation articles (measured). Paragraphs stream: with a limit, what
lies beyond the last sentence kept is only hashed.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mspgt_tl.contracts import TextCorpus
from mspgt_tl.corpora.lines import read_lines
from mspgt_tl.errors import CorpusError

MIN_WORDS = 4
"""Shorter pieces are headings, list items and splitting errors, and show attention too few keys."""
MAX_WORDS = 60
"""Longer ones are tables and lists run together; 60 words stay under 128 tokens for most tokenizers."""

PEEK = 200
"""Paragraphs looked at to tell whether a text is space-tokenised like WikiText."""

_MARK = re.compile(r" @([-,.])@ ")
_WIKITEXT_HEADING = re.compile(r" (= )+.* (= )+")
_HEADING = re.compile(r"=+ .* =+")
_MONTH = re.compile(r"(January|February|March|April|May|June|July|August|September|October|November|December)$")
_CLOSING = frozenset([*",.;:!?)]}%'’”′″", "..."])
_OPENING = frozenset("([{$£€₤“‘#")
_JOINING = frozenset("/—‑⁄")
_DATA_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}


def read_text_corpus(source: str | Path, *, limit: int | None = 10_000) -> TextCorpus:
    """Read the first `limit` sentences of a text, in reading order; fewer when the text has fewer.

    Sentences under `MIN_WORDS` or over `MAX_WORDS` whitespace-separated words are left out, as are headings
    (`= Title =`). A WikiText-style source is recognised by its headings and ` @-@ ` marks and given natural spelling.

    Args:
        source: A UTF-8 text file with one paragraph a line (`.xz` is decompressed), or
            `hf:NAME[/CONFIG][@SPLIT][#COLUMN]`, where NAME is `owner/name` on the hub or a local file or folder that
            the `datasets` library opens. The split is `train` and the column `text` unless given.
        limit: Most sentences to keep; None keeps all.

    Returns:
        The corpus. `sha256` hashes the bytes of the local file or folder; for a dataset on the hub, its sentences kept.

    Raises:
        CorpusError: the source is missing, is not UTF-8 text, or holds no usable sentence.
    """
    if limit is not None and limit < 1:
        raise CorpusError(f"A limit of 1 or more sentences needed, but {limit} came; None reads all.")
    name = str(source)
    if name.startswith("hf:"):
        paragraphs, path = _open_dataset(name.removeprefix("hf:"))
    else:
        paragraphs, path = (line for _, line in read_lines(Path(source))), Path(source)
        name = path.name
    sentences = tuple(itertools.islice(split_sentences(paragraphs), limit))
    if not sentences:
        raise CorpusError(
            f"{source}: prose needed, one paragraph a line, but no sentence of {MIN_WORDS} to {MAX_WORDS} words came."
        )
    sha256 = _hash_texts(sentences) if path is None else hash_path(path)
    return TextCorpus(name=name, sentences=sentences, sha256=sha256)


def split_sentences(paragraphs: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of usable length of a stream of paragraphs, detokenised where it looks like WikiText."""
    import pysbd

    segmenter = pysbd.Segmenter(language="en", clean=False)
    stream = iter(paragraphs)
    head = list(itertools.islice(stream, PEEK))
    tokenised = any(_MARK.search(line) or _WIKITEXT_HEADING.fullmatch(line.strip("\r\n")) for line in head)
    for paragraph in itertools.chain(head, stream):
        text = " ".join(paragraph.split())
        if not text or _HEADING.fullmatch(text):
            continue
        for sentence in segmenter.segment(detokenise(text) if tokenised else text):
            stripped = str(sentence).strip()
            if MIN_WORDS <= len(stripped.split()) <= MAX_WORDS:
                yield stripped


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
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return _hash_texts(f"{p.relative_to(path).as_posix()} {hash_path(p)}" for p in files)


def _hash_texts(texts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\n")
    return total.hexdigest()


def _open_dataset(reference: str) -> tuple[Iterator[str], Path | None]:
    """Return the texts of a dataset and, when it is local, its path."""
    rest, _, column = reference.partition("#")
    rest, _, split = rest.partition("@")
    path = Path(rest) if rest and Path(rest).exists() else None
    try:
        rows = iter(_stream_dataset(rest, path, split or "train"))
        first = next(rows, None)
    except Exception as error:  # `datasets` raises whatever its loaders, file systems and network libraries raise
        reason = str(error).strip().split("\n")[0]
        raise CorpusError(
            f"hf:{reference}: dataset as hf:NAME[/CONFIG][@SPLIT][#COLUMN] needed, but loading it failed: "
            f"{type(error).__name__}: {reason}"
        ) from error
    if first is None:
        raise CorpusError(f"hf:{reference}: rows of text needed, but the split is empty.")
    texts = [key for key, value in first.items() if isinstance(value, str)]
    column = column or ("text" if "text" in texts or len(texts) != 1 else texts[0])
    if column not in texts:
        raise CorpusError(
            f"hf:{reference}: text column needed, but '{column}' is none. "
            f"Name one with #COLUMN: {', '.join(texts) or 'none'}."
        )
    lines = (line for row in itertools.chain([first], rows) for line in (row[column] or "").split("\n"))
    return lines, path


def _stream_dataset(name: str, path: Path | None, split: str) -> Any:
    import datasets

    if not name:
        raise ValueError("the name is empty")
    if path is None:
        owner_and_name, config = name.split("/")[:2], name.split("/")[2:]
        return datasets.load_dataset("/".join(owner_and_name), *config[:1], split=split, streaming=True)
    if path.is_file():
        if path.suffix not in _DATA_FORMATS:
            raise ValueError(f"unknown file type '{path.suffix}'; known: {', '.join(_DATA_FORMATS)}")
        files = {split: str(path)}
        return datasets.load_dataset(_DATA_FORMATS[path.suffix], data_files=files, split=split, streaming=True)
    if (path / "state.json").exists():
        return datasets.load_from_disk(str(path))
    if (path / "dataset_dict.json").exists():
        return datasets.load_from_disk(str(path))[split]
    return datasets.load_dataset(str(path), split=split, streaming=True)
