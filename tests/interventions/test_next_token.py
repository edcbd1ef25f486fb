"""Effects on the next token and the ledger of a disturbance: against plain forward passes and closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError
from mspgt_tl.interventions import next_token
from mspgt_tl.interventions.next_token import (
    clean_passes,
    compare_logits,
    measure_ledger,
    next_token_effects,
    predict,
)
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.models.pretrained import encode, load

SENTENCES = generated_corpus(seed=3, limit=24).sentences


def test_effects_equal_plain_forward_passes(model: Any, noise: Any) -> None:
    """KL, loss change and agreement of one sentence, from two whole passes and torch's own functions."""
    layers, sigma = range(2, 4), 0.5
    found = next_token_effects(model, SENTENCES[:1], {"x": layers}, [sigma], noise, seed=0, resamples=100)
    ids = torch.tensor(encode(model, SENTENCES[:1]).ids)
    with torch.inference_mode():
        before = model(ids)[0, :-1].double().log_softmax(-1)
        hooks = noise_hooks(model, layers, sigma, seed=4, sample_ids=[0], unit=1.0)
        after = model.run_with_hooks(ids, fwd_hooks=hooks)[0, :-1].double().log_softmax(-1)
    kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum") / len(before)
    target = ids[0, 1:, None]
    assert float(found["kl"][0, 0]) == pytest.approx(float(kl), rel=1e-5)
    loss = (before - after).gather(-1, target).mean()
    assert float(found["loss_change"][0, 0]) == pytest.approx(float(loss), rel=1e-5)
    agree = (before.argmax(-1) == after.argmax(-1)).double().mean()
    assert float(found["agreement"][0, 0]) == pytest.approx(float(agree))
    assert found.attrs["tokens"] == len(before)


def test_data_tokens_alone_are_disturbed_and_compared(model: Any, noise: Any) -> None:
    """The first token keeps its stream and its prediction counts for nothing; nor does the last, which none follows."""
    layers, sigma, ids = range(2, 4), 0.5, torch.tensor(encode(model, SENTENCES[:1]).ids)
    found = next_token_effects(
        model, SENTENCES[:1], {"x": layers}, [sigma], noise, seed=0, tokens="data", resamples=100
    )
    at = torch.arange(ids.shape[1])[None]
    at[0, 0] = -1
    with torch.inference_mode():
        before = model(ids)[0, 1:-1].double().log_softmax(-1)
        hooks = noise_hooks(model, layers, sigma, seed=4, sample_ids=[0], unit=1.0, positions=at)
        after = model.run_with_hooks(ids, fwd_hooks=hooks)[0, 1:-1].double().log_softmax(-1)
    kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum") / len(before)
    assert float(found["kl"][0, 0]) == pytest.approx(float(kl), rel=1e-5)
    assert found.attrs["tokens"] == len(before)


def test_effects_do_not_depend_on_batches(model: Any, noise: Any) -> None:
    """One sentence at a time gives what all together give."""
    options = {"seed": 0, "resamples": 100}
    targets, sigmas = {"a": [0], "b": range(3, 6)}, [0.1, 0.4]
    together = next_token_effects(model, SENTENCES, targets, sigmas, noise, batch_positions=4000, **options)
    apart = next_token_effects(model, SENTENCES, targets, sigmas, noise, batch_positions=1, **options)
    for name in together.data_vars:
        np.testing.assert_allclose(together[name], apart[name], rtol=1e-4, atol=1e-7)
    assert (together["kl"][:, 1] > together["kl"][:, 0]).all()
    assert ((together["kl_low"] <= together["kl"]) & (together["kl"] <= together["kl_high"])).all()


def test_no_noise_has_no_effect(model: Any, noise: Any) -> None:
    """σ = 0 is exactly the undisturbed model."""
    found = next_token_effects(model, SENTENCES[:4], {"a": range(8)}, [0.0], noise, seed=0, resamples=100)
    assert float(found["kl"][0, 0]) == 0
    assert float(found["agreement"][0, 0]) == 1


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 30.0, 300.0])
def test_float32_terms_give_the_kl_of_float64(size: float) -> None:
    """From effects of 1e-9 nats, which float32 log-probabilities would drown, to logits whose exp overflows."""
    generator = torch.Generator().manual_seed(0)
    before, noise = (torch.randn(6, 5000, generator=generator) for _ in range(2))
    before, after = 4 * before, 4 * before + size * noise
    target = torch.arange(6)
    clean = predict(before)
    kl, loss, agreement = compare_logits(clean, after.clone(), target)
    p, q = (logits.double().log_softmax(-1) for logits in (before, after))
    torch.testing.assert_close(kl, (p.exp() * (p - q)).sum(-1), rtol=1e-4, atol=1e-12)
    expected = (p - q).gather(-1, target[:, None])[:, 0]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5 * size)
    assert torch.equal(agreement, (p.argmax(-1) == q.argmax(-1)).double())


def test_targets_wait_in_groups_without_a_change(model: Any, monkeypatch: pytest.MonkeyPatch, noise: Any) -> None:
    """Where memory holds one target's disturbed stream at a time, effects stay the same."""
    targets, options = {"a": [0], "b": [2, 3], "c": [5]}, {"seed": 0, "resamples": 100}
    together = next_token_effects(model, SENTENCES[:5], targets, [0.1, 0.4], noise, **options)
    monkeypatch.setattr(next_token, "STREAM_NUMBERS", 1)
    monkeypatch.setattr(next_token, "CHUNK_NUMBERS", 7 * int(model.cfg.d_vocab))
    apart = next_token_effects(model, SENTENCES[:5], targets, [0.1, 0.4], noise, **options)
    for name in together.data_vars:
        np.testing.assert_allclose(together[name], apart[name], rtol=1e-4, atol=1e-7)


def test_undefined_sigma_is_nan(model: Any, noise: Any) -> None:
    """A dose without a σ leaves a hole, not a zero."""
    found = next_token_effects(model, SENTENCES[:3], {"a": [1]}, {"a": [math.nan, 0.1]}, noise, seed=0, resamples=100)
    assert np.isnan(found["kl"][0, 0]) and np.isfinite(found["kl"][0, 1])


def test_ledger_of_one_layer_is_known(model: Any, noise: Any) -> None:
    """Noise of absolute size σ has ‖δ‖ near σ√d, and moves the stream by just that at its own layer."""
    clean = list(clean_passes(model, SENTENCES, max_length=64, batch_positions=256))
    found = measure_ledger(model, clean, [3], 0.2, noise)
    keep = [batch.resid[4][batch.is_data].norm(dim=-1) for batch in clean]
    expected = float((0.2 * math.sqrt(model.cfg.d_model) / torch.cat(keep)).mean())
    assert float(found["injected"][3]) == pytest.approx(expected, rel=0.02)
    assert float(found["deviation"][3]) == pytest.approx(float(found["injected"][3]), rel=1e-6)
    assert np.isnan(found["injected"][[0, 1, 2, 4, 5, 6, 7]]).all()
    assert (found["deviation"][:3] == 0).all() and (found["deviation"][4:] > 0).all()
    assert float(found["snr_db"][3]) == pytest.approx(-20 * math.log10(expected), abs=1)


def test_bad_input_is_named(model: Any, noise: Any) -> None:
    """Targets without blocks, sentences without a next token."""
    with pytest.raises(DataError, match="at least one block"):
        next_token_effects(model, SENTENCES, {"a": []}, [0.1], noise, seed=0)
    with pytest.raises(CorpusError, match="two tokens"):
        list(clean_passes(model, [""], max_length=64, batch_positions=64))


def test_a_bridge_is_refused(tiny_folder: Path) -> None:
    """It ignores `stop_at_layer` at the last block, so a residual could not be told from logits."""
    bridge = load(tiny_folder, backend="bridge")
    with pytest.raises(ConfigError, match="needs a HookedTransformer"):
        list(clean_passes(bridge, SENTENCES, max_length=64, batch_positions=64))
