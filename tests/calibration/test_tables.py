"""Published tables: one cell of each kind to exact Markdown."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mspgt_tl.calibration.tables import to_markdown

NAN = np.nan


def row(group: str, detector: str, **values: float) -> dict:
    rates = ("alarms", "found", "exact", "coverage")
    empty = {f"{name}{end}": NAN for name in rates for end in ("", "_low", "_high")}
    common = {"cell": "a cell", "cases": 40, "wanted": 200, "location_error": NAN, "width": NAN}
    return {**common, **empty, "group": group, "detector": detector, **values}


TABLE = pd.DataFrame(
    [
        row("no boundary", "mspgt", alarms=0.05, alarms_low=0.01, alarms_high=0.17),
        row("no boundary", "paper", alarms=0.6, alarms_low=0.43, alarms_high=0.75),
        row(
            "planted",
            "mspgt",
            **{"found": 0.955, "found_low": 0.9, "found_high": 0.98, "exact": 0.8, "exact_low": 0.7, "exact_high": 0.9},
            **{"alarms": 0.025, "alarms_low": 0.0, "alarms_high": 0.13, "location_error": 0.123, "width": 1.5},
        ),
        row("planted", "paper", found=1.0, found_low=0.91, found_high=1.0, alarms=0.875),
    ]
)


def test_false_alarms_stand_side_by_side() -> None:
    """One line a cell, one column a detector, with intervals."""
    assert to_markdown(TABLE, "no boundary") == (
        "| no boundary in it | cases | mspgt | paper |\n"
        "| --- | --- | --- | --- |\n"
        "| a cell | 40 of 200 | 5.0 % [1, 17] | 60.0 % [43, 75] |\n"
    )


def test_planted_boundaries_tell_all_of_ours_and_what_rivals_find() -> None:
    """Rivals have what they find, and in brackets how often they claim what is not there; dashes for what is nan."""
    assert to_markdown(TABLE, "planted") == (
        "| planted | cases | found ±1 | exact | mean error | any false | coverage | width | paper |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| a cell | 40 of 200 | 95.5 % [90, 98] | 80.0 % [70, 90] | 0.12 | 2.5 % [0, 13] | – | 1.50 "
        "| 100.0 % [91, 100] (88 %) |\n"
    )


def test_a_kind_that_was_not_measured_says_so() -> None:
    """No header without a line below it."""
    assert to_markdown(TABLE, "simulated") == "No case of this kind was measured.\n"
