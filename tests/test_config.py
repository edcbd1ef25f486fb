"""Settings: names, types, overrides, TOML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mspgt_tl.config import (
    BoundaryConfig,
    DecodeConfig,
    DetectConfig,
    InterveneConfig,
    ProbeConfig,
    SignalConfig,
    TheoryConfig,
    hash_plain,
    make_config,
    override,
    read_settings,
    to_plain,
)
from mspgt_tl.errors import ConfigError


def test_defaults_round_trip_through_plain_values() -> None:
    """A config written to JSON and read back is the same."""
    config = DetectConfig()
    assert make_config(to_plain(config)) == config


def test_toml_and_overrides_reach_nested_fields(tmp_path: Path) -> None:
    """A file sets some fields, dotted names override them, the rest keeps its default."""
    path = tmp_path / "run.toml"
    path.write_text("sentences = 500\n[probe]\nepochs = 3\nhidden = 64\n", encoding="utf-8")
    config = make_config(override(read_settings(path), {"probe.epochs": 5, "boundaries.weights": [1, 1, 2]}))
    assert (config.sentences, config.probe.epochs, config.probe.hidden) == (500, 5, 64)
    assert config.boundaries.weights == (1, 1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sentence": 5}, r"Unknown option 'sentence'. Did you mean 'sentences'"),
        ({"probe": {"epoch": 5}}, r"Unknown option 'probe.epoch'. Did you mean 'probe.epochs'"),
        ({"probe": {"epochs": "many"}}, r"Option 'probe.epochs'.*'many'"),
        ({"probe": {"epochs": 0}}, r"Option 'probe.epochs'.*greater than 0, got 0"),
        ({"probe": 5}, "Option 'probe'"),
        ({"boundaries": {"rule": "papre"}}, r"Unknown choice of boundaries.rule 'papre'. Did you mean 'paper'"),
        ({"boundaries": {"resamples": 10}}, r"Option 'boundaries.resamples': At least 100.*got 10"),
        ({"sentences": "5"}, r"Option 'sentences': A number is needed, got '5'"),
        ({"seed": True}, "A seed is a whole number"),
        ({"seed": 2**64}, "A seed is a whole number"),
        ({"signals": {"tasks": ["pos", "syntax"]}}, "Unknown probe task 'syntax'"),
        ({"seed": -1}, "A seed is a whole number from 0 .*, got -1"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    """Each mistake names the option, what came, and the closest known name."""
    with pytest.raises(ConfigError, match=message):
        make_config(settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SignalConfig, {"attention_mode": "x"}, "Unknown choice of attention_mode 'x'. Known: head_average, matched"),
        (SignalConfig, {"tasks": ()}, "Option 'tasks'.*at least 1"),
        (BoundaryConfig, {"rule": "papre"}, "choice of rule 'papre'. Did you mean 'paper'"),
        (InterveneConfig, {"dose": "zz", "unit": "zz"}, "choice of dose 'zz'"),
        (InterveneConfig, {"unit": "zz"}, "choice of unit 'zz'"),
        (InterveneConfig, {"levels": (0.2, 0.1)}, "Option 'levels': The values must rise"),
        (DecodeConfig, {"top_p": 7}, "Option 'top_p'.*less than or equal to 1, got 7"),
        (DetectConfig, {"sentences": "5"}, "Option 'sentences': A number is needed, got '5'"),
        (DetectConfig, {"sentence": 5}, "Unknown option 'sentence'. Did you mean 'sentences'"),
        (ProbeConfig, {"repeats": False}, "Option 'repeats': A number is needed, got False"),
        *[(kind, {"seed": seed}, "A seed is") for kind in (DetectConfig, ProbeConfig) for seed in (True, 2**70, "1")],
        *[(kind, {"seed": -1}, "A seed is") for kind in (InterveneConfig, TheoryConfig)],
        (TheoryConfig, {"rate_sigmas": (0.1,)}, "Option 'rate_sigmas'.*at least 2"),
        (TheoryConfig, {"noise_draws": 1}, "Option 'noise_draws'.*equal to 2, got 1"),
        (TheoryConfig, {"exact_draws": 1}, "exact_draws must be 2 or more"),
    ],
)
def test_configs_check_themselves(kind: type, settings: dict, message: str) -> None:
    """What is unusable is refused where it is given, not where a run first takes it."""
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_a_changed_config_is_checked_again() -> None:
    """As a new one is."""
    with pytest.raises(ConfigError, match="Option 'epochs'"):
        replace(ProbeConfig(), epochs=0)


def test_numbers_of_numpy_become_plain_ones() -> None:
    """They are stored and hashed like those that people write."""
    assert hash_plain(to_plain(DetectConfig(seed=np.int64(3)))) == hash_plain(to_plain(DetectConfig(seed=3)))  # type: ignore[arg-type]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A missing file and one that is not TOML give one-line errors."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_settings(tmp_path / "bad.toml")


def test_hash_ignores_the_order_of_names() -> None:
    """Equal settings have equal hashes."""
    assert hash_plain({"a": 1, "b": 2}) == hash_plain({"b": 2, "a": 1}) != hash_plain({"a": 1, "b": 3})


def test_settings_of_earlier_versions_are_read() -> None:
    """A stored plan from before the words changed means what it meant."""
    plain = {"intervene": {"sigmas": [0.1, 0.2], "scale": "std", "scale_sentences": 30}}
    found = make_config(plain["intervene"], InterveneConfig)
    assert (found.levels, found.unit, found.unit_sentences) == ((0.1, 0.2), "std", 30)
