"""The three questions that a study's report answers first, each with one picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP
from mspgt_tl.dashboard.drawing import BOUNDARY, GREY, INK, RUN_COLOURS, SYMBOLS, blank_figure, name_rows
from mspgt_tl.dashboard.sheet import Plot, Section
from mspgt_tl.dashboard.study_tables import Shown

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
    sections, first = [], found.study.config.first_corpus
    trained = {
        model: run.data
        for (corpus, model), run in found.detections.items()
        if corpus == first and "@random:" not in model and KEPT in run.data.get("variant", ())
    }
    if "rules" in tables:
        table = tables["rules"]
        plots = [Plot(onset_figure(trained), _onset_summary(trained))] if trained else []
        sections.append(
            Section(
                "Boundary or BOS?",
                "1 − CKA with first tokens among the rows and without them; grey stripes are gaps where a massive "
                "activation or a sink starts or ends. What is left without those tokens can be about language.",
                plots,
                tables=[table.table()],
            )
        )
        sections.append(
            Section(
                "Two boundaries in every model?",
                "The same rules on trained weights, on random ones, and on the same text with its words shuffled. A "
                "rule that finds two boundaries in each of them finds them because it always does.",
                [Plot(rules_figure(table.raw), "Boundaries by model and rule.")],
            )
        )
    if "ratios" in tables:
        sections.append(
            Section(
                "493 times as brittle, or an unequal dose?",
                "KL of the next token under noise in one scale, for four ways to give scales the same dose; grey bars "
                "are stretches of as many blocks elsewhere.",
                [Plot(dose_figure(tables["doses"].raw), "KL by model, scale and dose.")],
                tables=[tables["ratios"].table(), tables["doses"].table()],
            )
        )
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
        for gap in gaps[data["onset"].values != 0]:
            # plotly annotates rows and columns as text, and takes numbers.
            place: dict[str, Any] = {"row": row, "col": 1}
            figure.add_vrect(
                x0=gap - 0.5, x1=gap + 0.5, fillcolor=GREY, opacity=0.3, line_width=0, layer="below", **place
            )
        curves = {
            "first tokens among the rows": (data["audit_curve"].sel(variant=KEPT).values, BOUNDARY, "dash"),
            "data tokens only": (data["curve"].sel(signal="cka").values, INK, "solid"),
        }
        for name, (values, colour, dash) in curves.items():
            figure.add_scatter(
                x=gaps,
                y=values,
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 5},
                name=name,
                showlegend=row == 1,
                hovertemplate="gap %{x}: %{y:.3f}<extra></extra>",
                row=row,
                col=1,
            )
        figure.update_yaxes(title="1 − CKA", rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title="gap", row=len(panels), col=1)
    figure.update_annotations(font={"size": 12})
    return figure


def rules_figure(table: pd.DataFrame) -> go.Figure:
    """Draw every rule's boundaries, one row for a model and what was done to it."""
    names = list(dict.fromkeys(table["model"] + ", " + table["kind"]))
    figure = blank_figure(height=140 + 44 * len(names), x_title="gap", y_title="", top=60)
    readings = list(dict.fromkeys(table["reading"]))
    for i, reading in enumerate(readings):
        rows = table[table["reading"] == reading]
        shift = (i - (len(readings) - 1) / 2) * 0.18
        places = [
            (gap, names.index(f"{row['model']}, {row['kind']}") + shift)
            for row in rows.to_dict("records")
            for gap in row["boundaries"]
        ]
        # A rule that names nothing is told in the legend all the same.
        figure.add_scatter(
            x=[gap for gap, _ in places] or [None],
            y=[at for _, at in places] or [None],
            mode="markers",
            marker={"color": RUN_COLOURS[i % len(RUN_COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 10},
            name=reading if places else f"{reading}: none",
            hovertemplate="gap %{x}<extra></extra>",
        )
    name_rows(figure, names)
    return figure


def dose_figure(table: pd.DataFrame) -> go.Figure:
    """Draw KL by model and dose, one symbol a scale, the range of the controls behind each."""
    names = list(dict.fromkeys(table["model"] + ", " + table["dose"]))
    scales = list(dict.fromkeys(table["scale"]))
    figure = blank_figure(height=140 + 36 * len(names), x_title="KL(clean ‖ noised), nats per token", y_title="")
    for i, scale in enumerate(scales):
        rows = table[table["scale"] == scale]
        shift = (i - (len(scales) - 1) / 2) * 0.24
        y = [names.index(f"{model}, {dose}") + shift for model, dose in zip(rows["model"], rows["dose"], strict=True)]
        for at, low, high in zip(y, rows["controls_low"], rows["controls_high"], strict=True):
            if np.isfinite(low):
                line = {"color": "rgba(118,118,118,0.45)", "width": 8}
                figure.add_scatter(
                    x=[low, high], y=[at, at], mode="lines", line=line, hoverinfo="skip", showlegend=False
                )
        figure.add_scatter(
            x=rows["kl"],
            y=y,
            mode="markers",
            marker={"color": RUN_COLOURS[i % len(RUN_COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9},
            text=rows["blocks"],
            name=scale,
            hovertemplate="blocks %{text}: %{x:.3g} nats<extra></extra>",
        )
    figure.update_xaxes(type="log")
    name_rows(figure, names)
    return figure
