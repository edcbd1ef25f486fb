"""Which files of a folder are a model's weights, and what lies beside them that nobody would load.

transformers reads the files it knows by name and passes over the rest. A rest that changes what the model computes, an
adapter above all, would be left out without a word, so it is refused here, before anything is read.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from pathlib import Path

from mspgt_tl.errors import ModelError
from mspgt_tl.files import hash_file

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ADAPTERS = ("adapter_config.json", "adapter_model*", "pytorch_adapter*", "*/adapter_config.json")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")
_UNRELATED = (
    # The same weights in another format, or what a training leaves behind.
    *("pytorch_model*.bin", "consolidated*", "training_args.bin", "optimizer*", "scheduler*", "scaler*", "rng_state*"),
    # A reward or value head of a training, which no language model uses.
    *("value_head*", "v_head*"),
)
_POINTER = b"version https://git-lfs.github.com/spec/"


def find_weights(folder: Path) -> list[Path]:
    """Return a checkpoint's weight files as transformers picks them, in the order of their names.

    One file goes before shards, and safetensors before pickles.

    Raises:
        ModelError: a shard is missing, or shards lie there without their index.
    """
    for whole, index in zip(WHOLE, INDICES, strict=True):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _find_shards(folder / index)
        stem, suffix = whole.split(".")
        if found := sorted(folder.glob(f"{stem}-*.{suffix}")):
            raise ModelError(f"{folder} holds {found[0].name} without {index}, which says what the shards hold.")
    return []


def _find_shards(index: Path) -> list[Path]:
    refuse_pointer(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is no index of shards: {error!r}.") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ModelError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards, {missing[0]} first; {index.name} names them. "
            "Download the folder again, or only what is missing."
        )
    return [index.parent / name for name in names]


def hash_files(files: list[Path]) -> str:
    """Return the sha256 of a file, or that of the hashes of several, such as shards, in their order."""
    digests = [hash_file(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def check_folder(folder: Path) -> None:
    """Refuse a folder whose weights are not what transformers would read from it.

    Raises:
        ModelError: an adapter or other weights lie beside the model's, two sets of weights lie side by side, a shard
            is missing, or a file is a git-lfs pointer.
    """
    if adapter := find_adapter(folder):
        raise ModelError(
            f"{folder} holds an adapter ({adapter}) beside its base weights, and the bare base is another model. "
            "Merge it first (peft's merge_and_unload(), then save_pretrained) and give that folder, or move the "
            "adapter away to look at the base."
        )
    files = find_weights(folder)
    for whole, index in zip(WHOLE, INDICES, strict=True):
        if (folder / whole).is_file() and (folder / index).is_file():
            raise ModelError(f"{folder} holds two sets of weights, {whole} and the shards of {index}: keep one.")
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in _WEIGHT_SUFFIXES
        and path not in files
        and not any(fnmatch.fnmatch(path.name, pattern) for pattern in _UNRELATED)
    )
    if files and others:
        raise ModelError(
            f"{folder} holds weights that would not be loaded ({', '.join(others[:3])}) beside {files[0].name}. If "
            "they are part of the model, merge them into it; if not, move them away."
        )
    for path in files:
        refuse_pointer(path)


def find_adapter(folder: Path) -> str | None:
    """Return the name of a file that shows that an adapter lies in a folder or right below it, None without one."""
    for pattern in _ADAPTERS:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return str(found[0].relative_to(folder))
    return None


def refuse_pointer(path: Path) -> None:
    """Raise a `ModelError` if a file is only git-lfs's pointer to the real one."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ModelError(
                f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in {path.parent}, or download "
                "the model again."
            )
