"""The explorer and the figures in a real JupyterLab, with a kernel behind them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]

TOKEN = "for-this-test-alone"
CELLS = (
    "import mspgt_tl\nresult = mspgt_tl.load_run('run')\nshown = result.explore()\nshown",
    "result.plot()",
    "print(round(shown.state['weights']['probe'], 2), flush=True)",
)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def lab(make_detection: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab whose folder holds a run and a notebook on it; it keeps to that folder."""
    root = tmp_path_factory.mktemp("lab")
    make_detection("models/made", (3, 9)).save(root / "run")
    cells = [
        {"cell_type": "code", "id": f"c{i}", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for i, source in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (root / "book.ipynb").write_text(json.dumps(book), encoding="utf-8")
    own = {f"JUPYTER_{name}_DIR": str(root / f".{name.lower()}") for name in ("CONFIG", "RUNTIME")}
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if os.geteuid() == 0:
        command.append("--allow-root")
    environment = {**os.environ, **own, "IPYTHONDIR": str(root / ".ipython")}
    with (root / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}", server, root / "log")
        yield f"http://127.0.0.1:{port}/lab/tree/book.ipynb?token={TOKEN}"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-800:]}")


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[Any]:
    """The notebook in Chromium, all cells run."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver on the PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1500,1400",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(lab)
        cells = "return document.querySelectorAll('.jp-CodeCell .cm-content').length"
        WebDriverWait(driver, 120).until(lambda d: d.execute_script(cells) == len(CELLS))
        idle = "return document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
        WebDriverWait(driver, 120).until(lambda d: d.execute_script(idle))
        run_cell(driver, 0)
        drawn = "return !!document.querySelector('.explorer .picture .main-svg')"
        WebDriverWait(driver, 120).until(lambda d: d.execute_script(drawn))
        yield driver
    finally:
        driver.quit()


def run_cell(driver: Any, number: int) -> None:
    """Put the cursor into a cell and run it, as a reader does."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    editor = driver.find_elements("css selector", ".jp-CodeCell .cm-content")[number]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", editor)
    editor.click()
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()


def fused(driver: Any) -> list[float]:
    script = "return [...document.querySelector('.explorer .picture').data.find(t => t.name === 'fused evidence').y]"
    return driver.execute_script(script)


def test_a_slider_moves_the_curve_and_the_kernel_knows(page: Any) -> None:
    """The widget draws with the library that the kernel sends; a slider moves the curve, and Python reads its state."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    before = fused(page)
    assert len(before) == 11
    slider = page.find_element("css selector", ".explorer [name='weight-probe']")
    for _ in range(20):
        slider.send_keys(Keys.ARROW_RIGHT)
    WebDriverWait(page, 20).until(lambda driver: fused(driver) != before)
    chosen = float(slider.get_attribute("value"))
    assert chosen == pytest.approx(0.53, abs=0.011)
    run_cell(page, 2)
    printed = (
        "return document.querySelectorAll('.jp-CodeCell')[2].querySelector('.jp-OutputArea-output pre')?.textContent"
    )
    WebDriverWait(page, 30).until(lambda driver: driver.execute_script(printed))
    assert float(page.execute_script(printed)) == pytest.approx(chosen, abs=0.006)


def test_a_figure_is_drawn_once(page: Any) -> None:
    """By JupyterLab itself, from Plotly's own format, and not by the HTML beside it, too."""
    from selenium.webdriver.support.ui import WebDriverWait

    run_cell(page, 1)
    count = "return [...document.querySelectorAll('.jp-CodeCell')][1].querySelectorAll(arguments[0]).length"
    drawn = ".js-plotly-plot .main-svg"
    WebDriverWait(page, 60).until(lambda driver: driver.execute_script(count, drawn))
    assert page.execute_script(count, ".js-plotly-plot") == 1


def test_nothing_is_fetched_from_elsewhere(page: Any, lab: str) -> None:
    """Every request of the page goes to the server that it came from."""
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    server = lab.split("/lab/")[0]
    assert asked and [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []
