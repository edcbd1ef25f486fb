"""Figures over gaps: the evidence curve, each signal in its own unit, and the statistic of the existence test."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP, RESAMPLE, SIGNAL
from mspgt_tl.dashboard.drawing import (
    BOUNDARY,
    GAP_TITLE,
    GREY,
    INK,
    SIGNAL_COLOURS,
    blank_figure,
    colour_of,
    curve,
    depths,
    draw_band,
    gap_axis,
    label_left,
    label_space,
    mark_boundaries,
    symbol_of,
    thin_boundaries,
    translucent,
)
from mspgt_tl.dashboard.words import is_tested, why_left_out
from mspgt_tl.stats import TAILS

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

TOP = 1.04


def evidence_figure(data: xr.Dataset) -> go.Figure:
    """Draw signals as they enter the fusion, the fused evidence with its band, and the boundaries (eq. 6).

    Intervals of the boundaries are bars under the curves.
    """
    space = label_space(data)
    figure = blank_figure(height=500 + space, x_title=GAP_TITLE, y_title="evidence, 0 to 1", top=space)
    for i in range(data.sizes[SIGNAL]):
        _draw_signal(figure, data, i)
    is_fused = bool((data["weight"].values > 0).any())
    if is_fused:
        low, high = data["fused_interval"].values
        draw_band(figure, data[GAP].values, low, high, colour="rgba(26,26,26,0.18)", name="95 % bootstrap band")
    figure.add_scatter(
        x=data[GAP].values,
        y=data["fused"].values,
        **curve(INK, 3.5, size=7),
        name="fused evidence" if is_fused else "fused evidence (no signal left)",
        legendrank=1,
        customdata=depths(data),
        hovertemplate="%{y:.3f} at relative depth %{customdata:.1%}",
    )
    lowest = mark_boundaries(figure, data, top=TOP)
    figure.update_yaxes(range=[lowest, TOP], tickvals=[0, 0.25, 0.5, 0.75, 1])
    gap_axis(figure, data)
    figure.update_layout(hovermode="x unified")
    return figure


def _draw_signal(figure: go.Figure, data: xr.Dataset, i: int) -> None:
    """Draw one signal as the fusion sees it; one that was left out is drawn grey, as it would have been."""
    name, reason = escape(str(data[SIGNAL].values[i])), why_left_out(data, i)
    raw, shown = data["curve"].values[i], data["normalised"].values[i]
    if reason:
        trust = data["reliability"].values[i]
        shown = _rescale(raw) * (trust if np.isfinite(trust) else 1)
    colour = GREY if reason else SIGNAL_COLOURS[i % len(SIGNAL_COLOURS)]
    unit = escape(str(data["unit"].values[i]))
    figure.add_scatter(
        x=data[GAP].values,
        y=shown,
        **curve(colour, 1.5, dash="dash" if reason else "solid", symbol=symbol_of(i), size=6),
        name=f"{name}: {reason}" if reason else name,
        customdata=raw,
        hovertemplate=f"%{{y:.3f}}, raw %{{customdata:.4g}} [{unit}]",
    )


def _rescale(curve: np.ndarray) -> np.ndarray:
    """Scale to [0, 1] whatever nan there is; a curve of nan stays nan."""
    known = curve[np.isfinite(curve)]
    if len(known) == 0 or np.ptp(known) == 0:
        return curve * 0
    return (curve - known.min()) / np.ptp(known)


def signals_figure(data: xr.Dataset) -> go.Figure:
    """Draw each signal in its own unit with its 95 % bootstrap band, one below the other."""
    n_signals = data.sizes[SIGNAL]
    figure = blank_figure(height=170 * n_signals + 70, x_title="", y_title="", top=44)
    figure.set_subplots(rows=n_signals, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    for i in range(n_signals):
        _draw_panel(figure, data, i)
    thin_boundaries(figure, data["boundary"].values, row="all", col=1)
    gap_axis(figure, data)
    figure.update_xaxes(title={"text": GAP_TITLE}, row=n_signals, col=1)
    figure.update_layout(showlegend=False)
    return figure


def _draw_panel(figure: go.Figure, data: xr.Dataset, i: int) -> None:
    place = {"row": i + 1, "col": 1}
    sample = data["resampled"].isel({SIGNAL: i}).transpose(RESAMPLE, GAP).values
    known = ~np.isnan(sample).any(axis=0)
    gaps, colour = data[GAP].values, SIGNAL_COLOURS[i % len(SIGNAL_COLOURS)]
    if known.any():
        low, high = np.quantile(sample[:, known], TAILS, axis=0)
        fill = translucent(colour, 0.22)
        draw_band(figure, gaps[known], low, high, colour=fill, name="95 %", **place)
    figure.add_scatter(
        x=gaps,
        y=data["curve"].values[i],
        **curve(colour, symbol=symbol_of(i), size=6),
        name=escape(str(data[SIGNAL].values[i])),
        customdata=depths(data),
        hovertemplate="gap %{x} (%{customdata:.1%}): %{y:.4g}",
        **place,
    )
    layout: Any = figure.layout
    axis = layout[f"yaxis{i + 1 if i else ''}"]
    title, unit = (escape(str(data[name].values[i])) for name in ("title", "unit"))
    label_left(figure, f"<b>{title}</b> [{unit}]", colour, y=axis.domain[1])
    axis.update(tickformat="~g", nticks=5)


def contrast_figure(data: xr.Dataset) -> go.Figure:
    """Draw the fused local contrast, the statistic of the existence test, with its 5 % threshold."""
    figure = blank_figure(height=400, x_title=GAP_TITLE, y_title="fused local contrast", top=36)
    chosen = np.isin(data[GAP].values, data["boundary"].values)
    figure.add_bar(
        x=data[GAP].values,
        y=data["contrast"].values,
        marker={"color": np.where(chosen, BOUNDARY, "#8aa0ae").tolist()},
        customdata=depths(data),
        hovertemplate="gap %{x} (%{customdata:.1%}): %{y:.3f}<extra></extra>",
        showlegend=False,
    )
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    _draw_threshold(figure, data)
    gap_axis(figure, data)
    return figure


def _draw_threshold(figure: go.Figure, data: xr.Dataset) -> None:
    threshold = float(data["contrast_threshold"])
    figure.add_scatter(
        x=[0.4, data.sizes[GAP] + 0.6],
        y=[threshold, threshold],
        mode="lines",
        line={"color": INK, "width": 1.5, "dash": "dot"},
        name=f"5 % of null curves exceed {threshold:.2f} somewhere",
        showlegend=True,
        hoverinfo="skip",
    )


def nulls_figure(data: xr.Dataset, nulls: Mapping[str, xr.Dataset]) -> go.Figure:
    """Overlay the contrast curves of model nulls with the model's own; runs without a test are left out."""
    figure = blank_figure(height=440, x_title=GAP_TITLE, y_title="fused local contrast")
    tested = {name: null for name, null in nulls.items() if is_tested(null)}
    for i, (name, null) in enumerate(tested.items()):
        _draw_run(figure, null, name, curve(colour_of(i), 1.5, symbol=symbol_of(i), size=6))
    if is_tested(data):
        _draw_run(figure, data, "this model", curve(INK, 3.5, symbol="circle", size=6))
        _draw_threshold(figure, data)
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    gap_axis(figure, data)
    figure.update_layout(hovermode="x unified")
    return figure


def lay_over(figure: go.Figure, data: xr.Dataset, other: xr.Dataset, name: str, variable: str) -> None:
    """Draw another result's curve over a figure of this one, on the same relative depth."""
    scale = int(data.attrs["n_layers"]) / int(other.attrs["n_layers"])
    peaks = ", ".join(str(int(gap)) for gap in other["boundary"].values) or "none"
    figure.add_scatter(
        x=other[GAP].values * scale,
        y=other[variable].values,
        **curve(colour_of(0), 2.5, dash="dash", symbol="diamond-open", size=6),
        name=f"{escape(name)}: gaps {peaks} of {other.attrs['n_layers']} blocks",
        hovertemplate="%{y:.3f}",
    )


def _draw_run(figure: go.Figure, data: xr.Dataset, name: str, style: Mapping[str, Any]) -> None:
    figure.add_scatter(
        x=data[GAP].values, y=data["contrast"].values, **style, name=escape(name), hovertemplate="%{y:.3f}"
    )
