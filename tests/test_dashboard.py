"""The dashboard: what the page says, that it is whole and safe, and that a browser draws it offline."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import mspgt_tl
from mspgt_tl.boundaries import find_boundaries, weight_map
from mspgt_tl.codec import pack
from mspgt_tl.config import DetectConfig, SignalConfig, to_plain
from mspgt_tl.dashboard import evidence_figure, render_report
from mspgt_tl.dashboard.layers import weight_figure
from mspgt_tl.dashboard.page import _weight_section
from mspgt_tl.dashboard.sheet import static_text
from mspgt_tl.dashboard.words import interval_text, number, p_text, percent, verdict_words
from mspgt_tl.evidence import label_result, make_signals

NAMES = ("cka", "probe", "attention_jsd")
SHA = "0123456789abcdef" * 4


def make_result(
    peaks: tuple[int, ...],
    *,
    n_layers: int = 12,
    rule: Any = "mspgt",
    noise: float = 0.005,
    flat: tuple[int, ...] = (),
    tasks: tuple[str, ...] = ("pos", "deprel"),
    weights: tuple[float, ...] | None = None,
) -> xr.Dataset:
    """Return the result of three signals that all peak at the given gaps; those in `flat` are mostly noise."""
    rng = np.random.default_rng(0)
    gaps = np.arange(1, n_layers)
    shape = 0.1 * rng.random((3, n_layers - 1))
    for height, peak in enumerate(peaks):
        shape += (1 - 0.1 * height) * np.exp(-4.0 * (gaps - peak) ** 2)
    scale = np.where(np.isin(np.arange(3), flat), 1.0, noise)[:, None]
    curves = shape * np.array([0.2, 0.05, 0.4])[:, None]
    resampled = curves + rng.normal(size=(200, *curves.shape)) * scale * np.array([0.2, 0.05, 0.4])[:, None]
    found = find_boundaries(curves, resampled=resampled, names=NAMES, n_null=200, rule=rule, weights=weights, seed=0)
    return label_result(make_signals(SignalConfig()), make_sums(n_layers, tasks), found, curves, resampled)


def make_sums(n_layers: int, tasks: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Return probe and similarity sums of plain shape for the tasks."""
    rng, layers = np.random.default_rng(1), np.arange(n_layers)
    probe = {}
    for task in tasks:
        for kind in ("mlp", "linear", "control"):
            probe[f"{task}.{kind}.total"] = np.full((4, 2, n_layers, 3), 100.0)
            probe[f"{task}.{kind}.hits"] = rng.integers(20, 48, (4, 2, n_layers, 3)).astype(float)
    hsic = np.exp(-np.abs(layers[:, None] - layers) / n_layers)
    return {"probe": probe, "cka": {"hsic": hsic[None]}, "attention_jsd": {}}


def make_manifest(name: str = "pilot") -> dict[str, Any]:
    """Return a manifest as the store writes it."""
    config = to_plain(DetectConfig(signals=SignalConfig(tasks=("pos", "deprel"))))
    return {
        "format": 1,
        "fingerprint": SHA,
        "identity": {
            "command": "detect",
            "config": config,
            "model": {"name": name, "n_layers": 12, "sha256": SHA, "random_seed": None, "prepends_bos": False},
            "corpus": {"name": "text", "sha256": SHA, "sentences": 100},
            "treebank": {"name": "trees", "sha256": SHA, "train": 50, "dev": 40},
        },
        "created": "2026-01-01T00:00:00Z",
        "packages": {"torch": "2.6.0"},
        "stages": {"cka": {"seconds": 1.25}, "result": {"seconds": 2.0}},
        "notes": {"blocks": [80, 31]},
    }


CASES = {
    "two": {"peaks": (3, 9)},
    "one": {"peaks": (5,)},
    "none": {"peaks": (), "weights": (1, 1, 1), "flat": ()},
    "all flat": {"peaks": (3, 9), "flat": (0, 1, 2)},
    "one flat": {"peaks": (3, 9), "flat": (2,)},
    "two flat": {"peaks": (3, 9), "flat": (1, 2)},
    "paper": {"peaks": (3, 9), "rule": "paper"},
    "deep": {"peaks": (20, 22), "n_layers": 48},
    "ends": {"peaks": (1, 11)},
    "deep ends": {"peaks": (45, 47), "n_layers": 48, "noise": 0.03},
    "adjacent": {"peaks": (5, 7)},
    "short": {"peaks": (2,), "n_layers": 4},
    "no tasks": {"peaks": (3, 9), "tasks": ("pos",)},
}


