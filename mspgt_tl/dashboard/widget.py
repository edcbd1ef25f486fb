"""The explorer as a notebook widget: the module of the offline page, with a kernel behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from mspgt_tl.dashboard.explorer import explorer_data
from mspgt_tl.dashboard.sheet import plotly_source, static_text

if TYPE_CHECKING:
    import xarray as xr

PACKED_BYTES = 4_000_000
"""A notebook can carry all the resamples of a deep model."""


class DetectionExplorer(anywidget.AnyWidget):
    """What `Detection.explore` returns. `state` holds weights, prominence, rule and the rest, and can be set."""

    _esm = static_text("explorer.js")
    _css = static_text("theme.css") + static_text("explorer.css")
    data = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.on_msg(self._answer)

    def _answer(self, _: Any, content: Any, __: Any) -> None:
        """Send plotly.js to a front end that has none; it never enters the saved notebook."""
        if content.get("kind") == "plotly":
            self.send({"kind": "plotly"}, buffers=[plotly_source().encode()])


def make_explorer(data: xr.Dataset, manifest: Any, others: dict[str, xr.Dataset]) -> DetectionExplorer:
    """Return the explorer of a result, with others that can be laid over it."""
    return DetectionExplorer(data=explorer_data(data, manifest, others, packed_bytes=PACKED_BYTES))
