"""What a run can be told: one frozen dataclass per stage, read from TOML, checked once, hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import field
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from mspgt_tl.contracts import MIN_TEXTS, TASKS, check_seed
from mspgt_tl.errors import ConfigError, unknown_name

C = TypeVar("C")
Tokens = Literal["data", "all"]
AttentionMode = Literal["head_average", "matched"]
Rows = Literal["read", "raw"]
ProbeCurve = Literal["f1", "selectivity"]
Rule = Literal["mspgt", "paper"]
Dose = Literal["per_layer", "per_scale", "exit_norm", "kl"]


def _number(value: Any) -> Any:
    """Refuse what pydantic would read as a number: texts and truth values."""
    if isinstance(value, str | bytes | bool):
        raise ValueError("A number is needed")
    return value


def _seed(value: Any) -> int:
    check_seed(value)
    return int(value)


def _enough(resamples: int) -> int:
    if resamples < 100:
        raise ValueError("At least 100 resamples are needed for a 95 % interval")
    return resamples


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("The values must rise, each named once")
    return values


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[Whole, Field(gt=0)]
Several = Annotated[Whole, Field(ge=2)]
"""Draws whose error is to be known, or both ends of something."""
NoneOrMore = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(gt=0, le=1)]
Seed = Annotated[int, BeforeValidator(_seed)]
Resamples = Annotated[Whole, AfterValidator(_enough)]
Rising = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_rising)]
SeveralRising = Annotated[Rising, Field(min_length=2)]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def checked_dataclass(kind: type[C]) -> type[C]:
    """Make a class a frozen dataclass that refuses what its fields' types do not allow.

    Raises:
        ConfigError: when one is made of unusable values; it names the first, what was needed and what came.
    """
    made: Any = pydantic.dataclasses.dataclass(kind, frozen=True, config={"extra": "forbid"})
    check = made.__init__

    @wraps(check)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        try:
            check(self, *args, **values)
        except pydantic.ValidationError as error:
            raise ConfigError(_told(made, error)) from error

    made.__init__ = checked
    return made


def _told(kind: Any, error: pydantic.ValidationError) -> str:
    first, at = error.errors()[0], {field.name: field for field in dataclasses.fields(kind)}
    path = [list(at)[part] if isinstance(part, int) and not i else part for i, part in enumerate(first["loc"])]
    option, value = ".".join(map(str, path)), first["input"]
    if first["type"] == "unexpected_keyword_argument":
        for part in path[:-1]:  # tables, and entries of tables, whose names are anyone's
            inner: Any = at[part].metadata.get("entry", at[part].default_factory) if part in at else None
            at = {field.name: field for field in dataclasses.fields(inner)} if dataclasses.is_dataclass(inner) else at
        return unknown_name("option", option, [".".join(map(str, [*path[:-1], name])) for name in at])
    if first["type"] == "literal_error":
        return unknown_name(f"choice of {option}", str(value), re.findall("'(.*?)'", first.get("ctx", {})["expected"]))
    return f"Option '{option}': {first['msg'].removeprefix('Value error, ')}, got {value!r}."


@checked_dataclass
class StreamConfig:
    """How sentences pass through the model; nothing but `max_length` and `bos` moves a result beyond rounding."""

    max_length: Count = 128
    """Tokens a sentence is cut to."""
    batch_positions: Count = 2048
    """Positions per forward pass, padding included."""
    chunk_sentences: Count = 1000
    """Sentences that are sorted by length together."""
    bos: bool | None = None
    """Prepend BOS; None follows the model's own convention."""
    tokens: Tokens = "data"
    """Which tokens count: `data` leaves out the first of a sentence and sinks; `all` leaves out padding only."""


