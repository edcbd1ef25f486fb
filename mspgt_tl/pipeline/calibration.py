"""A calibration: many models of known answer, measured in parallel, chunk by chunk, in a folder that resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.calibration.detectors import DETECTORS
from mspgt_tl.calibration.grid import Case, Cell, Grid, make_grid, measure_case
from mspgt_tl.calibration.measure import NAMES, Effort, Measured
from mspgt_tl.calibration.score import Outcome, judge, score
from mspgt_tl.calibration.simulate import CurveCell, simulate
from mspgt_tl.calibration.tables import Row, Target, check_targets, make_frame
from mspgt_tl.cards import card
from mspgt_tl.config import hash_plain, to_plain
from mspgt_tl.contracts import GAP, RESAMPLE, SIGNAL, Progress
from mspgt_tl.errors import StoreError
from mspgt_tl.escape import read_csv, to_csv
from mspgt_tl.models.names import check_weights, find_source, unknown_model
from mspgt_tl.pipeline.shell import Kind, claim, register
from mspgt_tl.progress import telling
from mspgt_tl.store import Run
from mspgt_tl.workers import PATIENCE, Shard, Workers

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

CASE = "case"
TABLE, SHARDS = "calibration.csv", "shards"


@dataclass(frozen=True, repr=False)
class Calibration:
    """How often the instrument was right."""

    table: pd.DataFrame
    """One row a cell and detector."""
    manifest: Mapping[str, Any]
    folder: Path

    def __repr__(self) -> str:
        states = [target.state for target in self.targets]
        told = ", ".join(f"{states.count(state)} {state}" for state in ("met", "missed", "unclear"))
        return f"Calibration in {self.folder}: {self.table['cell'].nunique()} cells; targets: {told}."

    def _repr_html_(self) -> str:
        return card(repr(self), [], self.summary())

    def summary(self) -> pd.DataFrame:
        """Return one row a target: what was promised, what was measured, and whether it holds."""
        import pandas as pd

        return pd.DataFrame([vars(target) for target in self.targets])

    @property
    def targets(self) -> list[Target]:
        """What was promised, and whether it holds."""
        return check_targets(self.table)


def calibrate(
    size: str = "full",
    *,
    out: str | Path,
    seed: int = 0,
    workers: Workers | None = None,
    model: str = "llama2-mini",
    measure: bool = True,
    progress: Progress | bool | None = None,
) -> Calibration:
    """Measure every case of a grid, resuming what the folder already holds, then judge all of them anew.

    Args:
        size: `full`, `pretrained` or `quick`.
        out: the run's folder; tables and the page are written there.
        workers: how many chunks of cases are measured at a time, one thread each, and where.
        model: embedded model whose shuffles and random-weight twins are among the nulls.
        measure: False judges the cases that are there and measures none.

    Raises:
        ConfigError: no such grid.
        StoreError: the folder holds another run, or nothing to judge.
    """
    grid, identity = _identify(size, seed, model)
    workers = workers or Workers()

    def work(run: Run) -> None:
        adopt_shards(run)
        if measure:
            measure_grid(run, grid, seed=seed, workers=workers, progress=told)
        judge_grid(run, grid, seed=seed, workers=workers, progress=told)

    cases = sum(cell.cases for cell in grid.cells)
    plan = f"Calibration: {cases:,} cases in {len(grid.cells)} cells, {workers.count} at a time."
    with telling(progress) as told:
        return KIND.make(out, identity, work, told, plan)


def _identify(size: str, seed: int, model: str) -> tuple[Grid, dict[str, Any]]:
    grid, source = make_grid(size, model=model), find_source(model)
    if source is None:
        raise unknown_model(model)
    weights = {"name": model, "sha256": check_weights(source)}
    return grid, {"grid": grid.name, "seed": seed, "effort": to_plain(grid.effort), "model": weights}


def measure_shard(
    shard: Shard,
    size: str = "full",
    *,
    out: str | Path,
    seed: int = 0,
    workers: Workers | None = None,
    model: str = "llama2-mini",
    progress: Progress | bool | None = None,
) -> Path:
    """Measure one part of a grid's cases in a run of its own; `calibrate` in the same folder takes all parts over.

    Args:
        shard: which part; the others may be measured at the same time.
        out: the folder that the parts share.

    Returns:
        The part's folder.

    Raises:
        ConfigError: no such grid.
        StoreError: the folder holds another run, or this part is being measured elsewhere.
    """
    grid, identity = _identify(size, seed, model)
    identity = {"command": KIND.command, **identity}
    claim(Path(out), identity, patience=PATIENCE)
    run = Run.create(Path(out) / SHARDS / str(shard), identity)
    with telling(progress) as told:
        measure_grid(run, grid, seed=seed, workers=workers or Workers(), shard=shard, progress=told)
    return run.folder


def adopt_shards(run: Run) -> None:
    """Take over what parts have measured so far.

    Raises:
        StoreError: a part is of another calibration, or damaged.
    """
    for folder in sorted((run.folder / SHARDS).glob("*/")):
        part = Run.read(folder)
        if part.manifest["fingerprint"] != run.manifest["fingerprint"]:
            raise StoreError(f"{folder} holds a part of another calibration: remove it, or choose another --out.")
        for name in part.manifest["stages"]:
            run.adopt(name, part)


def _read(run: Run) -> Calibration:
    return Calibration(read_csv(run.content(TABLE)), run.manifest, run.folder)


def _draw(result: Calibration) -> str:
    from mspgt_tl.dashboard.calibration import render_calibration

    return render_calibration(result)


KIND = register(Kind("calibrate", "calibration", lambda run: (run.folder / TABLE).is_file(), _read, _draw))


def judge_grid(run: Run, grid: Grid, *, seed: int, workers: Workers, progress: Progress | None = None) -> None:
    """Let every detector judge all cases measured so far, and keep the table."""
    if not run.manifest["stages"]:
        raise StoreError(f"{run.folder} holds no finished case yet.")
    work = [(run.folder, cell, seed) for cell in (*grid.cells, *grid.curves)]
    rows = []
    for done, found in enumerate(workers.run(judge_any, work, folder=run.folder), 1):
        rows += found
        if progress:
            progress("judging", done, len(work))
    order = {name: i for i, name in enumerate([c.name for c in grid.cells] + [c.name for c in grid.curves])}
    rows.sort(key=lambda row: (order[row.cell], list(DETECTORS).index(row.detector)))
    table = make_frame(rows)
    run.keep(TABLE, to_csv(table))


def judge_any(folder: Path, cell: Cell | CurveCell, seed: int) -> list[Row]:
    """Judge the finished cases of a cell, or simulated curves."""
    return judge_cell(folder, cell) if isinstance(cell, Cell) else judge_curves(cell, seed)


def judge_cell(folder: Path, cell: Cell) -> list[Row]:
    """Let every detector judge the finished cases of a cell."""
    run = Run.read(folder)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in DETECTORS}
    for index, case in read_cases(run, cell):
        for name, detector in DETECTORS.items():
            outcomes[name].append(judge(detector(case.measured, index), case.planted, case.rivals))
    group = "no boundary" if cell.is_null else "planted"
    return [
        Row(cell.name, group, name, len(found), cell.cases, cell.strength, cell.n_layers, score(found))
        for name, found in outcomes.items()
    ]


def judge_curves(cell: CurveCell, seed: int) -> list[Row]:
    """Let our verdict, the published rule and `ruptures` judge simulated curves."""
    names = ("mspgt", "paper", "ruptures")
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for index, (measured, planted) in enumerate(simulate(cell, seed=seed)):
        for name in names:
            outcomes[name].append(judge(DETECTORS[name](measured, index), planted))
    group = "simulated, no boundary" if cell.places == "none" else "simulated"
    return [
        Row(cell.name, group, name, len(found), cell.cases, 1.0, cell.n_gaps + 1, score(found))
        for name, found in outcomes.items()
    ]


def measure_grid(
    run: Run,
    grid: Grid,
    *,
    seed: int,
    workers: Workers,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> None:
    """Measure every chunk that the run does not hold yet, of all of them or of a part."""
    every = sorted(((c, chunk) for c in grid.cells for chunk in c.chunks()), key=_turn)
    chunks = shard.pick(every) if shard else every
    missing = [(cell, chunk) for cell, chunk in chunks if stage_name(cell, chunk) not in run.manifest["stages"]]
    done, total = sum(len(c) for _, c in chunks) - sum(len(c) for _, c in missing), sum(len(c) for _, c in chunks)
    if progress:
        progress("cases", done, total)
    work = [(cell, chunk, grid.effort, seed) for cell, chunk in missing]
    for name, dataset in workers.run(measure_chunk, work, folder=run.folder):
        run.stage(name, lambda dataset=dataset: dataset)
        done += dataset.sizes[CASE]
        if progress:
            progress("cases", done, total)


def _turn(item: tuple[Cell, range]) -> float:
    """Return when a chunk's turn comes: all cells grow together, large and shallow ones faster.

    An unfinished run then has the whole table, with fewer cases.
    """
    cell, chunk = item
    return chunk.start / cell.cases**0.5 * cell.n_layers


def stage_name(cell: Cell, chunk: range) -> str:
    """Return the stage that holds these cases; it changes with anything in the cell but their number."""
    plain = {name: value for name, value in to_plain(cell).items() if name != "cases"}
    return f"cases-{hash_plain(plain)[:10]}-{chunk.start}-{chunk.stop}"


def measure_chunk(cell: Cell, chunk: range, effort: Effort, seed: int) -> tuple[str, xr.Dataset]:
    """Measure some cases of a cell in this process, on one thread."""
    import torch
    import xarray as xr

    torch.set_num_threads(1)
    cases = [measure_case(cell, index, effort, seed=seed) for index in chunk]
    gaps = np.full((len(cases), 2), np.nan)
    rivals = np.full(len(cases), np.nan)
    for row, case in enumerate(cases):
        gaps[row, : len(case.planted)] = case.planted
        rivals[row] = case.rivals[0] if case.rivals else np.nan
    data = xr.Dataset(
        {
            "curve": ((CASE, SIGNAL, GAP), np.stack([case.measured.curves for case in cases])),
            "resampled": (
                (CASE, RESAMPLE, SIGNAL, GAP),
                np.stack([case.measured.resampled for case in cases]).astype(np.float32),
            ),
            "planted": ((CASE, "found"), gaps),
            "rival": (CASE, rivals),
        },
        coords={CASE: list(chunk), SIGNAL: list(NAMES)},
        attrs={"cell": cell.name},
    )
    return stage_name(cell, chunk), data


def read_cases(run: Run, cell: Cell) -> Iterator[tuple[int, Case]]:
    """Yield the finished cases of a cell with their numbers."""
    null_curves = run.manifest["identity"].get("effort", {}).get("null_curves", Measured.null_curves)
    for chunk in cell.chunks():
        name = stage_name(cell, chunk)
        if name not in run.manifest["stages"]:
            continue
        data = run.arrays(name)
        for row, index in enumerate(data[CASE].values):
            planted, rival = data["planted"].values[row], float(data["rival"].values[row])
            yield (
                int(index),
                Case(
                    Measured(data["curve"].values[row], data["resampled"].values[row].astype(np.float64), null_curves),
                    tuple(int(gap) for gap in planted[np.isfinite(planted)]),
                    () if np.isnan(rival) else (int(rival),),
                ),
            )
