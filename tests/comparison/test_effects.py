"""Tables of effects, and what follows from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mspgt_tl.comparison.effects import (
    brittleness,
    brittleness_of,
    excess,
    excess_of,
    noisy_effects,
    of_dose,
    read_effects,
    sweep_effects,
)
from mspgt_tl.errors import DataError


def table(*rows: tuple, dose: str = "") -> pd.DataFrame:
    """Rows of family, scale, effect and standard error (None for no interval)."""
    return read_effects(
        pd.DataFrame(
            [
                {
                    "model": family,
                    "family": family.rstrip("0123456789"),
                    "scale": scale,
                    "metric": "ttr",
                    "effect": effect,
                    "low": np.nan if error is None else effect - 1.96 * error,
                    "high": np.nan if error is None else effect + 1.96 * error,
                    "dose": dose,
                }
                for family, scale, effect, error in rows
            ]
        )
    )


def test_ratio_of_well_measured_families():
    """40 ± 1 over 10 ± 1: ratio 4 with the interval of a ratio of normals (delta method: 0.41 of standard error)."""
    found = brittleness(table(("a", "local", -40.0, 1.0), ("b", "local", 10.0, 1.0)), "ttr")
    assert (found.value, found.n) == (pytest.approx(4), 2)
    assert found.low == pytest.approx(4 - 1.96 * 0.41, abs=0.2)
    assert found.high == pytest.approx(4 + 1.96 * 0.41, abs=0.3)


def test_a_smallest_effect_that_may_be_zero_sets_no_upper_limit():
    """493 or 5,000: nobody can tell."""
    found = brittleness(table(("a", "local", 40.0, 1.0), ("b", "local", 0.5, 1.0)), "ttr")
    assert found.high == np.inf
    assert "zero" in (found.reason or "")


def test_families_of_several_models_are_averaged_by_size():
    """|10| and |-30| of one family are 20, in every draw behind the interval, too."""
    found = brittleness(table(("a1", "local", 10.0, 1), ("a2", "local", -30.0, 1), ("b", "local", 5.0, 1)), "ttr")
    assert found.value == pytest.approx(4)
    assert found.low < 4 < found.high


def test_no_interval_no_limits():
    """The ratio is there, its limits are not, with the reason."""
    found = brittleness(table(("a", "local", 40.0, None), ("b", "local", 10.0, 1.0)), "ttr")
    assert found.value == pytest.approx(4)
    assert np.isnan([found.low, found.high]).all() and "no interval" in (found.reason or "")


def test_one_family_has_no_ratio():
    """Two are needed."""
    assert "2 are needed" in (brittleness(table(("a", "local", 40.0, 1.0)), "ttr").reason or "")


def test_excess_is_over_the_larger_of_the_others():
    """|-30| less |11| is 19, with an interval of √2 standard errors where one rival is far behind."""
    rows = table(("a", "local", 2.0, 1.0), ("a", "intermediate", -30.0, 1.0), ("a", "global", 11.0, 1.0))
    found = excess(rows, "a", "ttr", scale="intermediate")
    assert found.value == pytest.approx(19)
    assert (found.low, found.high) == (pytest.approx(19 - 2.77, abs=0.1), pytest.approx(19 + 2.77, abs=0.1))


def test_a_missing_scale_is_named():
    """No verdict on two of three scales."""
    rows = table(("a", "local", 2.0, 1.0), ("a", "intermediate", -30.0, 1.0))
    assert "global" in (excess(rows, "a", "ttr", scale="intermediate").reason or "")


def test_a_mode_takes_all_of_its_levels():
    """`kl` takes `kl=0.1`, not `klx`."""
    rows = pd.concat([table(("a", "local", 1.0, 1.0), dose=d) for d in ("kl=0.1", "kl", "klx", "exit_norm=0.1")])
    assert of_dose(rows, "kl")["dose"].tolist() == ["kl=0.1", "kl"]
    assert of_dose(rows, "kl=0.1")["dose"].tolist() == ["kl=0.1"]
    assert len(of_dose(rows, None)) == 4


def test_a_sweep_s_statistics_become_effects():
    """Dose and level make the dose's name; controls and other targets are left out."""
    row = {"metric": "self_bleu", "dose": "kl", "level": 0.1, "change": 5.0, "change_low": 4.0, "change_high": 6.0}
    statistics = pd.DataFrame(
        [
            row | {"scale": "local", "is_control": False},
            row | {"scale": "local", "is_control": True},
            row | {"scale": "layer 3", "is_control": False},
        ]
    )
    (found,) = sweep_effects(statistics, model="m", family="f").to_dict("records")
    assert (found["model"], found["scale"], found["dose"]) == ("m", "local", "kl=0.1")
    assert (found["effect"], found["low"], found["high"]) == (5, 4, 6)
    with pytest.raises(DataError, match="lack the column change"):
        sweep_effects(statistics.drop(columns="change"), model="m", family="f")


def test_a_csv_file_is_read(tmp_path):
    """Limits and dose may be missing."""
    path = tmp_path / "effects.csv"
    path.write_text("model,family,scale,metric,effect\na,x,local,ttr,-3.5\n", encoding="utf-8")
    rows = read_effects(path)
    assert rows["effect"].tolist() == [-3.5]
    assert rows["low"].isna().all() and rows["dose"].tolist() == [""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,family,scale,metric\na,x,local,ttr\n", "lacks the column effect"),
        ("model,family,scale,metric,effect\n", "no rows"),
        ("model,family,scale,metric,effect\na,x,locl,ttr,1\n", "row 1: scale must be local"),
        ("model,family,scale,metric,effect\na,x,local,ttr,much\n", "row 1: effect must be a number, got 'much'"),
        ("model,family,scale,metric,effect,low,high\na,x,local,ttr,1,2,3\n", "do not hold the effect 1"),
        ("model,family,scale,metric,effect\na,x,local,ttr,1\na,x,local,ttr,2\n", "two rows for a, local, ttr"),
        ("", "cannot be read as a CSV table"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    """One line with the row and what is wrong."""
    path = tmp_path / "effects.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_effects(path)


def test_a_missing_file_is_named(tmp_path):
    """With its path."""
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_effects(tmp_path / "nowhere.csv")


def test_noise_alone_makes_a_ratio_above_five_in_a_quarter():
    """Of two half-normals: 2 (1 - 2/π atan 5) = 25.1 %."""
    ratios = brittleness_of(noisy_effects(0.0, np.ones(2), 100_000), ["a", "b"])
    assert (ratios > 5).mean() == pytest.approx(2 * (1 - 2 / np.pi * np.arctan(5)), abs=0.005)


def test_one_of_three_equal_effects_is_the_largest_in_a_third():
    """By symmetry."""
    assert (excess_of(noisy_effects(3.0, np.ones(3), 60_000)) > 0).mean() == pytest.approx(1 / 3, abs=0.006)


def test_families_of_several_models_are_averaged():
    """Two models of one family count once, by their mean."""
    assert brittleness_of(np.array([[2.0, 4.0, 1.0]]), ["a", "a", "b"]) == pytest.approx([3.0])
