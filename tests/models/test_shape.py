"""Sizes of models without their weights, and random models of a shape."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mspgt_tl.config import StreamConfig
from mspgt_tl.errors import ModelError, UnknownModelError
from mspgt_tl.models.embedded import list_embedded
from mspgt_tl.models.pretrained import load
from mspgt_tl.models.shape import random_model, shape_of
from mspgt_tl.passes.corpus import usable_sentences

LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32000,
}


@pytest.mark.parametrize("name", ["qwen2.5-mini", "llama2-mini@random:0", "planted:12:4,8", "planted:8@seed:3"])
def test_shape_is_that_of_the_loaded_model(name: str) -> None:
    """What is read without loading is what loading gives."""
    shape, model = shape_of(name), load(name)
    cfg: Any = model.cfg
    keys = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "d_vocab", "n_ctx")
    assert {key: getattr(shape, key) for key in keys} == {key: getattr(cfg, key) for key in keys}
    assert shape.n_key_value_heads == (cfg.n_key_value_heads or cfg.n_heads)
    assert shape.gated_mlp == cfg.gated_mlp


def test_embedded_models_have_the_parameters_of_their_cards() -> None:
    """The header of the weights counts what the card records."""
    for row in list_embedded():
        assert shape_of(row["name"]).parameters == row["parameters"]


def test_folder_with_and_without_weights(tiny_folder: Path, tmp_path: Path) -> None:
    """A folder's parameters are counted alike from the weights' header and from the configuration alone."""
    from transformers import AutoModelForCausalLM

    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    shape, bare = shape_of(str(tiny_folder)), shape_of(str(tmp_path))
    loaded = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert shape.parameters == sum(p.numel() for p in loaded.parameters())
    assert shape == replace(bare, name=shape.name)
    assert (shape.n_layers, shape.d_model, shape.n_heads, shape.n_key_value_heads) == (8, 32, 4, 2)


def test_shared_embeddings_count_once_and_are_held_twice(tmp_path: Path) -> None:
    """With one matrix for embedding and unembedding, the loaded model has a copy of it."""
    for tied in (False, True):
        (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B | {"tie_word_embeddings": tied}))
        shape = shape_of(str(tmp_path))
        assert shape.weights == 6_738_415_616
        assert shape.parameters == shape.weights - tied * 32000 * 4096


def test_unknown_names_and_unreadable_folders_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names without anything behind them, damaged configurations and a hub out of reach are errors of ours."""
    with pytest.raises(UnknownModelError, match="llama2-mini"):
        shape_of("llama2-mina")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        shape_of(str(tmp_path))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"'gpt2' .*could not be fetched"):
        shape_of("gpt2")


@pytest.mark.parametrize("name", ["qwen2.5-mini", "planted:8"])
def test_random_model_has_the_shape(name: str) -> None:
    """Gated and plain blocks, and widths that heads do not divide; it reads text, and tells tokens apart."""
    small = shape_of(name).shrunk(n_layers=3, block_parameters=1e9)
    model = random_model(small)
    cfg: Any = model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_mlp, cfg.gated_mlp) == (3, small.n_heads, small.d_mlp, small.gated_mlp)
    assert cfg.d_model == small.d_model >= shape_of(name).d_model
    assert len(usable_sentences(model, ["The old mill stands by the river."], StreamConfig())) == 1


def test_wide_blocks_shrink_in_proportion(tmp_path: Path) -> None:
    """Llama-2-7B and Qwen2.5-7B keep their make at a hundredth of a block's weights; groups of heads divide heads."""
    for groups, heads in ((32, 32), (4, 28)):
        config = LLAMA_2_7B | {"num_key_value_heads": groups, "num_attention_heads": heads, "hidden_size": 128 * heads}
        (tmp_path / "config.json").write_text(json.dumps(config))
        whole = shape_of(str(tmp_path / "config.json"))
        small = whole.shrunk(n_layers=5, block_parameters=whole.block_parameters / 100)
        assert 60 < whole.block_parameters / small.block_parameters < 160
        assert small.n_heads % small.n_key_value_heads == 0
        assert small.n_layers == 5


def test_sizes_of_a_large_model(tmp_path: Path) -> None:
    """Llama-2-7B has 6.74 billion parameters, 6.476 of them in the matrices of its blocks."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B))
    shape = shape_of(str(tmp_path))
    assert shape.parameters == 6_738_415_616
    assert 32 * shape.block_parameters == pytest.approx(6.476e9, rel=1e-3)
