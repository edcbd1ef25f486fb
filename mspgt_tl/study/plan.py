"""A study's plan: which models are looked at on which corpora, in which order, read from one TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mspgt_tl.config import (
    DetectConfig,
    InterveneConfig,
    Seed,
    TheoryConfig,
    checked_dataclass,
    make_config,
    override,
    read_settings,
    to_plain,
)
from mspgt_tl.errors import ConfigError, unknown_name

Stage = Literal["detect", "intervene", "theory"]
Null = Literal["tokens", "labels"]
STAGES: tuple[Stage, ...] = ("detect", "intervene", "theory")
SHIPPED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}
"""Studies that come with the package, by name."""
QUICK = "quick"
"""Table of a study's file that `--quick` lays over the rest."""


@checked_dataclass
class StudyModel:
    """One model of a study; anything that `mspgt detect` takes can be its name."""

    family: str | None = None
    """None: the letters that the name begins with."""
    architecture: str | None = None
    """What training runs share; None: the name without `@…`."""
    stages: tuple[Stage, ...] = STAGES


@checked_dataclass
class StudyCorpus:
    """One corpus of a study."""

    text: str | None = None
    """As for `--corpus`; None generates sentences."""
    treebank: str | None = None
    """As for `--treebank`; None is the generated one."""
    nulls: tuple[Null, ...] = ()
    """Nulls of every trained model: `tokens` is the same text with its words shuffled, `labels` shuffles labels. Random
    weights are a model of their own, `NAME@random:SEED`."""


@checked_dataclass
class StudyConfig:
    """Everything a study is told."""

    title: str = "A study"
    seed: Seed = 0
    """Of every run in it."""
    models: dict[str, StudyModel] = field(default_factory=dict, metadata={"entry": StudyModel})
    corpora: dict[str, StudyCorpus] = field(default_factory=dict, metadata={"entry": StudyCorpus})
    """Boundaries are looked for on all of them; families, noise, theory and predictions rest on the first."""
    rivals: bool = True
    """Whether other readings of depth are watched on the same pass."""
    device: str | None = None
    dtype: str | None = None
    detect: DetectConfig = field(default_factory=DetectConfig)
    intervene: InterveneConfig = field(default_factory=InterveneConfig)
    theory: TheoryConfig = field(default_factory=TheoryConfig)

    def __post_init__(self) -> None:
        if not self.models or not self.corpora:
            raise ConfigError("A study needs at least one model and one corpus: [models.NAME] and [corpora.NAME].")
        for name, model in self.models.items():
            if "detect" not in model.stages:
                raise ConfigError(f"Model '{name}': every other stage rests on `detect`, which its stages leave out.")
        folders: dict[str, str] = {}
        for name in self.models:
            if (other := folders.setdefault(folder_name(name), name)) != name:
                raise ConfigError(f"Models '{other}' and '{name}' would share the folder {folder_name(name)}.")
        for name in self.corpora:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ConfigError(f"A corpus's name becomes a folder's: letters, digits, . - _ only; got '{name}'.")

    @property
    def first_corpus(self) -> str:
        """The corpus that families, noise, theory and predictions rest on."""
        return next(iter(self.corpora))


@dataclass(frozen=True)
class Step:
    """One run of a study."""

    stage: Stage
    model: str
    corpus: str
    after: str | None = None
    """Name of the step that has to be finished before."""

    @property
    def name(self) -> str:
        """Also its folder, within the study's."""
        return f"{self.stage}/{self.corpus}/{folder_name(self.model)}"


def folder_name(model: str) -> str:
    """Return a model's name as a folder's.

    >>> folder_name("meta-llama/Llama-2-7b-hf"), folder_name("llama2-mini@seed:1")
    ('meta-llama--Llama-2-7b-hf', 'llama2-mini@seed-1')
    """
    return model.strip("/").replace("/", "--").replace(":", "-")


