"""A whole calibration: the quick grid as a guard against regressions, resuming, the page, and the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mspgt_tl.calibration.grid import NULLS, Cell, Grid, case_seed, draw_plan, make_grid, measure_case
from mspgt_tl.calibration.measure import Effort, Measured, shuffled_depth
from mspgt_tl.calibration.simulate import CurveCell
from mspgt_tl.cli import app
from mspgt_tl.config import ProbeConfig
from mspgt_tl.errors import ConfigError, StoreError, UnknownModelError
from mspgt_tl.models.synthetic import Nuisances, PlantedModel
from mspgt_tl.pipeline import calibration
from mspgt_tl.pipeline.calibration import TABLE, Calibration, calibrate, stage_name
from mspgt_tl.store import Run
from mspgt_tl.workers import Shard, Workers

TINY = Effort(train_trees=60, dev_trees=60, probe=ProbeConfig(hidden=8, epochs=2, repeats=1), resamples=100)

SMALL = Grid(
    "small",
    tuple(Cell(f"strength {s:g}", "planted", 1, n_layers=6, strength=s) for s in (0.25, 0.5, 0.75, 1.0)),
    TINY,
    (CurveCell(11, "pair", 0.1, 0.1, 4),),
)


def calibrate_small(folder: str | Path) -> None:
    """Run a calibration of four small models, telling on the standard output how many are on disk."""
    with patch.object(calibration, "make_grid", lambda _size, *, model: SMALL):
        calibrate("small", out=folder, progress=lambda stage, done, total: print(stage, done, flush=True))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """The quick grid, measured and judged."""
    return calibrate("quick", out=tmp_path_factory.mktemp("runs") / "quick")


@pytest.mark.slow
def test_quick_grid_shows_no_regression(quick: Calibration) -> None:
    """Nothing is beyond its target by more than Monte-Carlo error, on models or on simulated curves."""
    assert [t for t in quick.targets if t.state == "missed"] == []
    own = quick.table[quick.table["detector"] == "mspgt"].set_index("cell")
    assert own.loc["strength 1, 10 blocks", "found"] >= 0.75
    assert (own.loc[own["group"] == "simulated", "found"] > 0.8).all()


@pytest.mark.slow
def test_quick_grid_can_fail(quick: Calibration) -> None:
    """The same guard applied to the published rule does sound: it claims boundaries where there are none."""
    table = quick.table.copy()
    swapped = table["detector"].replace({"mspgt": "ours", "paper": "mspgt"})
    published = Calibration(table.assign(detector=swapped), quick.manifest, quick.folder)
    assert {t.cell for t in published.targets if t.state == "missed"} >= {"jittered"}


@pytest.mark.slow
def test_calibration_resumes_and_judges_to_the_same_table(quick: Calibration) -> None:
    """Measured chunks are not measured again, and judging them anew gives the same numbers to the last digit."""
    before = Run.read(quick.folder).manifest["stages"]
    again = calibrate("quick", out=quick.folder, workers=Workers(2))
    assert Run.read(quick.folder).manifest["stages"] == before
    pd.testing.assert_frame_equal(again.table, quick.table)
    with pytest.raises(StoreError, match="another run"):
        calibrate("quick", out=quick.folder, seed=1)


def test_nothing_measured_is_said_so(tmp_path: Path) -> None:
    """Judging an empty folder is an error, not a table of nothing."""
    with pytest.raises(StoreError, match="no finished case"):
        calibrate("full", out=tmp_path / "run", measure=False)


def test_unmeasured_cells_stay_in_the_table(tmp_path: Path) -> None:
    """A cell without a case is a row of dashes and no target."""
    measured = Cell("one", "flat", 2, n_layers=6)
    grid = Grid("tiny", (measured, Cell("two", "planted", 2, n_layers=6)), TINY)
    run = Run.create(tmp_path / "run", {"command": "calibrate", "grid": "tiny", "seed": 0})
    name, data = calibration.measure_chunk(measured, range(0, 2), TINY, 0)
    run.stage(name, lambda: data)
    calibration.judge_grid(run, grid, seed=0, workers=Workers())
    result = calibration.KIND.read(run)
    assert result.table.groupby("cell")["cases"].max().to_dict() == {"one": 2, "two": 0}
    assert {target.cell for target in result.targets} == {"one"}
    assert "2 of 4 cases" in calibration.KIND.write_page(result).read_text(encoding="utf-8")


@pytest.mark.slow
def test_page_and_table_are_written_and_work_offline(quick: Calibration) -> None:
    """The page holds every cell and detector, and refers to nothing outside itself."""
    page = (quick.folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    for name in {*quick.table["cell"], *quick.table["detector"]}:
        assert str(name) in page
    assert len(pd.read_csv(quick.folder / TABLE)) == len(quick.table)


def calibrate_shard(folder: str | Path, shard: str) -> None:
    """Measure one part of the four small models."""
    with patch.object(calibration, "make_grid", lambda _size, *, model: SMALL):
        calibration.measure_shard(Shard.parse(shard), "small", out=folder)


@pytest.mark.slow
def test_two_shards_at_once_are_the_serial_calibration(tmp_path: Path) -> None:
    """Two processes at once, each with its part, then taken over: every case to the bit, none measured again."""
    code = "import sys; from tests.test_calibration import calibrate_shard as go; go(sys.argv[1], sys.argv[2])"
    together, root = tmp_path / "together", Path(__file__).parents[1]
    command, settings = [sys.executable, "-c", code, str(together)], {**os.environ, "PYTHONPATH": str(root)}
    parts = [subprocess.Popen([*command, f"{i}/2"], cwd=root, env=settings) for i in (1, 2)]
    calibrate_small(tmp_path / "alone")
    assert [part.wait(timeout=300) for part in parts] == [0, 0]
    with patch.object(calibration, "measure_chunk", side_effect=AssertionError("measured again")):
        calibrate_small(together)
    one, other = Run.read(tmp_path / "alone"), Run.read(together)
    assert one.manifest["stages"].keys() == other.manifest["stages"].keys()
    assert len(one.manifest["stages"]) == 4
    for name in one.manifest["stages"]:
        assert one.arrays(name).identical(other.arrays(name))
    assert (tmp_path / "alone" / TABLE).read_bytes() == (together / TABLE).read_bytes()


def test_a_part_of_another_calibration_is_refused(tmp_path: Path) -> None:
    """Parts left by another seed in the same folder are named, not mixed in."""
    run = Run.create(tmp_path, {"command": "calibrate", "seed": 0})
    Run.create(tmp_path / "shards" / "1-of-2", {"command": "calibrate", "seed": 1})
    with pytest.raises(StoreError, match="1-of-2 holds a part of another"):
        calibration.adopt_shards(run)


def test_interrupted_grid_keeps_finished_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid stopped in the middle goes on where it was, and a case does not depend on what ran before it."""
    cells = tuple(Cell(f"flat {i}", "flat", 2, n_layers=6, nuisances={"jitter": 0.05}) for i in range(2))
    grid = Grid("tiny", cells, TINY)
    run = Run.create(tmp_path / "run", {"command": "calibrate"})
    first = calibration.measure_chunk(cells[1], range(0, 2), TINY, 0)
    run.stage(first[0], lambda: first[1])
    seen: list[float] = []
    calibration.measure_grid(
        run, grid, seed=0, workers=Workers(), progress=lambda stage, done, total: seen.append(done)
    )
    assert seen == [2, 4]
    case = measure_case(cells[0], 1, TINY, seed=0)
    stored = dict(calibration.read_cases(run, cells[0]))[1]
    assert np.array_equal(case.measured.curves, stored.measured.curves)


