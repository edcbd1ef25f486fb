"""Tests of diversity: Self-BLEU against nltk, and the rest against slow obvious versions."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.metrics.base import Sample
from mspgt_tl.metrics.diversity import (
    MovingTypeTokenRatio,
    RepetitionRate,
    SelfBleu,
    SentenceLengthVariance,
    TypeTokenRatio,
    moving_type_token_ratio,
    repetition_rate,
    self_bleu,
    sentence_length_variance,
    type_token_ratio,
)

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e."]), max_size=14)


def samples(*texts: str) -> list[Sample]:
    return [Sample("A prompt.", text) for text in texts]


def nltk_self_bleu(tokens: list[list[str]]) -> np.ndarray:
    """The oracle: nltk's sentence BLEU with method1, once per text, against all others."""
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="nltk, the oracle, is not installed")
    smooth = bleu.SmoothingFunction().method1
    return np.array(
        [
            bleu.sentence_bleu(tokens[:i] + tokens[i + 1 :], row, smoothing_function=smooth)
            for i, row in enumerate(tokens)
        ],
        dtype=np.float64,
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=8))
def test_self_bleu_is_that_of_nltk_on_random_texts(tokens):
    """Few types, all lengths from nothing up: ties, duplicates, empty and short texts are all there."""
    expected = nltk_self_bleu(tokens)
    np.testing.assert_allclose(self_bleu([" ".join(row) for row in tokens]), expected, rtol=0, atol=1e-12)


def test_self_bleu_is_that_of_nltk_on_sentences():
    """The same for 80 generated English texts of two to four sentences."""
    sentences = generated_corpus(seed=3, limit=240).sentences
    texts = [" ".join(sentences[i : i + 2 + i % 3]) for i in range(0, 240, 3)]
    np.testing.assert_allclose(self_bleu(texts), nltk_self_bleu([t.split() for t in texts]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("others", [[3, 5], [5, 3], [3, 3, 5], [6, 1], [4, 5]])
def test_the_shorter_of_two_equally_close_references_sets_the_brevity_penalty(others):
    """A text of 4 tokens with references of 3 and 5, and other mixtures, in either order."""
    tokens = [["a", "b", "c", "d"], *(["a", "b", "c", "d", "e", "f"][:length] for length in others)]
    np.testing.assert_allclose(self_bleu(tokens), nltk_self_bleu(tokens), rtol=0, atol=1e-12)


def test_equal_texts_score_one():
    """Five copies of a text of four or more tokens have a Self-BLEU of 1."""
    assert self_bleu(["one two three four five"] * 5).tolist() == pytest.approx([1] * 5)


def test_texts_that_share_nothing_score_zero():
    """Without a common token BLEU is 0, smoothing or not."""
    assert self_bleu(["a b c d e", "f g h i j"]).tolist() == [0, 0]


def test_other_tokens_may_be_given():
    """Token lists are scored as they are."""
    assert self_bleu([["New York", "is"], ["New York", "was"]])[0] == self_bleu(["NewYork is", "NewYork was"])[0]


@pytest.mark.parametrize(("texts", "expected"), [([], []), (["", ""], [0, 0]), (["a", ""], [0, 0])])
def test_self_bleu_of_little_text(texts, expected):
    """No texts give no values; empty texts 0, as in nltk."""
    assert self_bleu(texts).tolist() == expected


def test_a_single_text_has_no_self_bleu():
    """Without references nltk raises; here the value is nan, and the metric says why."""
    assert np.isnan(self_bleu(["one text"])).all()
    result = SelfBleu().measure(samples("one text"))
    assert np.isnan(result.value)
    assert "only one" in result.reason


def test_one_string_is_not_a_list_of_texts():
    """A string would be read as a list of letters."""
    with pytest.raises(DataError, match="not one string"):
        self_bleu("a text")


def test_the_metric_leaves_empty_texts_out():
    """An empty continuation is not counted as perfectly diverse."""
    result = SelfBleu().measure(samples("a b c d", "a b c d", ""))
    assert result.value == pytest.approx(1)
    assert result.n == 2
    assert result.reason == "1 of 3 samples have no tokens."


def test_self_bleu_of_a_thousand_texts_takes_well_under_a_second():
    """1,000 texts of 60 tokens; about 0.03 s on an idle core."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in row) for row in rng.zipf(1.3, size=(1000, 60)) % 5000]
    start = time.process_time()
    self_bleu(texts)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two three. One.", 1),
        ("One two. Three four.", 0),
        ("Go. He left. They all slept. And a piece cut", 1.25),
        ("Just one sentence.", None),
        ("", None),
        ("... !", None),
    ],
)
def test_sentence_length_variance_by_hand(text, expected):
    """Population variance of words per sentence; under two sentences there is none."""
    found = sentence_length_variance(text)
    assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_sentence_lengths_are_also_pooled():
    """The pooled variance uses texts of one sentence too."""
    result = SentenceLengthVariance().measure(samples("One two three.", "One."))
    assert np.isnan(result.value)
    assert result.details == {"pooled": 1.0, "sentences": 2}


@given(st.lists(st.sampled_from("abcde"), max_size=30), st.integers(1, 12))
def test_the_moving_ratio_is_the_mean_over_windows(words, window):
    """The running count gives what counting every window anew gives."""
    windows = [words[i : i + window] for i in range(len(words) - window + 1)]
    expected = np.mean([len(set(w)) / window for w in windows]) if windows else float("nan")
    assert moving_type_token_ratio(words, window=window) == pytest.approx(expected, nan_ok=True)


def test_the_moving_ratio_does_not_fall_with_length():
    """Drawing from the same 100 words, the plain ratio of a text five times as long is far lower, MATTR the same."""
    rng = np.random.default_rng(1)
    short, long = (rng.integers(100, size=n).astype(str).tolist() for n in (400, 2000))
    assert type_token_ratio(long) < 0.3 * type_token_ratio(short)
    assert moving_type_token_ratio(long, window=50) == pytest.approx(
        moving_type_token_ratio(short, window=50), rel=0.05
    )


def test_ratios_fold_case_and_ignore_punctuation():
    """`The` and `the,` are one type."""
    assert TypeTokenRatio().measure(samples("The the, THE. cat")).value == 0.5
    assert MovingTypeTokenRatio(window=4).measure(samples("The the, THE. cat")).value == 0.5


def test_a_text_shorter_than_the_window_has_no_moving_ratio():
    """It is left out, not given its plain ratio."""
    result = MovingTypeTokenRatio(window=3).measure(samples("one two", "one two one"))
    assert result.value == pytest.approx(2 / 3)
    assert result.reason == "1 of 2 samples have fewer than 3 words."


def test_a_window_of_nothing_is_refused():
    """A window has at least one word."""
    with pytest.raises(ConfigError, match="window"):
        MovingTypeTokenRatio(window=0)


@given(st.lists(st.sampled_from("ab"), max_size=25))
def test_repetition_counts_what_occurred_before(tokens):
    """The share of 4-grams that are equal to an earlier one."""
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    repeated = [gram in grams[:i] for i, gram in enumerate(grams)]
    expected = np.mean(repeated) if grams else float("nan")
    assert repetition_rate(tokens) == pytest.approx(expected, nan_ok=True)


def test_loops_repeat():
    """A loop is near 1, a text of distinct words at 0."""
    result = RepetitionRate().measure(samples("on and " * 50, "all of these words occur but once"))
    assert result.per_sample.tolist() == [pytest.approx(1 - 2 / 97), 0]