def read_study(
    source: str | Path,
    *,
    quick: bool = False,
    corpora: Mapping[str, str] | None = None,
    treebanks: Mapping[str, str] | None = None,
    nulls: Mapping[str, Sequence[str]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> StudyConfig:
    """Read a study from a TOML file, or one that comes with the package by its name.

    Args:
        source: such as `miniature`, `paper` or `my_study.toml`.
        quick: lay the file's table `[quick]` over the rest.
        corpora: texts by name; they replace the file's of that name, and new ones come before the file's.
        treebanks: treebanks by the name of their corpus.
        nulls: nulls by the name of their corpus.
        settings: single settings by dotted name, such as `detect.sentences`.

    Raises:
        ConfigError: no such study or profile, an unknown name in it, or an unusable value.
    """
    plain = read_settings(_find(source))
    profile = plain.pop(QUICK, None)
    if quick:
        if profile is None:
            raise ConfigError(f"{source} has no table [{QUICK}], so --quick changes nothing. Leave it out.")
        plain = _lay_over(plain, profile)
    plain = override(plain, dict(settings or {}))
    plain["corpora"] = _with_given(plain.get("corpora", {}), corpora or {})
    for option, key, given in (("--treebank", "treebank", treebanks), ("--null", "nulls", nulls)):
        for name, value in (given or {}).items():
            if name not in plain["corpora"]:
                raise ConfigError(unknown_name(f"corpus of {option}", name, plain["corpora"]))
            plain["corpora"][name] = plain["corpora"][name] | {key: value}
    _check_quotes(plain)
    for stage in STAGES:
        if plain.get(stage, {}).get("seed") is not None:
            raise ConfigError(f"One seed holds for a whole study: give `seed` at the top, not in [{stage}].")
    study = make_config(plain, StudyConfig)
    one_seed: dict[str, Any] = {stage: replace(getattr(study, stage), seed=study.seed) for stage in STAGES}
    return replace(study, **one_seed)


def _find(source: str | Path) -> Path:
    if str(source) in SHIPPED:
        return SHIPPED[str(source)]
    if not Path(source).is_file():
        raise ConfigError(unknown_name("study (and no such file)", str(source), SHIPPED))
    return Path(source)


def _check_quotes(plain: Mapping[str, Any]) -> None:
    """Explain what TOML makes of a name with a dot: a table within a table."""
    for part in ("models", "corpora"):
        for name, entry in plain.get(part, {}).items():
            if isinstance(entry, Mapping):
                for inner, value in entry.items():
                    if isinstance(value, Mapping):
                        raise ConfigError(f'A name with a dot needs quotes in TOML: [{part}."{name}.{inner}"].')


def _lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _lay_over(merged[name], value) if both else value
    return merged


def _with_given(own: Any, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the file's corpora with those given beside it."""
    given = {name: dict(own.get(name, {})) | {"text": text} for name, text in texts.items()}
    merged = {name: entry for name, entry in given.items() if name not in own}
    return merged | {name: given.get(name, entry) for name, entry in own.items()}


def make_steps(study: StudyConfig) -> tuple[Step, ...]:
    """Return the study's runs in an order in which each finds what it needs.

    A model's probes depend on its treebank alone: corpora that share one come after the first of them, whose probes
    they take over.
    """
    return tuple([*_detections(study, first=True), *_detections(study, first=False), *_others(study)])


def _detections(study: StudyConfig, *, first: bool) -> Iterator[Step]:
    """Yield detections on the first corpus of every treebank, or on all others."""
    home: dict[str | None, str] = {}
    for name, corpus in study.corpora.items():
        donor = home.setdefault(corpus.treebank, name)
        if (donor == name) == first:
            for model in study.models:
                yield Step("detect", model, name, None if first else Step("detect", model, donor).name)


def _others(study: StudyConfig) -> Iterator[Step]:
    for stage in STAGES[1:]:
        for model, entry in study.models.items():
            if stage in entry.stages:
                corpus = study.first_corpus
                yield Step(stage, model, corpus, Step("detect", model, corpus).name)


def is_random(model: str) -> bool:
    """Return whether a name means random weights."""
    return "@random:" in model


def nulls_of(study: StudyConfig, step: Step) -> Sequence[str]:
    """Return the nulls that a detection brings along; a random-weight twin is one itself, and has none."""
    return () if is_random(step.model) else study.corpora[step.corpus].nulls


def settings_of(study: StudyConfig) -> dict[str, Any]:
    """Return what the numbers of every run depend on; models and corpora may be added to a study later."""
    plain = to_plain(study)
    return {name: plain[name] for name in ("seed", "rivals", "device", "dtype", *STAGES)}
