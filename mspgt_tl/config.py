"""What a run can be told: one frozen dataclass per stage, read from TOML, checked once, hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from mspgt_tl.contracts import TASKS
from mspgt_tl.errors import ConfigError, unknown_name

Tokens = Literal["data", "all"]
AttentionMode = Literal["head_average", "matched"]
Rows = Literal["read", "raw"]
ProbeCurve = Literal["f1", "selectivity"]
Rule = Literal["mspgt", "paper"]
Dose = Literal["per_layer", "per_scale", "exit_norm", "kl"]


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
    tokens: Tokens = "data"
    """Which tokens count: `data` leaves out the first of a sentence and sinks; `all` leaves out padding only."""

    def __post_init__(self) -> None:
        _check_positive(self, "max_length", "batch_positions", "chunk_sentences")
        if self.tokens not in get_args(Tokens):
            raise ConfigError(unknown_name("choice of tokens", str(self.tokens), get_args(Tokens)))


@dataclass(frozen=True)
class ProbeConfig:
    """How probes are trained and measured."""

    hidden: int = 128
    """Hidden units of the MLP (P)."""
    epochs: int = 10
    """At most so many passes over the training items."""
    max_steps: int = 800
    """About so many minibatches at most: many items are gone over less often. With 60,000 words of the English Web
    Treebank on SmolLM2, 4 passes instead of 10 raise F1 by 0.003 (parts of speech) and 0.008 (dependencies)."""
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
        _check_positive(self, "hidden", "epochs", "max_steps", "batch", "patience", "min_items", "max_items", "repeats")
        _check_positive(self, "learning_rate")
        if self.weight_decay < 0:
            raise ConfigError(f"probe weight_decay must not be negative, got {self.weight_decay}.")

    def passes(self, n_items: float) -> int:
        """Return how many times so many training items are gone over.

        >>> [ProbeConfig().passes(n) for n in (100, 18_000, 54_000, 90_000)]
        [10, 10, 4, 2]
        """
        return max(1, min(self.epochs, round(self.max_steps * self.batch / max(1, n_items))))


@dataclass(frozen=True)
class SignalConfig:
    """Which form of each signal makes the evidence curve."""

    attention_mode: AttentionMode = "head_average"
    """`matched` pairs the heads of neighbouring layers by optimal assignment."""
    attention_sinks: bool = False
    """Keep all keys in the attention rows, sinks included: the raw form."""
    rows: Rows = "read"
    """Rows of `cka`: as the next block reads them (divided by their root mean square; centred, too, in LayerNorm
    models), or the raw stream. `rule = "paper"` always takes raw rows."""
    probe_curve: ProbeCurve = "f1"
    """Probe jumps of F1, or of F1 less the control task's."""
    tasks: tuple[str, ...] = TASKS
    """Probe tasks; those that the treebank lacks are an error."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(unknown_name("probe task", task, TASKS))
        if self.rows not in get_args(Rows):
            raise ConfigError(unknown_name("kind of rows", str(self.rows), get_args(Rows)))
        if not self.tasks:
            raise ConfigError(f"At least one probe task is needed, of {', '.join(TASKS)}.")


@dataclass(frozen=True)
class BoundaryConfig:
    """How boundaries are found in the signals."""

    rule: Rule = "mspgt"
    """`paper` is the published rule alone, without reliability and without an existence test."""
    weights: tuple[float, ...] | None = None
    """Fusion weights, one a signal: cka, probe, attention_jsd, then others by name; equal when None."""
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
    """Everything a detection depends on besides the model and the data.

    See Also:
        detect: takes one as `config`, or single settings by name.

    Example:
        >>> DetectConfig(sentences=2000).probe.repeats
        3
    """

    seed: int = 0
    """Of folds, drawn tokens, probes, resamples and null curves."""
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


@dataclass(frozen=True)
class DecodeConfig:
    """How text is generated under each condition."""

    prompt_tokens: int = 16
    """Tokens of a corpus sentence that make a prompt, BOS not counted."""
    new_tokens: int = 80
    """Tokens written after it, fewer where a text ends by itself; MATTR needs texts of 50 words."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int | None = None
    top_p: float | None = None
    chunk_samples: int = 25
    """Samples that are decoded together under all conditions, and kept together on disk."""

    def __post_init__(self) -> None:
        _check_positive(self, "prompt_tokens", "new_tokens", "chunk_samples")


