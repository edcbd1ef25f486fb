"""What is refused before anything is loaded or read: names of models and nulls, weights, folders of other runs.

Nothing here imports torch or transformers, so that a mistyped command is answered in a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mspgt_tl.config import DetectConfig, to_plain
from mspgt_tl.contracts import signals_of
from mspgt_tl.errors import ConfigError
from mspgt_tl.models.names import find_hub, find_source, twin_name, unknown_model
from mspgt_tl.store import refuse_other_run

LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""What configurations call the number of blocks."""


def check_detection(model: Any, settings: DetectConfig, nulls: Sequence[str], out: str | Path | None) -> None:
    """Refuse whatever of a detection can be told to be wrong without its model and its text.

    Raises:
        MspgtError: as `count_blocks`, `check_weights`, `check_nulls` and `check_folder`.
    """
    count_blocks(model)
    check_weights(settings.boundaries.weights, [part.name for part in signals_of("fused")])
    check_nulls(nulls, model)
    check_folder(out, {"command": "detect", "config": to_plain(settings)})


def count_blocks(model: Any) -> int | None:
    """Return how many blocks a model has, from its configuration alone; None where only loading it would tell.

    Raises:
        UnknownModelError: nothing stands behind the name.
        ModelError: what stands there is no model.
    """
    if not isinstance(model, str | Path):
        found = getattr(getattr(model, "cfg", None), "n_layers", None)
        return None if found is None else int(found)
    name = str(model)
    if name.startswith("planted:"):
        planted = re.match(r"planted:(\d+):", name)
        return int(planted[1]) if planted else None
    source = find_source(name)
    if source is None:
        if find_hub(name) is None:
            raise unknown_model(name)
        return None
    try:
        config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        return next((int(config[key]) for key in LAYER_KEYS if key in config), None)
    except (OSError, ValueError, TypeError):
        return None  # loading says what is wrong with it


def check_weights(weights: Sequence[float] | None, signals: Sequence[str]) -> None:
    """Refuse fusion weights that are not one for each signal.

    Raises:
        ConfigError: too few, too many, a negative one, or none above 0.
    """
    if weights is None:
        return
    usable = len(weights) == len(signals) and min(weights) >= 0 and sum(weights) > 0
    if not usable:
        raise ConfigError(
            f"Weights are {len(signals)} numbers from 0 up, one of them above 0, for {', '.join(signals)}; got "
            f"{', '.join(f'{weight:g}' for weight in weights)}."
        )


def check_nulls(names: Sequence[str], model: Any) -> None:
    """Refuse model nulls that cannot be made of a model.

    Raises:
        ConfigError: an unknown null, or a random-weight twin of what has none.
    """
    for name in names:
        kind, _, number = name.partition(":")
        if name in ("labels", "tokens"):
            continue
        if kind != "random" or not number.isdigit():
            raise ConfigError(f"Unknown null '{name}'. Known: random:SEED, labels, tokens.")
        if not isinstance(model, str | Path):
            raise ConfigError("A random-weight null needs a model given by name or folder, not a loaded object.")
        twin = twin_name(str(model), int(number))
        if find_source(twin) is None and find_hub(twin) is None:
            raise ConfigError(f"'{model}' has no random-weight twin: embedded models, folders and hub names do.")


def check_folder(out: str | Path | None, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else than a run of this identity, as far as that is known already.

    Raises:
        StoreError: it holds another run, and in what they differ; or something that is no run.
    """
    if out is not None:
        refuse_other_run(Path(out), identity)
