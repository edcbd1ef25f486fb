"""Plotly figures that a notebook still shows after it was exported to HTML, without a network.

Plotly itself leaves JupyterLab nothing but its own data format, which `nbconvert` cannot draw, or loads its library
from the network. Here every figure brings a few lines of HTML as well, and one of a session brings the library
(compressed, 1.9 MB), which the others wait for. JupyterLab and VS Code go on drawing the data format and never run it.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any, ClassVar, cast
from uuid import uuid4

import plotly.graph_objects as go
import plotly.io as pio

from mspgt_tl.dashboard.sheet import plotly_source, static_text

JUPYTER = "plotly_mimetype"
"""What Plotly chooses in JupyterLab: its data format alone."""


class ShownFigure(go.Figure):
    """An ordinary figure; in a Jupyter kernel its output holds HTML, too."""

    _carrier: ClassVar[str | None] = None
    """The cell whose output holds the library: run again, it has to bring it again."""

    def show(self, *args: Any, **options: Any) -> None:
        """Show the figure, as the last line of a cell would."""
        if args or options or pio.renderers.default != JUPYTER:
            super().show(*args, **options)  # a front end with ways of its own, such as Colab, or a person's choice
            return
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

    def _ipython_display_(self) -> None:
        if pio.renderers.default != JUPYTER:
            super()._ipython_display_()
        else:
            self.show()

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_(*args, **options) or {})
        if pio.renderers.default != JUPYTER:
            return bundle
        return {**bundle, "text/html": figure_html(self, with_library=self._must_carry())}

    @classmethod
    def _must_carry(cls) -> bool:
        cell = _this_cell()
        if ShownFigure._carrier is None or ShownFigure._carrier == cell:
            ShownFigure._carrier = cell
            return True
        return False


def figure_html(figure: go.Figure, *, with_library: bool) -> str:
    """Return a figure as HTML that draws it once the library is there, which it brings itself or waits for."""
    place = f"mspgt-{uuid4().hex[:12]}"
    height = int(cast(Any, figure.layout)["height"] or 450)
    library = base64.b64encode(gzip.compress(plotly_source().encode(), mtime=0)).decode() if with_library else ""
    drawn = str(figure.to_json()).replace("<", "\\u003c")
    return (
        f'<div id="{place}" style="min-height:{height}px"></div>'
        f"<script>({static_text('shown.js').strip()})({json.dumps(place)}, {drawn}, {json.dumps(library)})</script>"
    )


def _this_cell() -> str:
    """Return what tells the running cell from others, as far as the front end says."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    if shell is None:
        return ""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return str(parent.get("metadata", {}).get("cellId") or shell.execution_count)