def make_case(name: str) -> xr.Dataset:
    """Return one of the results that the page must cope with."""
    if name != "none":
        return make_result(**CASES[name])
    data = make_result((3, 9)).isel(found=[])
    return data.assign_attrs(reasons=json.dumps(["No boundary: the fused curve has no peak of prominence 0.3."]))


class Outline(HTMLParser):
    """Collects what a page loads and whether its tags balance."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read_page(page: str) -> tuple[Outline, str]:
    """Return a page's outline and its visible text."""
    outline = Outline()
    outline.feed(page)
    return outline, re.sub(r"\s+", " ", " ".join(outline.text))


@pytest.mark.parametrize("case", CASES)
def test_page_of_every_case_is_whole_and_loads_nothing(case: str) -> None:
    """Tags balance, nothing is fetched, no 'nan' is shown and plotly.js is there once."""
    page = render_report(make_case(case), make_manifest(), {})
    outline, text = read_page(page)
    assert outline.open == []
    assert [address for address in outline.loads if not address.startswith("#part-")] == []
    assert not re.search(r"\bnan\b", text.replace("nan in", "").replace("are nan", "").replace(", nan", ""))
    assert page.count("plotly.js v") == 1
    assert "cdn.plot.ly/plotly" not in page


@pytest.mark.parametrize(
    ("case", "headline", "words"),
    [
        ("two", "Two boundaries, at gaps 3 and 9.", "Both are supported"),
        ("all flat", "No boundary can be named.", "Every signal was left out"),
        ("none", "No boundary was found.", "no peak that stands out by 0.3"),
        ("paper", "Two peaks of the published rule, at gaps 3 and 9.", "does not ask whether a boundary exists"),
        ("two flat", "No boundary is supported: 2 candidates, at gaps 3 and 9 (not tested).", "could not be tested"),
        ("short", "No boundary is supported: 1 candidate, at gap 2 (not tested).", "could not be tested"),
    ],
)
def test_verdict_comes_first_in_plain_words(case: str, headline: str, words: str) -> None:
    """The headline and its explanation say what was found, and the page shows them."""
    data = make_case(case)
    said, sentences = verdict_words(data)
    assert said == headline
    assert words in " ".join(sentences)
    _, text = read_page(render_report(data, make_manifest(), {}))
    assert text.index(headline) < text.index("What was found")


def test_one_insignificant_boundary_is_called_a_candidate() -> None:
    """A steady peak without significance is no boundary, and the sentence says why."""
    data = make_case("two").isel(found=[0])
    data["verdict"] = ("found", ["localised, not significant"])
    data["p_value"] = ("found", [0.21])
    headline, sentences = verdict_words(data)
    assert headline == "No boundary is supported: 1 candidate, at gap 3 (p = 0.21)."
    assert sentences[0].startswith("It is not more than chance agreement between signals (p = 0.21).")


@pytest.mark.parametrize("verdict", ["localised, not significant", "significant, not localised", "not found"])
def test_mixed_verdicts_get_a_sentence_each(verdict: str) -> None:
    """Two boundaries of different verdicts are explained one by one."""
    data = make_case("two")
    data["verdict"] = ("found", ["supported", verdict])
    data["near_tie"] = ("found", [np.nan, 6.0])
    headline, sentences = verdict_words(data)
    assert headline.startswith("One of two boundaries is supported, at gap 3; candidates at gaps 3 and 9")
    assert sentences[0].startswith("Gap 3 is supported") and sentences[1].startswith("Gap 9 is")
    assert "rival at gap 6" in sentences[2]