@dataclass(frozen=True)
class MetricConfig:
    """Which text metrics are measured, and where those live that need something from outside."""

    names: tuple[str, ...] | None = None
    """All known ones when None."""
    sbert: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Embedding model: a hub name, a folder, or `package:NAME` for one inside an installed package."""
    languagetool: str | None = None
    """URL of a LanguageTool server; None starts a local one where it is already installed."""


@dataclass(frozen=True)
class InterveneConfig:
    """Everything a sweep depends on besides the model, the scales and the text.

    See Also:
        intervene: takes one as `config`, or single settings by name.

    Example:
        >>> InterveneConfig(samples=200).levels
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    """

    seed: int = 0
    """Of noise, sampling, controls and resamples."""
    samples: int = 1000
    """Prompts, each continued under every condition (P: 1,000)."""
    levels: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    """Levels of the dose: σ itself for `per_layer`, the target for `exit_norm` (relative change) and `kl` (nats)."""
    level: float | None = None
    """The one of them for other doses, controls and the confirmatory tests; None: 0.1, or the middle one."""
    dose: Dose = "per_layer"
    """How a level becomes σ, at all levels."""
    other_doses: tuple[Dose, ...] = get_args(Dose)
    """Doses that are looked at beside it, at one level."""
    kind: str = "gaussian"
    """How a block is disturbed: gaussian, covariance, resample, skip, or a kind of your own."""
    unit: Literal["robust", "std", "token"] = "robust"
    """The activation unit that σ is relative to."""
    controls: int = 5
    """Stretches of as many blocks at other depths, for each scale."""
    effect_sentences: int = 200
    """Sentences for the effects on the next token."""
    unit_sentences: int = 1000
    """Sentences that activation units are measured on."""
    dose_sentences: int = 60
    """Sentences that doses are solved and the ledger is measured on."""
    resamples: int = 2000
    """Bootstrap resamples of samples and of sentences."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    metrics: MetricConfig = field(default_factory=MetricConfig)

    def __post_init__(self) -> None:
        _check_positive(self, "samples", "unit_sentences", "effect_sentences", "dose_sentences")
        if self.seed < 0 or self.controls < 0:
            raise ConfigError(f"seed and controls must not be negative, got {self.seed} and {self.controls}.")
        if not self.levels or not all(math.isfinite(s) and s > 0 for s in self.levels):
            raise ConfigError(f"levels are finite and above 0, at least one; got {list(self.levels)}.")
        if list(self.levels) != sorted(set(self.levels)):
            raise ConfigError(f"levels rise, each named once; got {list(self.levels)}.")
        if self.level is not None and self.level not in self.levels:
            raise ConfigError(f"level must be one of levels, {list(self.levels)}; got {self.level}.")
        if self.resamples < 100:
            raise ConfigError(f"At least 100 resamples are needed for a 95 % interval, got {self.resamples}.")

    @property
    def compared_level(self) -> float:
        """The one level at which more than the sweep itself is looked at."""
        if self.level is not None:
            return self.level
        return 0.1 if 0.1 in self.levels else self.levels[len(self.levels) // 2]


@dataclass(frozen=True)
class HVibConfig:
    """How the hierarchical variational bottleneck is fitted to a frozen model."""

    betas: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Compression weights swept, the same for all three scales; 1 is the ELBO."""
    width: int = 16
    """Dimensions of each latent."""
    steps: int = 400
    """Steps of Adam for each weight."""
    batch: int = 512
    """Tokens a step."""
    learning_rate: float = 1e-2
    """Adam's step size in the first step; it falls linearly to a tenth."""

    def __post_init__(self) -> None:
        _check_positive(self, "width", "steps", "batch", "learning_rate")
        if len(self.betas) < 2 or list(self.betas) != sorted(set(self.betas)) or not self.betas[0] > 0:
            raise ConfigError(f"betas are two or more, above 0, and rise; got {list(self.betas)}.")


@dataclass(frozen=True)
class TheoryConfig:
    """Everything the theory's estimates depend on besides the model, the scales and the text."""

    seed: int = 0
    """Of labels, noise, splits, resamples and permutations."""
    sentences: int = 1000
    """Sentences of the corpus that are used, in reading order."""
    label_samples: int = 2
    """Draws of the labels for the Fisher trace, one backward pass each."""
    closure_texts: int = 24
    """Sentences on which noise is compared with its prediction."""
    closure_sigmas: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.5, 1.0)
    closure_samples: int = 64
    """Draws of the labels there."""
    noise_draws: int = 4
    """Draws of the noise for every sigma."""
    closure_layers: int | None = None
    """Layers whose closure is measured one by one, evenly spaced, both ends among them; None: all."""
    exact_draws: int = 0
    """Draws of the noise in float64, at the smallest sigma only, such as 32; 0 leaves that pass out."""
    channel_sigmas: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    """Noise of the Gaussian channel, relative to each layer's activation unit."""
    rate_sigmas: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
    """Noise of the rate-distortion curve, relative to each layer's activation unit."""
    rate_texts: int = 60
    """Sentences on which distortion is measured."""
    resamples: int = 1000
    """Bootstrap resamples of sentences."""
    hvib: HVibConfig = field(default_factory=HVibConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        _check_positive(self, "sentences", "label_samples", "closure_texts")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}.")
        if self.rate_texts < 20 or len(self.rate_sigmas) < 2:
            raise ConfigError("A slope with its interval needs rate_texts of 20 or more and two rate_sigmas or more.")
        for name in ("closure_samples", "noise_draws", "exact_draws"):
            if getattr(self, name) < 2 and (name, self.exact_draws) != ("exact_draws", 0):
                raise ConfigError(f"{name} must be 2 or more, to know its error; got {getattr(self, name)}.")
        if self.closure_layers is not None and self.closure_layers < 2:
            raise ConfigError(f"closure_layers are 2 or more, got {self.closure_layers}.")
        for name in ("closure_sigmas", "channel_sigmas", "rate_sigmas"):
            values = getattr(self, name)
            if not values or not values[0] > 0 or list(values) != sorted(set(values)) or not math.isfinite(values[-1]):
                raise ConfigError(f"{name} are finite, above 0, and rise; got {list(values)}.")
        if self.resamples < 100:
            raise ConfigError(f"At least 100 resamples are needed for a 95 % interval, got {self.resamples}.")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} must be positive, got {getattr(config, name)}.")


