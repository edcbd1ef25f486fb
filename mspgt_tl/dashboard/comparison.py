"""Several models side by side: where their boundaries lie on relative depth, their evidence, and which differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.boundaries import ALPHA
from mspgt_tl.comparison.models import Comparison
from mspgt_tl.comparison.positions import RANKS, Located
from mspgt_tl.contracts import GAP, Existence, Published
from mspgt_tl.dashboard.drawing import (
    DEPTH_TITLE,
    GREY,
    RUN_COLOURS,
    blank_figure,
    colour_of,
    curve,
    depth_axis,
    depths,
    error_bars,
    row_figure,
    symbol_of,
)
from mspgt_tl.dashboard.sheet import Plot, Section, Sheet, render_sheet
from mspgt_tl.dashboard.study_tables import comparison_tables, lay_out
from mspgt_tl.dashboard.tables import Shown, tabled
from mspgt_tl.dashboard.words import interval_text, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

DASHES = ("solid", "dash", "dot")
BOUNDARY_NAMES = {"LI": "Local → Intermediate", "IG": "Intermediate → Global"}


def places_figure(located: Sequence[Located]) -> go.Figure:
    """Return every model's boundaries on relative depth with their intervals; open markers are not supported."""
    names = [model.name for model in located]
    figure = row_figure(names, DEPTH_TITLE, height=130 + 34 * len(names))
    for rank, boundary in enumerate(RANKS):
        there = [(row, model) for row, model in enumerate(located) if np.isfinite(model.gaps[rank])]
        if not there:
            continue
        colour, depth = colour_of(rank), [float(model.relative[rank]) for _, model in there]
        low, high = np.array([model.intervals[rank] / model.n_layers for _, model in there]).T
        sure = [model.verdicts[rank] in (Existence.SUPPORTED, Published.ACCEPTED) for _, model in there]
        symbols = [symbol_of(rank) + ("" if is_sure else "-open") for is_sure in sure]
        figure.add_scatter(
            x=depth,
            y=[row for row, _ in there],
            mode="markers",
            name=BOUNDARY_NAMES[boundary],
            marker={"size": 11, "color": colour, "line": {"color": colour, "width": 2}, "symbol": symbols},
            error_x=error_bars(depth, low, high, thickness=2, width=4),
            text=[
                f"{model.name}: gap {model.gaps[rank]:.0f} of {model.n_layers} blocks "
                f"{interval_text(model.intervals[rank])}, {model.verdicts[rank]}"
                for _, model in there
            ],
            hovertemplate="%{text}: %{x:.1%}<extra></extra>",
        )
    lost = [(row, model) for row, model in enumerate(located) if model.reason]
    if lost:
        figure.add_scatter(
            x=[0.01] * len(lost),
            y=[row for row, _ in lost],
            mode="text",
            text=[str(model.reason) for _, model in lost],
            textposition="middle right",
            textfont={"color": GREY, "size": 12},
            showlegend=False,
            hoverinfo="skip",
        )
    depth_axis(figure)
    return figure


def evidence_by_depth(located: Sequence[Located]) -> go.Figure:
    """Return the fused evidence of every model on relative depth, its boundaries marked on the curve."""
    figure = blank_figure(height=460, x_title=DEPTH_TITLE, y_title="evidence, 0 to 1")
    for i, model in enumerate(located):
        if (data := model.result) is None:
            continue
        gaps = data["boundary"].values.astype(int)
        is_peak = np.isin(data[GAP].values, gaps)
        dash, sizes = DASHES[i // len(RUN_COLOURS) % len(DASHES)], np.where(is_peak, 12, 4).tolist()
        figure.add_scatter(
            x=depths(data),
            y=data["fused"].values,
            **curve(colour_of(i), 2.5, dash=dash, symbol=symbol_of(i), size=sizes),
            name=model.name,
            customdata=data[GAP].values,
            hovertemplate="gap %{customdata}: %{y:.3f}<extra>" + model.name + "</extra>",
        )
    depth_axis(figure)
    figure.update_yaxes(range=[-0.03, 1.04])
    return figure


def render_comparison(found: Comparison, *, plotly: str | None = None) -> str:
    """Return a comparison as one HTML page that works offline; see `render_sheet`."""
    names = [model.name for model in found.located]
    headline, told = _verdict(found)
    title, heading = f"{len(names)} models compared", f"Boundaries of {', '.join(names)}"
    intro = "A boundary's place is its gap over the number of blocks. Intervals are over text, by bootstrap."
    sheet = Sheet(title, heading, headline, [*told, *found.doubts], intro, _sections(found), [])
    return render_sheet(sheet, plotly=plotly)


def _verdict(found: Comparison) -> tuple[str, list[str]]:
    """Say how many pairs of models differ, and what of that can be believed."""
    tested = found.pairs[found.pairs["p_holm"].notna()]
    if tested.empty:
        return "No two models can be compared: fewer than two of them have two boundaries.", []
    apart = tested[tested["p_holm"] < ALPHA]
    but = ""
    if len(found.doubts) == len(found.located):
        but = ", but all are between candidates, none of which is supported"
    elif found.doubts:
        but = f", but {len(found.doubts)} of {len(found.located)} models have mere candidates"
    headline = f"{len(apart)} of {len(tested)} differences are larger than resampling the text explains{but}."
    rows: list[dict[str, Any]] = apart.to_dict("records")  # pyright: ignore[reportAssignmentType]
    largest = sorted(rows, key=lambda row: -abs(row["difference"]))[:3]
    return headline, [
        f"{BOUNDARY_NAMES[row['boundary']]}: {row['first']} lies {abs(row['difference']):.1f} points "
        f"{'deeper' if row['difference'] > 0 else 'shallower'} than {row['second']}."
        for row in largest
    ]


def _sections(found: Comparison) -> list[Section]:
    located, tables = found.located, tables_of(found)
    places = "; ".join(
        f"{model.name}: {model.reason or ' and '.join(percent(float(at)) for at in model.relative)}"
        for model in located
    )
    lead = (
        "Filled: supported by the test of existence (or accepted by the published rule). Open: a candidate. "
        "Bars hold 95 % of the resamples."
    )
    plot = Plot(places_figure(located), f"Boundaries on relative depth. {places}.")
    sections = [tabled("Where the boundaries lie", lead, tables, ["places"], [plot], short="Places")]
    if any(model.result is not None for model in located):
        lead = "Every model's fused evidence, from its first gap to its last; large markers are its boundaries."
        plot = Plot(evidence_by_depth(located), "Fused evidence of every model on relative depth.")
        sections.append(Section("The evidence on one depth", lead, [plot], short="Evidence"))
    sections += [
        tabled("Do two models differ?", "", tables, ["pairs"], short="Pairs"),
        tabled("Do families?", "", tables, ["families", "labels"], short="Families"),
    ]
    optional = (("replicates", "Do signals agree run by run?"), ("brittleness", "Brittleness"))
    return sections + [tabled(title, "", tables, [name]) for name, title in optional if name in tables]


def tables_of(found: Comparison) -> dict[str, Shown]:
    """Return the tables of a comparison, for its page and its command: those of a study's report, and two more."""
    own = lay_out(places=found.models, replicates=found.replicates)
    tables = {"places": own["places"], **comparison_tables(found), "replicates": own["replicates"]}
    optional = {"replicates": found.replicates, "brittleness": found.brittleness}
    return {name: shown for name, shown in tables.items() if name not in optional or not optional[name].empty}