def test_text_from_data_is_escaped() -> None:
    """A model path, a null's name and a reason cannot inject markup, nor end a script."""
    evil = "</script><b onload=x>evil"
    data = make_case("two")
    data = data.assign_attrs(reasons=json.dumps([evil]))
    page = render_report(data, make_manifest(evil), {evil: make_case("one")})
    assert "<b onload" not in page
    assert read_page(page)[0].open == []
    assert read_page(page)[1].count("<b onload=x>evil") >= 4


def test_manifest_facts_are_listed() -> None:
    """Hashes are shortened with the whole in a tooltip; versions, timings and settings are there."""
    page = render_report(make_case("two"), make_manifest(), {})
    assert f'<abbr title="{SHA}">0123456789ab…</abbr>' in page
    _, text = read_page(page)
    for fact in ("torch 2.6.0", "result 2.0 s", "all 3.2 s", "boundaries.resamples 1000", "random_seed none"):
        assert fact in text


def test_missing_tasks_are_explained() -> None:
    """A task without F1 gives its reason instead of an empty figure."""
    _, text = read_page(render_report(make_case("two"), make_manifest(), {}))
    assert "srl: not among this run's tasks (pos, deprel)" in text
    _, text = read_page(render_report(make_case("no tasks"), {}, {}))
    assert "ner: no F1, for no label has 20 test items or more" in text


def test_nulls_get_a_figure_and_a_table() -> None:
    """Null runs are drawn where they could be tested, and listed always; alarms are counted."""
    nulls = {"random-0": make_case("all flat"), "labels": make_case("two")}
    _, text = read_page(render_report(make_case("two"), make_manifest(), nulls))
    assert "1 of 2 null runs report a supported boundary: labels" in text
    assert "Not drawn, for nothing could be tested there: random-0" in text


def test_evidence_figure_shows_what_the_fusion_used() -> None:
    """Signals are drawn as fused, flat ones grey and named as such; boundaries carry their verdict."""
    data = make_case("one flat")
    figure: Any = evidence_figure(data)
    traces = {trace.name: trace for trace in figure.data}
    np.testing.assert_allclose(traces["cka"].y, data["normalised"].values[0])
    np.testing.assert_allclose(traces["fused evidence"].y, data["fused"].values)
    grey = next(trace for name, trace in traces.items() if name.startswith("attention_jsd: flat (reliability"))
    assert grey.line.dash == "dash"
    labels = [note.text for note in figure.layout.annotations]
    assert any(re.match(r"gap 3 · .+ · p [=<] .+ · \[3, 3\]", label) for label in labels)


@pytest.mark.parametrize("case", ["ends", "deep", "deep ends", "adjacent"])
def test_boundary_labels_cannot_collide(case: str) -> None:
    """Sentences have rows of their own; the numbers of close boundaries lean away from each other."""
    figure: Any = evidence_figure(make_case(case))
    notes = [note for note in figure.layout.annotations if note.xref == "paper"]
    assert len({note.yshift for note in notes}) == len(notes) == 2
    numbers = [note for note in figure.layout.annotations if note.xref != "paper"]
    if case.startswith("deep"):
        assert [note.xanchor for note in numbers] == ["right", "left"]


def test_figures_offer_no_upload_and_leave_plotly_alone() -> None:
    """Plotly 7's share button is off, and the global template is as it was."""
    import plotly.io as pio

    before = pio.templates.default
    figure: Any = evidence_figure(make_case("two"))
    assert "sendChartToCloud" in figure.layout.modebar.remove
    assert pio.templates.default == before
    assert "showSendToCloud: false" in render_report(make_case("two"), make_manifest(), {})


def test_weight_map_has_every_choice_once() -> None:
    """231 choices are split into those with a boundary and those without."""
    data = make_case("two")
    figure = weight_figure(data, 1)
    assert sum(len(trace.a) for trace in figure.data if trace.name != "weights used") == 231


@pytest.mark.parametrize(("n_signals", "choices"), [(3, "231 choices"), (4, "1,771 choices")])
def test_the_page_counts_the_weights_it_looked_at(n_signals: int, choices: str) -> None:
    """How many there are in steps of 5 % follows from the number of signals."""
    variables, _ = pack(weight_map(np.eye(n_signals, 11)))
    (section,) = _weight_section(xr.Dataset({**variables, "boundary": ("found", [1])}))
    assert section.definition.startswith(f"Counted over {choices} of weights on a regular grid in steps of 5%;")


