"""Estimates before a run: they grow as the work does, and are right where a stage takes what its work says."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mspgt_tl.cli import main
from mspgt_tl.config import DetectConfig, InterveneConfig, MetricConfig, ProbeConfig, TheoryConfig
from mspgt_tl.errors import ModelError
from mspgt_tl.models.shape import Shape
from mspgt_tl.study import planner
from mspgt_tl.study.planner import Cost, Estimate, Text, plan_model, rehearsal, work

SHAPE = Shape("made up", 12, 128, 4, 4, 32, 288, 4096, 512, gated_mlp=True, parameters=3_165_312)
WIDE = Shape("wide", 32, 4096, 32, 32, 128, 11008, 32000, 4096, gated_mlp=True, parameters=6_738_415_616)
TEXT = Text(20_000, 16.0, 2000, 500, 12.0)
FEW = {"sentences": 400}
MATRIX, WIDTH = 3e-12, 5e-9
"""Seconds a multiply-add and a number on the machine that the tests make up."""


def matrix(config: Any, shape: Shape = SHAPE, text: Text = TEXT, **rest: Any) -> dict[str, float]:
    return {stage: done[0] for stage, done in work(shape, config, text, **rest).items()}


def deeper(shape: Shape) -> Shape:
    return replace(shape, n_layers=2 * shape.n_layers)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that run nothing and say that they took what their work takes on the made-up machine."""
    ran: list[str] = []
    now = [0.0]

    def command(name: str) -> Any:
        def run(model: Shape, corpus: Any, trees: Any = None, *, config: Any, **_: Any) -> Any:
            ran.append(name)
            text = Text.of(corpus, trees) if trees else Text.of(corpus, replace(few[0], train=(), dev=()))
            taken = {s: a * MATRIX + b * WIDTH for s, (a, b) in work(model, config, text).items()}
            now[0] += sum(taken.values())
            stages = {named.get(s, s): {"seconds": t} for s, t in taken.items() if s != "texts"}
            return type("Run", (), {"manifest": {"identity": {"command": name}, "stages": stages}})

        return run

    from mspgt_tl.corpora.grammar import generate_treebank

    few = [generate_treebank(seed=0)]
    named = {"signals": "cka", "probes": "probe-pos", "perplexity": "metric-perplexity", "metrics": "metric-mattr"}
    monkeypatch.setattr(planner, "random_model", lambda shape, **_: shape)
    for name, function in (("detect", "detect"), ("intervene", "intervene"), ("theory", "run_theory")):
        monkeypatch.setattr(planner, function, command(name))
    monkeypatch.setattr(planner.time, "perf_counter", lambda: now[0])
    return ran


@pytest.fixture
def seven_billion(tmp_path: Path) -> str:
    """A configuration of Llama-2-7B's shape and nothing else."""
    config = {
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
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path / "config.json")


def test_two_narrow_rehearsals_give_the_wide_run(made_up: list[str], seven_billion: str) -> None:
    """Where stages take a per multiply-add and b per number, the estimate of a 7B detection is exactly that."""
    estimate = plan_model(seven_billion, stages=["detect"], detect=FEW)
    cost = next(iter(estimate.costs.values()))
    assert made_up == ["detect", "detect"]
    from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus

    text = Text.of(generated_corpus(seed=1, limit=400), generate_treebank(seed=0))
    for stage, (products, numbers) in work(WIDE, DetectConfig(sentences=400), text).items():
        assert cost.parts[stage] == pytest.approx(products * MATRIX + numbers * WIDTH, rel=1e-6)
    assert cost.seconds == sum(cost.parts.values())
    assert cost.memory_bytes > 4 * WIDE.parameters


def test_every_stage_of_every_command_is_told(made_up: list[str], seven_billion: str) -> None:
    """Detection, sweep and theory, each rehearsed twice; only the one that has to be asked for is free."""
    estimate = plan_model(seven_billion, detect=FEW)
    assert made_up == ["detect"] * 2 + ["intervene"] * 2 + ["theory"] * 2
    for cost in estimate.costs.values():
        assert {name for name, seconds in cost.parts.items() if not seconds > 0} <= {"closure-float64"}
        assert cost.disk_bytes > 1e6
    assert math.isfinite(estimate.total.seconds)


