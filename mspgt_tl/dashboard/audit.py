"""The artefact audit on the page: where each boundary goes under other choices, and its grade."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mspgt_tl.audit import ARTEFACT, FRAGILE, ROBUST
from mspgt_tl.contracts import WITHIN
from mspgt_tl.dashboard.drawing import (
    BOUNDARY,
    GAP_TITLE,
    GREY,
    beside,
    gap_axis,
    row_figure,
    symbol_of,
    thin_boundaries,
)
from mspgt_tl.dashboard.sheet import Plot, Section, Table
from mspgt_tl.dashboard.words import MISSING, number, p_text, percent
from mspgt_tl.signals.cka_variants import MASKED_OVER

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

RULE = (
    "artefact: more than two thirds of the boundary's 1 − CKA goes with the massive channels "
    f"({MASKED_OVER:.0f} times the layer's median and more), and with them masked no significant boundary is left "
    "within one layer. fragile: under one of the choices, or without one of the signals, no boundary is left within "
    "one layer, or more than a third of all fusion weights lose it. robust: neither. N."
)
MEANING = {
    ROBUST: "stays within one layer whatever is chosen",
    FRAGILE: "depends on a choice that could have been made otherwise",
    ARTEFACT: "is made by a few massive channels, not by what the layers do to language",
}


def audit_section(data: xr.Dataset) -> list[Section]:
    """Return the audit's section; none for results that were made without it."""
    if "grade" not in data or not data.sizes["found"]:
        return []
    gaps = [int(gap) for gap in data["boundary"].values]
    grades = [str(grade) for grade in data["grade"].values]
    notes = [f"Gap {gap}: {grade}. It {MEANING[grade]}." for gap, grade in zip(gaps, grades, strict=True)]
    rows = []
    for i, name in enumerate(data["variant"].values):
        cells = []
        for j, gap in enumerate(gaps):
            place, p = float(data["audit_gap"].values[i, j]), float(data["audit_p_value"].values[i, j])
            cells.append(MISSING if np.isnan(place) else f"{place:.0f} ({place - gap:+.0f}), {p_text(p)}")
        rows.append([str(name), *cells])
    rows.append(["weights that keep it", *(percent(float(v)) for v in data["weight_agreement"].values)])
    rows.append(
        ["1 − CKA that goes with massive channels", *(number(float(v), 2) for v in data["massive_share"].values)]
    )
    table = Table("Nearest boundary under each choice", ("choice", *(f"gap {gap}" for gap in gaps)), rows)
    lead = "The same search under other choices. A boundary that is there should not depend on any of them."
    plot = Plot(audit_figure(data), " ".join(notes))
    return [Section("Could it be an artefact?", lead, [plot], RULE, notes, [table], short="Audit")]


def audit_figure(data: xr.Dataset) -> go.Figure:
    """Return where every boundary lies under every variant; a cross at the left means that there is none."""
    names = [str(name) for name in data["variant"].values]
    figure = row_figure(names, GAP_TITLE, height=120 + 26 * len(names))
    thin_boundaries(figure, data["boundary"].values)
    for j, gap in enumerate(int(gap) for gap in data["boundary"].values):
        places = data["audit_gap"].values[:, j]
        known = np.isfinite(places)
        kept = known & (np.abs(places - gap) <= WITHIN)
        rows = np.array(beside(range(len(names)), j, len(data["boundary"]), 0.22))
        for chosen, label, colour, symbol, size, found in (
            (kept, "kept", BOUNDARY, symbol_of(j), 10, "gap %{x}"),
            (known & ~kept, "moved", GREY, symbol_of(j), 10, "gap %{x}"),
            (~known, "lost", GREY, "x-thin-open", 9, "no boundary"),
        ):
            figure.add_scatter(
                x=np.where(known, places, 0.5)[chosen],
                y=rows[chosen],
                mode="markers",
                marker={"color": colour, "size": size, "symbol": symbol},
                name=f"gap {gap}, {label}",
                text=np.array(names)[chosen].tolist(),
                hovertemplate=f"%{{text}}: {found}<extra></extra>",
            )
    gap_axis(figure, data)
    return figure
