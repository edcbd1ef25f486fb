"""The published tables: one row a cell and detector, the targets, and whether they are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.calibration.score import Rate, Score
from mspgt_tl.cards import MISSING, markdown, number

if TYPE_CHECKING:
    import pandas as pd

RATES = ("alarms", "found", "exact", "coverage")
MAX_ALARMS = 0.05
"""False positives of our verdict, on every null kind."""
SHALLOW = 8
"""Blocks of the shallowest models, whose seven gaps leave the test of existence little room (docs/calibration.md)."""
MIN_FOUND = {1.0: 0.95, 0.5: 0.8}
MIN_FOUND_SHALLOW = {1.0: 0.8}
"""Share of planted boundaries found within one layer, by strength; of the shallowest models apart."""
MIN_COVERAGE = 0.95
OURS = "mspgt"


@dataclass(frozen=True)
class Row:
    """One detector on one cell."""

    cell: str
    group: str
    """`no boundary`, `planted`, `simulated, no boundary` or `simulated`; pandas would read `null` as missing."""
    detector: str
    cases: int
    wanted: int
    """Cases of the whole grid."""
    strength: float
    n_layers: int
    score: Score

    def plain(self) -> dict[str, Any]:
        """Return the row as one flat mapping."""
        flat = {name: value for name, value in vars(self).items() if name != "score"}
        for name in RATES:
            rate: Rate = getattr(self.score, name)
            flat |= {name: rate.value, f"{name}_error": rate.error, f"{name}_low": rate.low, f"{name}_high": rate.high}
        return flat | {"location_error": self.score.error, "width": self.score.width}


@dataclass(frozen=True)
class Target:
    """One thing that was promised, in one cell."""

    cell: str
    what: str
    value: float
    low: float
    high: float
    limit: float
    state: str
    """`met`, `missed` beyond Monte-Carlo error, or `unclear` within it."""


def make_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return all rows as a table."""
    import pandas as pd

    return pd.DataFrame([row.plain() for row in rows])


def check_targets(table: pd.DataFrame) -> list[Target]:
    """Compare our verdict with the targets, cell by cell."""
    ours = table[table["detector"] == OURS]
    return [target for row in ours.to_dict("records") for target in _targets_of(row)]


def _targets_of(row: Mapping[Any, Any]) -> Iterator[Target]:
    if row["cases"] == 0:
        return
    if row["group"].endswith("no boundary"):
        yield _compare(row, "alarms", MAX_ALARMS, at_most=True)
        return
    least = MIN_FOUND_SHALLOW if row["n_layers"] == SHALLOW else MIN_FOUND
    if row["group"] == "planted" and row["strength"] in least:
        yield _compare(row, "found", least[row["strength"]])
    if row["coverage"] == row["coverage"]:
        yield _compare(row, "coverage", MIN_COVERAGE)


def _compare(row: Mapping[Any, Any], what: str, limit: float, *, at_most: bool = False) -> Target:
    value, low, high = (float(row[name]) for name in (what, f"{what}_low", f"{what}_high"))
    is_met = value <= limit if at_most else value >= limit
    is_missed = low > limit if at_most else high < limit
    state = "missed" if is_missed else "met" if is_met else "unclear"
    return Target(str(row["cell"]), what, value, low, high, limit, state)


def to_markdown(table: pd.DataFrame, group: str) -> str:
    """Return the table of a group of cells as Markdown, our verdict and its rivals side by side."""
    part = table[table["group"] == group]
    if part.empty:
        return "No case of this kind was measured.\n"
    detectors = list(dict.fromkeys(part["detector"]))
    cells = [(str(cell), rows.set_index("detector")) for cell, rows in part.groupby("cell", sort=False)]
    cases = [f"{by['cases'].max()} of {by['wanted'].max()}" for _, by in cells]
    if group.endswith("no boundary"):
        columns = ("no boundary in it", "cases", *detectors)
        shown = [[_share(by.loc[name], "alarms") for name in detectors] for _, by in cells]
    else:
        heads = ("found ±1", "exact", "mean error", "any false", "coverage", "width")
        columns = ("planted", "cases", *heads, *detectors[1:])
        shown = [_planted(by, detectors[1:]) for _, by in cells]
    rows = ([cell, count, *told] for (cell, _), count, told in zip(cells, cases, shown, strict=True))
    return markdown(columns, rows) + "\n"


def _planted(by: pd.DataFrame, rivals: Sequence[str]) -> list[str]:
    """Return our verdict on planted boundaries, and what rivals find and falsely claim."""
    own: Any = by.loc[OURS]
    others: Any = by.loc[list(rivals)]
    alarms = {name: _percent(rate) for name, rate in others["alarms"].items()}
    return [
        *(_share(own, "found"), _share(own, "exact"), number(own["location_error"], ".2f"), _share(own, "alarms")),
        *(_share(own, "coverage"), number(own["width"], ".2f")),
        *(f"{_share(by.loc[name], 'found')} ({alarms[name]})" for name in rivals),
    ]


def _percent(value: float) -> str:
    return MISSING if np.isnan(value) else f"{100 * value:.0f} %"


def _share(row: Any, name: str) -> str:
    """Return a share with its 95 % interval."""
    if np.isnan(row[name]):
        return MISSING
    return f"{100 * row[name]:.1f} % [{100 * row[f'{name}_low']:.0f}, {100 * row[f'{name}_high']:.0f}]"
