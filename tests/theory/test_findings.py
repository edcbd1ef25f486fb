"""Sentences of a theory run, from one small result each."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mspgt_tl.theory.findings import findings


def closure(ratio: list[float], dtype: str = "float32") -> xr.Dataset:
    pair = ("set", "sigma")
    values = {"ratio": np.array(ratio), "error": np.full(len(ratio), 0.02), "predicted": np.ones(len(ratio))}
    coords = {"set": ["layer 0", "layer 1", "local"], "sigma": [0.001]}
    return xr.Dataset({name: (pair, value[:, None]) for name, value in values.items()}, coords, {"dtype": dtype})


def parts(p_value: float = 0.25, correlation: float = -0.5) -> dict[str, xr.Dataset]:
    information = xr.Dataset(
        {name: ("curve", [value]) for name, value in (("statistic", 0.5), ("elsewhere", 0.1), ("p_value", p_value))},
        {"curve": ["next token, ridge readout"]},
    )
    told = {"rank_correlation": correlation, "rank_p_value": 0.04, "operating_step": 1}
    rates = xr.Dataset({"beta_sigma": ("step", [0.3, 0.7])}, attrs=told)
    interval = (("bound", "step"), [[0.1, np.nan], [0.4, np.nan]])
    values = {"effective_beta": ("step", [0.25, np.nan]), "effective_interval": interval}
    bottleneck = xr.Dataset(values, {"beta": [0.1, 1.0, 10.0]})
    closures = {"closure": closure([1.0, 0.95, 1.02]), "closure-float64": closure([np.nan] * 3, "float64")}
    return {**closures, "information": information, "rates": rates, "bottleneck": bottleneck}


def test_every_estimator_has_its_sentence() -> None:
    """The worst closure is named, jumps stand beside those elsewhere, and what was not measured says so."""
    assert findings(parts()) == [
        "Closure in float32 at σ = 0.001: measured over predicted KL is within 5.0 % of 1 everywhere (worst: layer 1, "
        "0.950 ± 0.020); over all layers 0.990.",
        "Closure in float64 was not measured; the reasons say why.",
        "Prediction 1.2, mean jump of the slope at boundaries in nats per layer: next token, ridge readout: 0.5 "
        "against 0.1 elsewhere, p = 0.25.",
        "Eq. 23 over layers, β at σ = 0.7 against conditional entropy: rank correlation -0.50 (as the paper says; "
        "permutation p = 0.04).",
        "H-VIB, effective β from the slope of the sweep (eq. 22): 0.25 [0.1, 0.4] between 0.1 and 1; nan "
        "between 1 and 10.",
    ]


@pytest.mark.parametrize(("correlation", "says"), [(0.5, "against the paper"), (np.nan, "was not tested")])
def test_a_correlation_of_the_other_sign_is_against_the_paper(correlation: float, says: str) -> None:
    """β rising with conditional entropy contradicts eq. 23; nan is no result."""
    assert says in findings(parts(correlation=correlation))[3]


def test_untested_slopes_and_unpredicted_closure_are_told() -> None:
    """Without boundaries no jump is tested; where nothing is predicted, closure cannot be told."""
    given = parts(p_value=np.nan)
    given["closure"]["ratio"][1] = np.nan
    told = findings(given)
    assert told[0] == "Closure in float32 could not be told everywhere: nothing is predicted for some layers."
    assert told[2].endswith("was not tested; the reasons say why.")
