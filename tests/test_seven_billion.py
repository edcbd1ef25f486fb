"""The 7B protocol: limits by hand, a clock that ends slices, and the whole of it at a tiny shape."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("seven_billion", ROOT / "benchmarks" / "seven_billion.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_shapes_are_those_of_the_models(script: Any) -> None:
    """Matrices of blocks, embedding and unembedding make up all parameters but norms and biases."""
    for name in ("llama-2-7b", "qwen2.5-7b"):
        shape = script.SHAPES[name]
        counted = shape.n_layers * shape.block_parameters + 2 * shape.d_model * shape.d_vocab
        assert counted == pytest.approx(shape.parameters, rel=1e-3)


def test_limits_of_llama_by_hand(script: Any) -> None:
    """1,000 samples × 16 conditions × 96 positions at 2 FLOP a weight; weights are read at each of 3,200 steps."""
    detect, intervene = script.settings(False)
    flop, moved = script.limits(script.SHAPES["llama-2-7b"], detect, intervene)["tokens"]
    weights = 32 * script.SHAPES["llama-2-7b"].block_parameters + 4096 * 32000
    assert flop == pytest.approx(2 * 1000 * 16 * 96 * weights)
    cache = 16_000 * 80 * (16 + 40) * 32 * 2 * 4096 * 2
    assert moved == pytest.approx(3200 * 2 * 6_738_415_616 + cache)
    assert script.least_seconds((989e12, 1e12), script.CARDS["H200"]) == 1.0
    assert script.least_seconds((1e12, 9.6e12), script.CARDS["H200"]) == 2.0


def test_a_slice_ends_and_time_adds_up(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way when the time is over is counted, and the next slice goes on counting."""
    now = [0.0]
    monkeypatch.setattr(script.time, "perf_counter", lambda: now[0])
    for _ in range(2):
        clock = script.Clock(tmp_path / "seconds.json", 10.0)
        now[0] += 4
        clock("signals", 1, 2)
        now[0] += 7
        with pytest.raises(script.SliceEnded):
            clock("probes", 1, 2)
        clock.close()
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"signals": 8.0, "probes": 14.0}


def test_limits_are_printed(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One row a model and card; the docs show these."""
    assert script.main(["--predict"]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 8
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert all(line in page for line in told.splitlines()[2:])


@pytest.mark.slow
def test_the_protocol_at_a_tiny_shape_in_slices(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slice of no time does nothing but say so; the next one finishes, and reports every part."""
    arguments = ["tiny", "--out", str(tmp_path)]
    assert script.main([*arguments, "--slice", "0"]) == 3
    assert not json.loads((tmp_path / "report.json").read_text())["finished"]
    assert script.main([*arguments, "--slice", "3000"]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["finished"]
    assert {"loading", "signals", "tokens", "perplexity"} <= set(found["seconds_by_stage"])
    assert found["seconds"] == pytest.approx(sum(found["seconds_by_stage"].values()))
    assert found["tokens_per_second"]["read"] > 0
    assert found["peak_bytes"] > 1e8
    assert "no peak rates" in found["why_no_share"]
