"""Draws a calibration: false alarms, power, and coverage of our verdict and its rivals, with Monte-Carlo intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mspgt_tl.calibration.detectors import PENALTY
from mspgt_tl.calibration.tables import MAX_ALARMS, MIN_COVERAGE, OURS, Target
from mspgt_tl.dashboard.drawing import GREY, INK, beside, colour_of, error_bars, row_figure, symbol_of
from mspgt_tl.dashboard.sheet import Plot, Section, Sheet, Table, list_facts, render_sheet
from mspgt_tl.dashboard.tables import Cell, Shown, digits, named, share_bounds
from mspgt_tl.dashboard.words import estimate, percent

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
    heading, facts = "How often is the instrument right?", list_facts(result.manifest)
    return render_sheet(Sheet("Calibration", heading, headline, sentences, intro, sections, facts))


def rate_figure(table: pd.DataFrame, measure: str, *, limit: float | None = None) -> go.Figure:
    """Return a share by cell, one marker a detector, with its interval."""
    cells, detectors = list(dict.fromkeys(table["cell"])), list(dict.fromkeys(table["detector"]))
    # Lower than this, the axis leaves the plot no height at all until the page has made room for the legend.
    figure = row_figure(cells, "share", height=max(190, 110 + 30 * len(cells)))
    for i, name in enumerate(detectors):
        rows = table[(table["detector"] == name) & table[measure].notna()]
        if rows.empty:
            continue
        colour, size = (INK, 11) if name == OURS else (colour_of(i), 7)
        figure.add_scatter(
            x=rows[measure],
            y=beside(map(cells.index, rows["cell"]), i, len(detectors), 0.1),
            error_x=error_bars(rows[measure], rows[f"{measure}_low"], rows[f"{measure}_high"], thickness=1, width=2),
            mode="markers",
            name=name,
            text=rows["cell"],
            marker={"color": colour, "symbol": symbol_of(i), "size": size},
            hovertemplate="%{text}: %{x:.3f}<extra>" + name + "</extra>",
        )
    if limit is not None:
        figure.add_vline(x=limit, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
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
    plots = [
        Plot(found, "Planted boundaries found within one layer, by cell and detector.", "Found within one layer"),
        Plot(cover, "Coverage of 95 % intervals, by cell.", "Coverage of intervals"),
    ]
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
    names = {"alarms": "any false claim", "found": "found ±1", "exact": "found exactly", "coverage": "coverage"}
    cells: dict[str, Cell] = named("cell", "detector") | {"cases": lambda row: f"{row['cases']} of {row['wanted']}"}
    cells |= {names[name]: share_bounds(name) for name in measures}
    if len(measures) > 1:
        cells |= {"mean error": digits("location_error", 2), "mean width": digits("width", 2)}
    return Shown("All numbers", part, cells).table(wide=True)


def _target_section(targets: Sequence[Target]) -> Section:
    rows = [[t.cell, t.what, estimate(t.value, t.low, t.high), percent(t.limit), t.state] for t in targets]
    lead = "What was promised of our verdict: few false alarms, planted boundaries found, intervals that cover."
    return Section("Targets", lead, tables=[Table("Targets", ("cell", "measure", "value", "limit", "state"), rows)])


def _target_words(target: Target) -> str:
    found = estimate(target.value, target.low, target.high)
    return f"{target.what} in “{target.cell}” is {found}, limit {percent(target.limit)}"
