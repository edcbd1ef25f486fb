"""What a model's name stands for: a folder, an embedded model, a GGUF file, a model on the hub, or a twin of one.

A name may end in suffixes, of which these are known: `@seed:N` and `@step:N` of embedded models, `@revision:NAME` of
hub models, and `@random:N`, the random-weight twin of any of them: same architecture, same tokenizer, freshly drawn
weights. Any other `@` belongs to the name; a folder of exactly the given name goes before every reading of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from mspgt_tl.contracts import check_seed
from mspgt_tl.errors import ModelError, UnknownModelError
from mspgt_tl.models.embedded import find_embedded, list_embedded
from mspgt_tl.models.weight_files import WHOLE, find_adapter, find_weights, hash_files

_ARCHIVES = (".gz", ".zip", ".tar", ".tgz", ".xz", ".zst", ".7z")


@dataclass(frozen=True)
class Source:
    """Files to load a model from."""

    name: str
    """As the user wrote it."""
    folder: Path
    tokenizer: Path
    """Folder of the tokenizer."""
    random_seed: int | None = None
    """Seed of a random-weight twin; None loads the weights."""
    card: dict[str, Any] = field(default_factory=dict)
    """The model card of an embedded model, empty for other folders."""
    revision: str | None = None
    """Commit of a model from the hub."""
    gguf: str | None = None
    """Name of the GGUF file in the folder that holds everything."""

    @property
    def weights(self) -> list[Path]:
        """The weight files, in the order of their names."""
        return [self.folder / self.gguf] if self.gguf else find_weights(self.folder)


@dataclass(frozen=True)
class HubName:
    """A model on the hub."""

    name: str
    """As the user wrote it."""
    repo: str
    revision: str | None = None
    """Branch, tag or commit; None is the hub's default."""
    random_seed: int | None = None


def find_source(name: str) -> Source | None:
    """Return the local folder, GGUF file or embedded model behind a name, None if there is none.

    A folder goes before an embedded model of the same name only when it holds a `config.json`.

    Raises:
        ModelError: the name is that of a file or folder which is no model, and why.
    """
    if _is_model(name):
        return Source(name, _path(name), _path(name))
    base, random_seed = split_twin(name)
    path = _path(base)
    if _is_model(base):
        return Source(name, path, path, random_seed)
    if embedded := find_embedded(base):
        folder, tokenizer, card = embedded
        return Source(name, folder, tokenizer, random_seed, card)
    if path.is_file():
        return _find_file(name, path, random_seed)
    if base and path.is_dir():
        raise _no_model(path)
    return None


def find_hub(name: str) -> HubName | None:
    """Read a name as one on the hub, OWNER/NAME or a name that TransformerLens has for one; None if it cannot be."""
    base, random_seed = split_twin(name)
    found = re.fullmatch(r"(.+?)(?:@revision:([\w./-]+))?", base)
    if not found:
        return None
    part = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
    if re.fullmatch(f"{part}/{part}", found[1]) and ".." not in found[1]:
        return HubName(name, found[1], found[2], random_seed)
    official = _aliases().get(found[1].lower()) if re.fullmatch(part, found[1]) else None
    return HubName(name, official, found[2], random_seed) if official else None


def check_weights(source: Source) -> str:
    """Return the sha256 of a source's weights.

    Raises:
        ModelError: the model card records another one.
    """
    found, recorded = hash_files(source.weights), source.card.get("sha256")
    if recorded not in (None, found):
        raise ModelError(
            f"The weights of '{source.name}' are damaged: sha256 {recorded} recorded in its card, {found} found in "
            f"{source.folder}. Install the package again."
        )
    return found


def split_twin(name: str) -> tuple[str, int | None]:
    """Return a name without `@random:N`, and N, None where the name is no twin's.

    Raises:
        ConfigError: no random generator takes N.
    """
    found = re.fullmatch(r"(.+)@random:(\d+)", name)
    if not found:
        return name, None
    check_seed(seed := int(found[2]))
    return found[1], seed