@checked_dataclass
class ProbeConfig:
    """How probes are trained and measured."""

    hidden: Count = 128
    """Hidden units of the MLP (P)."""
    epochs: Count = 10
    """At most so many passes over the training items."""
    max_steps: Count = 800
    """About so many minibatches at most: many items are gone over less often. With 60,000 words of the English Web
    Treebank on SmolLM2, 4 passes instead of 10 raise F1 by 0.003 (parts of speech) and 0.008 (dependencies)."""
    batch: Count = 256
    """Items a minibatch."""
    learning_rate: Positive = 3e-3
    """Adam's step size in the first epoch; it falls linearly and would reach 0 after the last."""
    weight_decay: NotNegative = 1e-4
    """L2 penalty on weights, not biases; scikit-learn's `alpha` is this times the batch size."""
    patience: Count = 5
    """A layer stops after so many epochs without a lower held-out loss. Half of the epochs: with 3, one layer in twelve
    stopped while the step size was still high, which cost it 0.01 of F1, a false jump (measured)."""
    min_items: Count = 20
    """Labels with fewer test items are left out of macro-F1 (P)."""
    max_items: Count = 100_000
    """At most so many training items a task, drawn at random; test items are never thinned."""
    repeats: Count = 3
    """Trainings of each MLP from other starts and minibatches; F1 is their mean, and the bootstrap draws among them.
    One training's luck moves F1 by as much as a layer does (standard deviation of a jump about 0.008, measured)."""
    seed: Seed = 0
    """Fixes starts, minibatches, the held-out trees, drawn non-arguments and control labels."""

    def passes(self, n_items: float) -> int:
        """Return how many times so many training items are gone over.

        >>> [ProbeConfig().passes(n) for n in (100, 18_000, 54_000, 90_000)]
        [10, 10, 4, 2]
        """
        return max(1, min(self.epochs, round(self.max_steps * self.batch / max(1, n_items))))


@checked_dataclass
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
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = TASKS
    """Probe tasks; those that the treebank lacks are an error."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(unknown_name("probe task", task, TASKS))


@checked_dataclass
class BoundaryConfig:
    """How boundaries are found in the signals."""

    rule: Rule = "mspgt"
    """`paper` is the published rule alone, without reliability and without an existence test."""
    weights: tuple[Real, ...] | None = None
    """Fusion weights, one a signal: cka, probe, attention_jsd, then others by name; equal when None."""
    resamples: Resamples = 1000
    """Bootstrap resamples (P)."""
    null_curves: Count = 2000
    """Null curves of each kind for the p-values."""


@checked_dataclass
class DetectConfig:
    """Everything a detection depends on besides the model and the data.

    See Also:
        detect: takes one as `config`, or single settings by name.

    Example:
        >>> DetectConfig(sentences=2000).probe.repeats
        3
    """

    seed: Seed = 0
    """Of folds, drawn tokens, probes, resamples and null curves."""
    sentences: Count = 10_000
    """Sentences of the corpus that are used, in reading order (P: 10,000)."""
    train_trees: Count = 4000
    """Treebank sentences that probes are trained on, drawn at random; all when there are fewer."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    signals: SignalConfig = field(default_factory=SignalConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    boundaries: BoundaryConfig = field(default_factory=BoundaryConfig)


@checked_dataclass
class DecodeConfig:
    """How text is generated under each condition."""

    prompt_tokens: Count = 16
    """Tokens of a corpus sentence that make a prompt, BOS not counted."""
    new_tokens: Count = 80
    """Tokens written after it, fewer where a text ends by itself; MATTR needs texts of 50 words."""
    temperature: NotNegative = 1.0
    """0 takes the likeliest token."""
    top_k: Count | None = None
    top_p: Share | None = None
    chunk_samples: Count = 25
    """Samples that are decoded together under all conditions, and kept together on disk."""


