"""Rival readings of depth on the page: where each puts its boundaries, beside the fused ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.boundaries import MIN_RELIABILITY
from mspgt_tl.contracts import GAP
from mspgt_tl.dashboard.drawing import GAP_TITLE, error_bars, gap_axis, points, row_figure, thin_boundaries
from mspgt_tl.dashboard.sheet import Plot, Section, Table
from mspgt_tl.dashboard.words import MISSING, interval_text, number, percent
from mspgt_tl.rivals import RIVAL, rival_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

DEFINITION = (
    "Each rival is one signal on the same pass, resampled with the same draws; it is never fused, and a signal alone "
    "cannot be tested for existence. "
)


def rivals_section(data: xr.Dataset, rivals: xr.Dataset | None) -> list[Section]:
    """Return the rivals' section; none where they were not watched."""
    if rivals is None:
        return []
    rows = rival_rows(rivals)
    told = [f"{row['rival']}: {', '.join(map(str, row['boundaries'])) or 'none'}" for row in rows]
    gaps = [int(gap) for gap in rivals["found"].values]
    columns = ("rival", "reliability", "boundaries with 95 % interval", "correlation with the fused curve")
    near = tuple(f"within one of gap {gap} (by chance)" for gap in gaps)
    table = Table("Rivals and their agreement with the fused boundaries", (*columns, *near), [*map(_row, rows)])
    lead = (
        f"Where {len(rows)} other signals put their boundaries; dashed lines are the fused ones. If all lay on one "
        "gap, it would not matter which signal one believes."
    )
    plot = Plot(rivals_figure(data, rivals, rows), "Boundaries by rival: " + "; ".join(told) + ".")
    sources = zip(rivals["title"].values, rivals["source"].values, strict=True)
    described = "; ".join(f"{title}: {source.removesuffix('; N')}" for title, source in sources)
    title = "What do other readings of depth say?"
    return [Section(title, lead, [plot], f"{DEFINITION}{described}. N.", tables=[table], short="Rivals")]


def _row(row: dict[str, Any]) -> list[str]:
    places = zip(row["boundaries"], row["intervals"], strict=True)
    flat = np.isfinite(row["reliability"]) and row["reliability"] < MIN_RELIABILITY
    low, high = row["correlation_interval"]
    shown = f"{number(row['correlation'], 2)} [{number(low, 2)}, {number(high, 2)}]"
    return [
        row["rival"],
        number(row["reliability"], 2),
        ", ".join(f"{gap} {interval_text(np.array(one))}" for gap, one in places) or ("flat" if flat else "none"),
        shown if np.isfinite(row["correlation"]) else MISSING,
        *(f"{percent(one['within_one'])} ({percent(one['chance'])})" for one in row["agreement"]),
    ]


def rivals_figure(data: xr.Dataset, rivals: xr.Dataset, rows: list[dict[str, Any]]) -> go.Figure:
    """Draw every rival's boundaries with their intervals, one row a rival."""
    names = [str(name) for name in rivals[RIVAL].values]
    figure = row_figure(names, GAP_TITLE, height=130 + 30 * len(names))
    thin_boundaries(figure, data["boundary"].values)
    for i, row in enumerate(rows):
        gaps, intervals = np.array(row["boundaries"], dtype=float), np.array(row["intervals"]).reshape(-1, 2)
        figure.add_scatter(
            x=gaps,
            y=[i] * len(gaps),
            **points(i, 10),
            error_x=error_bars(gaps, intervals[:, 0], intervals[:, 1], thickness=1.5),
            name=row["rival"],
            hovertemplate=f"{row['rival']}: {GAP} %{{x}}<extra></extra>",
            showlegend=False,
        )
    gap_axis(figure, data)
    return figure
