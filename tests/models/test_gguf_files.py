"""GGUF files: every architecture that is read survives the round trip; what does not is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mspgt_tl.errors import ModelError
from mspgt_tl.models.gguf_files import ARCHITECTURES
from mspgt_tl.models.pretrained import describe, encode, load

gguf = pytest.importorskip("gguf")

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
HEADS = {"llama": {}, "qwen2": {}, "qwen3": {"head_dim": 128}, "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 256}}
TYPES = {"gemma3": "gemma3_text"}
TEXT = "The cat sat on 1234 mats.  naïve"


def permute(weight, heads):
    """Order the rows of queries and keys as llama.cpp's rotary embedding wants them."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, architecture, folder, *, quantise=False, name=None, **fields):
    """Write a random model with the folder's tokenizer as llama.cpp's converter does, and return the original."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = {
        "vocab_size": len(tokenizer),
        "rms_norm_eps": 1e-6,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    config = AutoConfig.for_model(TYPES.get(architecture, architecture), **SHAPE, **settings, **HEADS[architecture])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_((0.3 if parameter.ndim == 1 else 0.1) * torch.randn_like(parameter))
    writer = gguf.GGUFWriter(str(path), name or architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    backend = tokenizer.backend_tokenizer
    import json

    parts = json.loads(backend.to_str())
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields.pop("pre", "gpt-2"))
    writer.add_token_list(pieces)
    writer.add_token_types([3 if piece in ("<s>", "</s>") else 1 for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in parts["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for key, value in fields.items():
        writer.add_string(key.replace("__", "."), value)
    names = gguf.get_tensor_name_map(next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture), 3)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, suffix = key.rsplit(".", 1)
        value = tensor.numpy().astype(np.float32)
        if architecture == "llama" and "q_proj" in key:
            value = permute(value, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in key:
            value = permute(value, config.num_key_value_heads)
        if architecture == "gemma3" and "norm" in key:
            value = value + 1
        target, kind = f"{names.get_name(stem)}.{suffix}", gguf.GGMLQuantizationType.Q8_0
        if quantise and value.ndim == 2 and value.shape[1] % 32 == 0:
            writer.add_tensor(target, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_round_trip_keeps_the_model(architecture, tiny_folder, tmp_path):
    """Logits are the original's, and the tokenizer gives the original's ids."""
    path = tmp_path / "model.gguf"
    original = write_gguf(path, architecture, tiny_folder)
    model = load(path)
    tokens = torch.arange(2, 34).reshape(2, 16)
    with torch.inference_mode():
        assert (model(tokens) - original(tokens).logits).abs().max() < 1e-4
    assert describe(model)["sha256"]
    expected = AutoTokenizer.from_pretrained(tiny_folder)(TEXT, add_special_tokens=False)["input_ids"]
    assert encode(model, [TEXT], bos=False).ids == [expected]


def test_quantised_weights_are_dequantised(tiny_folder, tmp_path):
    original = write_gguf(tmp_path / "model.gguf", "llama", tiny_folder, quantise=True)
    tokens = torch.arange(2, 18)[None]
    with torch.inference_mode():
        apart = (load(tmp_path / "model.gguf")(tokens) - original(tokens).logits).abs().max()
    assert 1e-4 < apart < 0.5


def test_reading_says_nothing(tiny_folder, tmp_path, capsys):
    """No bar of another library among our own lines."""
    write_gguf(tmp_path / "model.gguf", "llama", tiny_folder)
    capsys.readouterr()
    load(tmp_path / "model.gguf")
    assert capsys.readouterr().err == ""


def test_a_tokenizer_beside_the_file_goes_first(tiny_folder, tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama", tiny_folder, pre="unheard-of")
    with pytest.raises(ModelError, match=r"splits text by 'unheard-of'.*tokenizer.json"):
        load(tmp_path / "model.gguf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tiny_folder) / name, tmp_path / name)
    assert encode(load(tmp_path / "model.gguf"), ["a"]).has_bos


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_truncated_file_is_one_line(tiny_folder, tmp_path, share):
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", tiny_folder)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match="cannot be read; it may be truncated") as error:
        load(path)
    assert len(str(error.value)) < 600


def test_an_unknown_quantisation_is_one_line(tiny_folder, tmp_path):
    """The type of the first tensor, behind its name, dimensions and sizes, is set to a number that nobody uses."""
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", tiny_folder)
    content = bytearray(path.read_bytes())
    at = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    content[at : at + 4] = (999).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"quantised in a way that gguf does not know.*999"):
        load(path)


def test_other_architectures_and_scaled_rotary_embeddings_are_refused_by_name(tiny_folder, tmp_path):
    write_gguf(tmp_path / "a.gguf", "llama", tiny_folder, name="starcoder2")
    with pytest.raises(ModelError, match=r"architecture 'starcoder2'.*llama, qwen2, qwen3, gemma3"):
        load(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf", "llama", tiny_folder, llama__rope__scaling__type="yarn")
    with pytest.raises(ModelError, match=r"scales its rotary embedding \(yarn\)"):
        load(tmp_path / "b.gguf")


def test_a_folder_of_gguf_files_names_one(tiny_folder, tmp_path):
    write_gguf(tmp_path / "m.gguf", "llama", tiny_folder)
    with pytest.raises(ModelError, match=r"give the file, such as .*m.gguf"):
        load(tmp_path)