def twin_name(name: str, seed: int) -> str:
    """Return the name of a model's random-weight twin; an embedded model's training seed and step are left out.

    >>> twin_name("llama2-mini@seed:1@step:245", 0), twin_name("me@example.org/llama@v2", 0)
    ('llama2-mini@random:0', 'me@example.org/llama@v2@random:0')
    """
    base = name if _is_model(name) else split_twin(name)[0]
    found = None if _is_model(base) else re.fullmatch(r"(.+?)(?:@seed:\d+)?(?:@step:\d+)?", base)
    return f"{found[1] if found else base}@random:{seed}"


def pinned_name(described: Mapping[str, Any]) -> str:
    """Return the name by which a described model is loaded again: one from the hub at the same commit.

    >>> pinned_name({"name": "owner/name@random:1", "revision": "0a1b"})
    'owner/name@revision:0a1b@random:1'
    """
    name, revision = str(described["name"]), described.get("revision")
    if revision is None:
        return name
    base, seed = split_twin(name)
    return f"{base.partition('@revision:')[0]}@revision:{revision}" + ("" if seed is None else f"@random:{seed}")


def unknown_model(name: str) -> UnknownModelError:
    """Return the error for a name that nothing stands behind, with the names closest to it."""
    if "@random:" in name and "/" not in name:
        return UnknownModelError(
            f"'{name}': twins exist of embedded models, folders and hub names, and '{split_twin(name)[0]}' is none."
        )
    embedded = [row["name"] for row in list_embedded()]
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith(".gguf"):
        return UnknownModelError(
            f"There is nothing at {name}; check the path. A model is a folder in Hugging Face's format, a GGUF file, a "
            f"hub name (OWNER/NAME), or embedded: {', '.join(embedded) or 'none'}."
        )
    close = difflib.get_close_matches(name, [*embedded, *_supported().OFFICIAL_MODEL_NAMES], n=5, cutoff=0.4)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    others = f" Similar: {', '.join(close[1:])}." if close[1:] else ""
    return UnknownModelError(
        f"Unknown model '{name}'.{hint}{others} Embedded: {', '.join(embedded) or 'none'}. Any folder in Hugging "
        "Face's format, any GGUF file and any hub name (OWNER/NAME) of a supported architecture will do, too."
    )


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _is_model(name: str) -> bool:
    return (_path(name) / "config.json").is_file()


def _find_file(name: str, path: Path, random_seed: int | None) -> Source:
    if path.suffix == ".gguf":
        return Source(name, path.parent, path.parent, random_seed, gguf=path.name)
    if path.suffix in _ARCHIVES:
        raise ModelError(f"{path} is an archive: unpack it and give the folder.")
    if (path.parent / "config.json").is_file():
        raise ModelError(f"{path} is one file of a model: give its folder, {path.parent}.")
    raise ModelError(
        f"{path} is one file. A model is a folder with config.json, weights ({' or '.join(WHOLE)}) and tokenizer, "
        "or a GGUF file."
    )


def _no_model(folder: Path) -> ModelError:
    if find_adapter(folder):
        return ModelError(
            f"{folder} holds an adapter and no model. Load its base with peft, merge it (merge_and_unload()), save "
            "model and tokenizer with save_pretrained, and give that folder."
        )
    if found := sorted(folder.glob("*.gguf")):
        return ModelError(f"{folder} holds no config.json, but GGUF files: give the file, such as {found[0]}.")
    inner = sorted(path.parent for path in folder.glob("*/config.json"))
    hint = f" Did you mean {inner[0]}?" if inner else ""
    return UnknownModelError(f"The folder {folder} is not a Hugging Face model: it holds no config.json.{hint}")


def _aliases() -> dict[str, str]:
    table = _supported()
    names = {name.lower(): name for name in table.OFFICIAL_MODEL_NAMES}
    return names | {alias.lower(): name for name, aliases in table.MODEL_ALIASES.items() for alias in aliases}


@cache
def _supported() -> Any:
    """Return TransformerLens's table of names, read on its own: the package around it takes seconds to import."""
    package = find_spec("transformer_lens")
    assert package is not None and package.submodule_search_locations
    place = Path(package.submodule_search_locations[0]) / "supported_models.py"
    found = spec_from_file_location("_supported_models", place)
    assert found is not None and found.loader is not None
    table = module_from_spec(found)
    found.loader.exec_module(table)
    return table