@pytest.mark.slow
def test_killed_calibration_resumes_to_the_same_table(tmp_path: Path) -> None:
    """A process killed in the middle loses the chunk at work, and the table in the end is the same to the last byte."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # A patched grid does not reach another process, so that one runs this file's own function.
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['calibrate_small'](sys.argv[2])"
    command = [sys.executable, "-c", code, __file__, str(killed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line == "cases 1\n")
        process.kill()
    assert process.returncode != 0
    kept = {path: path.stat().st_mtime_ns for path in (killed / f"{s}.nc" for s in Run.read(killed).manifest["stages"])}
    assert 0 < len(kept) < len(SMALL.cells)
    assert not (killed / TABLE).exists()
    calibrate_small(killed)
    calibrate_small(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (killed / TABLE).read_bytes() == (whole / TABLE).read_bytes()


def test_cases_differ_and_repeat() -> None:
    """The same case has the same seed whatever the grid; other cases, cells and seeds have others."""
    a, b = Cell("a", "jittered", 4), Cell("b", "jittered", 40)
    assert case_seed(0, a, 1) == case_seed(0, Cell("a", "jittered", 400), 1)
    assert len({case_seed(0, a, 1), case_seed(0, a, 2), case_seed(0, b, 1), case_seed(1, a, 1)}) == 4
    assert stage_name(a, range(0, 2)) == stage_name(Cell("a", "jittered", 400), range(0, 2))
    assert stage_name(a, range(0, 2)) != stage_name(Cell("a", "jittered", 4, n_layers=8), range(0, 2))


@pytest.mark.parametrize("places", ["pair", "close", "ends", "one"])
def test_planted_gaps_are_where_the_cell_says(places: str) -> None:
    """Pairs are at least 3 apart, ends are the ends, and every gap can come up."""
    cell = Cell("x", "planted", 1, n_layers=8, places=places)  # pyright: ignore[reportArgumentType]
    drawn = [draw_plan(cell, seed=seed).boundaries for seed in range(200)]
    assert all(1 <= gap <= 7 for gaps in drawn for gap in gaps)
    if places == "one":
        assert {gaps[0] for gaps in drawn} == set(range(1, 8))
    elif places == "ends":
        assert set(drawn) == {(1, 7)}
    else:
        apart = {second - first for first, second in drawn}
        assert apart == {3} if places == "close" else apart == {3, 4, 5, 6}


def test_full_grid_has_what_the_published_table_promises() -> None:
    """The first null kinds 400 times, those like pretrained models 100 times, planted cells 40 times, spike-ins 20."""
    grid = make_grid("full")
    nulls = [cell for cell in grid.cells if cell.is_null]
    assert {cell.kind for cell in nulls} == {*NULLS, "spike-in"}
    assert all(cell.cases >= (20 if cell.kind == "spike-in" else 100) for cell in nulls)
    assert sum(cell.cases >= 400 for cell in nulls) == 8
    planted = [cell for cell in grid.cells if not cell.is_null]
    assert all(cell.cases >= (20 if cell.kind == "spike-in" else 40) for cell in planted)
    assert {cell.n_layers for cell in planted if cell.name.startswith("like pretrained")} == {12, 16, 24, 32}
    assert {(c.n_layers, c.strength) for c in planted} >= {(d, s) for d in (8, 48) for s in (0.25, 0.5, 0.75, 1.0)}
    assert len({cell.name for cell in grid.cells}) == len(grid.cells)


def test_depth_shuffle_keeps_values_and_moves_resamples_along() -> None:
    """Each signal keeps its values; resamples are moved as their curve is."""
    curves = np.arange(24.0).reshape(3, 8)
    shuffled = shuffled_depth(Measured(curves, np.stack([curves, curves + 100])), seed=1)
    assert np.array_equal(np.sort(shuffled.curves, axis=1), curves)
    assert np.array_equal(shuffled.resampled[1], shuffled.curves + 100)
    assert not np.array_equal(shuffled.curves[0] - curves[0], shuffled.curves[1] - curves[1])


def test_random_onsets_are_drawn_for_every_case() -> None:
    """`random` draws a block; a sink tied to the massive onset starts with it."""
    nuisances = {"massive_onset": "random", "sink": 0.5, "sink_onset": "massive_onset"}
    plans = [draw_plan(Cell("x", "massive", 1, nuisances=nuisances), seed=s) for s in range(60)]
    assert {plan.nuisances.massive_onset for plan in plans} == set(range(1, 12))
    assert all(plan.nuisances.massive_onset == plan.nuisances.sink_onset for plan in plans)
    assert plans[0] == PlantedModel(12, (), nuisances=Nuisances(**vars(plans[0].nuisances)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": "ful"}, ConfigError, "Did you mean 'full'"),
        ({"size": "quick", "model": "no-such-model"}, UnknownModelError, "no-such-model"),
    ],
)
def test_bad_input_is_named(options: dict, error: type[Exception], message: str, tmp_path: Path) -> None:
    """Each mistake is told before anything is measured or written."""
    with pytest.raises(error, match=message):
        calibrate(options.pop("size"), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_command_prints_targets_and_fills_the_page(quick: Calibration, tmp_path: Path) -> None:
    """`mspgt calibrate --judge-only --json --docs` on a measured folder."""
    page = tmp_path / "page.md"
    page.write_text("# Top\n<!-- tables: made by mspgt calibrate -->\nold\n<!-- end of tables -->\nEnd\n")
    arguments = ["calibrate", "--grid", "quick", "--out", str(quick.folder), "--judge-only", "--jobs", "1"]
    result = CliRunner().invoke(app, [*arguments, "--json", "--docs", str(page)])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert {row["detector"] for row in told["rows"]} >= {"mspgt", "paper", "ruptures", "cka alone"}
    assert {target["state"] for target in told["targets"]} <= {"met", "missed", "unclear"}
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert "jittered" in text
    assert CliRunner().invoke(app, arguments).exit_code == 0