C = TypeVar("C")


def make_config(settings: Mapping[str, Any], kind: type[C] = DetectConfig) -> C:
    """Build a config from nested plain values, checking names and types.

    Raises:
        ConfigError: an unknown name (with the closest known one), a wrong type or an unusable value.
    """
    import pydantic

    current = _current_names(settings, kind)
    _check_names(current, kind, "")
    try:
        return pydantic.TypeAdapter(kind).validate_python(current)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"Option '{where}': {first['msg']}, got {first['input']!r}.") from error


QUICK: Mapping[type, Mapping[str, Any]] = {
    DetectConfig: {"sentences": 300, "train_trees": 300, "probe.repeats": 1, "signals.tasks": ("pos", "deprel")},
    InterveneConfig: {
        "samples": 40,
        "levels": (0.05, 0.1, 0.2),
        "other_doses": (),
        "controls": 2,
        "effect_sentences": 40,
        "unit_sentences": 200,
        "dose_sentences": 20,
        "decode.new_tokens": 60,
        "metrics.names": ("mattr", "repetition_rate", "self_bleu", "sentence_length_variance", "type_token_ratio"),
    },
    TheoryConfig: {
        "sentences": 300,
        "label_samples": 1,
        "closure_texts": 6,
        "closure_sigmas": (1e-3, 1e-2, 0.1, 1.0),
        "closure_samples": 16,
        "noise_draws": 2,
        "rate_texts": 20,
        "rate_sigmas": (0.2, 0.5, 1.0),
        "hvib.betas": (0.1, 1.0),
        "hvib.steps": 100,
    },
}
"""The profile of a quick look: about as much work as a thousand sentences through the model."""
QUICK_DEV_TREES = 300
"""Trees that a quick look measures probes on."""


