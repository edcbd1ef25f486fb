"""The built site in a browser, opened from a folder: no error, nothing fetched, search, both themes, narrow windows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
CHECKED = ("index", "quickstart", "concepts", "faq", "method", "calibration", "cli", "glossary", "howto/report")
NARROW, WIDE = 420, 1280
LEAST_CONTRAST = 4.5
"""WCAG 2.2, level AA, for text of ordinary size."""

TEXTS = "h1, h2, p, a, li, td, th, dt, dd, code, pre span, summary, label, button, figcaption"

# The contrast of each kind of text with what lies behind it. Text that is not drawn does not count.
CONTRASTS = r"""
const rgb = text => { const v = text.match(/[\d.]+/g).map(Number); return v.length > 3 ? v : [...v, 1]; };
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
const behind = node => {
  const layers = [];
  for (let n = node; n; n = n.parentElement) layers.push(rgb(getComputedStyle(n).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const still = document.createElement("style");
still.textContent = "* { transition: none !important }";
document.head.append(still);
const found = {};
for (const node of document.querySelectorAll(arguments[0])) {
  const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
  if (!own || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  if (node.closest("[data-explorer] svg, .headerlink, .visually-hidden, .skip-link, #pst-skip-link")) continue;
  const paper = behind(node), ink = over(rgb(getComputedStyle(node).color), paper);
  const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
  const kind = `${node.tagName} ${node.className} in ${node.parentElement.tagName} ${node.parentElement.className}`;
  if (!(kind in found) || ratio < found[kind]) found[kind] = ratio;
}
return found;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does but without running notebooks; SITE names one that is built already."""
    if given := os.environ.get("SITE"):
        return (ROOT / given).resolve()
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(target)]
    environment = {**os.environ, "NOTEBOOKS": "off", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Any]:
    """A function that opens a page at a width in a theme and gives the browser back."""

    def go(page: str, width: int = WIDE, theme: str = "light") -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
        browser.get((site / f"{page}.html").as_uri())
        browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
        return browser

    yield go
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def requests(browser: Any) -> list[str]:
    sent = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]


def names(site: Path) -> list[str]:
    """Return every page but those of runs, which have tests of their own."""
    pages = (path.relative_to(site) for path in site.rglob("*.html"))
    return sorted(str(page.with_suffix("")) for page in pages if page.parts[0] != "_static")


def test_no_page_fails_or_asks_for_anything(visit: Any, site: Path) -> None:
    """Over all pages: nothing on the console, and no address but files."""
    for name in names(site):
        browser = visit(name)
        errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert not errors, name
        assert not [url for url in requests(browser) if not re.match(r"(file|data|blob|about|chrome):", url)], name


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", CHECKED)
def test_text_can_be_read(visit: Any, page: str, theme: str) -> None:
    """Every kind of text keeps the contrast of level AA in both themes."""
    weak = {kind: round(ratio, 2) for kind, ratio in visit(page, WIDE, theme).execute_script(CONTRASTS, TEXTS).items()}
    assert weak
    assert not {kind: ratio for kind, ratio in weak.items() if ratio < LEAST_CONTRAST}


@pytest.mark.parametrize("page", CHECKED)
def test_a_narrow_window_needs_no_scrolling_sideways(visit: Any, page: str) -> None:
    """At 420 pixels the page is as wide as the window; what is wider scrolls in itself."""
    browser = visit(page, NARROW)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= NARROW


def test_search_finds_a_page(browser: Any, visit: Any, site: Path) -> None:
    """From a folder, without a server: a word of the method leads to its page."""
    from selenium.webdriver.support.ui import WebDriverWait

    visit("index")
    browser.get((site / "search.html").as_uri() + "?q=bootstrap")
    results = "return [...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))"
    found = WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(results))
    assert any("method.html" in link for link in found)


@pytest.mark.parametrize("name", ["smollm2-135m", "planted"])
def test_live_pages_are_alive(visit: Any, name: str) -> None:
    """The explorer of an embedded run is drawn and answers a slider."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser = visit(f"_static/reports/{name}")
    drawn = "return document.querySelectorAll('.explorer .main-svg').length"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(drawn))
    before = browser.execute_script("return document.querySelector('.explorer .live').textContent")
    browser.execute_script(
        "const slider = document.querySelector('.explorer input[type=range]'); slider.value = slider.min;"
        "slider.dispatchEvent(new Event('input', { bubbles: true }));"
    )
    told = "return document.querySelector('.explorer .live').textContent"
    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(told) != before)
