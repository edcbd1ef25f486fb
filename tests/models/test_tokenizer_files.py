"""Tokenizers held to their own tokenizer.json, and the BOS that a post-processor adds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

from mspgt_tl.errors import ModelError
from mspgt_tl.models import tokenizer_files
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.models.tokenizer_files import PROBE, read_tokenizer


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit(path, **change):
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def frame(*tokens):
    """A post-processor that puts tokens before a text."""
    special = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in tokens}
    parts = [{"SpecialToken": {"id": token, "type_id": 0}} for token, _ in tokens]
    single = [*parts, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}


@pytest.mark.parametrize(
    "declared", ["LlamaTokenizerFast", "Qwen2TokenizerFast", "GPT2TokenizerFast", "GemmaTokenizerFast", None]
)
def test_ids_are_those_of_the_file_whatever_class_is_declared(folder, declared):
    settings = folder / "tokenizer_config.json"
    if declared is None:
        settings.unlink()
    else:
        edit(settings, tokenizer_class=declared)
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROBE, add_special_tokens=False).ids
    assert read_tokenizer(folder)(PROBE, add_special_tokens=False)["input_ids"] == expected


def test_a_reading_that_no_class_gets_right_is_refused(folder, monkeypatch):
    other = read_tokenizer(folder)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    monkeypatch.setattr(tokenizer_files, "_readings", lambda *args: iter([other]))
    with pytest.raises(ModelError, match=r"otherwise than the file says.*from token 0 on"):
        read_tokenizer(folder)


@pytest.mark.parametrize("named", [None, "</s>"])
def test_a_bos_that_the_configuration_does_not_name_is_kept(folder, named):
    """The name is absent, or another token's."""
    edit(folder / "tokenizer_config.json", bos_token=named)
    edit(folder / "tokenizer.json", post_processor=frame(("<s>", 0)))
    model = load(folder)
    found = encode(model, ["the cat"])
    assert found.has_bos
    assert found.ids[0] == Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the cat").ids
    assert model.tokenizer.bos_token == "<s>"


def test_two_tokens_before_a_text_are_refused(folder):
    edit(folder / "tokenizer.json", post_processor=frame(("<s>", 0), ("</s>", 1)))
    with pytest.raises(ModelError, match=r"puts 2 tokens before a text \(<s>, </s>\)"):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    """More words than embeddings: refused at loading, not at the first rare word."""
    edit(folder / "config.json", vocab_size=300)
    with pytest.raises(ModelError, match=r"vocabulary of 400, its model of 300"):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_named(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        load(folder)
