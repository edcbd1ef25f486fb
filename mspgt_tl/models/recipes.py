"""Recipes of small models: an architecture, the numbers of its training, and one run of it.

A recipe is one TOML file (`models/zoo/recipes/<name>.toml`): an architecture in Hugging Face's own words and a
handful of training numbers. A new architecture is a new file; nothing here names a family.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mspgt_tl.config import NOT_TOML
from mspgt_tl.errors import ConfigError, unknown_name

RECIPES = Path(__file__).parent / "zoo" / "recipes"


@dataclass(frozen=True)
class TrainingPlan:
    """The numbers of a training run; token counts are positions that carry a loss."""

    vocab_size: int
    sequence_length: int
    batch_sequences: int
    tokens: int
    learning_rate: float
    warmup_share: float
    decay_share: float
    weight_decay: float

    @property
    def steps(self) -> int:
        """Optimiser steps needed to see `tokens` tokens."""
        return math.ceil(self.tokens / (self.sequence_length * self.batch_sequences))


@dataclass(frozen=True)
class Recipe:
    """An architecture and how to train it."""

    name: str
    namesake: str
    architecture: dict[str, Any]
    training: TrainingPlan
    source: Path = field(compare=False)


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by its embedded name or from a TOML file.

    Raises:
        ConfigError: no such recipe, or the file lacks a field or has one too many.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        raise ConfigError(unknown_name("recipe", name_or_path, (p.stem for p in RECIPES.glob("*.toml"))))
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return Recipe(**{**raw, "training": TrainingPlan(**raw["training"]), "source": path})
    except (*NOT_TOML, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not a recipe: {error}.") from error


def shared_tokenizer(recipe: Recipe) -> Path | None:
    """Return the tokenizer that the embedded models share, for an embedded recipe; None for any other."""
    folder = RECIPES.parent / "tokenizer"
    return folder if recipe.source.parent == RECIPES and (folder / "tokenizer.json").is_file() else None


@dataclass(frozen=True)
class TrainingRun:
    """Where a run reads and writes, and what it may vary."""

    recipe: Recipe
    text: Path
    valid: Path
    out: Path
    seed: int = 0
    tokens: int | None = None
    """Tokens to see; the recipe's own number when None."""
    tokenizer: Path | None = None
    """Folder of a tokenizer to use; None trains one on `text`."""
    licence: str = "unstated"
    """Licence of the text, for the model card."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of matrix products; None is bfloat16 on a GPU, float32 on a CPU. Weights stay in float32."""
    snapshots: tuple[float, ...] = ()
    """Shares of the run, in (0, 1), after which the model is kept as it is then, beside the finished one."""

    def __post_init__(self) -> None:
        if self.precision not in (None, "float32", "bfloat16"):
            raise ConfigError(unknown_name("precision", str(self.precision), ("float32", "bfloat16")))
        if bad := [share for share in self.snapshots if not 0 < share < 1]:
            raise ConfigError(f"Snapshots are shares of a run, between 0 and 1; got {bad[0]}.")
