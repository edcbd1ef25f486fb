"""How a detection shows itself: tables, figures, another weighting, the widget; and scales that are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.pipeline.detection import Detection
from mspgt_tl.pipeline.shown import Kind

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def detection(make_detection: Any) -> Detection:
    """A detection of 12 blocks whose three signals peak at gaps 3 and 9, the probe at gap 6, too."""
    return make_detection("models/made", (3, 9), probe_at=6)


def test_a_detection_is_one_line(detection: Detection) -> None:
    """The repr holds model, size and verdict, not thousands of characters; the card has a picture and a table."""
    assert repr(detection) == "Detection of made (12 blocks): Two boundaries, at gaps 3 and 9."
    assert repr(detection.found).startswith("Boundaries(gap 3: supported; gap 9: supported; 11 gaps")
    html = detection._repr_html_()
    assert "<svg" in html and "<table" in html and len(html) < 6000


def test_summary_and_dataframe_hold_the_results_numbers(detection: Detection) -> None:
    """One row a boundary, one row a gap."""
    summary, table = detection.summary(), detection.to_dataframe()
    assert summary["gap"].tolist() == [3, 9]
    np.testing.assert_array_equal(summary[["low", "high"]], detection.found.intervals)
    assert table.index.tolist() == list(range(1, 12))
    np.testing.assert_array_equal(table["evidence"], detection.found.fused)
    assert table.index[table["is_boundary"]].tolist() == [3, 9]


def test_reweighing_is_what_finding_anew_gives(detection: Detection) -> None:
    """Weights by name or in order, a prominence, and the rule give `find_boundaries` of the same curves."""
    alone = detection.reweigh({"probe": 1.0}, prominence=0.5)
    resampled = detection.data["resampled"].values.astype(float)
    ours = find_boundaries(detection.curves.values, weights=(0, 1, 0), resampled=resampled, prominence=0.5)
    assert alone.boundaries == ours.boundaries
    np.testing.assert_allclose(alone.found.fused, ours.fused)
    assert alone.manifest["identity"]["config"]["boundaries"]["prominence"] == 0.5
    assert detection.reweigh((1, 1, 1)).boundaries == detection.boundaries
    np.testing.assert_allclose(detection.reweigh().found.fused, detection.found.fused, atol=1e-6)  # float32 resamples
    assert detection.reweigh(rule="paper").verdicts == ("accepted", "accepted")


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": {"prob": 1}}, "Did you mean 'probe'"),
        ({"weights": (1, 2)}, "3 numbers"),
        ({"prominence": 0.0}, "above 0"),
        ({"rule": "papr"}, "Did you mean 'paper'"),
        ({"weights": "cka"}, "Weights are numbers"),
        ({"weights": {"cka": None}}, "Weights are numbers"),
    ],
)
def test_unusable_weights_are_refused(detection: Detection, options: dict[str, Any], words: str) -> None:
    """The error says what was needed and what came."""
    with pytest.raises(ConfigError, match=words):
        detection.reweigh(**options)


@pytest.mark.parametrize("kind", ["evidence", "signals", "contrast", "weights", "probes", "cka"])
def test_every_kind_of_figure_is_drawn(detection: Detection, kind: Kind) -> None:
    """Each kind has traces, under other weights, too."""
    assert len(detection.plot(kind).data) > 0
    assert len(detection.plot(kind, weights={"cka": 1, "probe": 1}).data) > 0


def test_a_figure_that_cannot_be_is_refused(detection: Detection) -> None:
    """An unknown kind or task, an audit that was not made, or a comparison where none can be drawn."""
    for options in ({"kind": "evidenc"}, {"kind": "audit"}, {"kind": "probes", "task": "posh"}):
        with pytest.raises(ConfigError):
            detection.plot(**options)
    with pytest.raises(ConfigError, match="laid over"):
        detection.plot("cka", compare=detection)
    for other in (3, "nowhere"):
        with pytest.raises(ConfigError, match="A detection or its folder"):
            detection.plot(compare=other)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="A detection or its folder"):
            detection.explore(other)  # type: ignore[arg-type]


def test_another_detection_is_laid_over(detection: Detection) -> None:
    """The other's curve lies on this one's gaps by relative depth; its folder does as well."""
    figure: Any = detection.plot(compare=detection)
    np.testing.assert_array_equal(figure.data[-1].x, np.arange(1, 12))
    assert figure.data[-1].name == "made: gaps 3, 9 of 12 blocks"
    stored: Any = detection.plot(compare=ROOT / "docs/runs/planted")
    assert stored.data[-1].name == "planted:12:4,9@seed:0: gaps 4, 9 of 12 blocks"


def test_scales_of_candidates_must_be_asked_for(detection: Detection) -> None:
    """Supported boundaries cut at once; candidates only with `unsupported`, and the refusal says so."""
    assert detection.scales()["intermediate"] == range(3, 9)
    data = detection.data.assign(verdict=("found", ["supported", "localised, not significant"]))
    candidate = replace(detection, data=data)
    with pytest.raises(DataError, match=r"gap 9: localised, not significant.*unsupported=True"):
        candidate.scales()
    assert candidate.scales(unsupported=True) == detection.scales()


def test_explorer_has_the_results_curves_and_answers_with_plotly(detection: Detection) -> None:
    """The widget carries data and no plotly.js, which it sends on request."""
    pytest.importorskip("anywidget")
    widget = detection.explore(detection)
    assert widget.data["signals"][0]["curve"] == detection.curves.values[0].tolist()
    assert [other["name"] for other in widget.data["others"]] == ["made (1)"]
    sent: list[Any] = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    widget._answer(widget, {"kind": "plotly"}, [])
    assert sent[0][0] == {"kind": "plotly"} and sent[0][1][0].startswith(b"/**")


HOST = """
<div id="cell"></div><script type="application/json" id="data">DATA</script>
<script type="application/json" id="plotly">PLOTLY</script><script type="module">
MODULE
const read = id => JSON.parse(document.getElementById(id).textContent);
const listeners = {}, values = {data: read("data"), state: {}};
const model = window.model = {
  get: name => values[name],
  set: (name, value) => { values[name] = value; },
  save_changes: () => { window.saved = values.state; },
  on: (name, f) => { (listeners[name] ??= []).push(f); },
  off: (name, f) => { listeners[name] = listeners[name].filter(g => g !== f); },
  send: message => {
    window.asked = message;
    const bytes = new TextEncoder().encode(read("plotly"));
    listeners["msg:custom"].forEach(f => f(message, [new DataView(bytes.buffer)]));
  },
  tell: (name, value) => { values[name] = value; listeners[`change:${name}`].forEach(f => f()); },
};
widget.render({model, el: document.getElementById("cell")});
</script>
"""


@pytest.mark.browser
def test_widget_draws_without_a_plotly_of_the_page(detection: Detection, browser: Any, tmp_path: Any) -> None:
    """As a notebook's front end calls it: it asks the kernel for plotly.js, draws, and keeps state on both sides."""
    import json

    from selenium.webdriver.support.ui import WebDriverWait

    pytest.importorskip("anywidget")
    from mspgt_tl.dashboard.sheet import plotly_source, static_text

    page = tmp_path / "host.html"
    host = HOST.replace("MODULE", static_text("explorer.js").replace("export default {", "const widget = {"))
    host = host.replace("DATA", json.dumps(detection.explore().data).replace("<", "\\u003c"))
    page.write_text(host.replace("PLOTLY", json.dumps(plotly_source()).replace("<", "\\u003c")), "utf-8")
    browser.get_log("browser")
    browser.get(page.as_uri())
    drawn = "return document.querySelector('.picture')?.data?.find(t => t.name === 'fused evidence')?.y.length"
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(drawn) == 11)
    assert browser.execute_script("return window.asked.kind") == "plotly"
    script = """const field = document.querySelector('[name=weight-probe]'); field.value = 0;
        field.dispatchEvent(new Event('input', {bubbles: true})); return window.saved.weights.probe"""
    assert browser.execute_script(script) == 0
    told = "window.model.tell('state', {...window.saved, prominence: 0.6}); return 1"
    browser.execute_script(told)
    shown = "return document.querySelector('[name=prominence]').value"
    WebDriverWait(browser, 5).until(lambda driver: driver.execute_script(shown) == "0.6")
    assert browser.get_log("browser") == []


def test_the_grid_of_p_values_is_kept_with_the_result(detection: Detection) -> None:
    """What a detection stores is what the explorer would compute; it is read, and other weights throw it away."""
    from mspgt_tl.dashboard.explorer import explorer_data, with_p_grid

    kept = with_p_grid(detection.data, None)
    made = explorer_data(detection.data)["grids"]
    assert made["trusted"]["rows"] and explorer_data(kept)["grids"] == made
    assert explorer_data(kept.assign(p_grid=((), "{}")))["grids"] == {}
    assert "p_grid" not in replace(detection, data=kept).reweigh((1, 0, 1)).data
