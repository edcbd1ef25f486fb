"""The three questions that a study's report answers first, each with one picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP
from mspgt_tl.dashboard.drawing import (
    BOUNDARY,
    GREY,
    INK,
    beside,
    blank_figure,
    curve,
    error_bars,
    points,
    row_figure,
    translucent,
)
from mspgt_tl.dashboard.sheet import Plot, Section
from mspgt_tl.dashboard.tables import Shown, tabled
from mspgt_tl.dashboard.words import DOSE_WORDS

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

KEPT = "first token kept"
"""The audit's variant of `cka` that has first tokens among its rows."""
PANEL = 190
"""Height of one panel in pixels."""


def question_sections(found: Any, tables: Mapping[str, Shown]) -> list[Section]:
    """Return the sections that have something to show.

    Args:
        found: what the study's runs say, `mspgt_tl.study.findings.Findings`.
        tables: of `study_tables`.
    """
    sections = []
    trained = {
        model: run.data
        for model, run in found.at_home.items()
        if "@random:" not in model and KEPT in run.data.get("variant", ())
    }
    if "rules" in tables:
        plots = [Plot(onset_figure(trained), _onset_summary(trained))] if trained else []
        lead = (
            "1 − CKA with first tokens among the rows and without them; grey stripes are gaps where a massive "
            "activation or a sink starts or ends. What is left without those tokens can be about language."
        )
        sections.append(Section("Boundary or BOS?", lead, plots))
        lead = (
            "The same rules on trained weights, on random ones, and on the same text with its words shuffled. What a "
            "rule also finds without order among the words, or without training, is not about language."
        )
        plot = Plot(rules_figure(tables["rules"].raw), "Boundaries by model and rule.")
        sections.append(tabled("Two boundaries in every model?", lead, tables, ["rules", "power"], [plot]))
    if "ratios" in tables:
        lead = (
            "KL of the next token under noise in one scale, by what is held equal; grey bars are stretches of as many "
            "blocks elsewhere."
        )
        plot = Plot(dose_figure(tables["doses"].raw), "KL by model, scale and dose.")
        sections.append(tabled("493 times as brittle, or an unequal dose?", lead, tables, ["ratios", "doses"], [plot]))
    return sections


def _onset_summary(panels: Mapping[str, xr.Dataset]) -> str:
    told = []
    for model, data in panels.items():
        gaps = data[GAP].values[data["onset"].values != 0]
        told.append(f"{model}: onsets and ends at gaps {', '.join(map(str, gaps)) or 'none'}")
    return "; ".join(told) + "."


def onset_figure(panels: Mapping[str, xr.Dataset]) -> go.Figure:
    """Draw 1 − CKA with and without first tokens, one panel a model, over the gaps where something massive moves."""
    figure = blank_figure(height=PANEL * len(panels) + 90, x_title="", y_title="", top=50)
    figure.set_subplots(rows=len(panels), cols=1, vertical_spacing=0.22 / len(panels), subplot_titles=list(panels))
    for row, data in enumerate(panels.values(), 1):
        gaps = data[GAP].values
        curves = {
            "first tokens among the rows": (data["audit_curve"].sel(variant=KEPT).values, BOUNDARY, "dash"),
            "data tokens only": (data["curve"].sel(signal="cka").values, INK, "solid"),
        }
        for name, (values, colour, dash) in curves.items():
            figure.add_scatter(
                x=gaps,
                y=values,
                **curve(colour, dash=dash, size=5),
                name=name,
                showlegend=row == 1,
                hovertemplate="gap %{x}: %{y:.3f}<extra></extra>",
                row=row,
                col=1,
            )
        for gap in gaps[data["onset"].values != 0]:
            # After the curves, for plotly draws nothing on an empty panel; its annotations call rows text.
            place: dict[str, Any] = {"row": row, "col": 1}
            figure.add_vrect(
                x0=gap - 0.5, x1=gap + 0.5, fillcolor=GREY, opacity=0.3, line_width=0, layer="below", **place
            )
        figure.update_yaxes(title="1 − CKA", rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title="gap", row=len(panels), col=1)
    figure.update_annotations(font={"size": 12})
    return figure


def rules_figure(table: pd.DataFrame) -> go.Figure:
    """Draw every rule's boundaries, one row for a model and what was done to it."""
    names = list(dict.fromkeys(table["model"] + ", " + table["kind"]))
    figure = row_figure(names, "gap", height=140 + 44 * len(names), top=60)
    readings = list(dict.fromkeys(table["reading"]))
    for i, reading in enumerate(readings):
        rows = table[table["reading"] == reading].explode("boundaries").dropna(subset="boundaries")
        # A rule that names nothing is told in the legend all the same.
        figure.add_scatter(
            x=rows["boundaries"].tolist() or [None],
            y=beside(map(names.index, rows["model"] + ", " + rows["kind"]), i, len(readings), 0.18) or [None],
            **points(i, 10),
            name=f"{reading}: none" if rows.empty else reading,
            hovertemplate="gap %{x}<extra></extra>",
        )
    return figure


def dose_figure(table: pd.DataFrame) -> go.Figure:
    """Draw KL by model and dose, one symbol a scale, the range of the controls behind each."""
    figure = kl_figure(table, table["model"] + ", " + table["dose"].map(DOSE_WORDS), each=36)
    figure.update_xaxes(type="log")
    return figure


def kl_figure(table: pd.DataFrame, names: pd.Series, *, each: int) -> go.Figure:
    """Draw KL with its intervals by row and scale, and the range of the controls behind each.

    Args:
        table: with `kl`, `low`, `high`, `controls_low`, `controls_high`, `scale` and `blocks`.
        names: of the figure's row that each of the table's belongs to.
        each: height of a row in pixels.
    """
    rows, scales = list(dict.fromkeys(names)), list(dict.fromkeys(table["scale"]))
    figure = row_figure(rows, "KL(clean ‖ noised), nats per token", height=130 + each * len(rows))
    for i, scale in enumerate(scales):
        own = table[table["scale"] == scale]
        y = beside(map(rows.index, names[own.index]), i, len(scales), 0.24)
        for at, low, high in zip(y, own["controls_low"], own["controls_high"], strict=True):
            if np.isfinite(low):
                figure.add_scatter(
                    x=[low, high],
                    y=[at, at],
                    mode="lines",
                    line={"color": translucent(GREY, 0.45), "width": 9},
                    hovertemplate="controls %{x:.3g}<extra></extra>",
                    showlegend=False,
                )
        figure.add_scatter(
            x=own["kl"],
            y=y,
            **points(i),
            error_x=error_bars(own["kl"], own["low"], own["high"]),
            text=own["blocks"],
            name=scale,
            hovertemplate="blocks %{text}: %{x:.3g} nats<extra></extra>",
        )
    return figure
