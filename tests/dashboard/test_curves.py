"""Figures of a detection, from one small result to exact traces."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mspgt_tl.dashboard.curves import contrast_figure, evidence_figure, lay_over, signals_figure

GAPS = np.arange(1, 6)


def result() -> xr.Dataset:
    """Return two signals over five gaps, the second left out, with one boundary at gap 3."""
    curves = np.array([[0.0, 1, 4, 1, 0], [2.0, 2, 3, 2, 2]])
    resampled = np.stack([curves - 0.5, curves, curves + 0.5])
    values = {
        "curve": (("signal", "gap"), curves),
        "resampled": (("resample", "signal", "gap"), resampled),
        "normalised": (("signal", "gap"), [[0, 0.25, 1, 0.25, 0], [0, 0, 0, 0, 0]]),
        "reliability": ("signal", [1.0, 0.25]),
        "weight": ("signal", [1.0, 0.0]),
        "flat": ("signal", [False, True]),
        "unit": ("signal", ["nats", "1"]),
        "title": ("signal", ["First", "Second"]),
        "fused": ("gap", [0, 0.25, 1, 0.25, 0]),
        "fused_interval": (("bound", "gap"), np.tile([[0.0], [1.0]], 5)),
        "contrast": ("gap", [-0.5, 0.1, 0.9, 0.1, -0.5]),
        "boundary": ("found", [3]),
        "interval": (("found", "bound"), [[2.0, 4.0]]),
        "p_value": ("found", [0.01]),
        "verdict": ("found", ["supported"]),
        "near_tie": ("found", [np.nan]),
    }
    attrs = {"n_layers": 6, "rule": "mspgt", "contrast_threshold": 0.7, "seed": 0, "reasons": "[]"}
    return xr.Dataset(values | {"contrast_threshold": 0.7}, {"signal": ["one", "two"], "gap": GAPS}, attrs)


def named(figure) -> dict[str, list[float]]:
    return {trace.name: list(trace.y) for trace in figure.data if trace.name and trace.y is not None}


def test_a_signal_that_was_left_out_is_drawn_as_it_would_have_been() -> None:
    """Grey and dashed, scaled to 0 … 1 and times its reliability, with the reason in its name."""
    drawn = named(evidence_figure(result()))
    assert drawn["one"] == [0, 0.25, 1, 0.25, 0]
    assert drawn["two: flat (reliability 0.25), left out"] == [0, 0, 0.25, 0, 0]
    assert drawn["fused evidence"] == [0, 0.25, 1, 0.25, 0]


def test_each_signal_has_its_unit_and_its_band() -> None:
    """Raw values, with the 95 % of the resamples around them."""
    figure = signals_figure(result())
    drawn = named(figure)
    assert drawn["one"] == [0, 1, 4, 1, 0] and drawn["two"] == [2, 2, 3, 2, 2]
    assert any("First</b> [nats]" in str(note.text) for note in figure.layout.annotations)


def test_the_boundary_and_the_threshold_stand_out_of_the_contrast() -> None:
    """One bar has the colour of boundaries, and the line says what it is."""
    figure = contrast_figure(result())
    colours = figure.data[0].marker.color
    assert len({colours[i] for i in (0, 1, 3, 4)}) == 1 and colours[2] != colours[0]
    assert named(figure)["5 % of null curves exceed 0.70 somewhere"] == [0.7, 0.7]


def test_another_model_is_laid_over_on_the_same_relative_depth() -> None:
    """Gaps of a model twice as deep are halved."""
    figure = evidence_figure(result())
    other = result().assign_attrs(n_layers=12)
    lay_over(figure, result(), other, "deeper", "fused")
    assert figure.data[-1].name == "deeper: gaps 3 of 12 blocks"
    assert list(figure.data[-1].x) == [0.5, 1, 1.5, 2, 2.5]
