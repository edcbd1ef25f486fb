"""Training runs as replicates: planted curves of known answer, and exact error rates under independence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from mspgt_tl.comparison.models import compare
from mspgt_tl.comparison.positions import Located
from mspgt_tl.comparison.replicates import agreement, match, replicate_frame, shared_gaps, smallest_p

GAPS = 31


def trend() -> np.ndarray:
    """What every curve of an architecture has in common: a steep fall, as far from stationary as can be."""
    return np.exp(-np.arange(GAPS) / 6)


def curves(n_runs: int, common: float, rng: np.random.Generator) -> np.ndarray:
    """Three signals: the first two share bumps of their run, the third has bumps of its own; all share the trend."""
    bumps = rng.standard_normal((n_runs, GAPS))
    own = rng.standard_normal((3, n_runs, GAPS))
    mixed = np.stack([common * bumps + own[0], common * bumps + own[1], 1.5 * own[2]])
    return trend() + 0.1 * mixed


def run(name: str, values: np.ndarray, gaps: tuple[int, ...] = (9, 20), architecture: str = "a") -> Located:
    data = {"curve": (("signal", "gap"), values), "boundary": ("found", np.array(gaps))}
    result = xr.Dataset(data, coords={"signal": ["cka", "probe", "attention_jsd"]})
    found = np.array([9.0, 20.0])
    interval, verdicts, draws = np.full((2, 2), np.nan), ("supported", "supported"), np.empty((0, 2))
    return Located(name, "f", architecture, GAPS + 1, found, interval, verdicts, draws, result=result)


def runs(values: np.ndarray, **options: Any) -> list[Located]:
    return [run(f"a@seed:{i}", values[:, i], **options) for i in range(values.shape[1])]


def test_signals_that_share_what_a_run_learnt_are_told() -> None:
    """Four runs: the planted pair gives the smallest p there is, the others do not; Holm over the three pairs."""
    table = replicate_frame(runs(curves(4, 3.0, np.random.default_rng(1)))).set_index(["one", "other"])
    planted = table.loc["cka", "probe"]
    assert planted["matched"] == 4
    assert planted["p"] == pytest.approx(2 / 4**4) == planted["smallest_p"]
    assert planted["p_holm"] == pytest.approx(3 * 2 / 4**4)
    assert planted["own"] > planted["off"] + 0.1
    assert (table.drop(index=("cka", "probe"))["p"] > 0.05).all()


def test_a_shared_trend_is_no_agreement_of_runs() -> None:
    """Curves that fall alike in all runs agree just as much off the diagonal, and p stays large."""
    table = replicate_frame(runs(curves(4, 0.0, np.random.default_rng(2))))
    assert (table["off"] > 0.3).all()
    assert (table["p"] > 0.02).all()


@pytest.mark.parametrize("n", [3, 4])
def test_false_alarms_keep_every_level(n: int) -> None:
    """Independent signals under one steep trend: P(p ≤ level) is at most the level, at each p that can be reached."""
    rng = np.random.default_rng(n)
    found = []
    for _ in range(800):
        one, other = trend() + 0.1 * rng.standard_normal((2, n, GAPS))
        found.append(match(agreement(one, other)).p)
    for level in (smallest_p(n), 1 / 6, 0.25, 0.5):
        rate = float(np.mean(np.array(found) <= level + 1e-12))
        assert rate <= level + 3 * np.sqrt(level * (1 - level) / len(found))


def test_smallest_p_of_few_runs() -> None:
    """Two runs can show nothing, three nearly, four do."""
    assert [round(smallest_p(n), 4) for n in (2, 3, 4, 5)] == [0.5, 0.0741, 0.0078, 0.0006]


def test_permutations_are_counted_exactly() -> None:
    """With three runs whose own agreement is second best of six pairings, p is two sixths."""
    table = np.array([[0.5, 0.6, 0.0], [0.6, 0.5, 0.0], [0.0, 0.0, 0.9]])
    found = match(table)
    assert found.p == pytest.approx(2 / 6)
    assert found.matched == 1
    assert (found.own, found.off) == pytest.approx((1.9 / 3, 0.2))


def test_ties_are_no_match() -> None:
    """The same curve in every run: own agreement is not larger than the others', and p is 1."""
    same = np.tile(np.random.default_rng(0).standard_normal(GAPS), (4, 1))
    assert match(agreement(same, same)).p == 1
    assert match(agreement(same, same)).matched == 0


def test_a_constant_curve_is_nan_with_its_reason() -> None:
    """No rank correlation, no p-value."""
    values = curves(3, 1.0, np.random.default_rng(0))
    values[2, 1] = 0.0
    table = replicate_frame(runs(values)).set_index(["one", "other"])
    assert np.isnan(table.loc["cka", "attention_jsd"]["p"])
    assert "constant" in table.loc["cka", "attention_jsd"]["reason"]
    assert np.isfinite(table.loc["cka", "probe"]["p"])


def test_boundaries_that_all_runs_share_are_told_apart() -> None:
    """Within one gap in every run; the middle of what is near; nothing where one run has none there."""
    assert shared_gaps([[9, 20], [10, 25], [10, 19]], 32) == [9]
    assert shared_gaps([[9], [12]], 32) == []
    assert shared_gaps([[9], []], 32) == []
    values = curves(3, 0.0, np.random.default_rng(3))
    assert set(replicate_frame(runs(values))["shared"]) == {"9, 20"}


def test_results_of_one_training_run_are_no_replicates() -> None:
    """Checkpoints, and one model on two texts."""
    values = curves(3, 1.0, np.random.default_rng(0))
    for names in (("a", "a@step:100", "a@seed:1"), ("a (runs/x)", "a (runs/y)", "a@seed:1")):
        table = replicate_frame([run(name, values[:, i]) for i, name in enumerate(names)])
        assert len(table) == 1
        assert "no replicates" in table["reason"][0]
        assert np.isnan(table["p"][0])


def test_comparisons_bring_it_along() -> None:
    """Each architecture of several runs on its own; a single run, and models without curves, are left out."""
    values = curves(4, 3.0, np.random.default_rng(1))
    other = [run("b", values[:, 0], architecture="b")]
    found = compare([*runs(values), *other])
    assert set(found.replicates["architecture"]) == {"a"}
    assert len(found.to_plain()["replicates"]) == 3
