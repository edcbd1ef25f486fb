"""A theory run: stages, resuming, what is refused, and the page it draws."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspgt_tl.errors import ConfigError, CorpusError, StoreError
from mspgt_tl.models.pretrained import load
from mspgt_tl.pipeline import theory as stages
from mspgt_tl.pipeline.shell import REPORT
from mspgt_tl.pipeline.theory import STAGES, load_theory, run_theory, summarise
from mspgt_tl.store import LOCK, Run

QUICK: dict[str, Any] = {
    "sentences": 60,
    "closure_texts": 3,
    "closure_sigmas": (1e-3, 0.1),
    "closure_samples": 2,
    "noise_draws": 2,
    "exact_draws": 2,
    "channel_sigmas": (1.0, 8.0),
    "rate_texts": 20,
    "rate_sigmas": (0.2, 0.5),
    "resamples": 100,
    "hvib": {"betas": (0.1, 1.0), "width": 2, "steps": 3, "batch": 64},
}


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("theory") / "run"
    return run_theory(tiny_folder, scales="0-2,3-4,5-7", out=folder, config=QUICK)


def test_every_stage_is_stored_and_read_back(finished: Any) -> None:
    """What a folder gives back is what the run returned, and nothing else is left behind."""
    again = load_theory(finished.folder)
    for stage in STAGES:
        assert finished.parts[stage].equals(again.parts[stage])
    assert again.boundaries == (3, 5)
    assert {path.suffix for path in finished.folder.iterdir() if path.name != LOCK} == {".nc", ".json", ".html", ".log"}


def test_summary_is_plain_and_whole(finished: Any) -> None:
    """Numbers by layer and scale, JSON without nan, one finding for each estimator."""
    summary = summarise(finished)
    json.loads(json.dumps(summary, allow_nan=False))
    assert [row["layer"] for row in summary["layers"]] == list(range(8))
    assert [row["scale"] for row in summary["scales"]] == ["local", "intermediate", "global"]
    assert len(summary["findings"]) == 5
    fisher = finished.parts["fisher"]
    total = sum(fisher["sensitivity"].values[:3])
    assert summary["scales"][0]["sensitivity"] == pytest.approx(total)


def test_channel_beyond_ln_n_is_refused_with_its_reason(finished: Any) -> None:
    """Little noise would tell more than so few tokens can show."""
    part = finished.parts["information"]
    row = part["channel_sigma"].values.tolist().index(1)
    assert np.isnan(part["information"].values[row]).all()
    assert any("ln n" in reason for reason in finished.reasons)


def test_a_killed_run_resumes(
    tiny_folder: Path, tmp_path: Path, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the fourth stage, it starts there again and ends with the same numbers."""

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "copy_as", killed)
        with pytest.raises(KeyboardInterrupt):
            run_theory(tiny_folder, scales="0-2,3-4,5-7", out=tmp_path, config=QUICK)
    assert set(Run.read(tmp_path).manifest["stages"]) == {"units", "fisher", "closure"}
    with pytest.raises(StoreError, match="not finished"):
        load_theory(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "measure_fisher", killed)
        again = run_theory(tiny_folder, scales="0-2,3-4,5-7", out=tmp_path, config=QUICK)
    for stage in STAGES:
        assert again.parts[stage].equals(finished.parts[stage])


def test_closure_of_some_layers_and_no_float64(tiny_folder: Path, tmp_path: Path) -> None:
    """What was not measured is nan with its reason, and everything that reads the run copes; a budget resumes."""
    config = {**QUICK, "exact_draws": 0, "closure_layers": 3}
    found = run_theory(tiny_folder, out=tmp_path / "run", config=config, budget="3h")
    ratio = found.parts["closure"]["ratio"].sel(set=[f"layer {i}" for i in range(8)]).values[:, 0]
    assert np.flatnonzero(np.isfinite(ratio)).tolist() == [0, 4, 7]
    assert np.isnan(found.parts["closure-float64"]["ratio"]).all()
    assert any("3 of 8 layers" in why for why in found.reasons)
    assert any("exact_draws=32" in why for why in found.reasons)
    told = summarise(found)
    assert told["layers"][1]["closure_float32"] is None and told["layers"][0]["closure_float64"] is None
    assert "float64 was not measured" in told["findings"][1]
    assert found.manifest["identity"]["budget"] == 3 * 3600
    again = run_theory(tiny_folder, out=tmp_path / "run", config=config, budget="3h")
    assert again.parts["closure"].equals(found.parts["closure"])