def test_numbers_are_rounded_sensibly() -> None:
    """A dash stands for nan; the digit that decides at 0.05 is kept."""
    assert [number(np.nan), percent(np.nan), interval_text(np.array([np.nan, 3]))] == ["–"] * 3
    assert [p_text(p) for p in (0.2103, 0.0499, 0.0004, np.nan)] == ["p = 0.21", "p = 0.0499", "p < 0.001", "p –"]
    assert [percent(0.4063), percent(1.0)] == ["40.6 %", "100 %"]


ATTACKS = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    '"><img src=x onerror="window.hacked = 3">',
    "'; window.hacked = 4; //",
    "<!--<script>window.hacked = 5",
    "\u2028window.hacked = 6\u2029",
    "${window.hacked = 7}`",
    "<svg/onload=window.hacked=8>",
    "javascript:window.hacked=9",
    "=cmd|' /C calc'!A0",
]


def hostile(value: Any, attacks: list[str]) -> Any:
    """Return nested plain values with an attack after every text in them."""
    if isinstance(value, dict):
        return {name: hostile(one, attacks) for name, one in value.items()}
    if isinstance(value, list):
        return [hostile(one, attacks) for one in value]
    if isinstance(value, str):
        attacks.append(attacks.pop(0))
        return value + attacks[-1]
    return value


@pytest.mark.browser
def test_a_hostile_run_sets_no_flag(open_page: Any, tmp_path: Path) -> None:
    """Model, corpus, treebank, notes, reasons and nulls that try to run a script: shown as they are, and none runs."""
    manifest, data, attacks = make_manifest(), make_case("two"), list(ATTACKS)
    names = {part: manifest["identity"][part] for part in ("model", "corpus", "treebank")}
    manifest["identity"] |= hostile(names, attacks)
    manifest["notes"] |= {"reading_corpus": dict.fromkeys(ATTACKS, 1)}
    data = data.assign_attrs(reasons=json.dumps(ATTACKS))
    page = tmp_path / "page.html"
    page.write_text(render_report(data, manifest, dict.fromkeys(ATTACKS, data)), encoding="utf-8")
    browser = open_page(page, 1200)
    assert browser.execute_script("return window.hacked") is None
    assert browser.get_log("browser") == []
    shown = browser.execute_script("return document.body.textContent")
    assert all(attack in shown for attack in ATTACKS if attack.isprintable())


@pytest.mark.browser
@pytest.mark.parametrize("case", ["two", "all flat", "deep ends"])
@pytest.mark.parametrize("width", [420, 1600])
def test_browser_draws_the_page_offline(open_page: Any, tmp_path: Path, case: str, width: int) -> None:
    """Every figure is drawn without errors or requests, nothing scrolls sideways, and labels stay inside."""
    page = tmp_path / "report.html"
    page.write_text(
        render_report(make_case(case), make_manifest("m/" + "x" * 90), {"labels": make_case("two")}), "utf-8"
    )
    browser = open_page(page, width)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    outside = """return [...document.querySelectorAll('.main-svg text')].filter(t => t.textContent)
        .filter(t => { const b = t.getBoundingClientRect(), p = t.closest('.js-plotly-plot').getBoundingClientRect();
          return b.left < p.left - 1 || b.right > p.right + 1 || b.top < p.top - 1 || b.bottom > p.bottom + 1 })
        .map(t => t.textContent)"""
    assert browser.execute_script(outside) == []


