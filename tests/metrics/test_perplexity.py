"""Tests of the reference perplexity against Hugging Face's own losses and against a model that knows nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, ModelError
from mspgt_tl.metrics.base import Sample
from mspgt_tl.metrics.perplexity import ReferencePerplexity, continuation_losses
from mspgt_tl.models.pretrained import encode, load

TOLERANCE = 1e-4
SENTENCES = generated_corpus(seed=11, limit=40).sentences
SAMPLES = [Sample(SENTENCES[i], " " + " ".join(SENTENCES[i + 1 : i + 1 + i % 4])) for i in range(0, 24, 2)]
ENOUGH = [sample for sample in SAMPLES if sample.text.strip()]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load(tiny_folder)


def test_losses_are_those_of_hugging_face(model, tiny_folder):
    """Each sample alone, unpadded, through transformers: the summed nats of the continuation's tokens."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    nats, counts = continuation_losses(model, ENOUGH)
    for sample, found, count in zip(ENOUGH, nats, counts, strict=True):
        ids = torch.tensor(encode(model, [sample.prompt + sample.text]).ids)
        start = len(encode(model, [sample.prompt]).ids[0])
        with torch.inference_mode():
            logits = reference(ids).logits[0, start - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum")
        assert count == ids.shape[1] - start
        assert found == pytest.approx(float(expected), rel=TOLERANCE)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tiny_folder):
    """With an unembedding of zeros every token costs ln(vocabulary) nats."""
    blank = load(tiny_folder)
    with torch.no_grad():
        blank.unembed.W_U.zero_()
        blank.unembed.b_U.zero_()
    result = ReferencePerplexity(blank).measure(ENOUGH)
    assert result.value == pytest.approx(math.log(blank.cfg.d_vocab), rel=1e-6)
    assert result.details["pooled"] == pytest.approx(blank.cfg.d_vocab, rel=1e-5)
    np.testing.assert_allclose(result.details["perplexity"], blank.cfg.d_vocab, rtol=1e-5)


@pytest.mark.parametrize("positions", [1, 100, 100_000])
def test_batches_change_nothing(model, positions):
    """One sample at a time, a few, or all at once: the same values up to rounding."""
    expected = ReferencePerplexity(model).measure(ENOUGH).per_sample
    found = ReferencePerplexity(model, batch_positions=positions).measure(ENOUGH).per_sample
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_order_of_samples_changes_no_digit(model):
    """Batches are made by length and content."""
    forward, backward = (ReferencePerplexity(model).measure(s) for s in (ENOUGH, ENOUGH[::-1]))
    assert forward.value == backward.value
    assert forward.per_sample.tolist() == backward.per_sample[::-1].tolist()


def test_the_prompt_is_not_scored_but_seen(model):
    """Another prompt changes the loss of the same continuation; its tokens are not counted."""
    nats, counts = continuation_losses(model, [Sample(SENTENCES[0], " dogs"), Sample(SENTENCES[1], " dogs")])
    assert counts[0] == counts[1]
    assert nats[0] != nats[1]


def test_what_has_no_tokens_has_no_value(model):
    """An empty continuation is nan, with the reason."""
    result = ReferencePerplexity(model).measure([Sample("a cat", ""), Sample("", ""), Sample("a cat", " sat")])
    assert result.n == 1
    assert np.isnan(result.per_sample[:2]).all()
    assert result.reason.startswith("2 of 3 samples have no token")


def test_text_beyond_the_context_is_not_counted(model):
    """The model reads `n_ctx` tokens; a continuation that lies beyond them altogether has no value."""
    nats, counts = continuation_losses(model, [Sample("a", " cat" * 500), Sample("cat " * 500, "a")])
    assert counts[0] <= model.cfg.n_ctx - 1
    assert counts[1] == 0
    assert np.isfinite(nats).all()


def test_without_a_model_there_is_a_reason():
    """The metric can be built bare, and then says what it lacks."""
    result = ReferencePerplexity().measure(SAMPLES)
    assert math.isnan(result.value)
    assert result.reason == "There is no reference model."


def test_a_model_that_gives_nan_is_no_value(tiny_folder):
    """Damaged weights give nan with a reason, not a number."""
    broken = load(tiny_folder)
    with torch.no_grad():
        broken.unembed.W_U.fill_(float("nan"))
    result = ReferencePerplexity(broken).measure(ENOUGH)
    assert math.isnan(result.value)
    assert "finite" in result.reason


def test_mistakes_of_the_caller_raise(model, monkeypatch):
    """A batch of nothing, or a model without a tokenizer."""
    with pytest.raises(ConfigError, match="batch_positions"):
        ReferencePerplexity(model, batch_positions=0)
    monkeypatch.setattr(model, "tokenizer", None)
    with pytest.raises(ModelError, match="tokenizer"):
        ReferencePerplexity(model).measure(SAMPLES)
