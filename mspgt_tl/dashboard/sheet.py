"""The page that every report is: verdict first, then sections of figures and tables, then what it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mspgt_tl.dashboard.template import PAGE, SCRIPT, STYLE

if TYPE_CHECKING:
    import plotly.graph_objects as go

HASH_SHOWN = 12
"""Characters of a hash that are shown; the whole of it is in the tooltip."""


@dataclass(frozen=True)
class Plot:
    """One figure with what a screen reader says of it."""

    figure: go.Figure
    summary: str
    title: str = ""
    shape: Literal["", "square", "tall"] = ""
    """Proportions by the page's style; a figure without has a height of its own."""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    """Small print below it."""
    wide: bool = False
    """Too many columns for a narrow window: it scrolls instead of being stacked."""


@dataclass(frozen=True)
class Section:
    """A part of the page: one sentence, its figures, notes, tables and the definition."""

    title: str
    lead: str
    plots: Sequence[Plot] = ()
    definition: Any = ""
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    folded: bool = False
    """Tables are shown on a click."""
    html: Any = ""
    """Markup of a part that is neither figure nor table."""


@dataclass(frozen=True)
class Sheet:
    """Everything on one page."""

    title: str
    heading: str
    headline: str
    sentences: Sequence[str]
    intro: str
    sections: Sequence[Section]
    facts: Sequence[Table]
    script: str = ""
    """Of sections with markup of their own."""


def render_sheet(sheet: Sheet) -> str:
    """Return the page as one self-contained HTML file."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    parts = {**vars(sheet), "sections": _embed(sheet.sections), "script": Markup(SCRIPT + sheet.script)}
    return environment.from_string(PAGE).render(style=Markup(STYLE), plotly=Markup(get_plotlyjs()), **parts)


def _embed(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Turn figures into HTML, each with an id of its own; plotly.js itself is in the page's head."""
    from markupsafe import Markup

    embedded, count = [], 0
    for section in sections:
        plots = []
        for plot in section.plots:
            html = plot.figure.to_html(
                full_html=False,
                include_plotlyjs=False,
                config={"responsive": True, "displaylogo": False, "showSendToCloud": False},
                div_id=f"figure-{count}",
            )
            plots.append({**vars(plot), "html": Markup(html)})
            count += 1
        embedded.append({**vars(section), "plots": plots})
    return embedded


def list_facts(manifest: Mapping[str, Any]) -> list[Table]:
    """List what the manifest says, group by group: name, value as shown, and the whole of a shortened value."""
    identity = manifest.get("identity", {})
    groups = {name.capitalize(): identity.get(name, {}) for name in ("model", "corpus", "treebank", "scales")}
    groups["Settings"] = identity.get("config", {})
    single = ("created", "python", "platform", "fingerprint", "format")
    groups["Run"] = {name: manifest[name] for name in single if name in manifest} | manifest.get("notes", {})
    groups["Versions"] = manifest.get("packages", {})
    stages = {name: stage.get("seconds", np.nan) for name, stage in manifest.get("stages", {}).items()}
    timings = {name: f"{seconds:.1f} s" for name, seconds in stages.items()}
    groups["Time by stage"] = timings | ({"all": f"{sum(stages.values()):.1f} s"} if stages else {})
    return [Table(name, (), [_fact(*item) for item in _flatten(group)]) for name, group in groups.items() if group]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def _fact(name: str, value: Any) -> tuple[str, str, str]:
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return name, value[:HASH_SHOWN] + "…", value
    if isinstance(value, list | tuple):
        return name, ", ".join(str(part) for part in value), ""
    # Only these three by identity: 1 == True would turn a number into "yes".
    plain = "none" if value is None else "yes" if value is True else "no" if value is False else str(value)
    return name, plain, ""
