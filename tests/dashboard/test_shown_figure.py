"""Figures in notebooks: their output holds HTML, and one that was exported is drawn without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mspgt_tl.dashboard.drawing import blank_figure
from mspgt_tl.dashboard.shown_figure import JUPYTER, ShownFigure

CELLS = (
    "from mspgt_tl.dashboard.drawing import blank_figure\n"
    "def draw(y):\n"
    "    return blank_figure(height=300, x_title='gap', y_title='evidence').add_scatter(y=[0, y, 0], name='</script>')",
    "draw(1)",
    "for y in (2, 3):\n    draw(y).show()\n    display(draw(y))",
    "draw(4)",
)


@pytest.fixture
def in_jupyter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Plotly had found itself in JupyterLab, and no figure had been shown yet."""
    import plotly.io as pio

    before = pio.renderers.default
    pio.renderers.default = JUPYTER
    monkeypatch.setattr(ShownFigure, "_carrier", None)
    yield
    pio.renderers.default = before


def figure() -> Any:
    return blank_figure(height=300, x_title="", y_title="").add_scatter(y=[1, 2])


@pytest.mark.usefixtures("in_jupyter")
def test_one_figure_of_a_session_brings_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, and again if its cell is run again; the others are small; Plotly's own format stays."""
    from mspgt_tl.dashboard import shown_figure

    sizes = []
    for cell in ("a", "b", "a"):
        monkeypatch.setattr(shown_figure, "_this_cell", lambda cell=cell: cell)
        bundle = figure()._repr_mimebundle_()
        assert set(bundle) == {"application/vnd.plotly.v1+json", "text/html"}
        sizes.append(len(bundle["text/html"]))
    assert sizes[0] > 1_000_000 and sizes[1] < 20_000 and sizes[2] > 1_000_000
    assert sizes[0] < 2_500_000


@pytest.mark.parametrize("renderer", ["browser", ""])
def test_elsewhere_plotly_does_as_ever(renderer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Plotly has chosen another way, or none, nothing is added."""
    import plotly.graph_objects as go
    import plotly.io as pio

    monkeypatch.setattr(pio.renderers, "default", renderer)
    made = figure()
    assert made._repr_mimebundle_() == go.Figure(made)._repr_mimebundle_()


@pytest.mark.slow
@pytest.mark.browser
def test_exported_notebooks_show_every_figure(open_page: Any, tmp_path: Path) -> None:
    """An executed notebook as HTML, opened without a network, draws the last figure of a cell and shown ones alike."""
    from selenium.webdriver.support.ui import WebDriverWait

    book = tmp_path / "book.ipynb"
    cells = [
        {"cell_type": "code", "id": f"c{i}", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for i, source in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), "utf-8")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", "--output", "book.html", str(book)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "book.html"
    assert 1_000_000 < page.stat().st_size < 3_500_000
    browser = open_page(page, 1200)
    drawn = "return [...document.querySelectorAll('.js-plotly-plot')].filter(d => d.querySelector('.main-svg')).length"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(drawn) == 6)
    values = "return [...document.querySelectorAll('.js-plotly-plot')].map(d => d.data[0].y[1])"
    assert browser.execute_script(values) == [1, 2, 2, 3, 3, 4]
