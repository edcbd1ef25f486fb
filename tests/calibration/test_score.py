"""Judging claims: known answers, Monte-Carlo errors that hold, and detectors on curves that speak for themselves."""

from __future__ import annotations

import numpy as np
import pytest
import ruptures
from hypothesis import given, settings
from hypothesis import strategies as st

from mspgt_tl.calibration.detectors import DETECTORS, Claim, raised_segments
from mspgt_tl.calibration.measure import Measured
from mspgt_tl.calibration.report import BEGIN, END, render_tables, replace_tables
from mspgt_tl.calibration.score import judge, pooled_share, score, share_of_cases
from mspgt_tl.calibration.simulate import CurveCell, simulate
from mspgt_tl.calibration.tables import Row, check_targets, make_frame


def peaked(gaps: tuple[int, ...], n_gaps: int = 15, noise: float = 0.03) -> Measured:
    """Return three curves that peak at gaps, with resamples."""
    rng = np.random.default_rng(0)
    curves = noise * rng.standard_normal((3, n_gaps))
    curves[:, [gap - 1 for gap in gaps]] += 1
    return Measured(curves, curves + noise * rng.standard_normal((100, *curves.shape)))


def test_claims_are_judged_by_distance() -> None:
    """Within one layer is found, further is a false claim, a rival is neither."""
    found = judge([Claim(4), Claim(9)], planted=(5, 12), rivals=(9,))
    assert found.false_claims == 0
    assert found.errors[0] == 1
    assert np.isnan(found.errors[1])
    assert judge([Claim(8)], planted=(5,)).false_claims == 1
    assert judge([], planted=(5,)).claims == 0


def test_an_interval_covers_any_planted_gap() -> None:
    """Coverage asks for the truth, not for the claim's own gap."""
    found = judge([Claim(4, (2.0, 4.0)), Claim(9, (9.0, 10.0))], planted=(5, 10))
    assert found.covered == (False, True)
    assert found.widths == (2, 1)


def test_an_interval_beside_a_rival_is_no_interval_of_a_boundary() -> None:
    """One layer from it is still its own; the mean width is that of the others."""
    claims = [Claim(8, (7.0, 9.0)), Claim(4, (3.0, 4.0)), Claim(12, (9.0, 12.0))]
    found = judge(claims, planted=(4,), rivals=(9,))
    assert found.widths == (1, 3)
    assert score([found, found]).width == 2


@pytest.mark.parametrize("share", [0.02, 0.05, 0.5])
def test_intervals_of_shares_hold_the_truth(share: float) -> None:
    """Clopper–Pearson intervals hold the true share in at least 95 % of 400 repetitions, within their own error."""
    rng = np.random.default_rng(1)
    rates = [share_of_cases((rng.random(100) < share).tolist()) for _ in range(400)]
    assert np.mean([rate.low <= share <= rate.high for rate in rates]) > 0.92


def test_pooled_error_grows_with_dependence() -> None:
    """Two boundaries that are found together count as one case, not two."""
    rng = np.random.default_rng(2)
    hits = rng.random(200) < 0.7
    together = pooled_share([[bool(h)] * 2 for h in hits])
    apart = pooled_share([[bool(a), bool(b)] for a, b in rng.random((200, 2)) < 0.7])
    assert together.error == pytest.approx(np.sqrt(0.7 * 0.3 / 200), rel=0.15)
    assert apart.error == pytest.approx(np.sqrt(0.7 * 0.3 / 400), rel=0.15)


def test_no_case_is_nan_not_zero() -> None:
    """Where nothing was measured nothing is said."""
    assert np.isnan(score([]).alarms.value)
    assert np.isnan(score([judge([], planted=(3,))]).coverage.value)


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_find_plain_peaks(name: str) -> None:
    """Two peaks in all signals are found exactly by every detector."""
    claims = DETECTORS[name](peaked((4, 11)), 0)
    assert [claim.gap for claim in claims] == [4, 11]


