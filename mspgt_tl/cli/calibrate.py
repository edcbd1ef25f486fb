"""`mspgt calibrate`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mspgt_tl.cli.console import JsonFlag, app, out, progress_bars

if TYPE_CHECKING:
    from mspgt_tl.pipeline.calibration import Calibration


@app.command()
def calibrate(
    grid: Annotated[
        str, typer.Option(help="full, pretrained (models like pretrained ones and spike-ins), or quick.")
    ] = "full",
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder; an interrupted run resumes. Default: runs/calibration-GRID"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every case.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    model: Annotated[
        str, typer.Option(help="Embedded model: its shuffles and random twins are nulls.")
    ] = "llama2-mini",
    judge_only: Annotated[
        bool, typer.Option("--judge-only", help="Judge the cases measured so far, without measuring more.")
    ] = False,
    docs: Annotated[
        Path | None, typer.Option(help="Markdown page whose tables to replace, such as docs/calibration.md.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how often the verdict is right: false alarms, power and coverage on models of known answer."""
    from mspgt_tl.calibration.report import render_tables, replace_tables
    from mspgt_tl.errors import StoreError
    from mspgt_tl.pipeline import calibration

    if docs is not None and not docs.is_file():
        raise StoreError(f"{docs} is no page to put tables into.")
    folder = out_folder or Path("runs") / f"calibration-{grid}"
    with progress_bars() as bars:
        result = calibration.calibrate(
            grid, out=folder, seed=seed, jobs=jobs, model=model, measure=not judge_only, progress=bars
        )
    if docs is not None:
        page = replace_tables(docs.read_text(encoding="utf-8"), render_tables(result.table, result.manifest))
        docs.write_text(page, encoding="utf-8")
    print_calibration(result, as_json=as_json)


def print_calibration(result: Calibration, *, as_json: bool) -> None:
    """Print what was promised of the verdict, whether it holds, and where the page lies."""
    from mspgt_tl.pipeline.calibration import REPORT

    if as_json:
        targets = [asdict(target) for target in result.targets]
        rows = json.loads(result.table.to_json(orient="records"))
        print(json.dumps({"run": str(result.folder), "targets": targets, "rows": rows}, indent=1))
        return
    table = Table(title="Targets of our verdict")
    for column in ("cell", "measure", "value", "95 %", "limit", "state"):
        table.add_column(column, justify="left" if column in ("cell", "measure", "state") else "right")
    for t in result.targets:
        table.add_row(t.cell, t.what, f"{t.value:.1%}", f"{t.low:.1%} … {t.high:.1%}", f"{t.limit:.0%}", t.state)
    out.print(table)
    out.print(f"Dashboard: {(result.folder / REPORT).resolve()}", soft_wrap=True, highlight=False)
