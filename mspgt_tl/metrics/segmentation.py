"""Tokens, words and sentences of a text, as every metric counts them.

- *Tokens* are what whitespace separates, punctuation attached and case kept: what n-gram metrics compare.
- *Words* are runs of letters and digits, joined by single apostrophes and hyphens: what is counted and looked up.
- *Sentences* are `pysbd`'s, for English.

Text in a script without spaces has few tokens and words by these rules; the metrics are made for English.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mspgt_tl.corpora.segmentation import segmenter

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_CACHED_TEXTS = 8192
"""Several metrics split the same continuations; `pysbd` takes 1.5 ms each."""


def find_words(text: str) -> list[str]:
    """Return the words in reading order, case kept.

    >>> find_words("It's a well-known 'fact' -- 3.5 times.")
    ["It's", 'a', 'well-known', 'fact', '3', '5', 'times']
    """
    return _WORD.findall(text)


@lru_cache(maxsize=_CACHED_TEXTS)
def find_sentences(text: str) -> tuple[str, ...]:
    """Return the sentences that hold a word, without the space around them.

    A text cut off mid-sentence ends with that piece as its last sentence.

    >>> find_sentences("Dr. Smith left. He came back! ...")
    ('Dr. Smith left.', 'He came back!')
    """
    pieces = (str(piece).strip() for piece in segmenter(char_span=False).segment(text))
    return tuple(piece for piece in pieces if _WORD.search(piece))
