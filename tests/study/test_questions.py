"""The three questions, on results and sweeps made by hand: whose boundaries, whose rule, which dose."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mspgt_tl.dashboard.study_questions import dose_figure, onset_figure, rules_figure
from mspgt_tl.study.conclusions import on_doses, on_missing, on_onsets
from mspgt_tl.study.questions import DOSE_COLUMNS, OURS, dose_rows, ratio_rows, read_off, rule_rows

SIGNALS = ["cka", "probe", "attention_jsd"]


def result(gap: int, raw_gap: int, *, supported: bool = True) -> xr.Dataset:
    """Three signals that peak at one gap; the audit's other rows peak at another, where a massive activation starts."""
    rng, gaps = np.random.default_rng(0), np.arange(1, 12)
    curve = 0.02 * rng.random((3, 11)) + (gaps == gap)
    other = 0.02 * rng.random((2, 11)) + 5.0 * (gaps == raw_gap)
    variants = ["first token kept", "raw rows", "sinks kept"]
    audit_curve = np.stack([other[0], other[1], curve[2]])
    return xr.Dataset(
        {
            "curve": (("signal", "gap"), curve),
            "resampled": (("resample", "signal", "gap"), np.tile(curve, (120, 1, 1)).astype(np.float32)),
            "audit_signal": ("variant", ["cka", "cka", "attention_jsd"]),
            "audit_curve": (("variant", "gap"), audit_curve),
            "audit_resampled": (("variant", "audit_resample", "gap"), np.tile(audit_curve[:, None], (1, 110, 1))),
            "boundary": ("found", np.array([gap])),
            "verdict": ("found", np.array(["supported" if supported else "localised, not significant"])),
            "onset": ("gap", (gaps == raw_gap).astype(int)),
            "onset_chance": ((), 3 / 11),
        },
        coords={"signal": SIGNALS, "gap": gaps, "variant": variants},
        attrs={"seed": 0, "n_layers": 12, "reasons": json.dumps([])},
    )


def test_each_rule_is_asked_with_its_own_rows():
    """With first tokens or raw rows the published rule also takes the massive onset; ours is what the verdict says."""
    rows = {row["reading"]: row for row in rule_rows("m", "trained", result(4, 9))}
    kept, raw, ours = (rows[name] for name in [*list(rows)[:2], OURS])
    assert kept["boundaries"] == raw["boundaries"] == (4, 9)
    assert (kept["count"], kept["near"]) == (2, 1)
    assert rows["published rule, our curves"]["boundaries"] == (4,)
    assert ours["boundaries"] == (4,) and ours["near"] == 0
    assert all(row["chance"] == pytest.approx(3 / 11) for row in rows.values())


def test_a_candidate_that_is_not_supported_is_no_boundary_of_ours():
    """The published rule still takes it."""
    rows = {row["reading"]: row["boundaries"] for row in rule_rows("m", "trained", result(4, 9, supported=False))}
    assert rows[OURS] == ()
    assert rows["published rule, our curves"] == (4,)


def sweep(factors: dict[str, float]) -> Any:
    """A sweep in which KL = factor · σ² exactly, controls with factor 1 and 3."""
    levels = [0.05, 0.1, 0.2]
    every = (
        factors | {f"{name} control, 0-3": 1.0 for name in factors} | {f"{name} control, 4-7": 3.0 for name in factors}
    )
    kl = np.array([[f * s * s for s in levels] for f in every.values()])
    effects = xr.Dataset(
        {"kl": (("target", "level"), kl), "kl_low": (("target", "level"), 0.9 * kl)}
        | {"kl_high": (("target", "level"), 1.1 * kl), "sigma": (("target", "level"), np.tile(levels, (len(kl), 1)))},
        coords={
            "target": list(every),
            "level": levels,
            "group": ("target", ["scale"] * len(factors) + ["control"] * 2 * len(factors)),
            "control_of": ("target", [""] * len(factors) + 2 * list(factors)),
            "blocks": ("target", ["0-3"] * len(every)),
        },
        attrs={"dose": "per_layer"},
    )
    conditions = pd.DataFrame(
        [
            {"scale": name, "dose": dose, "level": 0.1, "sigma": sigma, "is_control": False}
            for name, factor in factors.items()
            for dose, sigma in (("per_layer", 0.1), ("per_scale", 0.05), ("kl", 0.1 / np.sqrt(10 * factor)))
        ]
    )
    conditions["name"] = conditions["scale"] + ", " + conditions["dose"]
    solved = conditions[conditions["dose"] == "kl"]
    kl = xr.DataArray(np.full(len(solved), 0.1), dims="condition")
    doses = xr.Dataset({"kl": kl, "kl_low": 0.9 * kl, "kl_high": 1.1 * kl}, coords={"condition": list(solved["name"])})
    notes = {"notes": {"compared_level": 0.1}}
    return SimpleNamespace(effects=effects, conditions=conditions, doses=doses, manifest=notes)


