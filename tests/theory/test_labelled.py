"""Estimates keep their numbers, axes and reasons as labelled arrays."""

from __future__ import annotations

import json

import numpy as np

from mspgt_tl.contracts import CURVE, LAYER
from mspgt_tl.theory.fisher import Fisher
from mspgt_tl.theory.labelled import label_fisher, label_information, label_units, label_unmeasured
from mspgt_tl.theory.mutual_information import Information
from mspgt_tl.theory.texts import Texts


def test_units_are_by_layer_with_the_size_of_the_text() -> None:
    """Two texts of three tokens, the first of each no data."""
    is_data = np.array([False, True, True])
    told = label_units({0: 0.5, 1: 2.0}, Texts(((1, 2, 3),) * 2, (is_data,) * 2))
    assert told["unit"].to_series().to_dict() == {0: 0.5, 1: 2.0}
    assert told.attrs == {"tokens": 4, "texts": 2}


def test_sensitivities_are_traces_times_squared_units() -> None:
    """A trace of 2 and 3 nats with units 1 and 2; a scale is the sum of its layers."""
    sums = np.tile(np.array([20.0, 30.0]), (1, 40, 1))
    fisher = Fisher(sums, np.zeros((1, 2)), np.full(40, 10), 0)
    told = label_fisher(fisher, {0: 1.0, 1: 2.0}, {"local": range(1), "global": range(2)}, resamples=100)
    np.testing.assert_allclose(told["trace"], [2, 3])
    np.testing.assert_allclose(told["sensitivity"], [2, 12])
    np.testing.assert_allclose(told["sensitivity_interval"], [[2, 12]] * 2)
    np.testing.assert_allclose(told["scale_sensitivity"], [2, 14])


def test_curves_say_what_they_are_of() -> None:
    """Readouts come first with their interval; the channel has its noise, no interval, and its reasons by name."""
    value = np.arange(5.0)
    info = Information(value, np.stack([value, value + 1]), 3.0, 70, "ridge", (), 0, np.tile(value, (9, 1)))
    told = label_information({"ridge": info}, {0.5: (value * np.nan, ["too much"])}, [], seed=0, told=["a word"])
    assert told[CURVE].values.tolist() == ["next token, ridge readout", "Gaussian channel, sigma 0.5"]
    assert told["readout"].values.tolist() == ["ridge", ""]
    np.testing.assert_array_equal(told["channel_sigma"], [np.nan, 0.5])
    np.testing.assert_array_equal(told["information"], [value, value * np.nan])
    assert np.isnan(told["interval"].values[1]).all() and told["interval"].values[0, 1, 0] == 1
    assert told[LAYER].values.tolist() == [0, 1, 2, 3, 4]
    assert json.loads(told.attrs["reasons"])[:2] == ["a word", "Gaussian channel, sigma 0.5: too much"]


def test_what_was_not_measured_is_nan_with_its_reason() -> None:
    """Of the same shape as what would have been."""
    told = label_unmeasured(["layer 0", "local"], [0.1], "float64", "Not asked for.")
    assert told["ratio"].shape == (2, 1) and np.isnan(told["ratio"]).all() and np.isnan(told["exit_sigma"]).all()
    assert json.loads(told.attrs["reasons"]) == ["Not asked for."]
