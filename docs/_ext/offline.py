"""What the pages need so that they ask no network: formulas as MathML, figures and the explorer with one plotly.js."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import myst_nb.core.render as notebook_outputs
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from mspgt_tl.dashboard.sheet import embed_json, plotly_source

FIGURE = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STATES = "application/vnd.jupyter.widget-state+json"


def inline_formula(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(str(tex2mathml(node.astext(), as_block=False)))
    raise nodes.SkipNode


def formula(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


class Outputs:
    """Draws figures of Plotly and explorers of detections; other widgets need a kernel and say so."""

    mime_priority_overrides = (("html", FIGURE, 1), ("html", WIDGET, 2))

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        if data.mime_type == FIGURE:
            return [block("figure-of-plotly", data.content)]
        if data.mime_type != WIDGET:
            return None
        states = renderer.renderer.md_options["notebook"].metadata.get("widgets", {}).get(STATES, {}).get("state", {})
        state = states.get(data.content["model_id"], {}).get("state", {})
        if "_esm" not in state:
            return [raw('<p class="needs-kernel">A slider stands here in a notebook with a kernel.</p>')]
        return [block("explorer-of-mspgt", state["data"])]


def block(kind: str, value: Any) -> nodes.raw:
    carried = embed_json(json.loads(value) if isinstance(value, str) else value)
    return raw(f'<div class="{kind}"><script type="application/json">{carried}</script></div>')


def raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give plotly.js and the explorer to the pages that need them alone."""
    body = context.get("body", "")
    if "figure-of-plotly" in body or "explorer-of-mspgt" in body:
        app.add_js_file("plotly.min.js", priority=300)
        app.add_js_file("figures.js", type="module", priority=800)
    if "explorer-of-mspgt" in body:
        app.add_js_file("explorer.js", priority=801, type="module")
        app.add_css_file("explorer.css")


def write_scripts(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    (static / "plotly.min.js").write_text(plotly_source(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    # Entry points are how a plugin is meant to come in, but they need a package that is installed.
    notebook_outputs.load_mime_renders = lambda: [Outputs]
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))
    app.config.html_math_renderer = "mathml"
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
