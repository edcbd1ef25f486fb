"""Reads a study again, and writes its report: one HTML page that works offline, and every table as CSV and as LaTeX."""

from __future__ import annotations

from pathlib import Path

from mspgt_tl.dashboard.sheet import share_plotly
from mspgt_tl.dashboard.study import render_study
from mspgt_tl.dashboard.study_tables import study_tables
from mspgt_tl.escape import to_csv
from mspgt_tl.files import write_atomically
from mspgt_tl.pipeline.shell import Kind, register
from mspgt_tl.study.conclusions import conclusions
from mspgt_tl.study.findings import Findings
from mspgt_tl.study.run import Study, is_planned, open_study

TABLES = "tables"


class _StudyKind(Kind[Findings]):
    """A study has its tables beside its page, and its steps' pages below."""

    def write_page(self, result: Findings) -> Path:
        page = super().write_page(result)
        share_plotly(result.folder)
        return page


def _draw(found: Findings) -> str:
    """Write the tables, and return the page, which has them too."""
    tables, folder = study_tables(found), found.folder / TABLES
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.suffix in (".csv", ".tex") and old.stem not in tables:
            old.unlink()  # of an earlier report, about something that is no longer there
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", to_csv(table.raw))
        write_atomically(folder / f"{name}.tex", table.latex(name))
    return render_study(found, tables, conclusions(found))


KIND = register(_StudyKind("study", "study", is_planned, lambda run: Findings(open_study(run)), _draw))


def load_study(folder: str | Path) -> Study:
    """Read a study from its folder, finished or not.

    Raises:
        StoreError: no study is there, or it was stopped before its first step.
    """
    return KIND.load(folder).study


def write_study_report(study: Study) -> tuple[Path, list[str]]:
    """Write the report of whatever has finished into the study's folder.

    Returns:
        The page's path, and the conclusions in sentences.
    """
    found = Findings(study)
    return KIND.write_page(found), conclusions(found)
