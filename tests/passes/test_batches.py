"""Batches that come again in halves where memory runs out: a stand-in for a small card, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ActivationError
from mspgt_tl.interventions.generation import generate
from mspgt_tl.interventions.next_token import next_token_effects
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.metrics.base import Sample
from mspgt_tl.metrics.perplexity import continuation_losses
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.passes.batches import Batches, padded_batches
from mspgt_tl.passes.corpus import observe_corpus
from mspgt_tl.passes.folds import assign_folds
from mspgt_tl.signals.cka import CkaChange
from mspgt_tl.theory.fisher import measure_fisher

SENTENCES = generated_corpus(seed=3, limit=200).sentences


@pytest.fixture
def model(tiny_folder: Path) -> CausalModel:
    """A model of which nothing is remembered yet."""
    return load(tiny_folder, parity=False)


@pytest.fixture
def small_card(model: CausalModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every pass of more than 140 positions run out of memory, and list the positions of all that were tried."""
    tried = list[int]()
    anything: Any = model
    whole = anything.forward

    def forward(given: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        positions = given.shape[0] * given.shape[1]
        tried.append(positions)
        if positions > 140:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 byte")
        return whole(given, *arguments, **options)

    monkeypatch.setattr(model, "forward", forward)
    return tried


def cka_sums(model: CausalModel) -> np.ndarray:
    folds = assign_folds(200, seed=0)
    read = observe_corpus(
        model, SENTENCES, {"cka": CkaChange()}, folds=folds, seed=0, config=StreamConfig(batch_positions=512)
    )
    return read["cka"]["hsic"]


def effects(model: CausalModel) -> np.ndarray:
    def make(layers: Any, sigma: Any, ids: Any, at: Any) -> Any:
        return noise_hooks(model, layers, sigma, seed=0, sample_ids=ids, positions=at)

    return next_token_effects(model, SENTENCES[:20], {"late": [5, 6]}, [0.1, 0.4], make, seed=0, resamples=100)[
        "kl"
    ].values


def losses(model: CausalModel) -> np.ndarray:
    samples = [Sample(prompt=text[:10], text=text[10:]) for text in SENTENCES[:20]]
    return continuation_losses(model, samples)[0]


def scores(model: CausalModel) -> np.ndarray:
    return measure_fisher(model, encode(model, list(SENTENCES[:20])).ids, seed=0).sums


def written(model: CausalModel) -> np.ndarray:
    prompts = [ids[:8] for ids in encode(model, list(SENTENCES[:20])).ids]
    return np.array(generate(model, prompts, max_new_tokens=4, seed=0))


@pytest.mark.parametrize("measured", [cka_sums, effects, losses, scores, written])
def test_a_small_card_gives_the_same(
    tiny_folder: Path, model: CausalModel, small_card: list[int], measured: Callable[[CausalModel], np.ndarray]
) -> None:
    """Every kind of pass: smaller batches are found, change nothing beyond rounding, and are remembered."""
    expected = measured(load(tiny_folder, parity=False))
    found = measured(model)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert max(small_card) > 140
    small_card.clear()
    measured(model)
    assert max(small_card) <= 140


def test_one_text_that_does_not_fit_is_an_error(model: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing smaller can be tried: one line that says what to do."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(model, "run_with_cache", fail)
    with pytest.raises(ActivationError, match=r"Out of memory on 1 texts? of \d+ tokens .*--max-length"):
        cka_sums(model)


def test_other_errors_are_not_swallowed(model: CausalModel) -> None:
    """Only running out of memory brings a batch back."""
    batches = padded_batches(model, [[1, 2], [3, 4]], "reading")
    with pytest.raises(RuntimeError, match="another"):
        for _ in batches:
            with batches.fitting():
                raise RuntimeError("another")


def test_rows_come_once_however_they_are_cut(model: CausalModel) -> None:
    """Rows that went through are not repeated; each use is remembered for itself."""
    seen = list[int]()

    def batches_of(use: str) -> Batches[list[int]]:
        return Batches(model, use, [[0, 1, 2, 3, 4], [5, 6]], len, list)

    batches = batches_of("reading")
    for rows in batches:
        with batches.fitting():
            if len(rows) > 1 and 3 in rows:
                raise MemoryError
            seen += rows
    assert seen == list(range(7))
    assert [len(rows) for rows in batches_of("reading")] == [1, 1, 1, 1, 1, 1, 1]
    assert [len(rows) for rows in batches_of("gradients")] == [5, 2]