@pytest.mark.browser
def test_legend_click_toggles_a_curve(open_page: Any, tmp_path: Path) -> None:
    """A click on a name in the legend hides its curve."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    page = tmp_path / "report.html"
    page.write_text(render_report(make_case("two"), make_manifest(), {}), "utf-8")
    browser = open_page(page, 1600)
    toggle = next(
        item for item in browser.find_elements(By.CSS_SELECTOR, "#evidence .legend .traces") if item.text == "cka"
    ).find_element(By.CSS_SELECTOR, ".legendtoggle")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", toggle)
    ActionChains(browser).move_to_element(toggle).click().perform()
    visible = "return document.querySelector('#evidence').data.find(t => t.name === 'cka').visible"
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(visible) == "legendonly")


def set_input(browser: Any, name: str, value: Any) -> None:
    """Set one of the explorer's inputs as a reader would."""
    script = """const field = document.querySelector(`[name="${arguments[0]}"]`);
        if (field.type === 'checkbox') field.checked = arguments[1]; else field.value = arguments[1];
        field.dispatchEvent(new Event('input', {bubbles: true}));"""
    browser.execute_script(script, name, value)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def drawn_fused(browser: Any) -> np.ndarray:
    """Return the fused curve as the page draws it."""
    script = "return [...document.querySelector('#evidence').data.find(t => t.name === 'fused evidence').y]"
    return np.array(browser.execute_script(script))


@pytest.fixture
def explored(open_page: Any, tmp_path: Path) -> Any:
    """A function that opens the page of a case, with the state in its address, and returns the browser."""

    def load(case: str, state: str = "", width: int = 1400, **options: Any) -> Any:
        page = tmp_path / "report.html"
        page.write_text(render_report(make_case(case), make_manifest(), {}, **options), "utf-8")
        browser = open_page(page, width)
        if state:
            browser.execute_script("location.hash = arguments[0]", state)
            browser.refresh()
        return browser

    return load


@pytest.mark.browser
def test_weights_rule_and_prominence_move_the_curve(explored: Any) -> None:
    """Sliders change fusion, peaks and address at once, as Python would; the button goes back."""
    data = make_case("two")
    browser = explored("two")
    np.testing.assert_allclose(drawn_fused(browser), data["fused"].values, atol=1e-6)
    set_input(browser, "weight-probe", 0)
    curves, resampled = data["curve"].values, data["resampled"].values.astype(float)
    ours = find_boundaries(curves, resampled=resampled, weights=(1, 0, 1), n_null=50)
    np.testing.assert_allclose(drawn_fused(browser), ours.fused, atol=1e-6)
    assert "weight-probe=0" in browser.execute_script("return location.hash")
    set_input(browser, "rule", "paper")
    published = find_boundaries(curves, resampled=resampled, weights=(1, 0, 1), rule="paper")
    np.testing.assert_allclose(drawn_fused(browser), published.fused, atol=1e-6)
    assert "not tested" in browser.execute_script("return document.querySelector('.now').textContent")
    set_input(browser, "prominence", 1)
    assert "no boundary" in browser.execute_script("return document.querySelector('.live').textContent")
    browser.execute_script("document.querySelector('[name=reset]').click()")
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    np.testing.assert_allclose(drawn_fused(browser), data["fused"].values, atol=1e-6)
    assert browser.execute_script("return location.hash") in ("", "#")


@pytest.mark.browser
def test_reliability_can_be_switched_off(explored: Any) -> None:
    """Without it, a flat signal takes part like any other."""
    browser = explored("one flat")
    names = "return document.querySelector('#evidence').data.map(t => t.name)"
    assert any(name and "flat" in name for name in browser.execute_script(names))
    set_input(browser, "reliability", False)
    assert not any(name and "flat" in name for name in browser.execute_script(names))
    data = make_case("one flat")
    plain = find_boundaries(data["curve"].values, rule="paper")
    np.testing.assert_allclose(drawn_fused(browser), plain.fused, atol=1e-6)


