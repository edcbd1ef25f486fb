"""The logit lens: known entropies, and a readout that is the model's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.errors import ModelError
from mspgt_tl.signals.logit_lens import LogitLensAgreement, LogitLensEntropy, agreement, entropy, readout_of


def test_known_entropies():
    """Uniform logits: ln of the vocabulary; one certain token: 0; two equal ones: ln 2."""
    big = 1e4
    logits = torch.tensor([[1.0, 1, 1, 1], [big, 0, 0, 0], [big, big, 0, 0]])
    assert entropy(logits, logits).tolist() == pytest.approx([np.log(4), 0, np.log(2)], abs=1e-6)


def test_agreement_is_of_the_likeliest_token():
    """Whatever the margin."""
    assert agreement(torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([[0.0, 9], [0, 9]])).tolist() == [1, 0]


@pytest.mark.parametrize(("signal", "value"), [(LogitLensEntropy, entropy), (LogitLensAgreement, agreement)])
def test_levels_are_means_over_drawn_tokens(signal, value, batch, sums_of):
    """Against one readout per sentence."""
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 9))).float()
    part = signal(lambda rows: rows @ weights)
    levels = []
    for resid in batch.resid:
        found = [
            float(value(*(r[i, batch.drawn[i]][None] @ weights for r in (resid, batch.resid[-1]))))
            for i in range(len(batch.fold))
        ]
        levels.append(np.mean(found))
    curve = part.curves(sums_of(part, batch), np.ones((1, 3)))[0]
    np.testing.assert_allclose(curve, np.abs(np.diff(levels)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_the_readout_of_the_last_layer_is_the_model_s_own(tiny_folder, backend):
    """Final normalisation and unembedding of the last residual give the model's logits."""
    from mspgt_tl.models.pretrained import load

    model = load(tiny_folder, backend=backend)
    tokens = torch.arange(2, 14)[None]
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    logits, cache = model.run_with_cache(tokens, names_filter=lambda name: name == last)
    (resid,) = (cache[name] for name in cache)
    torch.testing.assert_close(readout_of(model)(resid[0]), logits[0].float(), rtol=1e-4, atol=1e-4)


def test_a_soft_cap_is_kept():
    """As Gemma has it: cap · tanh(logits / cap)."""
    model: Any = SimpleNamespace(
        ln_final=lambda x: x, unembed=lambda x: 10 * x, cfg=SimpleNamespace(output_logits_soft_cap=30.0)
    )
    found = readout_of(model)(torch.tensor([[1.0, 9.0]]))
    assert found[0].tolist() == pytest.approx([30 * np.tanh(10 / 30), 30 * np.tanh(90 / 30)])


def test_a_model_without_unembedding_is_refused():
    """One line that names what is missing."""
    model: Any = SimpleNamespace(ln_final=lambda x: x, cfg=SimpleNamespace())
    with pytest.raises(ModelError, match="needs the model's unembed"):
        readout_of(model)
