"""How varied texts are: among each other (Self-BLEU), in their words, in the lengths of their sentences, and in loops.

Self-BLEU-4 scores each text as a BLEU hypothesis against all others as references. Of a reference set BLEU needs only
each n-gram's largest count in one reference and the closest length. With the two largest counts of an n-gram over all
texts, its largest count over all *other* texts is known at once: the second largest for the text that holds the
largest, else the largest. That turns the quadratic cost into a sort, and changes no digit. Self-BLEU grows with the
number of texts (0.22 at 100, 0.44 at 1,000 of one corpus, measured): compare only equal numbers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.metrics.base import METRICS, NAN, Better, MetricResult, Sample, TextMetric, missing_result, summarise
from mspgt_tl.metrics.segmentation import find_sentences, find_words

ORDER = 4
"""Longest n-grams of BLEU-4, and the n-grams whose repetition is counted."""
SMOOTHING = 0.1
"""Matches counted where an order has none: `SmoothingFunction().method1` of nltk."""


def self_bleu(texts: Sequence[str] | Sequence[Sequence[str]]) -> Float[np.ndarray, "text"]:
    """Return the BLEU-4 of every text with all other texts as references.

    Equal to nltk's `sentence_bleu(others, text, smoothing_function=SmoothingFunction().method1)` on the same tokens,
    the shorter of two equally close reference lengths included. An empty text scores 0, as in nltk; a single text has
    no references and is `nan`.

    Args:
        texts: strings, split at whitespace, or token lists of any other tokenisation.

    >>> self_bleu(["the cat sat down here", "the cat sat down there", "no"]).round(4).tolist()
    [0.6687, 0.6687, 0.0]
    """
    if isinstance(texts, str):
        raise DataError("A sequence of texts is needed, not one string.")
    tokens = [text.split() if isinstance(text, str) else list(text) for text in texts]
    if len(tokens) < 2:
        return np.full(len(tokens), NAN)
    lengths = np.array([len(row) for row in tokens])
    known: dict[str, int] = {}
    flat = np.array([known.setdefault(token, len(known)) for row in tokens for token in row], dtype=np.int64)
    matches, totals = _match_ngrams(flat, lengths, n_types=len(known))
    precision = np.where(matches > 0, matches, SMOOTHING) / np.maximum(totals, 1)
    brevity = np.exp(np.minimum(0, 1 - _closest_other(lengths) / np.maximum(lengths, 1)))
    return np.where(matches[0] > 0, brevity * np.exp(np.log(precision).mean(axis=0)), 0.0)


def _match_ngrams(
    flat: Int[np.ndarray, "token"], lengths: Int[np.ndarray, "text"], *, n_types: int
) -> tuple[Int[np.ndarray, "order text"], Int[np.ndarray, "order text"]]:
    """Return the clipped matches and the number of n-grams of every text, for n from 1 to `ORDER`."""
    text = np.repeat(np.arange(len(lengths)), lengths)
    left = np.concatenate([np.arange(length, 0, -1) for length in lengths])  # tokens from here to the text's end
    matches = np.zeros((ORDER, len(lengths)), dtype=np.int64)
    totals = np.maximum(lengths - np.arange(ORDER)[:, None], 0)
    gram = flat
    for order in range(ORDER):
        if order:
            starts = np.flatnonzero(left > order)
            # An n-gram is the (n-1)-gram at its start and its last token; renumbering keeps the product small.
            pairs = np.full(len(flat), -1, dtype=np.int64)
            pairs[starts] = gram[starts] * n_types + flat[starts + order]
            gram = np.unique(pairs, return_inverse=True)[1]
        starts = np.flatnonzero(left > order)
        if len(starts):
            matches[order] = _clip_counts(gram[starts], text[starts], n_texts=len(lengths))
    return matches, totals


def _clip_counts(
    gram: Int[np.ndarray, "ngram"], text: Int[np.ndarray, "ngram"], *, n_texts: int
) -> Int[np.ndarray, "text"]:
    """Sum over each text's distinct n-grams the smaller of its own count and the largest count in another text."""
    keys, counts = np.unique(gram * n_texts + text, return_counts=True)
    gram, text = keys // n_texts, keys % n_texts
    order = np.lexsort((counts, gram))
    ranked, sizes = gram[order], counts[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    second = np.append(False, ~last[:-1])  # whether the entry before belongs to the same n-gram
    # Ties need no care: if two texts share the largest count, it is the second largest too.
    others = np.empty_like(counts)
    position = np.flatnonzero(last)
    largest = sizes[position]
    runner_up = np.where(second[position], sizes[position - 1], 0)
    which = np.cumsum(last) - last
    others[order] = np.where(sizes == largest[which], runner_up[which], largest[which])
    return np.bincount(text, weights=np.minimum(counts, others), minlength=n_texts).astype(np.int64)


def _closest_other(lengths: Int[np.ndarray, "text"]) -> Int[np.ndarray, "text"]:
    """Return the length of another text that is closest to each text's own; the shorter of two."""
    known, inverse, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    padded = np.concatenate([[-np.inf], known, [np.inf]])
    below, above = padded[:-2], padded[2:]
    nearest = np.where(known - below <= above - known, below, above)
    return np.where(counts > 1, known, nearest).astype(np.int64)[inverse]


def sentence_length_variance(text: str) -> float:
    """Return the variance (ddof 0) of the sentences' lengths in words; `nan` under two sentences.

    >>> sentence_length_variance("One two three. One.")
    1.0
    """
    lengths = [len(find_words(sentence)) for sentence in find_sentences(text)]
    return float(np.var(lengths)) if len(lengths) > 1 else NAN


def type_token_ratio(words: Sequence[str]) -> float:
    """Return the share of distinct words, in (0, 1]; `nan` without words. It falls with length.

    >>> type_token_ratio(["a", "b", "a", "a"])
    0.5
    """
    return len(set(words)) / len(words) if words else NAN


def moving_type_token_ratio(words: Sequence[str], *, window: int) -> float:
    """Return the mean type–token ratio of all windows of that many words (MATTR); `nan` for a shorter text.

    >>> moving_type_token_ratio(["a", "b", "a", "a"], window=2)
    0.8333333333333334
    """
    if window < 1:
        raise ConfigError(f"A window of 1 or more words is needed, got {window}.")
    if len(words) < window:
        return NAN
    counts = Counter(words[:window])
    total = len(counts)
    for leaving, entering in zip(words, words[window:], strict=False):
        counts[entering] += 1
        counts[leaving] -= 1
        if not counts[leaving]:
            del counts[leaving]
        total += len(counts)
    return total / (len(words) - window + 1) / window


def repetition_rate(tokens: Sequence[str], *, order: int = ORDER) -> float:
    """Return the share of n-grams that occurred before in the text, in [0, 1); `nan` if it has none.

    One minus distinct n-grams over all n-grams (seq-rep-4 of Welleck et al. 2020).

    >>> repetition_rate("a b c d a b c d".split())
    0.2
    """
    grams = list(zip(*(itertools.islice(tokens, start, None) for start in range(order)), strict=False))
    return (len(grams) - len(set(grams))) / len(grams) if grams else NAN


@METRICS.register
@dataclass(frozen=True)
class SelfBleu(TextMetric):
    """Mean BLEU-4 of each continuation against all others, on tokens split at whitespace.

    A continuation without tokens has no value here, though BLEU would call it 0, as different as can be.
    """

    name: ClassVar[str] = "self_bleu"
    title: ClassVar[str] = "Self-BLEU-4"
    unit: ClassVar[str] = "BLEU, 0 to 1"
    better: ClassVar[Better] = "lower"
    meaning: ClassVar[str] = "Lower: the texts are more diverse. Comparable only between equal numbers of texts."
    bounds: ClassVar[tuple[float, float]] = (0, 1)
    source: ClassVar[str] = "section 4.2.1, five behavioural metrics (P); smoothing method1 (R)"

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        if len(samples) == 1:
            return missing_result(samples, "Self-BLEU compares texts with each other, and there is only one.")
        scores = self_bleu([sample.text for sample in samples])
        empty = np.array([not sample.text.split() for sample in samples], dtype=bool)
        details = {"tokens": "whitespace", "texts": len(samples)}
        return summarise(np.where(empty, NAN, scores), undefined="have no tokens", details=details)


@METRICS.register
@dataclass(frozen=True)
class SentenceLengthVariance(TextMetric):
    """Variance of sentence lengths in words within a continuation, ddof 0; the piece cut off at the end counts.

    `details["pooled"]` is the variance over the sentences of all continuations together, single ones included.
    """

    name: ClassVar[str] = "sentence_length_variance"
    title: ClassVar[str] = "Sentence-length variance"
    unit: ClassVar[str] = "words²"
    better: ClassVar[Better] = "none"
    meaning: ClassVar[str] = "A change in either direction says that sentence structure is less stable."
    bounds: ClassVar[tuple[float, float]] = (0, float("inf"))
    source: ClassVar[str] = "section 4.2.1, five behavioural metrics (P); within a sample (R)"

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        lengths = sorted(len(find_words(s)) for sample in samples for s in find_sentences(sample.text))
        pooled = float(np.var(lengths)) if len(lengths) > 1 else NAN
        details = {"pooled": pooled, "sentences": len(lengths)}
        found = [sentence_length_variance(sample.text) for sample in samples]
        return summarise(found, undefined="have fewer than two sentences", details=details)


@METRICS.register
@dataclass(frozen=True)
class TypeTokenRatio(TextMetric):
    """Share of distinct words among a continuation's words, case folded."""

    name: ClassVar[str] = "type_token_ratio"
    title: ClassVar[str] = "Type–token ratio"
    unit: ClassVar[str] = "ratio"
    better: ClassVar[Better] = "none"
    meaning: ClassVar[str] = "Higher: richer vocabulary, shorter text, or noise; falls with length."
    bounds: ClassVar[tuple[float, float]] = (0, 1)
    source: ClassVar[str] = "section 4.2.1, five behavioural metrics (P)"

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        return summarise([type_token_ratio(_folded_words(s.text)) for s in samples], undefined="have no words")


@METRICS.register
@dataclass(frozen=True)
class MovingTypeTokenRatio(TextMetric):
    """Type–token ratio averaged over windows of equal length (MATTR), case folded.

    A text shorter than the window has no value: giving it its plain ratio would bring the effect of length back.
    """

    window: int = 50
    """Words."""

    name: ClassVar[str] = "mattr"
    title: ClassVar[str] = "Type–token ratio, moving window"
    unit: ClassVar[str] = "ratio"
    better: ClassVar[Better] = "none"
    meaning: ClassVar[str] = "Higher: richer vocabulary, or noise; does not depend on length."
    bounds: ClassVar[tuple[float, float]] = (0, 1)
    source: ClassVar[str] = "Covington and McFall 2010 (N)"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"A window of 1 or more words is needed, got {self.window}.")

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        found = [moving_type_token_ratio(_folded_words(s.text), window=self.window) for s in samples]
        return summarise(found, undefined=f"have fewer than {self.window} words", details={"window": self.window})


@METRICS.register
@dataclass(frozen=True)
class RepetitionRate(TextMetric):
    """Share of a continuation's 4-grams (tokens split at whitespace) that occurred before in it."""

    name: ClassVar[str] = "repetition_rate"
    title: ClassVar[str] = "Repeated 4-grams"
    unit: ClassVar[str] = "share"
    better: ClassVar[Better] = "lower"
    meaning: ClassVar[str] = "Higher: the text loops, which can pass for coherence."
    bounds: ClassVar[tuple[float, float]] = (0, 1)
    source: ClassVar[str] = "seq-rep-4, Welleck et al. 2020 (N)"

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        found = [repetition_rate(sample.text.split()) for sample in samples]
        return summarise(found, undefined=f"have fewer than {ORDER} tokens")


def _folded_words(text: str) -> list[str]:
    return [word.casefold() for word in find_words(text)]
