"""What a detection run can be told: one frozen dataclass per stage, read from TOML, checked once, hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mspgt_tl.contracts import TASKS
from mspgt_tl.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class StreamConfig:
    """How sentences pass through the model; nothing but `max_length` and `bos` moves a result beyond rounding."""

    max_length: int = 128
    """Tokens a sentence is cut to."""
    batch_positions: int = 2048
    """Positions per forward pass, padding included."""
    chunk_sentences: int = 1000
    """Sentences that are sorted by length together."""
    bos: bool | None = None
    """Prepend BOS; None follows the model's own convention."""

    def __post_init__(self) -> None:
        _check_positive(self, "max_length", "batch_positions", "chunk_sentences")


@dataclass(frozen=True)
class ProbeConfig:
    """How probes are trained and measured."""

    hidden: int = 128
    """Hidden units of the MLP (P)."""
    epochs: int = 10
    """At most so many passes over the training items."""
    batch: int = 256
    """Items a minibatch."""
    learning_rate: float = 3e-3
    """Adam's step size in the first epoch; it falls linearly and would reach 0 after the last."""
    weight_decay: float = 1e-4
    """L2 penalty on weights, not biases; scikit-learn's `alpha` is this times the batch size."""
    patience: int = 5
    """A layer stops after so many epochs without a lower held-out loss. Half of the epochs: with 3, one layer in twelve
    stopped while the step size was still high, which cost it 0.01 of F1, a false jump (measured)."""
    min_items: int = 20
    """Labels with fewer test items are left out of macro-F1 (P)."""
    max_items: int = 100_000
    """At most so many training items a task, drawn at random; test items are never thinned."""
    repeats: int = 3
    """Trainings of each MLP from other starts and minibatches; F1 is their mean, and the bootstrap draws among them.
    One training's luck moves F1 by as much as a layer does (standard deviation of a jump about 0.008, measured)."""
    seed: int = 0
    """Fixes starts, minibatches, the held-out trees, drawn non-arguments and control labels."""

    def __post_init__(self) -> None:
        _check_positive(
            self, "hidden", "epochs", "batch", "patience", "min_items", "max_items", "repeats", "learning_rate"
        )
        if self.weight_decay < 0:
            raise ConfigError(f"probe weight_decay must not be negative, got {self.weight_decay}.")


@dataclass(frozen=True)
class SignalConfig:
    """Which form of each signal makes the evidence curve."""

    attention_mode: Literal["head_average", "matched"] = "head_average"
    """`matched` pairs the heads of neighbouring layers by optimal assignment."""
    attention_sinks: bool = False
    """Keep BOS and sink keys in the attention rows: the raw form."""
    probe_curve: Literal["f1", "selectivity"] = "f1"
    """Probe jumps of F1, or of F1 less the control task's."""
    tasks: tuple[str, ...] = TASKS
    """Probe tasks; those that the treebank lacks are an error."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(unknown_name("probe task", task, TASKS))
        if not self.tasks:
            raise ConfigError(f"At least one probe task is needed, of {', '.join(TASKS)}.")


@dataclass(frozen=True)
class BoundaryConfig:
    """How boundaries are found in the signals."""

    rule: Literal["mspgt", "paper"] = "mspgt"
    """`paper` is the published rule alone, without reliability and without an existence test."""
    weights: tuple[float, float, float] | None = None
    """Fusion weights of cka, probe and attention_jsd; equal when None."""
    resamples: int = 1000
    """Bootstrap resamples (P)."""
    null_curves: int = 2000
    """Null curves of each kind for the p-values."""

    def __post_init__(self) -> None:
        _check_positive(self, "null_curves")
        if self.resamples < 100:
            raise ConfigError(f"At least 100 bootstrap resamples are needed for a 95 % interval, got {self.resamples}.")


@dataclass(frozen=True)
class DetectConfig:
    """Everything a detection depends on besides the model and the data."""

    seed: int = 0
    """Of blocks, drawn tokens, probes, resamples and null curves."""
    sentences: int = 10_000
    """Sentences of the corpus that are used, in reading order (P: 10,000)."""
    train_trees: int = 4000
    """Treebank sentences that probes are trained on, drawn at random; all when there are fewer."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    signals: SignalConfig = field(default_factory=SignalConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    boundaries: BoundaryConfig = field(default_factory=BoundaryConfig)

    def __post_init__(self) -> None:
        _check_positive(self, "sentences", "train_trees")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}.")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} must be positive, got {getattr(config, name)}.")


def make_config(settings: Mapping[str, Any]) -> DetectConfig:
    """Build a config from nested plain values, checking names and types.

    Raises:
        ConfigError: an unknown name (with the closest known one), a wrong type or an unusable value.
    """
    import pydantic

    _check_names(settings, DetectConfig, "")
    try:
        return pydantic.TypeAdapter(DetectConfig).validate_python(dict(settings))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"Option '{where}': {first['msg']}, got {first['input']!r}.") from error


def _check_names(settings: Mapping[str, Any], kind: type, prefix: str) -> None:
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(unknown_name("option", prefix + name, (prefix + k for k in known)))
        factory = known[name].default_factory
        if isinstance(value, Mapping) and dataclasses.is_dataclass(factory):
            _check_names(value, factory, f"{prefix}{name}.")  # pyright: ignore[reportArgumentType]


def read_settings(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Config file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dotted names (`"stream.max_length"`) replaced."""
    result = {name: dict(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    for dotted, value in changes.items():
        *tables, name = dotted.split(".")
        table = result
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    return result


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values that JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def hash_plain(values: Any) -> str:
    """Return the SHA-256 of nested plain values, independent of the order of names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
