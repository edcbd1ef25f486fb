"""Cuts paragraphs into sentences with `pysbd`, in time that grows linearly with their length.

`pysbd` knows abbreviations, initials and quotations and needs no model, but its time grows with the square of a
paragraph's length. So a long one is read piece by piece, and the last sentence of a piece, which may go on, is put
before the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

WHOLE = 3000
"""Characters of the longest paragraph given to `pysbd` in one piece; WikiText-103 has none longer."""
PIECE = 2000
"""Characters of a piece of longer ones."""
MAX_SENTENCE = 2 * PIECE
"""What has not ended by then is no sentence."""


@cache
def segmenter(*, char_span: bool) -> Any:
    """Return `pysbd`'s segmenter of English, which gives sentences, or their spans in the text."""
    import pysbd

    return pysbd.Segmenter(language="en", clean=False, char_span=char_span)


def cut_sentences(paragraph: str) -> Iterator[str | None]:
    """Yield the sentences of a paragraph, and None for each stretch too long to be one; lazily, in linear time."""
    if len(paragraph) <= WHOLE:
        yield from (span.sent.strip() for span in segmenter(char_span=True).segment(paragraph))
        return
    start, endless = 0, False
    waiting = ""
    while start < len(paragraph):
        stop = _cut_near(paragraph, start + PIECE)
        text, start = waiting + paragraph[start:stop], stop
        spans = segmenter(char_span=True).segment(text)
        kept = spans if start >= len(paragraph) else spans[:-1]
        for span in kept:
            yield None if endless else span.sent.strip()
            endless = False
        waiting = text[spans[-1].start :] if spans and len(kept) < len(spans) else ""
        if len(waiting) > MAX_SENTENCE:
            waiting, endless = "", True
    if endless:
        yield None


def _cut_near(text: str, position: int) -> int:
    """Return the last place before `position` that follows a space, or `position` where there is none near it."""
    if position >= len(text):
        return len(text)
    space = text.rfind(" ", position - PIECE, position)
    return position if space < 0 else space + 1
