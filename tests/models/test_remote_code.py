"""Code that comes with a model runs only where that is asked for, and is then recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mspgt_tl.errors import ModelError
from mspgt_tl.models.pretrained import describe, load

CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig
Path({marker!r}).touch()
class OddConfig(LlamaConfig):
    model_type = {kind!r}
"""
TOKENIZER = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast
Path({marker!r}).touch()
class OddTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def folder(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    # transformers asks where it may not run code; nobody answers here.
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("a question was asked"))
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def add_code(folder, marker, *, file, **change):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    source = CONFIGURATION if file == "config.json" else TOKENIZER
    (folder / "odd.py").write_text(source.format(marker=str(marker), kind=change.get("model_type", kind)))
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_an_unknown_type_with_code_is_refused_unread(folder, tmp_path):
    add_code(folder, tmp_path / "ran", file="config.json", model_type="odd", auto_map={"AutoConfig": "odd.OddConfig"})
    with pytest.raises(ModelError, match=r"code of its own, which is not run.*trust_remote_code=True"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("declared", ["OddTokenizer", "PreTrainedTokenizerFast"])
def test_a_tokenizer_with_code_is_read_from_its_file(folder, tmp_path, declared):
    settings = {"tokenizer_class": declared, "auto_map": {"AutoTokenizer": [None, "odd.OddTokenizer"]}}
    add_code(folder, tmp_path / "ran", file="tokenizer_config.json", **settings)
    facts = describe(load(folder))
    assert not (tmp_path / "ran").exists()
    assert facts["trust_remote_code"] is False


def test_a_known_type_with_code_goes_without_it(folder, tmp_path):
    add_code(folder, tmp_path / "ran", file="config.json", auto_map={"AutoConfig": "odd.OddConfig"})
    load(folder)
    assert not (tmp_path / "ran").exists()


def test_code_runs_where_it_is_trusted_and_that_is_recorded(folder, tmp_path):
    settings = {"tokenizer_class": "OddTokenizer", "auto_map": {"AutoTokenizer": [None, "odd.OddTokenizer"]}}
    add_code(folder, tmp_path / "ran", file="tokenizer_config.json", **settings)
    assert describe(load(folder, trust_remote_code=True))["trust_remote_code"] is True
    assert (tmp_path / "ran").exists()
