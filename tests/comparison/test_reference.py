"""The paper's tables are shipped as printed."""

from __future__ import annotations

import pytest

from mspgt_tl.comparison.effects import excess, paper_effects
from mspgt_tl.comparison.reference import paper_positions, paper_tables, recomputed_table3


def test_table_1_matches_its_own_percentages():
    """Gap over layers, rounded half up, is the percentage beside it."""
    from mspgt_tl.comparison.families import relative_position

    for row in paper_tables()["boundaries"]:
        for rank in ("LI", "IG"):
            assert 100 * relative_position(row[f"b_{rank}"], row["n_layers"], 1) == pytest.approx(
                row[f"percent_{rank}"]
            )


def test_published_table_3_is_the_rounded_one():
    """Every published figure equals the recomputed one at its own precision; unrounded, Qwen's L-I does not."""
    for rows in recomputed_table3().values():
        for key, decimals in (("mean_LI", 3), ("mean_IG", 3), ("cv_LI", 2), ("cv_IG", 2)):
            assert round(rows["rounded"][key], decimals) == pytest.approx(rows["published"][key])
    qwen = recomputed_table3()["Qwen"]
    assert (round(qwen["exact"]["cv_LI"], 2), qwen["published"]["cv_LI"]) == (0.07, 0.06)


def test_drift_is_the_one_of_the_text():
    """8/32 to 20/28 is 46.4 points."""
    (_, second, deep), (_, first, shallow) = paper_positions()["Qwen"]
    assert round(100 * (second / deep - first / shallow), 1) == paper_tables()["text"]["drift_points"]


def test_intermediate_noise_changes_structure_most_in_table_2():
    """|30.33| against |-11.43|: 18.9 points more, without an interval."""
    found = excess(paper_effects(), "model of Table 2", "sentence_length_variance", scale="intermediate")
    assert found.value == pytest.approx(30.33 - 11.43)
    assert found.low != found.low and "no interval" in (found.reason or "")


def test_table_2_has_twelve_effects():
    """Three scales and four metrics; the fifth metric of the text, grammaticality, is in no table."""
    assert len(paper_effects()) == 12