def test_ratios_follow_the_dose():
    """Scales 8 times as sensitive are 8 times as brittle at equal σ and at equal power, and equally so at equal KL."""
    table = pd.DataFrame(dose_rows("m", sweep({"local": 8.0, "global": 1.0})), columns=list(DOSE_COLUMNS))
    ratios = {row["dose"]: row for row in ratio_rows(table) if row["between"] == "scales of m"}
    assert ratios["per_layer"]["ratio"] == pytest.approx(8)
    assert ratios["per_scale"]["ratio"] == pytest.approx(8)
    assert ratios["kl"]["ratio"] == pytest.approx(1)
    assert ratios["per_layer"]["controls"] == pytest.approx(3)
    assert np.isnan(ratios["kl"]["controls"])


def test_between_models_each_scale_has_its_ratio():
    """One row a scale, the largest model's KL over the smallest's."""
    rows = dose_rows("a", sweep({"local": 8.0})) + dose_rows("b", sweep({"local": 2.0}))
    found = ratio_rows(pd.DataFrame(rows, columns=list(DOSE_COLUMNS)))
    assert {row["between"]: row["ratio"] for row in found if row["dose"] == "per_scale"} == {
        "models, local scale": pytest.approx(4)
    }


def test_other_doses_are_measured_at_their_own_sigma():
    """Where the folder holds them; a σ far below the levels is not guessed from there."""
    found = sweep({"local": 8.0, "global": 1.0})
    found.conditions.loc[found.conditions["dose"] == "kl", "sigma"] = 1e-3
    rows = [row for row in dose_rows("m", found) if row["dose"] == "kl"]
    assert [(row["kl"], row["low"], row["high"]) for row in rows] == [pytest.approx((0.1, 0.09, 0.11))] * 2
    found.doses = None
    assert all(np.isnan(row["kl"]) for row in dose_rows("m", found) if row["dose"] == "kl")


def test_reading_off_lies_between_the_levels():
    """On a power law the line is exact; beyond the levels, and without σ, there is nothing to read."""
    effects = xr.Dataset({"kl": ("level", [0.01, 0.04, 0.16]), "sigma": ("level", [0.1, 0.2, 0.4])})
    assert read_off(effects, "kl", 0.3) == pytest.approx(0.09)
    assert np.isnan([read_off(effects, "kl", at) for at in (0.05, 0.5, np.nan)]).all()


def test_the_pictures_hold_the_tables():
    """One curve with and without first tokens, one point a boundary, one a scale and dose."""
    data = result(4, 9)
    assert [trace["name"] for trace in onset_figure({"m": data}).data] == [
        "first tokens among the rows",
        "data tokens only",
    ]
    rules = rules_figure(pd.DataFrame(rule_rows("m", "trained", data)))
    assert sorted(x for trace in rules.data for x in trace["x"]) == [4, 4, 4, 4, 9, 9]
    table = pd.DataFrame(dose_rows("m", sweep({"local": 8.0, "global": 1.0})), columns=list(DOSE_COLUMNS))
    drawn = [trace for trace in dose_figure(table).data if trace["mode"] == "markers"]
    assert sorted(x for trace in drawn for x in trace["x"]) == pytest.approx(sorted(table["kl"]))


def findings(kind: str = "trained") -> Any:
    """What conclusions are drawn from."""
    doses = pd.DataFrame(dose_rows("m", sweep({"local": 8.0, "global": 1.0})), columns=list(DOSE_COLUMNS))
    return SimpleNamespace(
        rules=pd.DataFrame(rule_rows("m", kind, result(4, 9))), ratios=pd.DataFrame(ratio_rows(doses))
    )


def test_a_study_without_one_of_its_shards_says_so():
    """Its report is drawn from what is there, and a killed study's is, too."""
    steps = [SimpleNamespace(name=name) for name in "abc"]
    for made, told in (
        ("abc", ""),
        ("ac", "1 of 3 runs has not been made yet; all this rests on the others."),
        ("a", "2 of 3 runs have not been made yet; all this rests on the others."),
    ):
        partial: Any = SimpleNamespace(steps=steps, study=SimpleNamespace(outcomes=dict.fromkeys(made)))
        assert on_missing(partial) == told


def test_conclusions_count_onsets_and_name_doses():
    """One of the two boundaries is at the onset; ratios come with what was made equal."""
    assert on_onsets(findings()) == (
        "With first tokens and sinks among the data, 1 of 2 boundaries that the published rule accepts in trained "
        "models lies within one gap of the onset or end of a massive activation or a sink (random gaps: 27%)."
    )
    assert on_onsets(findings("random weights")) == ""
    told = on_doses(findings())
    assert "8 (equal σ), 8 (equal power), 1 (equal KL) times" in told
