"""How commands show numbers, intervals, times, sizes and tables: the one place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from mspgt_tl.cards import MISSING, number
from mspgt_tl.escape import one_line


def span(low: float | None, high: float | None, form: str = ".3g") -> str:
    """Return an interval as a table shows it.

    >>> span(1.0, 3.0, ".0f"), span(None, None)
    ('1 … 3', '–')
    """
    if low is None or math.isnan(low):
        return MISSING
    return f"{number(low, form)} … {number(high, form)}"


def cell(value: Any) -> str | Text:
    """Return any plain value as a table shows it; a text with a style of its own stays."""
    if isinstance(value, Text):
        return value
    if value is None or isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return span(*value)
    return one_line(str(value))


def size(count: float) -> str:
    """Return bytes as a newcomer reads them.

    >>> size(532), size(7e6), size(3.2e9)
    ('1 kB', '7 MB', '3.2 GB')
    """
    if math.isnan(count):
        return "?"
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def make_table(
    title: str,
    columns: Mapping[str, str] | Sequence[str],
    rows: Iterable[Sequence[Any] | Mapping[str, Any]],
    *,
    left: Iterable[str] = (),
    fold: Iterable[str] = (),
) -> Table:
    """Return a table of plain values that stays readable in 80 columns.

    Args:
        columns: titles, or titles by the name of a row's value.
        rows: values in the order of the columns, or by name.
        left: titles of columns of words; all others are of numbers.
        fold: titles of columns that may take several lines.
    """
    table = Table(title=one_line(title), box=SIMPLE, padding=(0, 1, 0, 0), title_justify="left")
    words, folded = set(left), set(fold)
    titles = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
    for head in titles:
        table.add_column(
            head,
            justify="left" if head in words else "right",
            no_wrap=head not in folded,
            overflow="fold" if head in folded else "ellipsis",
        )
    for row in rows:
        values = [row.get(name) for name in columns] if isinstance(row, Mapping) else row
        table.add_row(*map(cell, values))
    return table
