"""Figures of shares by cell keep room for what they draw, however narrow the window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mspgt_tl.dashboard.calibration import rate_figure
from mspgt_tl.dashboard.sheet import Plot, Section, Sheet, render_sheet


@pytest.mark.browser
@pytest.mark.parametrize("cells", [1, 2, 12])
@pytest.mark.parametrize("width", [420, 1400])
def test_plots_have_an_area(open_page: Any, tmp_path: Path, cells: int, width: int) -> None:
    """With seven detectors in the legend and long names, the plot has 24 pixels a cell or more and is over 100 wide."""
    from selenium.webdriver.support.ui import WebDriverWait

    rows = [
        {
            "cell": f"random weights, sixteen blocks, case {i}",
            "detector": f"detector with a name, {j}",
            "alarms": 0.1,
            "alarms_low": 0.05,
            "alarms_high": 0.2,
        }
        for i in range(cells)
        for j in range(7)
    ]
    figure = rate_figure(pd.DataFrame(rows), "alarms", limit=0.05)
    page = tmp_path / "page.html"
    sheet = Sheet("Shares", "Shares", "Shares.", [], "", [Section("Shares", "", [Plot(figure, "shares")])], [])
    page.write_text(render_sheet(sheet), encoding="utf-8")
    browser = open_page(page, width)
    height = "return document.querySelector('.js-plotly-plot')._fullLayout._size.h"
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(height) >= 24 * cells)
    size = browser.execute_script("return document.querySelector('.js-plotly-plot')._fullLayout._size")
    assert size["w"] > 100
    assert browser.get_log("browser") == []
