"""`mspgt calibrate`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mspgt_tl.cli.console import app, out, resumable
from mspgt_tl.cli.format import make_table, number, span
from mspgt_tl.cli.options import ForceFlag, JsonFlag, SeedOption, choose_folder, grouped, out_option
from mspgt_tl.cli.parallel import JobsOption, ParallelOptions
from mspgt_tl.cli.results import Summary, prints, show

if TYPE_CHECKING:
    from mspgt_tl.pipeline.calibration import Calibration


@app.command(
    epilog="""Examples:

    mspgt calibrate --grid quick --jobs 4

    mspgt calibrate --grid quick --judge-only --json
    """,
)
@grouped
def calibrate(
    *,
    grid: Annotated[
        str, typer.Option(help="full, pretrained (models like pretrained ones and spike-ins), or quick.")
    ] = "full",
    out_folder: Annotated[Path | None, out_option("runs/calibration-GRID")] = None,
    seed: SeedOption = 0,
    jobs: JobsOption = 2,
    parallel: ParallelOptions,
    model: Annotated[
        str, typer.Option(help="Embedded model: its shuffles and random twins are nulls.")
    ] = "llama2-mini",
    judge_only: Annotated[
        bool, typer.Option("--judge-only", help="Judge the cases measured so far, without measuring more.")
    ] = False,
    docs: Annotated[
        Path | None, typer.Option(help="Markdown page whose tables to replace, such as docs/calibration.md.")
    ] = None,
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure how often the verdict is right: false alarms, power and coverage on models of known answer."""
    from mspgt_tl.calibration.report import render_tables, replace_tables
    from mspgt_tl.errors import StoreError
    from mspgt_tl.pipeline import calibration

    if docs is not None and not docs.is_file():
        raise StoreError(f"{docs} is no page to put tables into.")
    workers, part = parallel.read(jobs, force=force)
    folder = choose_folder(out_folder, Path("runs") / f"calibration-{grid}", force=force)
    common: dict[str, Any] = {"out": folder, "seed": seed, "workers": workers, "model": model, "progress": True}
    with resumable(folder, given=folder):
        if part:
            calibration.measure_shard(part, grid, **common)
            out.print(f"Part {part.index} of {part.count} is measured. When all are: the same without --shard.")
            return
        result = calibration.calibrate(grid, measure=not judge_only, **common)
    if docs is not None:
        page = replace_tables(docs.read_text(encoding="utf-8"), render_tables(result.table, result.manifest))
        docs.write_text(page, encoding="utf-8")
    show(result, as_json=as_json)


def summarise(result: Calibration) -> Summary:
    """Return a calibration as plain values."""
    targets = [asdict(target) for target in result.targets]
    return {"targets": targets, "rows": json.loads(result.table.to_json(orient="records"))}


@prints("calibrate", summarise)
def print_calibration(summary: Summary) -> None:
    """Print what was promised of the verdict, and whether it holds."""
    rows = []
    for t in summary["targets"]:
        value, ends = number(t["value"], ".1%"), span(t["low"], t["high"], ".1%")
        rows.append((t["cell"], t["what"], value, ends, f"{t['limit']:.0%}", t["state"]))
    columns = ("cell", "measure", "value", "95 %", "limit", "state")
    out.print(make_table("Targets of our verdict", columns, rows, left=("cell", "measure", "state")))