def test_what_cannot_be_rehearsed_is_nan_with_its_reason(
    made_up: list[str], seven_billion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without room for the rehearsal still tells memory and disk."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError("'x' does not fit into memory.")

    monkeypatch.setattr(planner, "random_model", refuse)
    total = plan_model(seven_billion, stages=["detect"], detect=FEW).total
    assert math.isnan(total.seconds)
    assert "does not fit" in total.reason
    assert total.memory_bytes > 2.7e10


def test_unknown_models_are_told_beside_the_others(made_up: list[str]) -> None:
    """A name without anything behind it makes its steps unknown, not the plan."""
    estimate = plan_model("llama9-mini", stages=["detect"], detect=FEW)
    assert "llama9-mini" in estimate.reasons["llama9-mini"]
    assert math.isnan(estimate.total.seconds)
    assert made_up == []


def test_signals_grow_with_the_sentences() -> None:
    """Twice the sentences take twice the signals and leave the probes alone."""
    once, twice = (matrix(DetectConfig(sentences=n)) for n in (1000, 2000))
    assert twice["signals"] == pytest.approx(2 * once["signals"])
    assert twice["probes"] == once["probes"]


def test_probes_grow_with_trees_repeats_and_layers() -> None:
    """Probes take longer with more trees while they may go over all of them, with more repeats and more layers, but not
    with trees that are not used.
    """
    config = DetectConfig()
    plain = matrix(config)["probes"]
    assert plain > 1.5 * matrix(config, text=replace(TEXT, train=1000))["probes"]
    assert matrix(config, text=replace(TEXT, train=4000))["probes"] < 1.2 * plain
    assert matrix(config, text=replace(TEXT, train=8000)) == matrix(config, text=replace(TEXT, train=4000))
    assert matrix(replace(config, probe=ProbeConfig(repeats=6)))["probes"] > 1.4 * plain
    assert matrix(config, deeper(SHAPE))["probes"] == pytest.approx(2 * plain)
    assert matrix(replace(config, signals=replace(config.signals, tasks=("pos",))))["probes"] < 0.5 * plain
    assert matrix(config, reuse=True)["probes"] == 0


def test_nulls_add() -> None:
    """A random twin runs everything again, shuffled labels the probes, shuffled words the signals."""
    plain = matrix(DetectConfig())
    for null, signals, probes in (("random:0", 2, 2), ("labels", 1, 2), ("tokens", 2, 1)):
        found = matrix(DetectConfig(), nulls=(null,))
        assert found["signals"] == pytest.approx(signals * plain["signals"])
        assert found["probes"] == pytest.approx(probes * plain["probes"])


def test_sweep_grows_with_samples_and_conditions() -> None:
    """Texts grow with samples, levels and controls; effects do not grow with samples."""
    few, many = (matrix(InterveneConfig(samples=n)) for n in (100, 200))
    assert many["texts"] == pytest.approx(2 * few["texts"])
    assert many["effects"] == few["effects"]
    whole = matrix(InterveneConfig())
    for smaller in (InterveneConfig(levels=(0.1,)), InterveneConfig(controls=0), InterveneConfig(other_doses=())):
        assert matrix(smaller)["texts"] < whole["texts"]
    assert matrix(InterveneConfig(), deeper(SHAPE))["effects"] > 2 * whole["effects"]


def test_theory_grows_with_text_draws_and_layers() -> None:
    """Each setting moves its own part, and layers all of them."""
    plain = matrix(TheoryConfig())
    assert matrix(TheoryConfig(sentences=2000))["fisher"] == pytest.approx(2 * plain["fisher"])
    assert matrix(TheoryConfig(closure_texts=48))["closure"] == pytest.approx(2 * plain["closure"])
    assert matrix(TheoryConfig(exact_draws=64))["closure-float64"] > plain["closure-float64"]
    grown = matrix(TheoryConfig(), deeper(SHAPE))
    assert all(grown[name] > plain[name] for name in ("closure", "information", "rates"))


def test_rehearsals_are_small() -> None:
    """None does more than a twentieth of what the default settings do."""
    for config in (DetectConfig(), InterveneConfig(metrics=MetricConfig(names=("mattr",))), TheoryConfig()):
        whole, part = matrix(config, text=TEXT), matrix(rehearsal(config, SHAPE), replace(SHAPE, n_layers=5))
        assert sum(part.values()) < sum(whole.values()) / 20


def test_total_sums_time_and_takes_the_largest_memory() -> None:
    """Runs follow each other; one that is unknown makes the sum unknown and says why."""
    known, unknown = Cost(10, 5, 2, 7), Cost(math.nan, 6, 1, 0, reason="too large")
    steps: list[Any] = ["first", "second"]
    both = Estimate(dict(zip(steps, (known, known), strict=True)), {}).total
    assert (both.seconds, both.memory_bytes, both.disk_bytes, both.scratch_bytes) == (20, 5, 4, 7)
    mixed = Estimate(dict(zip(steps, (known, unknown), strict=True)), {}).total
    assert math.isnan(mixed.seconds)
    assert (mixed.memory_bytes, mixed.disk_bytes, mixed.reason) == (6, 3, "too large")


@pytest.mark.slow
def test_plan_of_a_small_model_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All three commands are really rehearsed; nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mspgt", "plan", "llama2-mini", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["step"].partition("/")[0] for step in steps] == ["detect", "intervene", "theory"]
    assert all(seconds > 0 for step in steps for seconds in step["parts"].values())
    assert not list(tmp_path.iterdir())
