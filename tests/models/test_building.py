"""How the weights of a loaded model lie in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from mspgt_tl.models import building
from mspgt_tl.models.pretrained import load
from mspgt_tl.models.tokenizer_files import read_tokenizer


@pytest.fixture(params=["llama", "gpt2"])
def hf_model(request: pytest.FixtureRequest, tiny_folder: Path) -> Any:
    """A gated model with grouped keys, and one without either."""
    if request.param == "llama":
        return AutoModelForCausalLM.from_pretrained(tiny_folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=3, n_head=4, n_positions=64))


def test_layout_changes_no_number(hf_model: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and logits are the same to the bit as those of weights stored as TransformerLens stores them."""
    tokenizer = read_tokenizer(tiny_folder)
    ours: Any = load(hf_model, tokenizer=tokenizer)
    monkeypatch.setattr(building, "lay_out", lambda model: model)
    plain: Any = load(hf_model, tokenizer=tokenizer)
    for (name, weight), (_, expected) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(weight, expected), name
    tokens = torch.arange(12).reshape(2, 6)
    assert torch.equal(ours(tokens), plain(tokens))


def test_no_pass_copies_the_weights(hf_model: Any, tiny_folder: Path) -> None:
    """What TransformerLens transposes at every pass is stored transposed, so that it is a view."""
    model: Any = load(hf_model, tokenizer=read_tokenizer(tiny_folder))
    block = model.blocks[0]
    assert model.unembed.W_U.T.is_contiguous()
    assert block.attn.W_O.permute(2, 0, 1).is_contiguous()
    assert block.attn.W_Q.transpose(1, 2).is_contiguous()
    if model.cfg.gated_mlp:
        assert all(weight.T.is_contiguous() for weight in (block.mlp.W_gate, block.mlp.W_in, block.mlp.W_out))
        assert block.attn._W_K.transpose(1, 2).is_contiguous()
