"""What the pages need so that they ask no network: formulas as MathML, figures and explorers with one plotly.js."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import myst_nb.core.render as notebook_outputs
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from mspgt_tl.dashboard.sheet import embed_json, plotly_source, static_text

FIGURE = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STATES = "application/vnd.jupyter.widget-state+json"
MARKS = ("data-figure", "data-explorer")
"""Attributes of the elements that a figure and an explorer are drawn into."""
HEIGHT = 450
"""Pixels of a figure that states none; Plotly's own default."""


def draw_inline_formula(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(str(tex2mathml(node.astext(), as_block=False)))
    raise nodes.SkipNode


def draw_formula(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


class Outputs:
    """Draws figures of Plotly and explorers of detections; other widgets need a kernel and say so."""

    mime_priority_overrides = (("html", FIGURE, 1), ("html", WIDGET, 2))

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        if data.mime_type == FIGURE:
            figure = read(data.content)
            height = figure.get("layout", {}).get("height", HEIGHT)
            figure.get("layout", {}).pop("template", None)  # 7 kB each, and the colours of a white page
            return [hold(MARKS[0], {"data": figure["data"], "layout": {"height": height, **figure["layout"]}}, height)]
        if data.mime_type != WIDGET:
            return None
        models = renderer.renderer.nb_client.nb_metadata.get("widgets", {}).get(STATES, {}).get("state", {})
        state = models.get(read(data.content)["model_id"], {}).get("state", {})
        if "_esm" in state:
            return [hold(MARKS[1], {"data": state["data"], "state": state["state"]})]
        if "widget-interact" in state.get("_dom_classes", ()):
            return [nodes.raw("", "<p><em>In a notebook with a kernel, sliders stand here.</em></p>", format="html")]
        return []  # a progress bar


def read(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def hold(mark: str, value: Any, height: int | None = None) -> nodes.raw:
    """Return an element to draw into, its data behind it."""
    style = f' style="height:{height}px"' if height else ""
    html = f'<div {mark}{style}></div>\n<script type="application/json">{embed_json(value)}</script>'
    return nodes.raw("", html, format="html")


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give plotly.js and the explorer to the pages that need them alone."""
    if not any(mark in context.get("body", "") for mark in MARKS):
        return
    for i, name in enumerate(("plotly.min.js", "figures.js", "explorer.js", "site.js")):
        app.add_js_file(name, priority=800 + i, loading_method="defer")
    app.add_css_file("explorer.css")


def drop_widget_states(app: Sphinx, doctree: nodes.document) -> None:
    """Leave out the states of all widgets that myst-nb would put into the page a second time."""
    doctree.attributes.get("nb_js_files", {}).pop("ipywidgets_state", None)


def write_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Put the scripts beside the pages: plain ones, since browsers load no modules from a folder of files."""
    if exception or app.builder.format != "html":
        return
    module = static_text("explorer.js")
    plain = re.sub(
        r"^export default .*$", "", re.sub(r"^export (?=function)", "", module, flags=re.MULTILINE), flags=re.M
    )
    files = {
        "plotly.min.js": plotly_source(),
        "figures.js": static_text("figures.js"),
        "explorer.js": f"const mspgtExplorer = (() => {{\n{plain}\nreturn {{ mount, ownState }};\n}})();\n",
        "explorer.css": static_text("theme.css") + static_text("explorer.css"),
    }
    for name, text in files.items():
        (Path(app.outdir) / "_static" / name).write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    # Entry points are how such a part is meant to come in, but they need a package that is installed.
    notebook_outputs.load_mime_renders = lambda: [Outputs]
    app.add_html_math_renderer("mathml", (draw_inline_formula, None), (draw_formula, None))
    app.connect("doctree-read", drop_widget_states)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
