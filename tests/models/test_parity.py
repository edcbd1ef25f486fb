"""The comparison with the Hugging Face model at the end of every load."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from mspgt_tl.errors import ModelError
from mspgt_tl.models import building, parity
from mspgt_tl.models.building import provenance
from mspgt_tl.models.pretrained import load


@pytest.fixture
def tampered(tiny_folder, monkeypatch):
    """A function that loads the tiny model with one weight of the conversion changed."""
    build = building._build_hooked

    def load_with(change, **options):
        def build_wrong(*args):
            model = build(*args)
            with torch.no_grad():
                change(model)
            return model

        monkeypatch.setattr(building, "_build_hooked", build_wrong)
        return load(tiny_folder, **options)

    return load_with


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_a_faithful_model_deviates_by_rounding_only(tiny_folder, backend):
    assert 0 <= provenance(load(tiny_folder, backend=backend)).deviation < 1e-5


@pytest.mark.parametrize("layer", [0, 3, 7])
def test_the_first_block_that_differs_is_named(tampered, layer):
    """A weight changed by a tenth of its size, at the first, a middle or the last block."""
    with pytest.raises(ModelError, match=f"from block {layer} on"):
        tampered(lambda model: model.blocks[layer].mlp.W_out.mul_(1.1))


def test_a_wrong_unembedding_shows_in_the_logits(tampered):
    with pytest.raises(ModelError, match="from the logits on"):
        tampered(lambda model: model.unembed.W_U.mul_(1.1))


def test_a_shift_of_all_logits_is_no_difference(tampered):
    """No probability sees it."""
    assert provenance(tampered(lambda model: model.unembed.b_U.add_(5.0))).deviation < 1e-4


def test_the_check_can_be_skipped(tampered):
    model = tampered(lambda model: model.blocks[0].mlp.W_out.mul_(1.1), parity=False)
    assert provenance(model).deviation is None


def test_low_precision_is_allowed_its_rounding_and_no_more(tampered):
    assert provenance(tampered(lambda model: None, dtype="bfloat16")).deviation > 1e-4
    with pytest.raises(ModelError, match="another model"):
        tampered(lambda model: model.blocks[4].attn._W_V.zero_(), dtype="bfloat16")


def test_observing_leaves_the_model_as_it_was(tiny_folder):
    """Mixed training modes, no hooks left."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).train()
    model.model.layers[2].eval()
    before = [module.training for module in model.modules()]
    parity.observe(model)
    assert [module.training for module in model.modules()] == before
    assert not any(module._forward_hooks for module in model.modules())


def test_a_hook_that_changes_the_original_shows(tiny_folder):
    """What is built from the weights alone would be another model."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model.model.layers[5].register_forward_hook(lambda _module, _input, out: out + 1)
    with pytest.raises(ModelError, match="from block 5 on"):
        load(model)
