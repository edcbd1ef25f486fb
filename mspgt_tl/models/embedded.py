"""The models shipped with the package, by name.

`zoo/<name>/` holds one model: `config.json`, `model.safetensors` (bfloat16) and `card.json`. All share the tokenizer
in `zoo/tokenizer/`; a model that brings its own keeps it in its own folder. Further training seeds are
`zoo/<name>@seed-N/`, asked for as `<name>@seed:N`; the plain name is seed 0. What a training was like after N steps is
`…@step-N/`, asked for as `…@step:N`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mspgt_tl.errors import ModelError

ZOO = Path(__file__).parent / "zoo"
_WEIGHTS = "model.safetensors"
_FIELDS = (
    *("architecture", "namesake", "seed", "tokens", "validation_loss"),
    *("bigram_loss", "unigram_loss", "bits_per_byte", "parameters"),
)
_ON_CARDS = {"architecture": "name", "tokens": "tokens_seen"}
"""What cards call a field otherwise."""


def find_embedded(name: str) -> tuple[Path, Path, dict[str, Any]] | None:
    """Return an embedded model's folder, its tokenizer's folder and its card; None if there is none of this name."""
    found = re.fullmatch(r"([\w.-]+)(?:@seed:(\d+))?(?:@step:(\d+))?", name)
    if not found:
        return None
    folder = ZOO / folder_name(found[1], int(found[2] or 0), int(found[3]) if found[3] else None)
    if not (folder / _WEIGHTS).is_file():
        return None
    own = (folder / "tokenizer.json").is_file()
    return folder, folder if own else ZOO / "tokenizer", _read_card(folder)


def folder_name(name: str, seed: int, step: int | None) -> str:
    """Return the folder of a model in the zoo; `step` is None for a finished training."""
    return name + (f"@seed-{seed}" if seed else "") + ("" if step is None else f"@step-{step}")


def list_embedded() -> list[dict[str, Any]]:
    """Return one row per embedded model, read from its card, by name and seed.

    Keys: `name` (to load it by), `architecture`, `namesake`, `seed`, `tokens` (seen in training), `validation_loss`,
    `bigram_loss`, `unigram_loss` (nats per token), `bits_per_byte`, `parameters`, and `bytes` of the weights. What the
    card is silent on is None.

    See Also:
        load: loads one by its name.

    Example:
        >>> [row["name"] for row in list_embedded()][:2]
        ['llama2-mini', 'llama2-mini@seed:1']
    """
    rows = []
    for weights in ZOO.glob(f"*/{_WEIGHTS}"):
        card = _read_card(weights.parent)
        name = re.sub(r"@(seed|step)-", r"@\1:", weights.parent.name)
        row = {"name": name, **{field: card.get(_ON_CARDS.get(field, field)) for field in _FIELDS}}
        rows.append(row | {"bytes": weights.stat().st_size})
    return sorted(rows, key=lambda row: row["name"])


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"The model card {folder / 'card.json'} cannot be read: {error}.") from error
