"""A study in parts: processes at the same time, on one folder, that never disturb each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mspgt_tl.errors import StoreError
from mspgt_tl.pipeline.detection import load_run
from mspgt_tl.store import Run
from mspgt_tl.study import load_study, read_study, run_study
from mspgt_tl.study import run as module
from mspgt_tl.study.plan import make_steps
from mspgt_tl.study.run import units
from mspgt_tl.workers import Shard, Workers

TINY = """
title = "A tiny study"
rivals = false

[corpora.generated]

[models."qwen1.5-mini"]
stages = ["detect"]
[models."llama2-mini@random:0"]
stages = ["detect"]

[detect]
sentences = 200
train_trees = 60
[detect.signals]
tasks = ["pos"]
[detect.probe]
repeats = 1
epochs = 2
[detect.boundaries]
resamples = 100
null_curves = 100
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a model and a random twin of another."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(TINY)
    return folder / "tiny.toml"


@pytest.fixture(scope="module")
def alone(file: Path) -> Path:
    """It, run step by step."""
    out = file.parent / "alone"
    assert not run_study(read_study(file), out=out, name="tiny").unfinished
    return out


def assert_same_runs(one: Path, other: Path) -> None:
    """Every detection of two studies is the same to the bit, rows of curves and resamples included."""
    names = load_study(one).outcomes
    assert names.keys() == load_study(other).outcomes.keys()
    assert len(names) == 2
    for name in names:
        assert load_run(one / name).data.identical(load_run(other / name).data)


def test_units_need_nothing_of_each_other(file: Path) -> None:
    """A unit is a model on a corpus with all that rests on its detection; together they are the whole plan."""
    study = read_study("miniature")
    found = units(study)
    assert len(found) == len(study.models) * len(study.corpora)
    assert sorted(step.name for unit in found for step in unit) == sorted(step.name for step in make_steps(study))
    for unit in found:
        own = {step.name for step in unit}
        assert all(step.after in own for step in unit if step.stage != "detect")


@pytest.mark.slow
def test_two_shards_at_once_are_the_serial_study(file: Path, alone: Path) -> None:
    """Two processes start at the same time on one new folder; the report then needs no run again."""
    out, root = file.parent / "together", Path(__file__).parents[2]
    command = [sys.executable, "-m", "mspgt_tl.cli", "study", str(file), "--out", str(out)]
    parts = [
        subprocess.Popen([*command, "--shard", f"{i}/2"], env={**os.environ, "PYTHONPATH": str(root)}) for i in (1, 2)
    ]
    assert [part.wait(timeout=900) for part in parts] == [0, 0]
    assert_same_runs(alone, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("detect/*/*/*.nc")}
    run_study(read_study(file), out=out, name="tiny")
    assert {path: path.stat().st_mtime_ns for path in out.glob("detect/*/*/*.nc")} == before


@pytest.mark.slow
def test_two_workers_of_ray_are_the_serial_study(file: Path, alone: Path, ray_cluster: None) -> None:
    """Models × corpora on a cluster: the same bytes of every result."""
    out = file.parent / "ray"
    assert not run_study(read_study(file), out=out, name="tiny", workers=Workers(2, "ray")).unfinished
    assert_same_runs(alone, out)


def test_shards_share_a_folder_and_leave_it_to_each_other(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard runs its own units alone, holds no folder but theirs, and the parts add up."""
    ran: list[str] = []

    def finish(folder: Path, config: object, step: module.Step, progress: object) -> None:
        ran.append(step.name)
        Run.create(folder, {"command": "study", "name": "tiny", "config": module.settings_of(read_study(file))})
        (folder / step.name).mkdir(parents=True)
        (folder / step.name / "manifest.json").touch()

    monkeypatch.setattr(module, "_run", finish)
    first = run_study(read_study(file), out=tmp_path, name="tiny", shard=Shard(1, 2))
    assert sorted(first.outcomes) == sorted(ran)
    assert len(ran) == 1
    run_study(read_study(file), out=tmp_path, name="tiny", shard=Shard(2, 2))
    assert sorted(ran) == sorted(step.name for step in make_steps(read_study(file)))
    assert load_study(tmp_path).outcomes.keys() == set(ran)
    assert not load_study(tmp_path).unfinished


def test_a_damaged_outcome_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    path = tmp_path / "outcomes" / "detect" / "a" / "b.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(StoreError, match=r"b\.json is damaged"):
        module.read_outcome(tmp_path, "detect/a/b")
