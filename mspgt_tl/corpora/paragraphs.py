"""Turns lines of a text into clean paragraphs: wrapped lines joined, invisible characters and headings dropped.

A file is *hard-wrapped* when its lines go on in lower case where no sentence ended, or end in a word that ends none
(`the`, `of`), which a file of one paragraph (or one sentence) a line hardly does. Only then are lines joined, up to
the next blank line. What was joined and dropped is counted in the corpus's notes.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

PEEK = 200
"""Lines that are not blank, looked at to tell whether a text is hard-wrapped, and whether it is WikiText."""
WRAPPED = 0.25
"""Least share of line ends, blank lines aside, at which a sentence visibly goes on, in a hard-wrapped text."""

_ENDS = re.compile(r"[.!?:;…。！？]['\"”’»)\]*_]*$")
_GOES_ON = re.compile(
    r"(,|\b(the|an?|of|to|in|on|at|by|for|from|with|and|or|but|that|which|who|as|is|are|was|were|has|had|his|her|its"
    r"|their))$"
)
_PUNCTUATED = re.compile(r"[.!?]['\"”’»)\]]*(\s|$)")
_BULLET = re.compile(r"([-*•–—+]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_HEADING = re.compile(r"=+ .* =+|#{1,6} \S.*")
TITLE = re.compile(r"= (?!= ).*(?<! =) =")
_BETWEEN_DOCUMENTS = re.compile(r"<\|?endoftext\|?>|</s>")
_KEPT_INVISIBLE = "\u200c\u200d"
"""Joiners: they change what Persian words and emoji are."""


@dataclass(frozen=True)
class Line:
    """A line of a text, or a row of a data set."""

    text: str
    row: int | None = None
    """The row it came from; None in files."""


@dataclass(frozen=True)
class Paragraph:
    """One paragraph without line ends."""

    text: str
    document: int
    """Index of its article; 0 until something begins a document."""


def read_paragraphs(lines: Iterable[Line], notes: Counter[str], *, tokenised: bool) -> Iterator[Paragraph]:
    """Yield the paragraphs of a text.

    A line `= Title =` begins a document, and so does every row of a data set and every `<|endoftext|>`.

    Args:
        lines: In reading order; a blank one ends a paragraph.
        notes: Gets the counts of what is joined and dropped.
        tokenised: The text is WikiText, which is never wrapped.
    """
    stream = iter(_clean(lines, notes))
    head = peek(stream)
    wrapped = not tokenised and is_wrapped([line.text for line in head])
    document, row, block = 0, None, list[str]()
    for line in itertools.chain(head, stream):
        text = line.text.strip()
        heading, splits = bool(_HEADING.fullmatch(text)), bool(_BETWEEN_DOCUMENTS.fullmatch(text))
        if block and (not wrapped or line.row != row or heading or splits or not text or _is_long(block)):
            yield from _flush(block, document, notes, wrapped=wrapped)
        if line.row is not None:
            document, row = line.row, line.row
        elif splits or TITLE.fullmatch(text):
            document += 1
        if heading:
            notes["headings left out"] += 1
        elif text and not splits:
            block.append(text)
    yield from _flush(block, document, notes, wrapped=wrapped)


def _is_long(block: Sequence[str]) -> bool:
    """Return whether enough lines wait, of a text without blank lines; a sentence is cut only beyond all measure."""
    return len(block) >= 10 * PEEK or (len(block) >= PEEK and bool(_ENDS.search(block[-1])))


def _flush(block: list[str], document: int, notes: Counter[str], *, wrapped: bool) -> Iterator[Paragraph]:
    for text in _join(block, notes) if wrapped else [" ".join(line.split()) for line in block]:
        yield Paragraph(text, document)
    block.clear()


def peek(stream: Iterator[Line]) -> list[Line]:
    """Take lines up to the `PEEK`-th that is not blank."""
    head, seen = list[Line](), 0
    for line in stream:
        head.append(line)
        seen += bool(line.text.strip())
        if seen >= PEEK:
            break
    return head


def is_wrapped(lines: Sequence[str]) -> bool:
    """Return whether lines break inside sentences.

    >>> is_wrapped(["The river flows through the", "city and into the sea."])
    True
    >>> is_wrapped(["The river flows.", "Two dogs sleep."])
    False
    """
    if not any(_PUNCTUATED.search(line.rstrip()) for line in lines):
        return False  # one title, or one unpunctuated sentence, a line
    breaks = goes_on = 0
    for line, following in itertools.pairwise(line.strip() for line in lines):
        if line and following and not _HEADING.fullmatch(line) and not _HEADING.fullmatch(following):
            breaks += 1
            ends = _ENDS.search(line) or _BULLET.match(following)
            goes_on += not ends and bool(_GOES_ON.search(line) or not _starts(following))
    return goes_on > 0 and goes_on >= WRAPPED * breaks


def _starts(line: str) -> bool:
    """Return whether a line looks like the beginning of something: a capital, a digit or a quotation."""
    first = line.lstrip("\"'“‘«([")[:1]
    return not first.islower()


def _join(block: Sequence[str], notes: Counter[str]) -> Iterator[str]:
    """Yield the paragraphs of lines that no blank one separates: a short title or an item of a list is its own."""
    longest = max((len(line) for line in block), default=0)
    text = ""
    for i, raw in enumerate(block):
        line = " ".join(raw.split())
        before = " ".join(block[i - 1].split()) if i else ""
        title = not _ENDS.search(before) and not _GOES_ON.search(before) and _starts(line) and len(before) < longest / 2
        if text and (title or _BULLET.match(line)):
            yield text
            text = ""
        if text:
            notes["lines joined to the one before"] += 1
            # A hyphen at the end stays: wrapping breaks at hyphens that the words have.
            text += line if re.search(r"\w-$", text) and line[:1].islower() else f" {line}"
        else:
            text = line
    if text:
        yield text


def _clean(lines: Iterable[Line], notes: Counter[str]) -> Iterator[Line]:
    """Drop what cannot be seen, compose accents, cut at Unicode's line ends, and heal words cut by soft hyphens."""
    cut: Line | None = None
    for line in lines:
        text = line.text
        if cut is not None:
            if cut.row == line.row:
                text = cut.text + text.lstrip()
            else:
                yield cut
            cut = None
        if not text.isprintable():
            text = _visible(text, notes)
        if not unicodedata.is_normalized("NFC", text):
            notes["lines whose accents were composed (NFC)"] += 1
            text = unicodedata.normalize("NFC", text)
        if "\ufffd" in text:
            notes["lines with characters lost before (U+FFFD)"] += 1
        if line.text.rstrip().endswith("\xad"):
            cut = Line(text.rstrip(), line.row)
            continue
        for part in re.split("[\x85\u2028\u2029]", text):
            yield Line(part, line.row)
    if cut is not None:
        yield cut


def _visible(text: str, notes: Counter[str]) -> str:
    """Return a text without characters of no width; form feeds and escape sequences become spaces."""
    text = re.sub("\x1b\\[[0-9;]*[A-Za-z]|[\f\v\x1c-\x1f]", " ", text)
    kept = "".join(
        sign
        for sign in text
        if sign in _KEPT_INVISIBLE or sign in "\t\x85" or unicodedata.category(sign) not in ("Cf", "Cc")
    )
    if len(kept) < len(text):
        notes["invisible characters dropped"] += len(text) - len(kept)
    return kept
