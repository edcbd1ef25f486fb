"""Which files are a model's weights, and which others are refused."""

from __future__ import annotations

import json

import pytest

from mspgt_tl.errors import ModelError
from mspgt_tl.models.weight_files import check_folder, find_weights


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"weights")


def index(folder, *shards, name="model.safetensors.index.json"):
    weight_map = {str(number): shard for number, shard in enumerate(shards)}
    (folder / name).write_text(json.dumps({"weight_map": weight_map}))


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_files_are_found_as_transformers_picks_them(tmp_path):
    """One file before shards, safetensors before pickles."""
    touch(tmp_path, "pytorch_model.bin")
    assert [file.name for file in find_weights(tmp_path)] == ["pytorch_model.bin"]
    touch(tmp_path, *SHARDS)
    index(tmp_path, *SHARDS)
    assert [file.name for file in find_weights(tmp_path)] == list(SHARDS)
    touch(tmp_path, "model.safetensors")
    assert [file.name for file in find_weights(tmp_path)] == ["model.safetensors"]
    with pytest.raises(ModelError, match="two sets of weights"):
        check_folder(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    touch(tmp_path, SHARDS[0])
    index(tmp_path, *SHARDS)
    with pytest.raises(ModelError, match=f"lacks 1 of 2 shards, {SHARDS[1]} first"):
        check_folder(tmp_path)


def test_shards_without_their_index_are_refused(tmp_path):
    touch(tmp_path, *SHARDS)
    with pytest.raises(ModelError, match=r"without model.safetensors.index.json"):
        check_folder(tmp_path)


@pytest.mark.parametrize("content", ["{}", "no json", "[]", '{"weight_map": 3}'])
def test_a_damaged_index_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match="no index of shards"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.bin", "final/adapter_config.json", "pytorch_adapter.bin"]
)
def test_an_adapter_beside_weights_is_refused(tmp_path, name):
    touch(tmp_path, "model.safetensors", name)
    with pytest.raises(ModelError, match=f"adapter .*{name}.*merge_and_unload"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "name", ["pytorch_lora_weights.safetensors", "steering.pt", "model-extra.safetensors", "mask.npz"]
)
def test_other_weights_are_named(tmp_path, name):
    touch(tmp_path, "model.safetensors", name)
    with pytest.raises(ModelError, match=f"would not be loaded .{name}"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state_0.pth", "README.md"]
)
def test_what_changes_no_function_is_passed_over(tmp_path, name):
    touch(tmp_path, "model.safetensors", name)
    check_folder(tmp_path)


def test_a_git_lfs_pointer_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        check_folder(tmp_path)
