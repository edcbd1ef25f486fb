"""The page of a theory run: stored folders of earlier versions are read, and sets and curves are told by fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mspgt_tl.contracts import LAYER
from mspgt_tl.dashboard.theory import _bottleneck_section, _headline, _information_sections, _rate_section, _set_style
from mspgt_tl.pipeline.theory import STAGES, load_theory, summarise

RUN = Path(__file__).parents[2] / "docs" / "runs" / "gemma3-theory"


@pytest.fixture(scope="module")
def stored() -> Any:
    """A run that was made when the stage of activation units was called `scales`."""
    return load_theory(RUN)


def test_a_run_of_an_earlier_version_is_read_under_the_names_of_this_one(stored: Any) -> None:
    """Its units are units, and its curves say which readout or noise they are of."""
    assert (RUN / "scales.nc").is_file() and not (RUN / "units.nc").exists()
    assert tuple(stored.parts) == STAGES
    assert stored.parts["units"]["unit"].dims == (LAYER,)
    part = stored.parts["information"]
    assert part["readout"].values.tolist()[:3] == ["ridge", "softmax", ""]
    for name, sigma in zip(part["curve"].values, part["channel_sigma"].values, strict=True):
        assert np.isnan(sigma) if "readout" in name else name == f"Gaussian channel, sigma {sigma:g}"
    assert len(summarise(stored)["layers"]) == 18


def test_curves_are_drawn_by_what_they_are_of(stored: Any) -> None:
    """Readouts in one panel, the channel in the other, each named by its own field."""
    section = _information_sections(stored.parts["information"], [5])[0]
    readouts, channel = ([trace.name for trace in plot.figure.data if trace.name != "95 %"] for plot in section.plots)
    assert readouts == ["ridge readout", "softmax readout"]
    assert channel and all(name.startswith("sigma ") for name in channel)


def test_layers_run_from_light_to_dark_and_scales_are_wide() -> None:
    """The first and last layer take the ends of the shade; a scale has a colour of its own."""
    names = ["layer 0", "layer 1", "local", "intermediate", "global"]
    styles = [_set_style(names, i)["line"] for i in range(5)]
    assert [style["color"] for style in styles[:2]] == ["rgb(200,190,215)", "rgb(30,70,215)"]
    assert [style["width"] for style in styles] == [1.5, 1.5, 3.0, 3.0, 3.0]


def test_scales_have_no_entropy_left_to_encode() -> None:
    """Rates of scales are in the table, their conditional entropy is a dash, and β by layer has layers alone."""
    part = xr.Dataset(
        {
            "rate": (("set", "sigma"), np.ones((3, 2))),
            "distortion": (("set", "sigma"), np.ones((3, 2))),
            "beta_sigma": ("step", [0.3]),
            "beta": (("set", "step"), [[0.5], [0.25], [2.0]]),
            "beta_interval": (("bound", "set", "step"), [[[0.4], [0.2], [1.0]], [[0.6], [0.3], [3.0]]]),
            "conditional_rate": (LAYER, [np.nan, 7.0]),
        },
        coords={"set": ["layer 0", "layer 1", "local"], "sigma": [0.2, 0.5], LAYER: [0, 1]},
        attrs={"operating_step": 0},
    )
    section = _rate_section(part)
    assert section.tables[0].rows == [
        ["layer 0", "0.5", "[0.4, 0.6]", "–"],
        ["layer 1", "0.25", "[0.2, 0.3]", "7"],
        ["local", "2", "[1, 3]", "–"],
    ]
    assert section.plots[1].figure.data[1].y.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("ratio", "error", "told"),
    [
        (1.05, 0.01, "Small noise moves the output as the Fisher trace predicts, to within 5.0 % (error up to 1.0 %)."),
        (1.25, 0.10, "Closure is not decided: it is off by up to 25.0 %, but the draws' own error is up to 10.0 %."),
        (
            1.25,
            0.01,
            "Small noise does not do what the Fisher trace predicts: it is off by up to 25.0 % (error up to 1.0 %).",
        ),
        (np.nan, np.nan, "Closure could not be told for every layer."),
    ],
)
def test_the_headline_says_whether_the_trace_is_right(ratio: float, error: float, told: str) -> None:
    """Within 10 %, within three errors, beyond both, or not measured."""
    part = xr.Dataset({name: (("set", "sigma"), [[value]]) for name, value in (("ratio", ratio), ("error", error))})
    part["predicted"] = ("set", "sigma"), [[1.0]]
    assert _headline({"closure": part, "closure-float64": part * np.nan}) == told


def test_every_weight_of_the_bottleneck_has_a_row() -> None:
    """The effective β stands beside the higher of the two weights between which it was measured."""
    rates, scales = [[0.5, 0.25, 0.125], [0.4, 0.2, 0.1]], ["global", "intermediate", "local"]
    part = xr.Dataset(
        {
            "reconstruction": ("beta", [2.0, 1.5]),
            "rate": (("beta", "scale_name"), rates),
            "rate_interval": (("bound", "beta", "scale_name"), [rates, rates]),
            "elbo": ("beta", [1.0, 0.8]),
            "elbo_interval": (("bound", "beta"), [[0.9, 0.7], [1.1, 0.9]]),
            "effective_beta": ("step", [0.3]),
            "effective_interval": (("bound", "step"), [[0.2], [0.4]]),
        },
        coords={"beta": [0.1, 1.0], "scale_name": scales},
        attrs={"width": 4},
    )
    section = _bottleneck_section(part)
    assert section.tables[0].rows == [
        ["0.1", "2", "0.5", "0.25", "0.125", "1 [0.9, 1.1]", "–"],
        ["1", "1.5", "0.4", "0.2", "0.1", "0.8 [0.7, 0.9]", "0.3 [0.2, 0.4]"],
    ]
