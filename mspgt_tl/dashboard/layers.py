"""Figures over layers and over weights: probe F1, similarity of all layer pairs, and the map of fusion weights."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP, LAYER, SIGNAL, TASK
from mspgt_tl.dashboard.drawing import BOUNDARY, GREY, INK, blank_figure, colour_of, curve, thin_boundaries
from mspgt_tl.errors import DataError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

PROBES = {"mlp": ("solid", "circle"), "linear": ("dash", "square"), "control": ("dot", "x")}
"""Line and marker of each kind of probe."""
MAX_TICKS = 13
"""Every layer has a tick in models of up to so many."""


def probed_tasks(data: xr.Dataset) -> list[str]:
    """Return the tasks that have any F1."""
    known = data["f1"].notnull().any(["kind", LAYER]).values
    return [str(task) for task in data[TASK].values[known]]


def probe_figure(data: xr.Dataset, task: str) -> go.Figure:
    """Draw one task's macro-F1 by layer for every kind of probe, and the selectivity: MLP less control."""
    table = data["f1"].sel({TASK: task})
    figure = blank_figure(height=350, x_title="layer", y_title="macro-F1")
    values = {kind: table.sel(kind=kind).values for kind in PROBES}
    values["selectivity"] = values["mlp"] - values["control"]
    styles = {kind: (colour_of(i), *style) for i, (kind, style) in enumerate(PROBES.items())}
    styles["selectivity"] = (INK, "longdashdot", "diamond")
    for kind, (colour, dash, symbol) in styles.items():
        style = curve(colour, dash=dash, symbol=symbol, size=6)
        figure.add_scatter(x=data[LAYER].values, y=values[kind], **style, name=kind, hovertemplate="%{y:.3f}")
    thin_boundaries(figure, data["boundary"].values, shift=0.5)
    lowest = min(0.0, float(np.nanmin(values["selectivity"], initial=0)))
    n_layers = int(data.attrs["n_layers"])
    figure.update_yaxes(range=[lowest - 0.03, 1.03])
    figure.update_xaxes(range=[-0.6, n_layers - 0.4], dtick=1 if n_layers <= MAX_TICKS else None)
    figure.update_layout(hovermode="x unified")
    return figure


def cka_figure(data: xr.Dataset) -> go.Figure:
    """Draw the CKA of every pair of layers as a square map, boundaries as lines between the layers."""
    figure = blank_figure(height=None, x_title="layer", y_title="layer")
    figure.add_heatmap(
        x=data[LAYER].values,
        y=data["other_layer"].values,
        z=data["cka"].values,
        colorscale="Cividis",
        zmax=1,
        zmin=float(min(0.99, np.nanmin(data["cka"].values, initial=1))),
        colorbar={"title": {"text": "CKA"}, "thickness": 14, "tickformat": ".2~f"},
        hovertemplate="layers %{x} and %{y}: CKA %{z:.4f}<extra></extra>",
        hoverongaps=False,
    )
    for gap in data["boundary"].values:
        # White under purple: a line that shows on both the dark and the bright end of the colour scale.
        for colour, width in (("white", 4), (BOUNDARY, 2)):
            figure.add_vline(x=gap - 0.5, line={"color": colour, "width": width})
            figure.add_hline(y=gap - 0.5, line={"color": colour, "width": width})
    figure.update_xaxes(constrain="domain", showgrid=False)
    figure.update_yaxes(scaleanchor="x", constrain="domain", showgrid=False)
    if data.sizes[LAYER] <= MAX_TICKS:
        figure.update_layout(xaxis={"dtick": 1}, yaxis={"dtick": 1})
    return figure


def weight_figure(data: xr.Dataset, rank: int) -> go.Figure:
    """Draw the weight simplex, each point a choice of fusion weights, coloured by the first or second boundary (N).

    Raises:
        DataError: not three signals.
    """
    if (n := data["map_weight"].shape[1]) != 3:
        raise DataError(f"A triangle shows the weights of three signals, got {n}: use the sliders of the report.")
    figure = blank_figure(height=None, x_title="", y_title="")
    places = data["map_boundary"].values
    found = np.isfinite(places[:, rank])
    hover = np.array([f"boundaries at {_places(row)}" for row in places])
    missing = "no peak" if rank == 0 else "fewer than two peaks"
    _draw_weights(figure, data, ~found, hover, name=missing, color=GREY, symbol="x-thin-open", size=6)
    _draw_weights(
        figure,
        data,
        found,
        hover,
        name=("first", "second")[rank] + " boundary",
        showlegend=False,
        color=places[found, rank],
        colorscale="Viridis",
        cmin=1,
        cmax=data.sizes[GAP],
        size=9,
        colorbar={
            "title": {"text": "gap", "side": "top"},
            "orientation": "h",
            "thickness": 12,
            "tickformat": "d",
            "len": 0.8,
            "y": -0.2,
            "yanchor": "top",
        },
        showscale=bool(found.any()),
    )
    _mark_used_weights(figure, data)
    _label_corners(figure, data)
    return figure


def _places(row: np.ndarray) -> str:
    gaps = [f"gap {gap:.0f}" for gap in row[np.isfinite(row)]]
    return " and ".join(gaps) or "no gap"


def _draw_weights(
    figure: go.Figure,
    data: xr.Dataset,
    chosen: np.ndarray,
    hover: np.ndarray,
    *,
    name: str,
    showlegend: bool = True,
    **marker: Any,
) -> None:
    if not chosen.any():
        return
    names = [escape(str(signal)) for signal in data[SIGNAL].values]
    lines = "<br>".join(f"{signal} %{{{axis}:.0%}}" for signal, axis in zip(names, "abc", strict=True))
    hovertemplate, text = f"%{{text}}<br>{lines}<extra></extra>", hover[chosen]
    named = {"name": name, "showlegend": showlegend, "text": text, "hovertemplate": hovertemplate}
    _mark_weights(figure, data["map_weight"].values[chosen], marker=marker, **named)


def _mark_used_weights(figure: go.Figure, data: xr.Dataset) -> None:
    if (data["weight"].values > 0).any():
        marker = {"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 3}}
        named = {"name": "weights used", "hovertemplate": "weights used<extra></extra>"}
        _mark_weights(figure, data["weight"].values[None], marker=marker, **named)


def _mark_weights(figure: go.Figure, weights: np.ndarray, **options: Any) -> None:
    a, b, c = weights.T
    # Points on the edge are whole points.
    figure.add_scatterternary(a=a, b=b, c=c, mode="markers", cliponaxis=False, **options)


def _label_corners(figure: go.Figure, data: xr.Dataset) -> None:
    """Name the corners and number the sides, in per cent."""
    # The first word only: a long name at the right corner is cut off in narrow windows.
    names = [escape(str(signal).split("_")[0]) for signal in data[SIGNAL].values]
    axes = {
        f"{axis}axis": {"title": {"text": name}, "tickformat": ".0%", "dtick": 0.25, "ticks": "outside"}
        for axis, name in zip("abc", names, strict=True)
    }
    figure.update_layout(
        ternary={**axes, "bgcolor": "rgba(0,0,0,0)"},
        margin={"l": 50, "r": 50, "t": 62, "b": 50},
    )
