"""Settings: names, types, overrides, TOML."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspgt_tl.config import DetectConfig, InterveneConfig, hash_plain, make_config, override, read_settings, to_plain
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
        ({"probe": {"epochs": 0}}, "epochs must be positive, got 0"),
        ({"probe": 5}, "Option 'probe'"),
        ({"boundaries": {"rule": "papre"}}, r"Option 'boundaries.rule'"),
        ({"boundaries": {"resamples": 10}}, "At least 100"),
        ({"signals": {"tasks": ["pos", "syntax"]}}, "Unknown probe task 'syntax'"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    """Each mistake names the option, what came, and the closest known name."""
    with pytest.raises(ConfigError, match=message):
        make_config(settings)


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