@pytest.mark.browser
def test_a_view_is_shared_by_its_address(explored: Any) -> None:
    """What the address says is what is shown; the arrow keys go to the next gap and write it there."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser = explored("two", "weight-cka=0.1&prominence=0.55&gap=3")
    assert browser.find_element(By.NAME, "prominence").get_attribute("value") == "0.55"
    assert browser.find_element(By.NAME, "weight-cka").get_attribute("value") == "0.1"
    panel = browser.find_element(By.CSS_SELECTOR, ".gap")
    assert "Gap 3, between blocks 2 and 3" in panel.text and "Probe F1, layer 2 → layer 3" in panel.text
    browser.find_element(By.ID, "evidence").send_keys(Keys.ARROW_RIGHT)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert "Gap 4, between blocks 3 and 4" in browser.find_element(By.CSS_SELECTOR, ".gap").text
    assert "gap=4" in browser.execute_script("return location.hash")


@pytest.mark.browser
def test_click_chooses_a_gap_and_weights(explored: Any) -> None:
    """A click into the curve opens the gap there; a click into the map of weights sets the sliders."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    browser = explored("two")
    picture = browser.find_element(By.ID, "evidence")
    ActionChains(browser).move_to_element(picture).click().perform()
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert "gap=6" in browser.execute_script("return location.hash")
    triangle = browser.find_element(By.CSS_SELECTOR, ".triangle")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", triangle)
    ActionChains(browser).move_to_element_with_offset(
        triangle, 0, int(-0.4 * triangle.size["height"])
    ).click().perform()
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert float(browser.find_element(By.NAME, "weight-cka").get_attribute("value")) > 0.9


@pytest.mark.browser
def test_another_run_is_laid_over(explored: Any, tmp_path: Path) -> None:
    """A run named beforehand, or any report chosen from disk, is drawn on the same relative depth."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser = explored("two", others={"deeper": make_case("deep")})
    set_input(browser, "over", "deeper")
    over = "return [...document.querySelector('#evidence').data.find(t => t.name?.startsWith(arguments[0]))?.x ?? []]"
    places = browser.execute_script(over, "deeper")
    np.testing.assert_allclose(places, np.arange(1, 48) * 12 / 48)
    other = tmp_path / "other.html"
    other.write_text(render_report(make_case("one"), make_manifest("other"), {}), "utf-8")
    browser.find_element(By.NAME, "over-file").send_keys(str(other))
    WebDriverWait(browser, 10).until(lambda driver: len(driver.execute_script(over, "other")) == 11)


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1400])
def test_theme_button_repaints_figures(explored: Any, width: int) -> None:
    """Dark and light change places on a click, in the page and in every figure, without an error."""
    browser = explored("two", width=width)
    ink = "return document.querySelector('#evidence')._fullLayout.font.color"
    other = "return document.querySelector('[data-figure]')._fullLayout.font.color"
    before = browser.execute_script(ink), browser.execute_script(other)
    browser.execute_script("document.getElementById('theme').click()")
    after = browser.execute_script(ink), browser.execute_script(other)
    assert before[0] != after[0] and before[1] != after[1]
    assert browser.get_log("browser") == []


@pytest.mark.browser
def test_redrawing_takes_less_than_50_ms_at_80_gaps(open_page: Any, tmp_path: Path) -> None:
    """Fusion, peaks and intervals of 80 gaps follow a slider without lag (median of ten moves)."""
    page = tmp_path / "report.html"
    data = make_result((20, 60), n_layers=81)
    page.write_text(render_report(data, make_manifest(), {}), "utf-8")
    browser = open_page(page, 1400)
    script = f"""{static_text("explorer.js").replace("export default", "const widget =").replace("export ", "")}
        const data = JSON.parse(document.getElementById('explorer-data').textContent), run = readRun({{...data,
          curves: data.signals.map(s => s.curve), reliability: data.signals.map(s => s.reliability)}});
        const times = [...Array(10).keys()].map(i => {{ const start = performance.now();
          const settings = {{weights: [1, i / 10, 1], prominence: 0.3, rule: 'mspgt', reliability: true}};
          fusedBand(findBoundaries(run, settings, data.constants)); return performance.now() - start; }});
        return times.sort((a, b) => a - b)[5];"""
    assert browser.execute_script(script) < 50


def test_page_without_plotly_is_small() -> None:
    """A deep model's page stays under 400 kB when plotly.js lies beside it."""
    data = make_result((20, 22), n_layers=48)
    page = render_report(data, make_manifest(), {}, plotly="plotly.min.js")
    assert len(page.encode()) < 400_000
    assert '<script src="plotly.min.js"></script>' in page


