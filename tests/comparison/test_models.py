"""Models side by side."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mspgt_tl.comparison.families import family_table
from mspgt_tl.comparison.models import compare, difference, drift
from mspgt_tl.comparison.positions import paper_models
from mspgt_tl.config import json_values
from mspgt_tl.errors import DataError
from mspgt_tl.pipeline.detection import load_run


def test_the_paper_compared_is_table_3():
    """Families' means and CVs equal `family_table`, the drift is 46.4 points, and no pair can be tested."""
    found = compare(paper_models())
    rows = found.families.set_index(["family", "boundary"])
    table = family_table({"Llama": [(13, 16, 32)] * 2, "Qwen": [(2, 20, 28), (2, 8, 32)]})
    for family, row in table.items():
        for rank in ("LI", "IG"):
            assert rows.loc[(family, rank), "mean"] == pytest.approx(row[f"mean_{rank}"])
            assert rows.loc[(family, rank), "cv"] == pytest.approx(row[f"cv_{rank}"])
    assert round(rows.loc[("Qwen", "IG"), "drift"], 1) == 46.4
    assert np.isnan(rows.loc[("Qwen", "IG"), "drift_low"])
    assert found.pairs["p"].isna().all() and found.pairs["reason"].str.contains("draws").all()
    assert found.labels["smallest_p"].tolist() == pytest.approx([1 / 3, 1 / 3])


def test_a_difference_has_the_bootstrap_interval_of_two_normals(located):
    """10 points apart, each with a standard deviation of 1: 10 ± 1.96 √2."""
    found, p = difference(located("a", 40, 60, spread=1, draws=2000), located("b", 30, 60, spread=1, draws=2000), 0)
    assert found.value == pytest.approx(10)
    assert (found.low, found.high) == (pytest.approx(10 - 2.77, abs=0.3), pytest.approx(10 + 2.77, abs=0.3))
    assert p == pytest.approx(1 / 2001)


def test_the_order_of_a_pair_only_turns_the_sign(located):
    """Difference, limits and p."""
    a, b = located("a", 40, 60, spread=2), located("b", 37, 60, spread=2)
    (there, p), (back, q) = difference(a, b, 0), difference(b, a, 0)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert p == pytest.approx(q)


def test_equal_models_do_not_differ(located):
    """All draws at one gap: p is 1, not the smallest possible."""
    found, p = difference(located("a", 40, 60), located("b", 40, 60), 0)
    assert (found.value, found.low, found.high, p) == (0, 0, 0, 1)


def test_pairs_are_corrected_together(located):
    """Holm over the three pairs of a boundary: the smallest p three times as large."""
    found = compare([located("a", 40, 60, spread=1), located("b", 46, 60, spread=1), located("c", 60, 70, spread=1)])
    first = found.pairs[found.pairs["boundary"] == "LI"]
    assert first["p_holm"].min() == pytest.approx(3 * first["p"].min())
    assert (first["p_holm"] >= first["p"]).all()


def test_drift_is_of_the_farthest_pair_and_its_interval_can_cross_zero(located):
    """Three models: the largest less the smallest; a small one with wide draws may be nothing."""
    models = [located("a", 40, 60, spread=3), located("b", 42, 60, spread=3), located("c", 41, 60, spread=3)]
    found = drift(models, 0)
    assert found.value == pytest.approx(2)
    assert found.low < 0 < found.high
    assert np.isnan(drift(models[:1], 0).value)


def test_runs_are_compared_from_their_folders(planted_run):
    """Planted gaps come back as positions, and different ones differ significantly."""
    runs = [planted_run("llama-a", (3, 8)), planted_run("llama-b", (3, 8), seed=1), planted_run("qwen-a", (2, 9))]
    found = compare(list(map(load_run, runs)))
    assert found.models["gap"].tolist() == [3, 8, 3, 8, 2, 9]
    assert found.families.set_index(["family", "boundary"]).loc[("llama", "LI"), "cv"] == 0
    pairs = found.pairs[found.pairs["boundary"] == "LI"].set_index(["first", "second"])
    assert pairs.loc[("llama-a", "llama-b"), "p"] == 1
    assert pairs.loc[("llama-a", "qwen-a"), "p"] < 0.05


def test_models_without_two_boundaries_are_left_out_with_the_reason(planted_run):
    """They stay in the table of models and leave n."""
    found = compare([load_run(planted_run("llama-a", (3, 8))), load_run(planted_run("llama-b", (5,)))])
    assert found.families["n"].tolist() == [1, 1]
    assert found.models["reason"].tolist()[2:] == ["one boundary, at gap 5, which may be either"] * 2
    assert found.pairs.empty


def test_labelled_arrays_and_json(located):
    """xarray carries draws by model; JSON holds no nan and no infinity."""
    found = compare([located("a", 40, 60, spread=1), *paper_models()])
    data = found.to_xarray()
    assert data["draw"].dims == ("model", "resample", "boundary")
    assert data["relative"].sel(model="Qwen1.5-7B", boundary="IG").item() == 0.25
    assert data["draw"].sel(model="a").notnull().all() and data["draw"].sel(model="Llama-2-7B").isnull().all()
    text = json.dumps(found.to_plain(), allow_nan=False)
    assert json.loads(text)["families"][0]["cv"] is None


def test_json_values_name_what_is_not_finite():
    """nan is None, an infinite number its name."""
    assert json_values({"a": [np.nan, np.inf, np.float64(2), np.array([1])]}) == {"a": [None, "inf", 2.0, [1]]}


def test_brittleness_comes_from_a_table(located):
    """By metric, scale and dose."""
    rows = [
        {"model": m, "family": m, "scale": "local", "metric": "ttr", "effect": e, "low": e - 1, "high": e + 1}
        for m, e in (("x", 10.0), ("y", -40.0))
    ]
    found = compare([located("a", 40, 60), located("b", 41, 60)], effects=pd.DataFrame(rows)).brittleness
    local = found[found["scale"] == "local"].iloc[0]
    assert local["ratio"] == pytest.approx(4)
    assert local["low"] < 4 < local["high"]


def test_one_run_is_no_comparison(located):
    """Two are needed."""
    with pytest.raises(DataError, match="two or more runs, got 1"):
        compare([located("a", 40, 60)])
