"""Draws a calibration: false alarms, power, and coverage of our verdict and its rivals, with Monte-Carlo intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mspgt_tl.calibration.detectors import PENALTY
from mspgt_tl.calibration.tables import MAX_ALARMS, MIN_COVERAGE, OURS, Target
from mspgt_tl.dashboard.drawing import GREY, INK, RUN_COLOURS, SYMBOLS, blank_figure, error_bars, name_rows
from mspgt_tl.dashboard.sheet import Plot, Section, Sheet, Table, list_facts, render_sheet
from mspgt_tl.dashboard.words import MISSING, number, percent

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

GROUPS = {
    "no boundary": "Models without a boundary",
    "planted": "Models with planted boundaries",
    "simulated, no boundary": "Simulated curves without a boundary",
    "simulated": "Simulated curves with boundaries",
}


class CalibrationResult(Protocol):
    """What is drawn; `Calibration` is one."""

    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def targets(self) -> Sequence[Target]: ...
    @property
    def manifest(self) -> Any: ...


def render_calibration(result: CalibrationResult) -> str:
    """Return the report of a calibration as one self-contained HTML page."""
    states = [target.state for target in result.targets]
    missed = [target for target in result.targets if target.state == "missed"]
    unclear = states.count("unclear")
    headline = f"{states.count('met')} of {len(states)} targets met, {len(missed)} missed, {unclear} unclear."
    sentences = ["Unclear: the wrong side of the limit, but within Monte-Carlo error of it."]
    sentences += [f"Missed: {_target_words(target)}." for target in missed]
    cases = result.table.drop_duplicates("cell")
    done, wanted = (int(cases[name].sum()) for name in ("cases", "wanted"))
    if done < wanted:
        sentences.append(f"Unfinished: {done} of {wanted} cases are measured; the same command goes on.")
    sections = [_section(result.table, group) for group in GROUPS if (result.table["group"] == group).any()]
    sections.append(_target_section(result.targets))
    intro = (
        f"{done} cases in {len(cases)} cells, seed {result.manifest['identity']['seed']}. Brackets are 95 % intervals "
        "of the Monte-Carlo error. Every detector judged the same curves."
    )
    return render_sheet(
        Sheet(
            "Calibration",
            "How often is the instrument right?",
            headline,
            sentences,
            intro,
            sections,
            list_facts(result.manifest),
        )
    )


def rate_figure(table: pd.DataFrame, measure: str, *, limit: float | None = None) -> go.Figure:
    """Return a share by cell, one marker a detector, with its interval."""
    cells, detectors = list(dict.fromkeys(table["cell"])), list(dict.fromkeys(table["detector"]))
    # Lower than this, the axis leaves the plot no height at all until the page has made room for the legend.
    figure = blank_figure(height=max(190, 110 + 30 * len(cells)), x_title="share", y_title="")
    for i, name in enumerate(detectors):
        rows = table[(table["detector"] == name) & table[measure].notna()]
        if rows.empty:
            continue
        figure.add_scatter(
            x=rows[measure],
            y=[cells.index(cell) + 0.1 * (i - (len(detectors) - 1) / 2) for cell in rows["cell"]],
            error_x=error_bars(rows[measure], rows[f"{measure}_low"], rows[f"{measure}_high"], thickness=1, width=2),
            mode="markers",
            name=name,
            text=rows["cell"],
            marker={
                "color": INK if name == OURS else RUN_COLOURS[i % len(RUN_COLOURS)],
                "symbol": SYMBOLS[i % len(SYMBOLS)],
                "size": 11 if name == OURS else 7,
            },
            hovertemplate="%{text}: %{x:.3f}<extra>" + name + "</extra>",
        )
    if limit is not None:
        figure.add_vline(x=limit, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    name_rows(figure, cells)
    return figure


def _section(table: pd.DataFrame, group: str) -> Section:
    part = table[table["group"] == group]
    if group.endswith("no boundary"):
        figure = rate_figure(part, "alarms", limit=MAX_ALARMS)
        lead = "Share of cases in which a detector claims any boundary. The dotted line is 5 %."
        return Section(GROUPS[group], lead, [Plot(figure, f"{lead} {_worst(part)}")], tables=[_table(part, ["alarms"])])
    found = rate_figure(part, "found")
    cover = rate_figure(part[part["detector"].isin([OURS, "paper"])], "coverage", limit=MIN_COVERAGE)
    lead = (
        "Share of planted boundaries that a detector claims within one layer, and share of claimed intervals that hold "
        "a planted gap. A claim more than one layer from every planted gap is a false one."
    )
    plots = [Plot(found, "Planted boundaries found within one layer, by cell and detector.", "Found within one layer")]
    plots.append(Plot(cover, "Coverage of 95 % intervals, by cell.", "Coverage of intervals"))
    measures = ["found", "exact", "alarms", "coverage"]
    note = (
        f"ruptures: PELT, l2 cost, jump 1, penalty {PENALTY:g} · (signals + 1) · ln(gaps) · noise variance; every "
        "raised segment is a claim. It and single signals are given no existence test."
    )
    return Section(GROUPS[group], lead, plots, note, tables=[_table(part, measures)])


def _worst(part: pd.DataFrame) -> str:
    own = part[(part["detector"] == OURS) & (part["cases"] > 0)]
    if own.empty:
        return "No case is measured yet."
    row: Any = own.sort_values("alarms").iloc[-1]
    return f"Ours at worst: {percent(float(row['alarms']))}, {row['cell']}."


def _table(part: pd.DataFrame, measures: Sequence[str]) -> Table:
    extra = ["location_error", "width"] if len(measures) > 1 else []
    rows = []
    records: Any = part.to_dict("records")
    for row in records:
        cases = f"{row['cases']} of {row['wanted']}"
        shares = [_interval(row, name) for name in measures]
        rows.append([str(row["cell"]), str(row["detector"]), cases, *shares, *(number(row[name], 2) for name in extra)])
    names = {"alarms": "any false claim", "found": "found ±1", "exact": "found exactly", "coverage": "coverage"}
    columns = ["cell", "detector", "cases", *(names[name] for name in measures)]
    return Table("All numbers", [*columns, *(["mean error", "mean width"] if extra else [])], rows, wide=True)


def _interval(row: Any, name: str) -> str:
    if not np.isfinite(row[name]):
        return MISSING
    return f"{percent(row[name])} [{percent(row[f'{name}_low'])}, {percent(row[f'{name}_high'])}]"


def _target_section(targets: Sequence[Target]) -> Section:
    rows = [
        [t.cell, t.what, f"{percent(t.value)} [{percent(t.low)}, {percent(t.high)}]", percent(t.limit), t.state]
        for t in targets
    ]
    lead = "What was promised of our verdict: few false alarms, planted boundaries found, intervals that cover."
    return Section("Targets", lead, tables=[Table("Targets", ("cell", "measure", "value", "limit", "state"), rows)])


def _target_words(target: Target) -> str:
    return (
        f"{target.what} in “{target.cell}” is {percent(target.value)} "
        f"[{percent(target.low)}, {percent(target.high)}], limit {percent(target.limit)}"
    )
