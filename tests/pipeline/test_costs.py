"""Costs before a run: shapes without weights, and estimates that grow as the work does. Nothing here is timed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from mspgt_tl.config import DetectConfig, InterveneConfig, MetricConfig, ProbeConfig, TheoryConfig
from mspgt_tl.errors import ConfigError
from mspgt_tl.pipeline.costs import Cost, detect_cost, intervene_cost, theory_cost, total
from mspgt_tl.pipeline.speed import Shape, Speed, measure_speed, shape_of

SHAPE = Shape("made up", 12, 128, 4, 4, 32, 288, 4096, 512, gated_mlp=True, parameters=3_165_312)
SPEED = Speed(forward=1e-4, logits=1e-4, noise=4e-6, decode=6e-4, probe=2e-6, product=4e-11)
TREES: dict[str, Any] = {"positions_per_sentence": 40, "n_trees_train": 2000, "n_trees_dev": 500}
LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32000,
}


def deeper(shape: Shape) -> Shape:
    return replace(shape, n_layers=2 * shape.n_layers, parameters=2 * shape.parameters)


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    """The shape of a folder that holds the configuration of Llama-2-7B and nothing else."""
    folder = tmp_path_factory.mktemp("llama-2-7b")
    (folder / "config.json").write_text(json.dumps(LLAMA_2_7B))
    return shape_of(str(folder))


def test_large_model_is_sized_without_its_weights(seven_billion: Shape) -> None:
    """Llama-2-7B has 6.74 billion parameters and does not run in less memory than they take."""
    assert seven_billion.parameters == 6_738_415_616
    assert 32 * seven_billion.block_parameters == pytest.approx(6.476e9, rel=1e-3)
    cost = detect_cost(seven_billion, SPEED, DetectConfig(), **TREES)
    assert cost.memory_bytes > 4 * seven_billion.parameters
    assert cost.scratch_bytes == 4 * 2500 * 16 * 32 * 4096


def test_block_too_large_to_be_timed_is_refused(seven_billion: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for one block, speed and seconds are nan with the reason; memory and disk are known all the same."""
    monkeypatch.setattr("mspgt_tl.pipeline.speed._free_memory", lambda: 1e9)
    speed = measure_speed(seven_billion)
    assert math.isnan(speed.forward)
    assert "1.0 GB are free" in speed.reason
    found = (
        detect_cost(seven_billion, speed, DetectConfig(), **TREES),
        intervene_cost(seven_billion, speed, InterveneConfig()),
        theory_cost(seven_billion, speed, TheoryConfig(), positions_per_sentence=40),
    )
    for cost in found:
        assert math.isnan(cost.seconds)
        assert cost.reason == speed.reason
        assert cost.memory_bytes > 2.7e10
        assert cost.disk_bytes > 1e6


def test_unknown_device_is_refused() -> None:
    """A device that is not there is a mistake, not an unknown cost."""
    with pytest.raises(ConfigError, match="nonsense"):
        measure_speed(SHAPE, "nonsense")


def test_signals_grow_with_the_sentences() -> None:
    """Twice the sentences take twice the signals and leave the probes alone."""
    once, twice = (detect_cost(SHAPE, SPEED, DetectConfig(sentences=n), **TREES) for n in (1000, 2000))
    assert twice.parts["signals"] == pytest.approx(2 * once.parts["signals"])
    assert twice.parts["probes"] == once.parts["probes"]
    assert twice.scratch_bytes == once.scratch_bytes


def test_probes_grow_with_trees_repeats_and_layers() -> None:
    """Probes take longer with more trees, more repeats and more layers, but not with trees that are not used."""
    config = DetectConfig()

    def probes(shape: Shape = SHAPE, config: DetectConfig = config, **changed: Any) -> float:
        return detect_cost(shape, SPEED, config, **TREES | changed).parts["probes"]

    assert probes(n_trees_train=4000) > 1.5 * probes()
    assert probes(n_trees_train=8000) == probes(n_trees_train=4000)
    assert probes(config=replace(config, probe=ProbeConfig(repeats=6))) > 1.4 * probes()
    assert probes(deeper(SHAPE)) > 1.9 * probes()
    assert probes(config=replace(config, signals=replace(config.signals, tasks=("pos",)))) < 0.3 * probes()


def test_nulls_and_rivals_add() -> None:
    """A random twin runs everything again, shuffled labels the probes, shuffled words the signals."""
    config = DetectConfig()
    plain = detect_cost(SHAPE, SPEED, config, **TREES).parts
    for null, signals, probes in (("random:0", 2, 2), ("labels", 1, 2), ("tokens", 2, 1)):
        found = detect_cost(SHAPE, SPEED, config, nulls=(null,), **TREES).parts
        assert found["signals"] == pytest.approx(signals * plain["signals"])
        assert found["probes"] == pytest.approx(probes * plain["probes"])
    assert detect_cost(SHAPE, SPEED, config, rivals=True, **TREES).parts["signals"] > plain["signals"]
    with pytest.raises(ConfigError, match="shuffled"):
        detect_cost(SHAPE, SPEED, config, nulls=("shuffled",), **TREES)


