"""What all figures share: colours, an empty figure, bands, and boundaries drawn so that their labels never collide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP
from mspgt_tl.dashboard.words import boundary_label, interval_text

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

SIGNAL_COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#CC79A7", "#B8860B", "#56B4E9", "#999933", "#AA4499")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; the green is darkened to 5:1 on white."""
RUN_COLOURS = ("#332288", "#117733", "#AA4499", "#665c00", "#44AA99", "#cc6677")
"""Of scales, runs and detectors: none is a signal's, so that no curve is taken for one (after Tol's muted set)."""
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "x")
INK, GREY, BOUNDARY = "#1a1a1a", "#767676", "#882255"
HIDDEN_BUTTONS = ["sendChartToCloud", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]
"""Plotly 7 offers to upload every chart; the rest only crowds narrow windows."""
BAR_ROW = 0.06
"""Height of one interval's bar, in units of evidence."""
LABEL_ROW = 18
"""Pixels of one line of labels above a plot."""


def blank_figure(*, height: int | None, x_title: str, y_title: str, top: int = 30) -> go.Figure:
    """Return an empty figure with our fonts, margins and legend; nothing global is set."""
    from mspgt_tl.dashboard.shown_figure import ShownFigure

    figure = ShownFigure()
    figure.update_layout(
        template="plotly_white",
        height=height,
        autosize=True,
        margin={"l": 52, "r": 22, "t": top, "b": 50},
        font={"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 0.01, "yanchor": "bottom"},
        modebar={"remove": HIDDEN_BUTTONS},
        hoverlabel={"font": {"size": 12}, "namelength": -1},
    )
    figure.update_xaxes(title={"text": x_title, "standoff": 8}, zeroline=False)
    figure.update_yaxes(title={"text": y_title, "standoff": 6}, zeroline=False)
    return figure


def error_bars(value: Any, low: Any, high: Any, **style: Any) -> dict[str, Any]:
    """Return plotly's bars from the ends of intervals; none where an end is missing."""
    at, ends = np.asarray(value, dtype=float), np.array([low, high], dtype=float)
    up, down = np.nan_to_num(np.stack([ends[1] - at, at - ends[0]]))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, **style}


def gap_axis(figure: go.Figure, data: xr.Dataset) -> None:
    """Show every gap on the x axis, half a gap of air at both ends, ticks on whole gaps."""
    n_gaps = data.sizes[GAP]
    step = 1 if n_gaps <= 16 else 5 if n_gaps <= 60 else 10
    figure.update_xaxes(range=[0.4, n_gaps + 0.6], tick0=0 if step > 1 else 1, dtick=step)


def name_rows(figure: go.Figure, names: Sequence[str]) -> None:
    """Label the rows of a figure from the top down: row i lies at y = i."""
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=list(names), range=[len(names) - 0.5, -0.5], automargin=True
    )


def translucent(colour: str, opacity: float) -> str:
    """Return a colour as a band's.

    >>> translucent("#0072B2", 0.22)
    'rgba(0,114,178,0.22)'
    """
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{opacity})"


def depths(data: xr.Dataset) -> np.ndarray:
    """Return the relative position b / L of every gap."""
    return data[GAP].values / int(data.attrs["n_layers"])


def draw_band(
    figure: go.Figure, x: Sequence[float] | np.ndarray, low: Any, high: Any, *, colour: str, name: str, **options: Any
) -> None:
    """Fill between two curves over `x`; `low` and `high` may be single numbers. `colour` carries its opacity."""
    low, high = np.broadcast_to(low, len(x)), np.broadcast_to(high, len(x))
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=colour,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name=name,
        **options,
    )


def mark_boundaries(figure: go.Figure, data: xr.Dataset, *, top: float) -> float:
    """Draw boundaries as lines, a number above each, a line of words each above the plot, and intervals as bars below.

    The words get a row of their own from the left edge, so neither adjacent gaps, nor the ends, nor a narrow
    window can make two labels collide.

    Returns:
        How far down the y axis must reach to show the bars.
    """
    gaps = [int(gap) for gap in data["boundary"].values]
    is_close = len(gaps) == 2 and gaps[1] - gaps[0] < 0.1 * data.sizes[GAP]
    for i, gap in enumerate(gaps):
        _draw_boundary(figure, gap, data["interval"].values[i], top, below=-0.03 - BAR_ROW * (i + 0.5))
        figure.add_annotation(
            x=gap,
            y=1,
            yref="paper",
            yanchor="bottom",
            xanchor=("right", "left")[i] if is_close else "center",
            text=f"<b>{gap}</b>",
            showarrow=False,
            font={"color": BOUNDARY, "size": 13},
        )
        figure.add_annotation(
            x=0,
            xref="paper",
            xanchor="left",
            xshift=-40,
            y=1,
            yref="paper",
            yanchor="bottom",
            yshift=LABEL_ROW * (len(gaps) - i),
            text=boundary_label(data, i),
            showarrow=False,
            font={"color": BOUNDARY, "size": 12},
        )
    return -0.05 - BAR_ROW * len(gaps)


def label_space(data: xr.Dataset) -> int:
    """Return the top margin that `mark_boundaries` needs below the row of buttons."""
    n = len(data["boundary"])
    return 30 + LABEL_ROW * (n + 1 if n else 0)


def _draw_boundary(figure: go.Figure, gap: int, interval: np.ndarray, top: float, *, below: float) -> None:
    name, group = f"boundary {gap}", {"legendgroup": f"boundary {gap}"}
    if np.isfinite(interval).all():
        # An interval of a single gap still has some length to be seen.
        low, high = interval[0] - 0.15, interval[1] + 0.15
        figure.add_scatter(
            x=[low, high],
            y=[below, below],
            mode="lines",
            line={"color": BOUNDARY, "width": 7},
            name=name,
            showlegend=False,
            hovertemplate=f"95 % interval {interval_text(interval)}<extra></extra>",
            **group,
        )
    figure.add_scatter(
        x=[gap, gap],
        y=[0, top],
        mode="lines",
        line={"color": BOUNDARY, "width": 2, "dash": "dash"},
        name=name,
        hoverinfo="skip",
        **group,
    )


def thin_boundaries(figure: go.Figure, data: xr.Dataset, **options: Any) -> None:
    """Draw boundaries as thin dashed lines, on figures where they are only a landmark."""
    for gap in data["boundary"].values:
        figure.add_vline(x=int(gap), line={"color": BOUNDARY, "width": 1.5, "dash": "dash"}, **options)