def test_the_page_of_a_whole_detection_is_small() -> None:
    """With audit, sentences and probes, as the committed run of a pretrained model has them: under 400 kB."""
    run = mspgt_tl.load_run(Path(__file__).parents[1] / "docs/runs/smollm2-135m")
    assert {"audit_resampled", "told_sentences"} <= set(run.data)
    assert len(render_report(run.data, run.manifest, run.nulls, plotly="plotly.min.js").encode()) < 400_000


def test_a_sweep_of_one_level_shows_intervals_and_controls() -> None:
    """One point has neither a line nor a band: intervals are bars, controls are markers."""
    whole = mspgt_tl.load_intervention(Path(__file__).parents[1] / "docs/runs/smollm2-sweep")
    sweep = replace(whole, effects=whole.effects.sel(level=[0.1]))
    traces: Any = sweep.plot("kl").data
    assert sum(trace.error_y.array is not None for trace in traces) == 3
    controls = [trace for trace in traces if trace.meta["control"]]
    assert controls and all("markers" in trace.mode for trace in controls)


def test_near_ties_are_not_called_missing() -> None:
    """A rival place is told with the verdict, and that most resamples prefer it; nothing is listed as missing."""
    data = make_case("two").assign_attrs(
        reasons=json.dumps(["Gap 9 is a near tie: 61% of the resamples prefer gap 6."])
    )
    data["near_tie"] = ("found", [np.nan, 6.0])
    _, text = read_page(render_report(data, make_manifest(), {}))
    assert "61 % of the resamples put it at gap 6: only its interval can be believed" in text
    assert "Why something is missing" not in text


def test_depth_is_the_gap_over_the_number_of_blocks() -> None:
    """Gap 3 of 12 blocks lies at a quarter, in the table of boundaries and in that of all gaps."""
    from mspgt_tl.dashboard.page import boundary_table, gap_table

    data = make_result((3, 9))
    assert [row[1] for row in boundary_table(data).rows] == [percent(0.25), percent(0.75)]
    assert gap_table(data).rows[2][1] == percent(0.25)
    assert percent(0.25) != percent(3 / 11)


@pytest.mark.browser
def test_pages_of_one_folder_share_the_library(open_page: Any, tmp_path: Path) -> None:
    """Wherever they lie below it, they are what they would be had they been made so, and are drawn all the same."""
    from mspgt_tl.dashboard.sheet import PLOTLY_FILE, share_plotly

    data, manifest = make_case("two"), make_manifest()
    deep = tmp_path / "runs" / "a" / "report.html"
    deep.parent.mkdir(parents=True)
    for page in (tmp_path / "report.html", deep):
        page.write_text(render_report(data, manifest, {}), "utf-8")
    (tmp_path / "other.html").write_text("<p>no page of ours</p>", "utf-8")
    share_plotly(tmp_path)
    share_plotly(tmp_path)
    assert deep.read_text("utf-8") == render_report(data, manifest, {}, plotly=f"../../{PLOTLY_FILE}")
    sizes = [page.stat().st_size for page in (tmp_path / "report.html", deep)]
    assert max(sizes) < 400_000 and (tmp_path / PLOTLY_FILE).stat().st_size > 4_000_000
    browser = open_page(deep, 1200)
    assert len(drawn_fused(browser)) == 11 and browser.get_log("browser") == []


