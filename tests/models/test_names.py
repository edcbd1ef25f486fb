"""What a model's name stands for."""

from __future__ import annotations

import shutil

import pytest

from mspgt_tl.errors import ConfigError, ModelError, UnknownModelError
from mspgt_tl.models.names import HubName, find_hub, find_source, split_twin, twin_name
from mspgt_tl.models.pretrained import load


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A function that copies the tiny model to a name below a fresh folder."""
    return lambda name: str(shutil.copytree(tiny_folder, tmp_path / name))


@pytest.mark.parametrize("name", ["llama@v2", "me@example.org/model", "llama@random", "a@seed:1", "llama@random:x"])
def test_an_at_sign_belongs_to_a_folder_name(folder, name):
    """Neither the folder nor its twin is a sibling's."""
    path = folder(name)
    source, twin = find_source(path), find_source(twin_name(path, 3))
    assert (source.folder.as_posix(), source.random_seed) == (path, None)
    assert (twin.folder.as_posix(), twin.random_seed) == (path, 3)


def test_a_folder_of_exactly_the_name_goes_before_a_twin(folder):
    plain, odd = folder("llama"), folder("llama@random:3")
    assert find_source(odd).folder.name == "llama@random:3"
    assert find_source(odd).random_seed is None
    assert find_source(f"{plain}@random:4").random_seed == 4
    assert twin_name(f"{plain}@random:4", 5) == f"{plain}@random:5"


def test_a_twin_of_an_embedded_model_leaves_its_training_out():
    assert twin_name("llama2-mini@seed:1@step:245", 0) == "llama2-mini@random:0"
    assert find_source("llama2-mini@random:0").random_seed == 0


def test_hub_names():
    """Owner and name, TransformerLens's aliases, revisions, twins; nothing that looks like a path."""
    assert find_hub("owner/name") == HubName("owner/name", "owner/name")
    assert find_hub("o/n.1-b@revision:abc@random:2") == HubName("o/n.1-b@revision:abc@random:2", "o/n.1-b", "abc", 2)
    assert find_hub("gpt2-small").repo == "gpt2"
    for name in ("", "/a/b", "./a", "../a", "a/b/c", "~/a", "no-such-name", "a/..", "me@x.org/m", "a b/c"):
        assert find_hub(name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "one file of a model: give its folder"),
        ("config.json", "one file of a model: give its folder"),
        ("other/weights.bin", "A model is a folder with config.json"),
        ("other/model.tar.gz", "is an archive"),
    ],
)
def test_a_file_instead_of_a_folder_is_one_clear_answer(folder, tmp_path, name, message):
    path = tmp_path / "m"
    folder("m")
    (path / "other").mkdir()
    for other in ("weights.bin", "model.tar.gz"):
        (path / "other" / other).touch()
    with pytest.raises(ModelError, match=message):
        load(path / name)


def test_a_folder_of_an_adapter_alone(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter and no model.*merge_and_unload"):
        load(tmp_path)


def test_a_folder_above_the_model_names_it(folder, tmp_path):
    folder("inner")
    with pytest.raises(UnknownModelError, match=r"Did you mean .*inner"):
        load(tmp_path)


def test_twins_of_seeds_that_no_generator_takes_are_refused() -> None:
    """Before any weights are drawn."""
    with pytest.raises(ConfigError, match="whole number from 0 to"):
        split_twin(f"llama2-mini@random:{2**64}")
