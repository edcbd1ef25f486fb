"""The models shipped with the package, by name.

`zoo/<name>/` holds one model: `config.json`, `model.safetensors` (bfloat16) and `card.json`. All share the tokenizer
in `zoo/tokenizer/`; a model that brings its own keeps it in its own folder. Further training seeds are
`zoo/<name>@seed-N/`, asked for as `<name>@seed:N`; the plain name is seed 0. What a training was like after N steps is
`…@step-N/`, asked for as `…@step:N`. `<name or folder>@random:N` is a random-weight twin: same architecture, same
tokenizer, freshly drawn weights.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mspgt_tl.errors import ModelError, UnknownModelError

ZOO = Path(__file__).parent / "zoo"
_WEIGHTS = "model.safetensors"
_CARD_FIELDS = {
    "architecture": "name",
    "namesake": "namesake",
    "seed": "seed",
    "tokens": "tokens_seen",
    "validation_loss": "validation_loss",
    "bigram_loss": "bigram_loss",
    "unigram_loss": "unigram_loss",
    "bits_per_byte": "bits_per_byte",
    "parameters": "parameters",
}


@dataclass(frozen=True)
class Source:
    """A folder to load a model from."""

    name: str
    """As the user wrote it."""
    folder: Path
    tokenizer: Path
    """Folder of the tokenizer."""
    random_seed: int | None = None
    """Seed of a random-weight twin; None loads the weights."""
    card: dict[str, Any] = field(default_factory=dict)
    """The model card of an embedded model, empty for other folders."""


def find_source(name: str) -> Source | None:
    """Return the local folder or embedded model behind a name, None if there is none.

    A folder wins over an embedded model of the same name only when it holds a `config.json`.
    """
    base, random_seed = _split_suffix(name, "random")
    folder = Path(base).expanduser()
    if (folder / "config.json").is_file():
        return Source(name, folder, folder, random_seed)
    found = re.fullmatch(r"([\w.-]+)(?:@seed:(\d+))?(?:@step:(\d+))?", base)
    if not found:
        return None
    folder = ZOO / folder_name(found[1], int(found[2] or 0), int(found[3]) if found[3] else None)
    if not (folder / _WEIGHTS).is_file():
        return None
    own = (folder / "tokenizer.json").is_file()
    return Source(name, folder, folder if own else ZOO / "tokenizer", random_seed, _read_card(folder))


def folder_name(name: str, seed: int, step: int | None) -> str:
    """Return the folder of a model in the zoo; `step` is None for a finished training."""
    return name + (f"@seed-{seed}" if seed else "") + ("" if step is None else f"@step-{step}")


def list_embedded() -> list[dict[str, Any]]:
    """Return one row per embedded model, read from its card, by name and seed.

    Keys: `name` (to load it by), `architecture`, `namesake`, `seed`, `tokens` (seen in training), `validation_loss`,
    `bigram_loss`, `unigram_loss` (nats per token), `bits_per_byte`, `parameters`, and `bytes` of the weights. What the
    card is silent on is None.
    """
    rows = []
    for weights in ZOO.glob(f"*/{_WEIGHTS}"):
        card = _read_card(weights.parent)
        name = re.sub(r"@(seed|step)-", r"@\1:", weights.parent.name)
        row = {"name": name, **{key: card.get(field) for key, field in _CARD_FIELDS.items()}}
        rows.append(row | {"bytes": weights.stat().st_size})
    return sorted(rows, key=lambda row: row["name"])


def hash_weights(folder: Path) -> str:
    """Return the sha256 of a checkpoint's weights.

    For a single file it is the file's own; for shards, the hash of their hashes in the order of their names.
    """
    digests = []
    for path in find_weights(folder):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def check_weights(source: Source) -> str:
    """Return the sha256 of a source's weights.

    Raises:
        ModelError: the model card records another one.
    """
    found, recorded = hash_weights(source.folder), source.card.get("sha256")
    if recorded not in (None, found):
        raise ModelError(
            f"The weights of '{source.name}' are damaged: sha256 {recorded} recorded in its card, {found} found in "
            f"{source.folder}. Install the package again."
        )
    return found


def unknown_model(name: str) -> UnknownModelError:
    """Return the error for a name that nothing stands behind, with the names closest to it."""
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    if Path(name).expanduser().is_dir():
        return UnknownModelError(f"The folder {name} is not a Hugging Face model: it holds no config.json.")
    if "@random:" in name:
        return UnknownModelError(f"'{name}': twins exist of embedded models and of folders, and '{name}' is neither.")
    embedded = [row["name"] for row in list_embedded()]
    close = difflib.get_close_matches(name, [*embedded, *OFFICIAL_MODEL_NAMES], n=5, cutoff=0.4)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    others = f" Similar: {', '.join(close[1:])}." if close[1:] else ""
    return UnknownModelError(
        f"Unknown model '{name}'.{hint}{others} Embedded: {', '.join(embedded) or 'none'}. Any folder in Hugging "
        f"Face's format and the {len(OFFICIAL_MODEL_NAMES)} names that TransformerLens knows will do, too."
    )


def find_weights(folder: Path) -> list[Path]:
    """Return a checkpoint's weight files as transformers would pick them: safetensors before pickles."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _split_suffix(name: str, kind: str) -> tuple[str, int | None]:
    found = re.fullmatch(rf"(.+)@{kind}:(\d+)", name)
    return (found[1], int(found[2])) if found else (name, None)


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"The model card {folder / 'card.json'} cannot be read: {error}.") from error