def make_audited() -> xr.Dataset:
    """Return a result that has all that a page can show: audit, profile of the first token, sentences."""
    data = make_case("two")
    rng, gaps, layers = np.random.default_rng(2), np.arange(1, 12), np.arange(12)
    names, signals = ["massive masked", "whitened", "sinks kept", "without probe"], ["cka", "cka", "attention_jsd", ""]
    curves = np.stack([data["curve"].values[NAMES.index(name or "cka")] for name in signals])
    curves = curves * (1 + 0.1 * rng.random(curves.shape))
    told = [
        json.dumps(
            [{"effect": 0.01 / (i + 1), "tokens": ["<s>", "Some", " <b>", " words"], "drawn": 2} for i in range(6)]
        )
        for _ in range(2)
    ]
    onset = np.zeros(11, dtype=int)
    onset[3] = 1
    return data.assign(
        {
            "audit_signal": ("variant", signals),
            "audit_curve": (("variant", "gap"), curves),
            "audit_resampled": (
                ("variant", "resample_of_audit", "gap"),
                curves[:, None] + 0.002 * rng.normal(size=(4, 60, 11)),
            ),
            "audit_gap": (("variant", "found"), np.array([[3.0, 9.0], [3, np.nan], [4, 9], [3, 9]])),
            "audit_p_value": (("variant", "found"), np.full((4, 2), 0.01)),
            "audit_fused": (("variant", "gap"), np.tile(data["fused"].values, (4, 1))),
            "grade": ("found", ["robust", "fragile"]),
            "weight_agreement": ("found", [0.9, 0.6]),
            "massive_share": ("found", [0.1, 0.2]),
            "first_norm": ("layer", 1.0 + layers),
            "sink_mass": ("layer", layers / 24),
            "onset": ("gap", onset),
            "onset_chance": ((), 0.27),
            "near_onset": ("found", [True, False]),
            "told_sentences": ("told_gap", np.array(told, dtype=object)),
        }
    ).assign_coords(variant=names, told_gap=[3, 9], gap=gaps)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "theme"), [(420, "dark"), (1400, "light")])
def test_every_control_answers_and_goes_back(open_page: Any, tmp_path: Path, width: int, theme: str) -> None:
    """Each input writes its name into the address and draws; reset undoes it; no error, no request, no overflow."""
    page = tmp_path / "report.html"
    page.write_text(render_report(make_audited(), make_manifest(), {}, others={"deeper": make_case("deep")}), "utf-8")
    browser = open_page(page, width)
    if browser.execute_script("return document.getElementById('theme').textContent").endswith(theme):
        browser.execute_script("document.getElementById('theme').click()")
    script = """const fields = [...document.querySelectorAll('.explorer form [name]')];
        return fields.filter(f => !['file', 'button'].includes(f.type)).map(f => f.name)"""
    names = browser.execute_script(script)
    assert names == [*(f"weight-{n}" for n in NAMES), "prominence", "rule", "reliability", "variant", "over"]
    own = drawn_fused(browser)
    for name in names:
        value: Any = {"rule": "paper", "reliability": False, "variant": "whitened", "over": "deeper"}.get(name, 0.9)
        set_input(browser, name, value)
        assert re.search(rf"\b{name}=", browser.execute_script("return location.hash")), name
        assert np.isfinite(drawn_fused(browser)).all()
        assert browser.execute_script("return document.querySelector('.live').textContent.length") > 20
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), name
        set_input(browser, "over", "")
        browser.execute_script("document.querySelector('[name=reset]').click()")
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        np.testing.assert_allclose(drawn_fused(browser), own)
        assert browser.execute_script("return location.hash") in ("", "#")
    for _ in range(2):
        browser.execute_script("document.querySelectorAll('.explorer summary').forEach(s => s.click())")
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_a_stranger_finds_the_answers_without_a_click(open_page: Any, tmp_path: Path) -> None:
    """Which gap, how sure, what without the probes or the massive channels, and which sentences: all in sight."""
    page = tmp_path / "report.html"
    page.write_text(render_report(make_audited(), make_manifest(), {}), "utf-8")
    browser = open_page(page, 1400)
    seen = browser.execute_script("return document.body.innerText")
    assert "Two boundaries, at gaps 3 and 9" in seen
    assert re.search(r"gap 3\s+25 %\s+3\s+100 %\s+\S.*\s+supported", seen)
    assert "Gap 3, between blocks 2 and 3" in seen and "Audit of this gap: graded robust" in seen
    for choice, found in (("massive masked", "gap 3, p 0.01"), ("without probe", "gap 3, p 0.01")):
        assert re.search(rf"{choice}\s+\S+\s+{found}", seen)
    assert "Sentences that move the evidence here most" in seen and "Some <b> words" in seen
    assert browser.execute_script("return document.querySelector('.sentences mark').textContent") == " <b>"
    evidence = browser.execute_script("return document.getElementById('evidence').getBoundingClientRect().top")
    assert evidence < 300