def quicken(kind: type[C], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with no more work in them than a quick look does.

    >>> quicken(DetectConfig, {"sentences": 250, "signals": {"tasks": ["ner", "pos"]}})["signals"]["tasks"]
    ('pos',)
    """
    own, smaller = to_plain(make_config(settings, kind)), {}
    for dotted, least in QUICK[kind].items():
        value: Any = own
        for part in dotted.split("."):
            value = value[part]
        if isinstance(least, tuple) and value is not None:
            # What was not chosen does not come in; where nothing is left of a choice, its first two stand in.
            smaller[dotted] = tuple(one for one in least if one in value) or (tuple(value[:2]) if least else ())
        else:
            smaller[dotted] = least if value is None else min(value, least)
    if kind is InterveneConfig and own["level"] not in (None, *smaller["levels"]):
        smaller["levels"] = tuple(sorted({*smaller["levels"], own["level"]}))
    return override(settings, smaller)


def settings_of(
    kind: type[C], config: C | Mapping[str, Any] | None, options: Mapping[str, Any], *, quick: bool = False
) -> C:
    """Build a config from another one or from nested settings, with options over it.

    Args:
        quick: no more work than a quick look does, but for what the options ask.
        options: by dotted name, or by the plain name of a setting that stands in one table alone; None changes nothing.

    >>> settings_of(DetectConfig, None, {"sentences": 500, "epochs": 3, "stream.bos": None}).probe.epochs
    3

    Raises:
        ConfigError: as `make_config`.
    """
    plain = dict(config) if isinstance(config, Mapping) else {} if config is None else to_plain(config)
    if quick:
        plain = quicken(kind, plain)
    given = {name: value for name, value in options.items() if value is not None}
    return make_config(override(plain, full_names(kind, given)), kind)


def full_names(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted names; plain names that stand in no table, or in several, are left as they are."""
    places: dict[str, list[str]] = {}
    for table in dataclasses.fields(kind):
        inner: Any = table.default_factory
        if dataclasses.is_dataclass(inner):
            for setting in dataclasses.fields(inner):
                places.setdefault(setting.name, []).append(f"{table.name}.{setting.name}")
    own = {table.name for table in dataclasses.fields(kind)}
    return {
        places[name][0] if name not in own and len(places.get(name, ())) == 1 else name: value
        for name, value in options.items()
    }


def _current_names(settings: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Return settings of earlier versions, as stored plans hold them, under the names of today."""
    names: dict[str, str] = {}
    if kind is InterveneConfig:
        names = {"sigmas": "levels", "scale": "unit", "scale_sentences": "unit_sentences"}
    tables = {field.name: field.default_factory for field in dataclasses.fields(kind)}
    return {
        names.get(name, name): _current_names(value, tables[name])
        if isinstance(value, Mapping) and dataclasses.is_dataclass(tables.get(name))
        else value
        for name, value in settings.items()
    }


def _check_names(settings: Mapping[str, Any], kind: type, prefix: str) -> None:
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(unknown_name("option", prefix + name, (prefix + k for k in known)))
        factory, entry = known[name].default_factory, known[name].metadata.get("entry")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(factory):
            _check_names(value, factory, f"{prefix}{name}.")  # pyright: ignore[reportArgumentType]
        elif isinstance(value, Mapping) and entry is not None:
            for key, inner in value.items():
                if isinstance(inner, Mapping):
                    _check_names(inner, entry, f"{prefix}{name}.{key}.")


NOT_TOML = (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError)
"""What reading TOML raises; the last where tables are nested a thousand deep."""


def read_settings(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Config file {path} cannot be read: {error.strerror}.") from error
    except NOT_TOML as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dotted names (`"stream.max_length"`) replaced.

    Raises:
        ConfigError: a name goes through a plain value.
    """
    result = {name: dict(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    for dotted, value in changes.items():
        *tables, name = dotted.split(".")
        table = result
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"Option '{dotted}': '{part}' is set to {table!r}, which has no settings of its own.")
        table[name] = value
    return result


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values that JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def hash_plain(values: Any) -> str:
    """Return the SHA-256 of nested plain values, independent of the order of names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def json_values(value: Any) -> Any:
    """Return a value as JSON can hold it: nan becomes None, an infinite number "inf" or "-inf"."""
    import numpy as np

    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_values(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