def test_closure_of_a_narrow_model_is_measured_in_float32(tiny_folder: Path) -> None:
    """bfloat16 rounds more than the smallest noise moves: KL would be hundreds of times what is predicted."""
    config = {**QUICK, "exact_draws": 0, "closure_layers": 2, "closure_samples": 8}
    part = run_theory(tiny_folder, config=config, dtype="bfloat16", parity=False).parts["closure"]
    assert part.attrs["dtype"] == "float32"
    assert 0.2 < float(part["ratio"].sel(set="layer 0").values[0]) < 5


def test_a_run_in_memory_leaves_nothing(tiny_folder: Path, finished: Any, tmp_path: Path) -> None:
    """Without a folder the numbers are the same; thirds are named as such and nothing is tested at them."""
    found = run_theory(load(tiny_folder), config=QUICK)
    assert found.folder is None
    assert found.manifest["identity"]["scales_from"] == "equal thirds"
    assert found.boundaries == ()
    assert np.isnan(found.parts["information"]["p_value"].values).all()
    assert any("there are none" in reason for reason in found.reasons)
    np.testing.assert_array_equal(found.parts["fisher"]["trace"], finished.parts["fisher"]["trace"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sentences": 10}, CorpusError, "At least 20 sentences"),
        ({"sentences": 21, "stream": {"max_length": 6}}, CorpusError, "need 320 tokens in all"),
        ({"hvib": {"batch": 5000}}, CorpusError, "need 5000 tokens in the 60 %"),
        ({"rate_texts": 5}, ConfigError, "rate_texts"),
        ({"closure_sigmas": (0.1, 0.01)}, ConfigError, "closure_sigmas"),
        ({"noise_draws": 1}, ConfigError, "noise_draws"),
        ({"sentenses": 5}, ConfigError, "Did you mean 'sentences'"),
        ({"scales": "0-9"}, ConfigError, "Scales must lie"),
        ({"seed": -1}, ConfigError, "seed"),
    ],
)
def test_bad_input_writes_nothing(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Every refusal comes before the folder is made."""
    known = {name: changes.pop(name) for name in ("scales", "seed") if name in changes}
    with pytest.raises(error, match=message):
        run_theory(tiny_folder, out=tmp_path / "run", config=QUICK | changes, **known)
    assert not (tmp_path / "run").exists()


def test_other_runs_are_told_apart(finished: Any, tiny_folder: Path) -> None:
    """A theory run is no detection; a folder with other settings is refused."""
    with pytest.raises(StoreError, match="no detection"):
        run_theory(finished.folder)
    with pytest.raises(StoreError, match="holds another run"):
        run_theory(tiny_folder, scales="0-2,3-4,5-7", out=finished.folder, config=QUICK, seed=1)


class _Outline(HTMLParser):
    """Headings and resources of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.headings, self.sources, self.inside = [], [], False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.inside = tag == "h2"
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.inside and data.strip():
            self.headings.append(data.strip())
            self.inside = False


def test_the_page_shows_every_estimator_offline(finished: Any) -> None:
    """One section each, eight figures, nothing fetched, no nan in the tables."""
    page = (finished.folder / REPORT).read_text(encoding="utf-8")
    outline = _Outline()
    outline.feed(page)
    assert len(outline.headings) >= 8
    assert all(source.startswith("#") for source in outline.sources)  # the contents' links into the page itself
    assert page.count("<div data-figure ") == 8
    body = page[page.index("<body>") :]
    assert "<span>nan</span>" not in body
    for finding in summarise(finished)["findings"][1:]:
        assert finding.split(":")[0].replace("'", "&#39;") in body
