"""Models and tokenizers after public bug reports: each is loaded rightly or refused, never silently something else."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mspgt_tl.errors import ConfigError, ModelError
from mspgt_tl.models.pretrained import describe, encode, load

CASES = Path(__file__).parents[2].parent / "shared/cases/models"
with_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout (../shared/cases)")
TEXTS = ["The cat sat on 12 mats.", " a  b", "naïve — 😀"]


@with_cases
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
@pytest.mark.parametrize("name", ["bos-null", "tok-noconfig"])
def test_a_bos_that_no_configuration_names(name, backend):
    """The ids, BOS included, are those of tokenizer.json."""
    model = load(CASES / name, backend=backend)
    literal = Tokenizer.from_file(str(CASES / name / "tokenizer.json"))
    assert describe(model)["prepends_bos"]
    assert encode(model, TEXTS).ids == [literal.encode(text).ids for text in TEXTS]


@with_cases
def test_a_class_that_overrules_tokenizer_json():
    """No blank is put before a text that has none."""
    folder = CASES / "tok-prefix-fastcls"
    literal = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = load(folder)
    assert encode(model, TEXTS).ids == [literal.encode(text).ids for text in TEXTS]
    assert not describe(model)["prepends_bos"]


@with_cases
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_an_adapter_beside_base_weights(backend):
    with pytest.raises(ModelError, match="merge_and_unload"):
        load(CASES / "lora-folder", backend=backend)


@with_cases
def test_an_architecture_that_the_bridge_gets_wrong():
    """The bridge rotates Cohere's heads as Llama's."""
    if find_spec("transformer_lens.HookedTransformer") is None:
        pytest.skip("TransformerLens 4 gets it right")
    with pytest.raises(ModelError, match="another model than the Hugging Face one"):
        load(CASES / "cohere", backend="bridge")
    with pytest.raises(ModelError, match="type 'cohere'"):
        load(CASES / "cohere")


@pytest.mark.parametrize("name", ["llama@v2", "GoogleDrive-me@example.org/model", "llama@seed:1"])
def test_the_twin_of_a_path_with_an_at_sign(name, tiny_folder, tmp_path):
    """Not that of the sibling folder before the sign; found out before the first stage."""
    from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
    from mspgt_tl.pipeline.checks import check_nulls
    from mspgt_tl.pipeline.inputs import Inputs, Loading, null_inputs

    for place in (name, name.partition("@")[0]):
        shutil.copytree(tiny_folder, tmp_path / place)
    path = str(tmp_path / name)
    inputs = Inputs(load(path), generated_corpus(seed=1, limit=10), generate_treebank(seed=0))
    twin = describe(null_inputs("random:3", inputs, path, Loading(), 0)().model)
    assert (twin["name"], twin["random_seed"]) == (f"{path}@random:3", 3)
    with pytest.raises(ConfigError, match="has no random-weight twin"):
        check_nulls(["random:3"], "planted:12:4,8@seed:1")