def test_random_twin_needs_room_for_two_models(seven_billion: Shape) -> None:
    """The twin is drawn while the model stays."""
    plain, twin = (detect_cost(seven_billion, SPEED, DetectConfig(), nulls=n, **TREES) for n in ((), ("random:0",)))
    assert twin.memory_bytes - plain.memory_bytes > 3.9 * seven_billion.parameters


def test_finished_probes_cost_nothing() -> None:
    """Probes that lie in the folder take neither time nor scratch."""
    cost = detect_cost(SHAPE, SPEED, DetectConfig(), reuse_probes=True, **TREES)
    assert cost.parts["probes"] == cost.scratch_bytes == 0


def test_sweep_grows_with_samples_and_conditions() -> None:
    """Texts grow with samples, levels and controls; effects do not grow with samples."""
    few, many = (intervene_cost(SHAPE, SPEED, InterveneConfig(samples=n)) for n in (100, 200))
    assert many.parts["texts"] == pytest.approx(2 * few.parts["texts"])
    assert many.parts["effects"] == few.parts["effects"]
    for smaller in (InterveneConfig(sigmas=(0.1,)), InterveneConfig(controls=0), InterveneConfig(other_doses=())):
        assert intervene_cost(SHAPE, SPEED, smaller).seconds < intervene_cost(SHAPE, SPEED, InterveneConfig()).seconds
    assert intervene_cost(deeper(SHAPE), SPEED, InterveneConfig()).seconds > few.seconds


def test_only_chosen_metrics_are_paid_for() -> None:
    """Perplexity takes a pass over every text, embeddings a model of their own; neither is counted unless measured."""
    cheap, all_metrics = (
        intervene_cost(SHAPE, SPEED, InterveneConfig(metrics=MetricConfig(names=names))) for names in (("mattr",), None)
    )
    assert cheap.parts["perplexity"] == 0 < all_metrics.parts["perplexity"]
    assert cheap.parts["metrics"] < all_metrics.parts["metrics"]
    assert cheap.disk_bytes < all_metrics.disk_bytes


def test_theory_grows_with_text_draws_and_fits() -> None:
    """Each setting moves its own part, and layers all of them."""

    def parts(shape: Shape = SHAPE, **settings: Any) -> dict[str, float]:
        return dict(theory_cost(shape, SPEED, TheoryConfig(**settings), positions_per_sentence=40).parts)

    plain = parts()
    assert parts(sentences=2000)["fisher"] == pytest.approx(2 * plain["fisher"])
    assert parts(closure_texts=48)["closure"] == pytest.approx(2 * plain["closure"])
    assert parts(closure_texts=48)["rates"] == plain["rates"]
    assert parts(exact_draws=64)["closure-float64"] > plain["closure-float64"]
    assert parts(rate_sigmas=(0.1, 1.0))["rates"] < plain["rates"]
    grown = parts(deeper(SHAPE))
    assert all(grown[name] > plain[name] for name in ("closure", "information", "rates"))


def test_streams_lie_on_disk_meanwhile() -> None:
    """Theory keeps every layer's vector of every token that another one follows."""
    cost = theory_cost(SHAPE, SPEED, TheoryConfig(sentences=500), positions_per_sentence=40)
    assert cost.scratch_bytes == 500 * 39 * 12 * 128 * 4


def test_accelerator_holds_the_model() -> None:
    """On a GPU the weights count there, in its own number format, and the host keeps the rest."""
    speed = replace(SPEED, device="cuda:0", weight_bytes=2)
    large = replace(SHAPE, parameters=10**10)
    here, there = (detect_cost(large, s, DetectConfig(), **TREES) for s in (SPEED, speed))
    assert here.device_bytes == 0
    assert 2e10 < there.device_bytes < here.memory_bytes


def test_total_sums_time_and_takes_the_largest_memory() -> None:
    """Runs follow each other; one that is unknown makes the sum unknown and says why."""
    known, unknown = Cost(10, 5, 2, 7, parts={"a": 1, "b": 2}), Cost(math.nan, 6, 1, 0, reason="too large")
    both = total([known, known])
    assert (both.seconds, both.memory_bytes, both.disk_bytes, both.scratch_bytes) == (20, 5, 4, 7)
    assert both.parts == {"a": 2, "b": 4}
    mixed = total([known, unknown, unknown])
    assert math.isnan(mixed.seconds)
    assert (mixed.memory_bytes, mixed.disk_bytes, mixed.reason) == (6, 4, "too large")
    assert total([]).seconds == 0
