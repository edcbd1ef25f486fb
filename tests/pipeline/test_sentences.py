"""Effects of single sentences are what leaving them out really does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspgt_tl.config import StreamConfig
from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.models.pretrained import load
from mspgt_tl.passes.corpus import observe_corpus, stream
from mspgt_tl.passes.folds import Folds, assign_folds
from mspgt_tl.pipeline import detect
from mspgt_tl.pipeline.sentences import read_fold
from mspgt_tl.signals.attention_jsd import AttentionDrift
from mspgt_tl.signals.cka import CkaChange

SIGNALS = {"cka": CkaChange(), "attention_jsd": AttentionDrift()}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    return load(str(tiny_folder))


@pytest.mark.parametrize("documents", [None, tuple(sorted(np.random.default_rng(0).integers(0, 40, 240).tolist()))])
@pytest.mark.parametrize("name", SIGNALS)
def test_leaving_out_is_exact(model: Any, name: str, documents: Any) -> None:
    """A curve without one sentence of a fold is that of sums in which only that fold was observed without it.

    In equal folds, and in uneven ones of whole documents.
    """
    sentences = list(generated_corpus(seed=1, limit=240).sentences)
    folds, config, signal = assign_folds(len(sentences), seed=0, documents=documents), StreamConfig(), SIGNALS[name]
    assert (len(set(folds.sizes.tolist())) > 1) == (documents is not None)
    sums = observe_corpus(model, sentences, {name: signal}, folds=folds, seed=0, config=config)
    without, shown = read_fold(2, {name: signal}, sums, model, sentences, folds, 0, config)
    left_out = 4
    members = folds.order[folds.sizes[:2].sum() : folds.sizes[:3].sum()]
    rest = np.delete(members, left_out)
    part = signal.start(n_layers=8, fold_sizes=np.array([len(rest)]))
    for batch in stream(model, sentences, needs=signal.needs, folds=Folds(rest, len(rest)), seed=0, config=config):
        part.observe(batch)
    changed = {key: values.copy() for key, values in sums[name].items()}
    for key, values in part.sums().items():
        changed[key][2] = values[0]
    expected = signal.curves(changed, np.ones((1, folds.count)))[0]
    np.testing.assert_allclose(without[name][left_out], expected, rtol=1e-5, atol=1e-7)
    assert sentences[members[left_out]].split()[0] in "".join(shown[left_out]["tokens"])


def test_sums_that_add_up_are_told_under_other_rounding(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention drift adds up over sentences, although bfloat16 rounds patterns differently in other batches.

    Taken for what is computed within a fold, every sentence would be observed once for every other.
    """
    observed, start = [], AttentionDrift.start
    sentences = list(generated_corpus(seed=1, limit=240).sentences)
    folds, config, signal = assign_folds(len(sentences), seed=0), StreamConfig(), AttentionDrift()
    sums = observe_corpus(model, sentences, {"drift": signal}, folds=folds, seed=0, config=config)
    rounded = {"drift": {key: values * (1 + 1e-3) for key, values in sums["drift"].items()}}

    def counted(self: Any, *, n_layers: int, fold_sizes: Any) -> Any:
        observed.append(len(fold_sizes))
        return start(self, n_layers=n_layers, fold_sizes=fold_sizes)

    monkeypatch.setattr(AttentionDrift, "start", counted)
    without, _ = read_fold(2, {"drift": signal}, rounded, model, sentences, folds, 0, config)
    assert len(observed) <= 3 and len(without["drift"]) == folds.sizes[2]


def test_a_detection_names_the_sentences_that_make_its_boundaries(model: Any) -> None:
    """At every boundary, the largest effect first, with tokens and the one that was drawn."""
    result = detect(
        model,
        config={
            "sentences": 300,
            "train_trees": 60,
            "signals": {"tasks": ["pos"]},
            "probe": {"epochs": 1, "repeats": 1},
            "boundaries": {"resamples": 100, "null_curves": 100},
        },
        rule="paper",
    )
    pairs = zip(result.data["told_gap"].values, result.data["told_sentences"].values, strict=True)
    told = {int(gap): json.loads(str(rows)) for gap, rows in pairs}
    assert result.boundaries and set(result.boundaries) <= set(told)
    for rows in told.values():
        effects = [row["effect"] for row in rows]
        assert len(rows) == 6 and effects == sorted(effects, reverse=True) and effects[0] > 0
        assert all(0 <= row["drawn"] < len(row["tokens"]) for row in rows)
