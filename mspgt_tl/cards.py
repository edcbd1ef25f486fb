"""Results at a glance: a heading, a small picture and a table, as a notebook shows an object by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

WIDTH, HEIGHT = 260, 70
MISSING = "–"


def number(value: float | None, form: str = ".3g") -> str:
    """Return a number as a table shows it, a dash for what is missing.

    >>> number(0.12345), number(0.5, ".0%"), number(float("nan"))
    ('0.123', '50%', '–')
    """
    if value is None or math.isnan(value):
        return MISSING
    return "∞" if math.isinf(value) else format(value, form)


def markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    heads = list(columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def thumbnail(fused: Float[np.ndarray, "gap"], boundaries: Iterable[int]) -> str:
    """Return the evidence curve as a small drawing in SVG, boundaries as dashed lines."""
    x = 6 + (WIDTH - 12) * np.arange(len(fused)) / max(1, len(fused) - 1)
    y = HEIGHT - 6 - (HEIGHT - 12) * np.nan_to_num(fused).clip(0, 1)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    lines = "".join(
        f'<line x1="{x[int(gap) - 1]:.1f}" x2="{x[int(gap) - 1]:.1f}" y1="2" y2="{HEIGHT}" stroke="#a8447a" '
        'stroke-dasharray="4 3" stroke-width="1.5"/>'
        for gap in boundaries
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="evidence curve">{lines}'
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="2.5"/></svg>'
    )


def card(heading: str, lines: Sequence[str], table: pd.DataFrame | None = None, picture: str = "") -> str:
    """Return an object's card as HTML that takes the notebook's own colours; a table without rows is left out."""
    told = "".join(f"<p style='margin:2px 0'>{escape(line)}</p>" for line in lines)
    shown = ""
    if table is not None and len(table):
        shown = table.to_html(index=False, border=0, na_rep="–", float_format="{:.3g}".format)
    return f"<div><b>{escape(heading)}</b>{told}{picture}{shown}</div>"
