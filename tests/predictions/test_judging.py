"""Verdicts: what an interval, a minimum of models and chance make of a number."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mspgt_tl.comparison.effects import read_effects
from mspgt_tl.comparison.positions import read_runs
from mspgt_tl.errors import DataError
from mspgt_tl.pipeline.detection import load_run
from mspgt_tl.predictions.judging import judge
from mspgt_tl.predictions.measuring import Evidence, chance_rate, paper_evidence, read_measurements
from mspgt_tl.predictions.registry import Prediction, load_set


def prediction(**fields) -> Prediction:
    base = {"id": "x", "claim": "c", "source": "s", "direction": "above", "threshold": 0.0, "min_n": 1}
    return Prediction(**(base | fields))


def one(p: Prediction, **evidence):
    return judge([p], Evidence(**evidence))[0]


def measured(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    return read_measurements(
        pd.DataFrame([dict(zip(("model", "value", "low", "high"), r, strict=True), quantity="q") for r in rows])
    )


@pytest.mark.parametrize(
    ("direction", "threshold", "low", "high", "verdict"),
    [
        ("above", 5.0, 5.1, 7.0, "supported"),
        ("above", 5.0, 4.9, 7.0, "undecided"),
        ("above", 5.0, 3.0, 4.9, "refuted"),
        ("below", 5.0, 3.0, 4.9, "supported"),
        ("below", 5.0, 3.0, 5.1, "undecided"),
        ("below", 5.0, 5.1, 7.0, "refuted"),
        ("between", (4.0, 6.0), 4.5, 5.5, "supported"),
        ("between", (4.0, 6.0), 3.5, 5.5, "undecided"),
        ("between", (4.0, 6.0), 6.1, 7.0, "refuted"),
        ("above", 5.0, math.nan, math.nan, "undecided"),
    ],
)
def test_the_interval_decides(direction, threshold, low, high, verdict):
    """Inside: supported; outside: refuted; straddling, or none: undecided."""
    p = prediction(statistic="measured", quantity="q", direction=direction, threshold=threshold)
    value = 5.2 if math.isnan(low) else (low + high) / 2
    found = one(p, measurements=measured(("m", value, low, high)))
    assert found.verdict == verdict
    assert found.point_verdict == ("supported" if p.passes(value) else "refuted")
    assert bool(found.further) == (verdict == "undecided")


@pytest.mark.parametrize(
    ("quantifier", "bounds", "verdict"),
    [
        ("every", [(1, 2), (1, 2)], "supported"),
        ("every", [(1, 2), (-1, 1)], "undecided"),
        ("every", [(1, 2), (-2, -1)], "refuted"),
        ("any", [(1, 2), (-2, -1)], "supported"),
        ("any", [(-1, 1), (-2, -1)], "undecided"),
        ("any", [(-2, -1), (-2, -1)], "refuted"),
    ],
)
def test_groups_combine(quantifier, bounds, verdict):
    """`every` falls with one, `any` stands with one."""
    rows = [(str(i), (low + high) / 2, low, high) for i, (low, high) in enumerate(bounds)]
    p = prediction(statistic="measured", quantity="q", quantifier=quantifier)
    assert one(p, measurements=measured(*rows)).verdict == verdict


def test_too_few_models_are_undecided_whatever_the_interval(located):
    """Three models that agree to a tenth of a point, four needed."""
    models = tuple(located(name, 40 + i / 10, 60, n_layers=1000) for i, name in enumerate("abc"))
    p = prediction(statistic="cv", boundary="LI", direction="below", threshold=0.9, min_n=4)
    found = one(p, models=models)
    assert (found.verdict, found.point_verdict, found.n) == ("undecided", "supported", 3)
    assert "at least 4" in found.groups[0].reason
    assert "4 models" in found.further


@pytest.mark.parametrize(
    ("gaps", "verdict"), [((40, 41, 39, 40, 41, 40), "supported"), ((10, 90, 5, 60, 20, 80), "refuted")]
)
def test_enough_models_decide_prediction_1_1(located, gaps, verdict):
    """Six alike support it, six unlike refute it."""
    models = tuple(located(f"m{i}", gap, 95) for i, gap in enumerate(gaps))
    assert judge(load_set("paper-v2"), Evidence(models))[0].verdict == verdict


def test_a_family_of_one_takes_no_part(located):
    """It neither supports nor blocks, and n leaves it out."""
    models = (*(located(f"m{i}", 40 + i % 2, 95) for i in range(6)), located("lone", 40, 95, family="b"))
    found = judge(load_set("paper-v2"), Evidence(models))[0]
    assert (found.verdict, found.n, [g.name for g in found.groups]) == ("supported", 6, ["a", "b"])


def test_drift_rests_on_the_draws(located):
    """50 points apart: refuted or supported only where the draws of both are narrow."""
    p = load_set("paper-v2").predictions[4]
    narrow = (located("a", 10, 30, spread=1), located("b", 10, 80, spread=1))
    wide = (located("a", 10, 30, spread=15), located("b", 10, 80, spread=15))
    close = (located("a", 10, 30, spread=1), located("b", 10, 35, spread=1))
    assert [one(p, models=m).verdict for m in (narrow, wide, close)] == ["supported", "undecided", "refuted"]
    assert "times as much text" in one(p, models=wide).further


def test_the_paper_s_tables_pass_at_their_word_and_decide_nothing():
    """Tier 1 and 3.2 have two models a group, Tier 2 no interval; chance rates are those of such data."""
    found = {j.prediction.id: j for j in judge(load_set("paper-v2"), paper_evidence())}
    assert {name: j.verdict for name, j in found.items()} == dict.fromkeys(
        ("1.1", "1.2", "2.1", "3.1", "3.2"), "undecided"
    )
    assert [found[name].point_verdict for name in ("1.1", "2.1", "3.2")] == ["supported"] * 3
    assert [g.chance for g in found["1.1"].groups] == pytest.approx([0.262, 0.262], abs=0.015)
    assert found["1.1"].chance == pytest.approx(0.262**2, abs=0.01)
    assert found["3.2"].chance == pytest.approx(1 - (1 - 0.355) ** 2, abs=0.02)
    assert found["2.1"].chance == pytest.approx(1 / 3, abs=0.015)
    assert all(j.further for j in found.values())


def test_prior_chance_rates():
    """Two models: 26 % for 1.1 and 38 % for 3.2; more runs make 3.2 easier."""
    first, *_, last = load_set("paper-v2").predictions
    assert chance_rate(first, 2) == pytest.approx(0.262, abs=0.01)
    assert chance_rate(last, 2) == pytest.approx(0.377, abs=0.01)
    assert chance_rate(first, first.min_n) < 0.05 < chance_rate(first, first.min_n - 1)
    assert chance_rate(last, 5) > chance_rate(last, 2)


def test_one_of_three_equal_effects_is_the_largest_by_chance():
    """The intermediate scale exceeds both others in a third of the cases where none has an effect."""
    (largest,) = (one for one in load_set("paper-v2").predictions if one.statistic == "excess")
    assert chance_rate(largest, 2) == pytest.approx(1 / 3, abs=0.02)


def test_random_boundaries_are_hardly_ever_supported(located):
    """Two families of four models with random boundaries: the verdict is `supported` far less than 5 % of the time."""
    rng = np.random.default_rng(0)
    p, verdicts = load_set("paper-v2").predictions[0], []
    for case in range(120):
        gaps = np.sort(np.array([rng.choice(np.arange(1, 32), 2, replace=False) for _ in range(8)]), axis=1)
        models = tuple(
            located(f"{case}{i}", *pair, family="ab"[i % 2], n_layers=32, draws=0) for i, pair in enumerate(gaps)
        )
        verdicts.append(one(p, models=models).verdict)
    assert verdicts.count("supported") <= 2
    assert verdicts.count("refuted") > 0


def test_labels_support_or_leave_open(located):
    """A p-value above the threshold refutes nothing."""
    p = prediction(statistic="labels", boundary="LI", direction="below", threshold=0.05)
    apart = tuple(located(f"m{i}", 20 + 40 * (i > 3) + i % 4, 90, family="ab"[i > 3]) for i in range(8))
    mixed = tuple(located(f"m{i}", 20 + 40 * (i % 2) + i, 90, family="ab"[i > 3]) for i in range(8))
    assert (one(p, models=apart).verdict, one(p, models=mixed).verdict) == ("supported", "undecided")
    assert one(p, models=apart).chance <= 0.05


def test_existence_counts_models_that_were_tested(located):
    """Eight of eight: an exact interval above one half; the paper tested none."""
    p = prediction(statistic="existence", group="all", threshold=0.5, min_n=5)
    found = one(p, models=tuple(located(f"m{i}", 20, 60) for i in range(8)))
    assert found.verdict == "supported"
    assert found.groups[0].found.low == pytest.approx(0.025 ** (1 / 8))
    assert judge([p], paper_evidence())[0].reason == "no detections given that tested existence"


def test_random_twins_are_no_evidence(planted_run):
    """They are read, compared, and never judged."""
    runs = [planted_run(name, (3, 8)) for name in ("llama", "llama@random:0", "llama@random:1")]
    p = prediction(statistic="existence", group="all", threshold=0.5)
    assert one(p, models=read_runs([load_run(run) for run in runs])).n == 1


def effects(**sizes: tuple[float, float, float]) -> pd.DataFrame:
    scales = ("local", "intermediate", "global")
    return read_effects(
        pd.DataFrame(
            [
                {
                    "model": model,
                    "family": model,
                    "scale": scale,
                    "metric": "sentence_length_variance",
                    "effect": effect,
                    "low": effect - 2,
                    "high": effect + 2,
                    "dose": "kl=0.1",
                }
                for model, values in sizes.items()
                for scale, effect in zip(scales, values, strict=True)
            ]
        )
    )


@pytest.mark.parametrize(
    ("sizes", "verdict"), [((1, 30, -10), "supported"), ((1, 10, -11), "undecided"), ((40, 30, 1), "refuted")]
)
def test_intermediate_effects_are_judged_by_model(sizes, verdict):
    """2.1 and its equal-dose form, which takes every level of `kl`."""
    table = effects(m=sizes)
    assert one(load_set("paper-v2").predictions[2], effects=table).verdict == verdict
    assert one(load_set("mspgt").predictions[4], effects=table).verdict == verdict


def test_brittleness_is_judged_over_families():
    """60 over 4 is 15 with limits above 5; 60 over 20 is below."""
    p = load_set("paper-v2").predictions[3]
    brittle = one(p, effects=effects(a=(60, 1, 1), b=(6, 1, 1)))
    alike = one(p, effects=effects(a=(60, 1, 1), b=(20, 1, 1)))
    assert (brittle.verdict, alike.verdict) == ("supported", "refuted")
    assert brittle.chance == pytest.approx(0, abs=0.01)


def test_other_doses_are_not_taken():
    """A prediction about `kl` says nothing about `per_layer`."""
    table = effects(m=(1, 30, 1)).assign(dose="per_layer=0.1")
    assert one(load_set("mspgt").predictions[4], effects=table).reason == "the table of effects has no dose 'kl'"


def test_a_stated_chance_is_used():
    """Where nothing can be simulated, the prediction may bring its own rate; else it is unknown, with the reason."""
    rows = measured(("a", 1.0, 0.5, 1.5), ("b", 1.0, 0.5, 1.5))
    stated = prediction(statistic="measured", quantity="q", chance=0.05)
    assert one(stated, measurements=rows).chance == pytest.approx(0.05**2)
    silent = one(prediction(statistic="measured", quantity="q"), measurements=rows)
    assert math.isnan(silent.chance) and "unknown" in silent.reason


def test_nothing_given_is_undecided_with_the_reason():
    """For every shipped prediction."""
    for name in ("paper-v2", "paper-v3", "mspgt"):
        for found in judge(load_set(name), Evidence()):
            assert (found.verdict, found.point_verdict) == ("undecided", "undecided")
            assert found.reason and found.further


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,quantity,value,low\nm,q,1,0\n", "lacks the column high"),
        ("model,quantity,value,low,high\nm,q,x,0,1\n", "numbers"),
    ],
)
def test_bad_measurements_are_refused(tmp_path, text, message):
    """One line."""
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_measurements(path)