def test_only_our_verdict_and_ruptures_stay_silent_on_noise() -> None:
    """Pure noise: the published rule and single signals claim something in most cases; ours in at most a few."""
    cell = CurveCell(15, "none", 1.0, 0.02, 40)
    alarms = dict.fromkeys(DETECTORS, 0)
    for index, (measured, _) in enumerate(simulate(cell, seed=3)):
        for name, claim in DETECTORS.items():
            alarms[name] += bool(claim(measured, index))
    assert alarms["mspgt"] <= 6
    assert min(alarms["paper"], alarms["cka alone"]) > 20


def test_ruptures_search_is_exact() -> None:
    """PELT with jump 1 reaches the penalised optimum of full dynamic programming."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        signal = rng.standard_normal((14, 2))
        signal[5:8] += 3
        penalty = 4.0
        pelt = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(signal)
        ends = pelt.predict(pen=penalty)
        exact = ruptures.Dynp(model="l2", min_size=1, jump=1).fit(signal)
        costs = [exact.cost.sum_of_costs(exact.predict(n_bkps=n)) + penalty * n for n in range(1, 8)]
        assert pelt.cost.sum_of_costs(ends) + penalty * (len(ends) - 1) <= min(costs) + 1e-9


def test_raised_segments_are_claimed_at_their_highest_gap() -> None:
    """A hill of two gaps is one claim; a curve without change is none; a step is claimed on its high side."""
    assert raised_segments(np.array([0, 0, 3, 4, 0, 0.0]), [2, 4, 6]) == [4]
    assert raised_segments(np.arange(6.0), [6]) == []
    assert raised_segments(np.array([0, 0, 0, 2, 3, 2.0]), [3, 6]) == [5]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=4), st.lists(st.integers(1, 20), min_size=1, max_size=2, unique=True))
def test_more_claims_never_find_less(gaps: list[int], planted: list[int]) -> None:
    """Another claim can only add to what is found, and to what is false."""
    claims = [Claim(gap) for gap in gaps]
    few, many = judge(claims[:-1], planted), judge(claims, planted)
    assert np.isnan(many.errors).sum() <= np.isnan(few.errors).sum()
    assert many.false_claims >= few.false_claims


def test_power_rises_as_noise_falls() -> None:
    """Simulated: less background, more found, for our verdict."""
    shares = []
    for background in (0.5, 0.2, 0.05):
        cell = CurveCell(15, "pair", background, 0.05, 40)
        outcomes = [judge(DETECTORS["mspgt"](m, i), gaps) for i, (m, gaps) in enumerate(simulate(cell, seed=1))]
        shares.append(score(outcomes).found.value)
    assert shares == sorted(shares)
    assert shares[-1] > 0.9


def test_tables_say_what_is_missed() -> None:
    """A null cell with 20 % alarms is missed, one with 0 of 10 met, one with 1 of 10 unclear; the page shows all."""
    silent, loud = judge([], ()), judge([Claim(3)], ())
    rows = [
        Row(name, "no boundary", "mspgt", len(outcomes), 400, 1.0, 12, score(outcomes))
        for name, outcomes in (
            ("loud", [loud] * 20 + [silent] * 80),
            ("quiet", [silent] * 10),
            ("few", [loud] + [silent] * 9),
        )
    ]
    table = make_frame(rows)
    assert {t.cell: t.state for t in check_targets(table)} == {"loud": "missed", "quiet": "met", "few": "unclear"}
    effort = {"sentences": 1, "train_trees": 1, "dev_trees": 1, "tasks": ["pos"], "resamples": 1}
    text = render_tables(table, {"identity": {"grid": "full", "seed": 0, "effort": effort}})
    assert "20.0 % [13, 29]" in text
    assert "1 missed" in text
    page = replace_tables(f"top\n{BEGIN}\nold\n{END}\nend\n", text)
    assert page.startswith("top\n")
    assert page.endswith("\nend\n")
    assert "old" not in page
