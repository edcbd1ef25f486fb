"""Tables made once: raw for CSV, in words for a page, a terminal and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mspgt_tl.dashboard.sheet import Plot, Section, Table
from mspgt_tl.dashboard.words import MISSING, bare_p, estimate, number, percent
from mspgt_tl.escape import to_latex

if TYPE_CHECKING:
    import pandas as pd

Cell = Callable[[Mapping[Any, Any]], str]
"""A cell's text from the row of the raw table."""


@dataclass(frozen=True)
class Shown:
    """One table of a report."""

    caption: str
    raw: pd.DataFrame
    """As the CSV file has it."""
    cells: Mapping[str, Cell]
    """Columns of the table as it is shown."""
    note: str = ""
    chosen: pd.DataFrame | None = None
    """The rows that are shown, where that is not all of them."""

    def text(self) -> pd.DataFrame:
        """Return the table as it is shown, all strings."""
        import pandas as pd

        kept = self.raw if self.chosen is None else self.chosen
        rows = [{name: cell(row) for name, cell in self.cells.items()} for row in kept.to_dict("records")]
        return pd.DataFrame(rows, columns=list(self.cells))

    def table(self, *, wide: bool = False) -> Table:
        """Return it for a page."""
        text = self.text()
        return Table(self.caption, list(text.columns), text.to_numpy().tolist(), self.note, wide)

    def latex(self, label: str) -> str:
        """Return it as a LaTeX table in `booktabs` style; Greek letters and signs need XeLaTeX or LuaLaTeX."""
        cells, caption = self.text().map(to_latex), to_latex(self.caption)
        cells.columns = list(map(to_latex, cells.columns))
        return cells.to_latex(index=False, escape=False, caption=caption, label=f"tab:{label}", longtable=True)


def tabled(
    title: str, lead: str, tables: Mapping[str, Shown], names: Sequence[str], plots: Sequence[Plot] = (), **options: Any
) -> Section:
    """Return a section with those of its tables that are there."""
    return Section(title, lead, plots, tables=[tables[name].table() for name in names if name in tables], **options)


def words(column: str) -> Cell:
    """Show a column as it is; what is missing as a dash."""

    def show(row: Mapping[Any, Any]) -> str:
        value = row[column]
        return MISSING if value is None or value != value or value == "" else str(value)

    return show


def named(*columns: str) -> dict[str, Cell]:
    """Show columns as they are, under their own names."""
    return {column: words(column) for column in columns}


def digits(column: str, count: int = 3) -> Cell:
    """Show a number to so many significant digits."""
    return lambda row: number(row[column], count)


def share(column: str) -> Cell:
    """Show a fraction in per cent."""
    return lambda row: percent(row[column])


def share_bounds(column: str) -> Cell:
    """Show a fraction in per cent, with the interval that `_low` and `_high` after its name hold."""
    return lambda row: estimate(row[column], row[f"{column}_low"], row[f"{column}_high"])


def p_value(column: str) -> Cell:
    """Show a p-value, near 0.05 with the digit that decides."""
    return lambda row: bare_p(row[column])


def fixed(column: str, form: str) -> Cell:
    """Show a number in a fixed format."""
    return lambda row: MISSING if not math.isfinite(row[column]) else format(row[column], form)


def bounds(low: str, high: str, form: str = ".3g") -> Cell:
    """Show an interval; an open end as ∞."""

    def show(row: Mapping[Any, Any]) -> str:
        if not math.isfinite(row[low]):
            return MISSING
        end = "∞" if math.isinf(row[high]) else format(row[high], form)
        return f"[{format(row[low], form)}, {end}]"

    return show
