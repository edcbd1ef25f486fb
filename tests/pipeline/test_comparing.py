"""Detections side by side: drawn on relative depth, as a page, and in few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mspgt_tl
from mspgt_tl.errors import ConfigError, DataError, StoreError
from mspgt_tl.pipeline.detection import Detection


@pytest.fixture
def runs(planted_run: Any) -> list[Path]:
    """A model of 12 blocks, one of 24 at the same depths, and one without a second boundary."""
    return [planted_run("a", (3, 9)), planted_run("b", (6, 18), n_layers=24), planted_run("c", (4,))]


@pytest.fixture
def complete(make_detection: Any) -> list[Detection]:
    return [make_detection("models/made", (3, 9)), make_detection("models/other", (5, 9))]


def test_boundaries_lie_on_relative_depth(runs: list[Path]) -> None:
    """Equal depths of unequal models meet; a model without two boundaries has its reason instead."""
    figure: Any = mspgt_tl.compare(runs).plot()
    first, second, words = figure.data
    assert list(first.x) == [0.25, 0.25] and list(second.x) == [0.75, 0.75]
    assert "one boundary, at gap 4" in words.text[0]
    assert list(figure.layout.yaxis.ticktext) == ["a", "b", "c"]


def test_candidates_are_drawn_open(located: Any) -> None:
    """So that a place is not taken for a boundary."""
    from dataclasses import replace

    sure = located("a", 40, 60, spread=1)
    figure: Any = mspgt_tl.compare([sure, replace(sure, name="b", verdicts=("supported", "not found"))]).plot()
    assert [list(trace.marker.symbol) for trace in figure.data] == [["circle", "circle"], ["square", "square-open"]]


def test_detections_are_taken_as_they_are(complete: list[Detection]) -> None:
    """Without a folder, with their curves; two of one model get numbers."""
    found = mspgt_tl.compare([*complete, complete[0]])
    assert [model.name for model in found.located] == ["models/made (run 1)", "models/other", "models/made (run 3)"]
    figure: Any = found.plot("evidence")
    np.testing.assert_allclose(figure.data[0].x, np.arange(1, 12) / 12)
    np.testing.assert_allclose(figure.data[1].y, complete[1].data["fused"].values)


def test_one_run_is_no_list(complete: list[Detection]) -> None:
    """A lone detection or folder is refused, not read letter by letter."""
    for one in (complete[0], "runs/a", Path("runs/a"), None):
        with pytest.raises(DataError, match="list of two or more"):
            mspgt_tl.compare(one)  # type: ignore[arg-type]


def test_tables_have_the_names_of_other_results(located: Any) -> None:
    """Summary and data frame, and a card with both."""
    found = mspgt_tl.compare([located("a", 40, 60), located("b", 40, 60)])
    assert found.summary().equals(found.models)
    assert found.to_dataframe().equals(found.pairs)
    assert found._repr_html_().count("<table") == 2


def test_what_cannot_be_drawn_is_refused(located: Any) -> None:
    found = mspgt_tl.compare([located("a", 40, 60), located("b", 40, 60)])
    with pytest.raises(ConfigError, match="Did you mean 'evidence'"):
        found.plot("evidenc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no evidence to draw"):
        found.plot("evidence")


def test_the_page_says_which_models_differ(complete: list[Detection], tmp_path: Path) -> None:
    """Verdict, places, evidence and tables; a folder gets `comparison.html`."""
    found = mspgt_tl.compare(complete)
    page = found.save(tmp_path / "new")
    assert page == tmp_path / "new" / "comparison.html"
    text = page.read_text("utf-8")
    assert "1 of 2 differences are larger than resampling the text explains" in text
    assert "points shallower than models/other" in text
    assert text.count("data-figure") >= 2
    assert found.save(tmp_path / "x.html").name == "x.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        found.save(tmp_path / "file" / "x.html")


def test_many_models_are_one_line(located: Any) -> None:
    """Long names and doubts included; the card escapes what it shows."""
    from dataclasses import replace

    names = [f"organisation/a-very-long-model-name-<b>-{i}-{'x' * 60}" for i in range(30)]
    models = [replace(located("a", 40, 60, spread=1), name=name, verdicts=("not found",) * 2) for name in names]
    found = mspgt_tl.compare(models)
    assert len(repr(found)) < 600
    assert "24 more" in repr(found) and "30 of them are not supported" in repr(found)
    assert "<b>-0" not in found._repr_html_()


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1400])
def test_the_page_is_drawn_offline(complete: list[Detection], open_page: Any, tmp_path: Path, width: int) -> None:
    """Without errors, and nothing scrolls sideways."""
    browser = open_page(mspgt_tl.compare(complete).save(tmp_path / "all.html"), width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
