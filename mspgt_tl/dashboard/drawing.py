"""What all figures share: colours, an empty figure, bands, and boundaries drawn so that their labels never collide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
GAP_TITLE, DEPTH_TITLE = "gap b (between blocks b−1 and b)", "relative depth b / L"


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


def row_figure(names: Sequence[str], x_title: str, *, height: int, top: int = 30) -> go.Figure:
    """Return an empty figure with one labelled row a name, from the top down: row i lies at y = i."""
    figure = blank_figure(height=height, x_title=x_title, y_title="", top=top)
    n = len(names)
    figure.update_yaxes(tickvals=list(range(n)), ticktext=list(names), range=[n - 0.5, -0.5], automargin=True)
    return figure


def colour_of(i: int) -> str:
    """Return the colour of the i-th scale, run or detector."""
    return RUN_COLOURS[i % len(RUN_COLOURS)]


def symbol_of(i: int) -> str:
    """Return the symbol of the i-th curve or series of points."""
    return SYMBOLS[i % len(SYMBOLS)]


def curve(
    colour: str, width: float = 2, *, dash: str | None = None, symbol: str | None = None, size: Any = None
) -> dict[str, Any]:
    """Return how a line with a marker at every value is drawn; what is None is Plotly's own choice."""
    line = {"color": colour, "width": width, "dash": dash}
    return {"mode": "lines+markers", "line": line, "marker": {"symbol": symbol, "size": size}}


def points(i: int, size: float | list[float] = 9) -> dict[str, Any]:
    """Return how the i-th series of single values is drawn."""
    return {"mode": "markers", "marker": {"color": colour_of(i), "symbol": symbol_of(i), "size": size}}


def beside(rows: Iterable[float], i: int, n: int, step: float) -> list[float]:
    """Return where the i-th of n series lies in these rows, so that none hides another."""
    return [row + step * (i - (n - 1) / 2) for row in rows]


def depth_axis(figure: go.Figure) -> None:
    """Let the x axis run over all of the depth, in per cent."""
    figure.update_xaxes(range=[0, 1], tickformat=".0%")


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
        label_left(figure, boundary_label(data, i), BOUNDARY, yshift=LABEL_ROW * (len(gaps) - i))
    return -0.05 - BAR_ROW * len(gaps)


def label_left(figure: go.Figure, text: str, colour: str, *, y: float = 1, yshift: float | None = None) -> None:
    """Write a line of words from the left edge on, above a height of the plot."""
    place: dict[str, Any] = {
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "xshift": -40,
        "yref": "paper",
        "yanchor": "bottom",
    }
    font = {"color": colour, "size": 12}
    figure.add_annotation(text=text, y=y, yshift=yshift, showarrow=False, font=font, **place)


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


def thin_boundaries(figure: go.Figure, gaps: Iterable[int], *, shift: float = 0, **options: Any) -> None:
    """Draw boundaries as thin dashed lines, on figures where they are only a landmark.

    Args:
        shift: 1/2 on an axis of layers, where a boundary lies between two.
    """
    for gap in gaps:
        figure.add_vline(x=int(gap) - shift, line={"color": BOUNDARY, "width": 1.5, "dash": "dash"}, **options)
