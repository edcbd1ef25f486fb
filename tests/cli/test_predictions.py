"""`mspgt predictions` and `mspgt compare`: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mspgt_tl.store import Run


def write_run(folder: Path, name: str, gaps: tuple[int, int]) -> str:
    """A finished run whose every resample finds the same two gaps."""
    import numpy as np
    import xarray as xr

    curve = np.zeros((1, 11))
    curve[0, [gap - 1 for gap in gaps]] = 1
    data = xr.Dataset(
        {
            "resampled": (("resample", "signal", "gap"), np.repeat(curve[None], 120, axis=0)),
            "weight": ("signal", [1.0]),
            "gain": ("signal", [1.0]),
            "boundary": ("found", list(gaps)),
            "verdict": ("found", ["supported", "supported"]),
            "interval": (("found", "bound"), [[float(gap)] * 2 for gap in gaps]),
        },
        attrs={"n_layers": 12},
    )
    run = Run.create(folder, {"model": {"name": name, "architecture": "x", "n_layers": 12, "random_seed": None}})
    run.stage("result", lambda: data)
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [
        write_run(tmp_path / "a", "llama-a", (4, 8)),
        write_run(tmp_path / "b", "llama-b", (4, 9)),
        write_run(tmp_path / "c", "qwen-a", (2, 8)),
    ]


def test_predictions_are_listed(mspgt):
    """All sets for reading, one as JSON with its chance rates."""
    human = mspgt("predictions")
    assert human.returncode == 0, human.stderr
    assert all(name in human.stdout for name in ("paper-v2, version 2", "paper-v3, version 1", "mspgt, version 1"))
    (listed,) = json.loads(mspgt("predictions", "--set", "paper-v2", "--json").stdout)
    assert [p["id"] for p in listed["predictions"]] == ["1.1", "1.2", "2.1", "3.1", "3.2"]
    assert listed["predictions"][0]["chance_at_2"] == pytest.approx(0.26, abs=0.01)
    assert listed["predictions"][4]["chance_at_2"] == pytest.approx(0.38, abs=0.01)


def test_the_paper_s_tables_are_judged(mspgt):
    """Table 3 both ways, the drift, and five verdicts, alike for people and programs."""
    found = json.loads(mspgt("predictions", "--reference", "--set", "paper-v2", "--json").stdout)
    qwen = found["table_3"]["Qwen"]
    assert [round(qwen[kind]["cv_LI"], 3) for kind in ("published", "rounded", "exact")] == [0.06, 0.06, 0.067]
    assert round(found["drift_points"], 1) == 46.4
    judged = {j["id"]: (j["verdict"], j["point_verdict"]) for j in found["sets"][0]["judgements"]}
    assert judged["2.1"] == judged["1.1"] == judged["3.2"] == ("undecided", "supported")
    human = mspgt("predictions", "--reference", "--set", "paper-v2").stdout
    assert all(text in human for text in ("0.060", "0.067", "0.481", "46.4 points", "undecided", "at its word"))


def test_runs_are_judged(runs, mspgt):
    """By positions that exist, and by a file of one's own."""
    own = Path(runs[0]).parent / "own.toml"
    own.write_text(
        'schema = 1\nname = "own"\nversion = 1\nfrozen = "2026-01-01"\n[[prediction]]\nid = "o"\nclaim = "c"\n'
        'statistic = "drift"\nboundary = "LI"\ngroup = "all"\ndirection = "above"\nthreshold = 10\nsource = "me"\n',
        encoding="utf-8",
    )
    (judged,) = json.loads(mspgt("predictions", *runs, "--file", str(own), "--json").stdout)["sets"]
    found = judged["judgements"][0]
    assert (found["verdict"], found["n"]) == ("supported", 3)
    assert found["groups"][0]["value"] == pytest.approx(100 * 2 / 12)


def test_runs_are_compared(runs, mspgt):
    """Positions, families, pairs and labels; a family can be given."""
    found = json.loads(mspgt("compare", *runs, "--family", "qwen-a=llama", "--json").stdout)
    assert {row["family"] for row in found["families"]} == {"llama"}
    assert [row["gap"] for row in found["models"]] == [4, 8, 4, 9, 2, 8]
    human = mspgt("compare", *runs)
    assert human.returncode == 0, human.stderr
    assert all(text in human.stdout for text in ("llama-a", "33.3%", "p (Holm)", "Permutation of the family labels"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predictions", "--set", "paper"], "Unknown prediction set 'paper'. Did you mean"),
        (["predictions", "--file", "nowhere.toml"], "nowhere.toml"),
        (["predictions", "nowhere"], "no run folder"),
        (["predictions", "--effects", "nowhere.csv"], "nowhere.csv"),
        (["predictions", "--measurements", "nowhere.csv"], "nowhere.csv"),
        (["predictions", "--reference", "nowhere"], "not both"),
        (["predictions", "nowhere", "--count", "all"], "Unknown choice of --count 'all'"),
        (["compare", "nowhere"], "two or more runs, got 1"),
        (["compare", "nowhere", "elsewhere"], "no run folder"),
        (["compare", "nowhere", "elsewhere", "--family", "x"], "--family needs NAME=VALUE, got 'x'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, mspgt):
    """No traceback."""
    monkeypatch.chdir(tmp_path)
    done = mspgt(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error:") == 1


@pytest.mark.parametrize("command", ["intervene", "theory", "calibrate", "study"])
def test_runs_of_another_kind_are_named(command, runs, tmp_path, mspgt):
    """The refusal says what the folder holds and what was needed, not to go on with what has finished."""
    other = tmp_path / "other"
    Run.create(other, {"command": command, "model": {"name": "m"}})
    for arguments in (["compare", runs[0], str(other)], ["predictions", str(other)]):
        done = mspgt(*arguments)
        assert done.returncode == 2
        told = f"{other} holds a run of `mspgt {command}`, no detection: give the folder of a finished `mspgt detect`."
        assert told in " ".join(done.stderr.split())


def test_listing_needs_neither_torch_nor_transformers():
    """It answers at once."""
    code = (
        "import sys; sys.argv = ['mspgt', 'predictions', '--json']\n"
        "from mspgt_tl.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print([n for n in ('torch', 'transformer_lens', 'plotly') if n in sys.modules], file=sys.stderr)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == "[]\n"
