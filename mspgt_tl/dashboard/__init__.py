"""Draws a detection: the evidence curve for a notebook, and one offline HTML page with all that the result rests on."""

from mspgt_tl.dashboard.curves import evidence_figure
from mspgt_tl.dashboard.page import render_report

__all__ = ["evidence_figure", "render_report"]