@checked_dataclass
class MetricConfig:
    """Which text metrics are measured, and where those live that need something from outside."""

    names: tuple[str, ...] | None = None
    """All known ones when None."""
    sbert: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Embedding model: a hub name, a folder, or `package:NAME` for one inside an installed package."""
    languagetool: str | None = None
    """URL of a LanguageTool server; None starts a local one where it is already installed."""


@checked_dataclass
class InterveneConfig:
    """Everything a sweep depends on besides the model, the scales and the text.

    See Also:
        intervene: takes one as `config`, or single settings by name.

    Example:
        >>> InterveneConfig(samples=200).levels
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    """

    seed: Seed = 0
    """Of noise, sampling, controls and resamples."""
    samples: Count = 1000
    """Prompts, each continued under every condition (P: 1,000)."""
    levels: Rising = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    """Levels of the dose: σ itself for `per_layer`, the target for `exit_norm` (relative change) and `kl` (nats)."""
    level: Positive | None = None
    """The one of them for other doses, controls and the confirmatory tests; None: 0.1, or the middle one."""
    dose: Dose = "per_layer"
    """How a level becomes σ, at all levels."""
    other_doses: tuple[Dose, ...] = get_args(Dose)
    """Doses that are looked at beside it, at one level."""
    kind: str = "gaussian"
    """How a block is disturbed: gaussian, covariance, resample, skip, or a kind of your own."""
    unit: Literal["robust", "std", "token"] = "robust"
    """The activation unit that σ is relative to."""
    controls: NoneOrMore = 5
    """Stretches of as many blocks at other depths, for each scale."""
    effect_sentences: Count = 200
    """Sentences for the effects on the next token."""
    unit_sentences: Count = 1000
    """Sentences that activation units are measured on."""
    dose_sentences: Count = 60
    """Sentences that doses are solved and the ledger is measured on."""
    resamples: Resamples = 2000
    """Bootstrap resamples of samples and of sentences."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    metrics: MetricConfig = field(default_factory=MetricConfig)

    def __post_init__(self) -> None:
        if self.level is not None and self.level not in self.levels:
            raise ConfigError(f"level must be one of levels, {list(self.levels)}; got {self.level}.")

    @property
    def compared_level(self) -> float:
        """The one level at which more than the sweep itself is looked at."""
        if self.level is not None:
            return self.level
        return 0.1 if 0.1 in self.levels else self.levels[len(self.levels) // 2]


@checked_dataclass
class HVibConfig:
    """How the hierarchical variational bottleneck is fitted to a frozen model."""

    betas: SeveralRising = (0.03, 0.1, 0.3, 1.0)
    """Compression weights swept, the same for all three scales; 1 is the ELBO."""
    width: Count = 16
    """Dimensions of each latent."""
    steps: Count = 400
    """Steps of Adam for each weight."""
    batch: Count = 512
    """Tokens a step."""
    learning_rate: Positive = 1e-2
    """Adam's step size in the first step; it falls linearly to a tenth."""


@checked_dataclass
class TheoryConfig:
    """Everything the theory's estimates depend on besides the model, the scales and the text."""

    seed: Seed = 0
    """Of labels, noise, splits, resamples and permutations."""
    sentences: Count = 1000
    """Sentences of the corpus that are used, in reading order."""
    label_samples: Count = 2
    """Draws of the labels for the Fisher trace, one backward pass each."""
    closure_texts: Count = 24
    """Sentences on which noise is compared with its prediction."""
    closure_sigmas: Rising = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.5, 1.0)
    closure_samples: Several = 64
    """Draws of the labels there."""
    noise_draws: Several = 4
    """Draws of the noise for every sigma."""
    closure_layers: Several | None = None
    """Layers whose closure is measured one by one, evenly spaced, both ends among them; None: all."""
    exact_draws: NoneOrMore = 0
    """Draws of the noise in float64, at the smallest sigma only, such as 32; 0 leaves that pass out."""
    channel_sigmas: Rising = (2.0, 4.0, 8.0, 16.0)
    """Noise of the Gaussian channel, relative to each layer's activation unit."""
    rate_sigmas: SeveralRising = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
    """Noise of the rate-distortion curve, relative to each layer's activation unit."""
    rate_texts: Annotated[Whole, Field(ge=MIN_TEXTS)] = 60
    """Sentences on which distortion is measured."""
    resamples: Resamples = 1000
    """Bootstrap resamples of sentences."""
    hvib: HVibConfig = field(default_factory=HVibConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        if self.exact_draws == 1:
            raise ConfigError("exact_draws must be 2 or more, to know its error, or 0 for none; got 1.")


def make_config(settings: Mapping[str, Any], kind: type[C] = DetectConfig) -> C:
    """Build a config from nested plain values, checking names and types.

    Raises:
        ConfigError: an unknown name (with the closest known one), a wrong type or an unusable value.
    """
    return kind(**_current_names(settings, kind))


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
