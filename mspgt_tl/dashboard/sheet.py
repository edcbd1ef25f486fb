"""The page that every report is: verdict first, then sections of figures and tables, then what it depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mspgt_tl.dashboard.glossary import explain
from mspgt_tl.files import write_atomically

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

PLOTLY_FILE = "plotly.min.js"
"""Its name where several pages share one."""
ALONE, SHARED = "script-src 'unsafe-inline';", "script-src 'unsafe-inline' 'self' file:;"
"""What a page may run: what it holds, or also files beside it."""
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
    short: str = ""
    """Its name among the contents; the title by default."""
    controls: Any = ""
    """Markup above its figures, to choose among them."""


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
    module: str = ""
    """An ES module that draws the opening."""
    opening: Any = ""
    """Markup between the verdict and the sections."""
    style: str = ""
    """Of the opening and of sections with markup of their own."""


def static_text(name: str) -> str:
    """Return one of the package's own style sheets, scripts or templates."""
    return files("mspgt_tl.dashboard").joinpath("static", name).read_text(encoding="utf-8")


def plotly_source() -> str:
    """Return plotly.js, for a page of its own or for `plotly.min.js` beside several."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def embed_json(value: Any) -> Any:
    """Return a value as JSON inside a script element, where only "</" and "<!--" could end the data early."""
    from markupsafe import Markup

    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def render_sheet(sheet: Sheet, *, plotly: str | None = None) -> str:
    """Return the page as HTML that works offline.

    Args:
        plotly: address of a plotly.js that several pages share; None puts it into the page, which then stands alone.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    style = "".join(static_text(name) for name in ("theme.css", "page.css")) + sheet.style
    return environment.from_string(static_text("page.html")).render(
        **{
            **vars(sheet),
            "sections": [{**vars(s), "plots": [_embed(plot) for plot in s.plots]} for s in sheet.sections],
            "script": Markup(static_text("figures.js") + static_text("page.js") + sheet.script),
            "module": Markup(sheet.module),
            "style": Markup(style),
            "plotly": Markup(plotly_source()) if plotly is None else "",
            "plotly_file": plotly or "",
            "may_run": Markup(ALONE if plotly is None else SHARED),
            "explain": explain,
        }
    )


def share_plotly(folder: Path) -> None:
    """Let every page in a folder and below take plotly.js from one file there: 5 MB once instead of in each page."""
    inline, address = f"<script>{plotly_source()}</script>", folder / PLOTLY_FILE
    for page in sorted(folder.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        if inline in text:
            if not address.exists():
                write_atomically(address, plotly_source())
            there = Path(os.path.relpath(address, page.parent)).as_posix()
            text = text.replace(inline, f'<script src="{there}"></script>').replace(ALONE, SHARED)
            write_atomically(page, text)


def _embed(plot: Plot) -> dict[str, Any]:
    """Return a figure as JSON, which the page draws in the colours of its theme."""
    from markupsafe import Markup

    figure = plot.figure
    height = figure.layout["height"]
    figure.update_layout(template={"layout": {}}, overwrite=True)  # 7 kB each; the page sets what it would
    text = str(figure.to_json()).replace("<", "\\u003c")
    return {**vars(plot), "json": Markup(text), "height": height}


PANELS: list[Callable[[xr.Dataset, Mapping[str, Any]], list[Section]]] = []
"""Further sections of a detection's page, from its labelled result and manifest."""


def panel(
    draw: Callable[[xr.Dataset, Mapping[str, Any]], list[Section]],
) -> Callable[[xr.Dataset, Mapping[str, Any]], list[Section]]:
    """Add a function's sections to the page of every detection."""
    PANELS.append(draw)
    return draw


def mark_quick(headline: str, sentences: Sequence[str], manifest: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return a page's headline and sentences, marked where they come from a quick look."""
    quick = manifest.get("notes", {}).get("quick")
    return (f"Quick look: {headline}", [quick, *sentences]) if quick else (headline, list(sentences))


def list_facts(manifest: Mapping[str, Any]) -> list[Table]:
    """List what the manifest says, group by group: name, value as shown, and the whole of a shortened value."""
    identity = manifest.get("identity", {})
    groups = {name.capitalize(): identity.get(name, {}) for name in ("model", "corpus", "treebank", "scales")}
    groups["Settings"] = identity.get("config", {})
    single = ("created", "python", "platform", "fingerprint", "format")
    groups["Run"] = {name: manifest[name] for name in single if name in manifest} | manifest.get("notes", {})
    groups["Versions"] = manifest.get("packages", {})
    timed = manifest.get("shared", {}) | manifest.get("stages", {})
    stages = {name: stage.get("seconds", np.nan) for name, stage in timed.items()}
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
