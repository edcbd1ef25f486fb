"""Curves without a treebank: the ones of a detection, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mspgt_tl import detect, measure
from mspgt_tl.config import StreamConfig
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError

TEXT = generated_corpus(seed=3, limit=220)


def test_curves_are_those_of_a_detection(tiny_folder: Path) -> None:
    """Same text and seed, same curves to the last digits; lists of sentences and corpora alike."""
    trees = generate_treebank(seed=0, train=60, dev=60)
    config = {"signals": {"tasks": ["pos"]}, "probe": {"hidden": 8, "epochs": 1}, "boundaries": {"resamples": 100}}
    whole = detect(tiny_folder, TEXT, trees, config=config, seed=4)
    for text in (TEXT, list(TEXT.sentences)):
        found = measure(tiny_folder, text, seed=4)
        assert found.dims == ("signal", "gap")
        assert found["gap"].values.tolist() == [1, 2, 3, 4, 5, 6, 7]
        np.testing.assert_allclose(found, whole.curves.sel(signal=["cka", "attention_jsd"]), rtol=1e-12)


def test_one_signal_and_other_choices(tiny_folder: Path) -> None:
    """One signal gives one row; raw rows and all tokens give other curves."""
    one = measure(tiny_folder, TEXT, signals=["cka"])
    assert one["signal"].values.tolist() == ["cka"]
    assert not np.allclose(one, measure(tiny_folder, TEXT, signals=["cka"], rule="paper"))
    assert not np.allclose(one, measure(tiny_folder, TEXT, signals=["cka"], stream=StreamConfig(tokens="all")))


def test_what_cannot_be_measured_is_refused(tiny_folder: Path) -> None:
    """Signals that need a treebank, unknown ones, unknown rules and short texts, each with what to do."""
    with pytest.raises(ConfigError, match="needs a treebank"):
        measure(tiny_folder, TEXT, signals=["probe"])
    with pytest.raises(ConfigError, match=r"Unknown signal 'cak'\. Did you mean 'cka'"):
        measure(tiny_folder, TEXT, signals=["cak"])
    with pytest.raises(ConfigError, match="At least one signal"):
        measure(tiny_folder, TEXT, signals=[])
    with pytest.raises(ConfigError, match="Unknown rule"):
        measure(tiny_folder, TEXT, rule="papr")  # type: ignore[arg-type]
    for seed in (-1, 1.5):
        with pytest.raises(ConfigError, match="A seed is a whole number"):
            measure(tiny_folder, TEXT, seed=seed)  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match="Sentences come as a list"):
        measure(tiny_folder, "The dog sleeps in the old house.")
    with pytest.raises(CorpusError, match="but dict came"):
        measure(tiny_folder, {"text": TEXT})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Text 0 is no Unicode text"):
        measure(tiny_folder, [f"{sentence} \ud800" for sentence in TEXT.sentences])
    with pytest.raises(CorpusError, match="200 usable sentences"):
        measure(tiny_folder, ["The dog sleeps in the old house."])
