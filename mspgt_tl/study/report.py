"""Writes a study's report: one HTML page that works offline, and every table as CSV and as LaTeX."""

from __future__ import annotations

from pathlib import Path

from mspgt_tl.dashboard.sheet import share_plotly
from mspgt_tl.dashboard.study import render_study
from mspgt_tl.dashboard.study_tables import study_tables
from mspgt_tl.escape import to_csv
from mspgt_tl.files import write_atomically
from mspgt_tl.store import Run
from mspgt_tl.study.conclusions import conclusions
from mspgt_tl.study.findings import Findings
from mspgt_tl.study.run import Study

REPORT, TABLES = "report.html", "tables"


def write_study_report(study: Study) -> tuple[Path, list[str]]:
    """Write the report of whatever has finished into the study's folder.

    Returns:
        The page's path, and the conclusions in sentences.
    """
    found = Findings(study)
    tables, told = study_tables(found), conclusions(found)
    folder = study.folder / TABLES
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.suffix in (".csv", ".tex") and old.stem not in tables:
            old.unlink()  # of an earlier report, about something that is no longer there
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", to_csv(table.raw))
        write_atomically(folder / f"{name}.tex", table.latex(name))
    page = render_study(found, tables, told)
    run = Run(study.folder, dict(study.manifest))
    written = run.write(REPORT, page)
    share_plotly(study.folder)
    return written, told
