"""Models side by side: places, open and filled markers, and the verdict in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mspgt_tl.comparison.models import Comparison
from mspgt_tl.comparison.positions import Located
from mspgt_tl.contracts import Existence
from mspgt_tl.dashboard.comparison import _verdict, evidence_by_depth, places_figure

SUPPORTED, LOCALISED = Existence.SUPPORTED, Existence.LOCALISED


def located(name: str, gaps: tuple[int, int] | None, verdicts: tuple[str, str] = (SUPPORTED, SUPPORTED)) -> Located:
    if gaps is None:
        return Located(name, "f", "a", 10, reason="no boundary")
    intervals = np.array([[gap - 1, gap + 1] for gap in gaps], dtype=float)
    return Located(name, "f", "a", 10, np.array(gaps, dtype=float), intervals, verdicts)


MODELS = (located("one", (2, 5)), located("two", (4, 8), (SUPPORTED, LOCALISED)), located("none", None))


def compared(models: tuple[Located, ...], p_holm: list[float]) -> Comparison:
    pair = {"first": "one", "second": "two", "boundary": "IG", "difference": -30.0}
    pairs = pd.DataFrame([{**pair, "p_holm": p} for p in p_holm])
    empty = pd.DataFrame()
    return Comparison(models, empty, empty, pairs, empty, empty, empty)


def test_boundaries_lie_on_relative_depth_with_their_intervals() -> None:
    """Gap over blocks, filled where supported and open where not; a model without two says why at the left."""
    figure = places_figure(MODELS)
    first, second, lost = figure.data
    assert (first.name, second.name) == ("Local → Intermediate", "Intermediate → Global")
    assert list(first.x) == pytest.approx([0.2, 0.4]) and list(second.x) == pytest.approx([0.5, 0.8])
    assert [symbol.endswith("-open") for symbol in second.marker.symbol] == [False, True]
    np.testing.assert_allclose(second.error_x.array, [0.1, 0.1])
    assert second.text[1] == "two: gap 8 of 10 blocks [7, 9], localised, not significant"
    assert list(lost.text) == ["no boundary"]


@pytest.mark.parametrize(
    ("models", "p_holm", "headline"),
    [
        (MODELS[:1], [0.01, 0.5], "1 of 2 differences are larger than resampling the text explains."),
        (
            MODELS[:2],
            [0.01, 0.5],
            "1 of 2 differences are larger than resampling the text explains, but 1 of 2 models have mere candidates.",
        ),
        (
            MODELS[1:2],
            [0.5],
            "0 of 1 differences are larger than resampling the text explains, but all are between candidates, none of "
            "which is supported.",
        ),
        (
            MODELS,
            [np.nan],
            "No two models can be compared: fewer than two of them have two boundaries.",
        ),
    ],
)
def test_the_headline_counts_differences_and_doubts(
    models: tuple[Located, ...], p_holm: list[float], headline: str
) -> None:
    """How many pairs differ, and whether what differs is supported."""
    assert _verdict(compared(models, p_holm))[0] == headline


def test_the_largest_differences_are_told_in_points_of_depth() -> None:
    """A negative difference lies shallower."""
    told = _verdict(compared(MODELS[:1], [0.01]))[1]
    assert told == ["Intermediate → Global: one lies 30.0 points shallower than two."]


def test_models_without_a_result_have_no_curve() -> None:
    """Places of the paper's tables come without evidence."""
    assert not evidence_by_depth(MODELS).data
