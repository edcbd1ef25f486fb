"""A study of small runs: resumed after a kill, others go on when one fails, and one report of all."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from mspgt_tl.cli import main
from mspgt_tl.errors import ConfigError, CorpusError, ModelError, StoreError
from mspgt_tl.pipeline.detection import load_run
from mspgt_tl.store import Run
from mspgt_tl.study import Findings, conclusions, load_study, read_study, run_study, write_study_report
from mspgt_tl.study.run import run_step, scales_for
from mspgt_tl.workers import Workers

OTHER = "qwen1.5-mini"
TINY = """
title = "A tiny study"

[corpora.generated]
nulls = ["tokens"]
[corpora.other]
text = "{text}"

[models."qwen1.5-mini"]
family = "Qwen"
stages = ["detect"]
[models.llama2-mini]
family = "Llama"
[models."llama2-mini@random:0"]
family = "Llama"
stages = ["detect"]

[detect]
sentences = 200
train_trees = 60
[detect.signals]
tasks = ["pos"]
[detect.probe]
repeats = 1
epochs = 2
[detect.boundaries]
resamples = 100
null_curves = 100

[intervene]
samples = 4
levels = [0.1]
other_doses = []
controls = 2
effect_sentences = 12
unit_sentences = 20
dose_sentences = 6
resamples = 100
[intervene.decode]
prompt_tokens = 8
new_tokens = 6
[intervene.metrics]
names = ["self_bleu", "type_token_ratio", "sentence_length_variance"]

[theory]
sentences = 120
resamples = 100
closure_texts = 2
closure_sigmas = [0.001, 0.1]
closure_samples = 2
exact_draws = 2
noise_draws = 2
rate_texts = 20
rate_sigmas = [0.1, 0.5]
channel_sigmas = [4.0]
[theory.hvib]
steps = 10
width = 4
batch = 64
betas = [0.3, 1.0]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three models on two corpora."""
    from mspgt_tl.corpora.grammar import generated_corpus

    folder = tmp_path_factory.mktemp("study")
    (folder / "other.txt").write_text("\n".join(generated_corpus(seed=5, limit=260).sentences))
    path = folder / "tiny.toml"
    path.write_text(TINY.format(text=folder / "other.txt"))
    return path


@pytest.fixture(scope="module")
def done(file: Path, mspgt: Any) -> Path:
    """Its folder, run from the command line."""
    out = file.parent / "out"
    assert mspgt("study", str(file), "--out", str(out)).returncode == 0
    return out


@pytest.mark.parametrize("stage", ["intervene", "theory"])
def test_noise_and_theory_cut_the_same_scales(stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both are told thirds where no boundary is supported: their tables stand side by side."""
    from mspgt_tl.study import run
    from mspgt_tl.study.plan import Step, StudyConfig, StudyCorpus, StudyModel

    told: list[Any] = []
    found = SimpleNamespace(boundaries=(1, 5), are_supported=False)
    monkeypatch.setattr(run, "load_run", lambda folder: SimpleNamespace(found=found))
    for name in ("run_theory", "intervene"):
        monkeypatch.setattr(run, name, lambda *_, scales, **__: told.append(scales))
    study = StudyConfig(models={"m": StudyModel()}, corpora={"c": StudyCorpus()})
    assert not run_step(tmp_path, study, Step(cast(Any, stage), "m", "c", "detect/c/m")).reason
    assert told == ["thirds"]


@pytest.mark.parametrize(
    ("verdicts", "scales"),
    [
        (("supported", "supported"), None),
        (("supported", "localised, not significant"), "thirds"),
        (("supported",), "thirds"),
        ((), "thirds"),
    ],
)
def test_noise_goes_into_detected_scales_only_where_both_boundaries_are_supported(
    verdicts: tuple[str, ...], scales: str | None
) -> None:
    """Candidates cut nothing: where fewer than two boundaries are supported, scales are equal thirds."""
    are_supported = all(verdict == "supported" for verdict in verdicts)
    found = SimpleNamespace(boundaries=tuple(range(4, 4 + len(verdicts))), are_supported=are_supported)
    assert scales_for(cast(Any, SimpleNamespace(found=found))) == scales


@pytest.mark.slow
def test_every_step_leaves_a_run(done: Path) -> None:
    """All steps finished; each folder is a run of its own."""
    study = load_study(done)
    assert len(study.outcomes) == 8
    assert not study.unfinished
    for name in study.outcomes:
        assert (done / name / "manifest.json").is_file()
    page = (done / "detect" / "generated" / "llama2-mini" / "report.html").read_text()
    assert "What do other readings of depth say?" in page
    assert "intrinsic_dimension" in page


@pytest.mark.slow
def test_probes_of_the_same_treebank_are_taken_over(done: Path) -> None:
    """On the second corpus the probes are the first one's, bit by bit, and the signals over text are not."""
    first, second = (load_run(done / "detect" / corpus / "llama2-mini") for corpus in ("generated", "other"))
    assert second.manifest["stages"]["probe-pos"]["from"].endswith("generated/llama2-mini")
    assert first.data["f1"].identical(second.data["f1"])
    assert not first.curves.sel(signal="cka").identical(second.curves.sel(signal="cka"))


@pytest.mark.slow
def test_the_report_says_what_the_runs_say(done: Path) -> None:
    """Tables agree with the runs that they are made of, as CSV and as LaTeX."""
    detection = load_run(done / "detect" / "generated" / "llama2-mini")
    table = pd.read_csv(done / "tables" / "boundaries.csv")
    own = table[table["model"] == "llama2-mini"].dropna(subset=["gap"])
    assert own["gap"].astype(int).tolist() == list(detection.boundaries)
    assert own["verdict"].tolist() == list(detection.verdicts)
    assert own["p"].tolist() == pytest.approx(list(detection.found.p_values))
    elsewhere = pd.read_csv(done / "tables" / "boundaries_elsewhere.csv")
    assert set(elsewhere["corpus"]) == {"generated, words shuffled", "other"}
    assert set(elsewhere[elsewhere["model"] == "llama2-mini@random:0"]["corpus"]) == {"other"}
    for name in (
        "boundaries",
        "families",
        "noise",
        "table2",
        "predictions",
        "theory",
        "rivals",
        "readings",
        "steps",
        "rules",
        "ratios",
    ):
        assert (done / "tables" / f"{name}.csv").is_file()
        assert r"\toprule" in (done / "tables" / f"{name}.tex").read_text()
    page = (done / "report.html").read_text()
    assert "A tiny study" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)


@pytest.mark.slow
def test_conclusions_are_made_of_the_numbers(done: Path) -> None:
    """The headline counts what the table holds; predictions on unsupported boundaries stay undecided."""
    found = Findings(load_study(done))
    told = conclusions(found)
    trained = found.boundaries[(found.boundaries["corpus"] == "generated") & ~found.boundaries["random"]]
    supported = int((trained["verdict"] == "supported").sum())
    assert told[0].startswith(f"{supported or 'None'} of {int(trained['gap'].notna().sum())} candidate")
    verdicts = found.predictions.set_index(["set", "id"])["verdict"]
    if "llama2-mini" not in set(trained[trained["verdict"] == "supported"]["model"]):
        assert verdicts["paper-v2", "1.2"] == "undecided"
    assert found.predictions["chance"].dropna().between(0, 1).all()
    scales = found.scales
    assert (scales["kl"] > 0).all()
    assert scales["scale"].tolist() == ["local", "intermediate", "global"]


@pytest.mark.slow
def test_a_finished_study_runs_nothing_again(done: Path, file: Path) -> None:
    """Steps that are done are not looked at; a step whose settings have changed is."""
    before = {path: path.stat().st_mtime_ns for path in done.glob("*/*/*/*.nc")}
    started = time.process_time()
    run_study(read_study(file), out=done, name="tiny")
    assert {path: path.stat().st_mtime_ns for path in done.glob("*/*/*/*.nc")} == before
    assert time.process_time() - started < 60
    with pytest.raises(StoreError, match=r"detect\.sentences"):
        run_study(read_study(file, settings={"detect.sentences": 210}), out=done, name="tiny")


@pytest.mark.slow
def test_a_killed_study_resumes(file: Path, done: Path, tmp_path: Path) -> None:
    """Killed in the middle and started again with two jobs, it gives the tables of the one that was not."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "mspgt_tl.cli", "study", str(file), "--out", str(out)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("detect/generated/*/result.nc")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((out / "manifest.json").read_text())["identity"]["name"] == "tiny"
    subprocess.run([*command, "--jobs", "2"], check=True)
    for name in ("boundaries", "boundaries_elsewhere", "families", "noise", "table2", "predictions", "theory"):
        ours, theirs = (pd.read_csv(folder / "tables" / f"{name}.csv") for folder in (out, done))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)


def test_a_failed_step_leaves_the_others(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rests on it is left out, with the reason; the rest goes on, and the command's exit code says so."""
    from mspgt_tl.study import run as module

    ran = []

    def fail(folder: Path, config: object, step: module.Step, progress: object) -> None:
        ran.append(step.name)
        if step.name == "detect/generated/llama2-mini":
            raise CorpusError("No probe task can be scored.")
        if step.name == "detect/other/llama2-mini":
            raise ValueError("not ours")
        (folder / step.name).mkdir(parents=True, exist_ok=True)
        (folder / step.name / "manifest.json").touch()

    monkeypatch.setattr(module, "_run", fail)
    study = run_study(read_study(file), out=tmp_path / "out")
    reasons = {outcome.step: outcome.reason for outcome in study.unfinished}
    assert reasons["detect/generated/llama2-mini"] == "No probe task can be scored."
    assert "left out" in reasons["theory/generated/llama2-mini"]
    assert "ValueError: not ours" in reasons["detect/other/llama2-mini"]
    assert "raise ValueError" in (tmp_path / "out" / "detect-other-llama2-mini.error.txt").read_text()
    assert len(ran) == 6
    assert set(reasons) | set(ran) == set(study.outcomes)
    again = run_study(read_study(file), out=tmp_path / "out")
    assert len(again.unfinished) == 4
    assert (ran.count("detect/generated/llama2-mini"), ran.count("detect/other/llama2-mini@random:0")) == (2, 0)
    assert len(ran) == 8


def test_what_has_changed_is_looked_at_again(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited text, and a step whose folder was removed; nothing else."""
    import shutil

    from mspgt_tl.study import run as module

    ran: list[str] = []

    def finish(folder: Path, config: object, step: module.Step, progress: object) -> None:
        ran.append(step.name)
        (folder / step.name).mkdir(parents=True, exist_ok=True)
        (folder / step.name / "manifest.json").touch()

    monkeypatch.setattr(module, "_run", finish)
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(Path(read_study(file).corpora["other"].text or "").read_text())
    study = read_study(file, corpora={"other": str(text)})
    run_study(study, out=out)
    assert len(ran) == 8
    ran.clear()
    text.write_text(text.read_text() + "One more sentence has been written at the end of it.\n")
    run_study(study, out=out)
    assert sorted(ran) == sorted(f"detect/other/{name}" for name in ("llama2-mini", "llama2-mini@random-0", OTHER))
    ran.clear()
    shutil.rmtree(out / "theory")
    run_study(study, out=out)
    assert ran == ["theory/generated/llama2-mini"]


def test_a_report_of_nothing_says_so(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every detection fails there is a page with the reasons, and no table but the list of runs."""
    from mspgt_tl.study import run as module

    def fail(*_: object) -> None:
        raise CorpusError("No probe task can be scored.")

    monkeypatch.setattr(module, "_run", fail)
    page, told = write_study_report(run_study(read_study(file), out=tmp_path / "out"))
    assert told[0] == "No detection has finished yet."
    assert "No probe task can be scored." in page.read_text()
    assert "boundaries.csv" not in {path.name for path in (tmp_path / "out" / "tables").iterdir()}


def test_a_study_is_reported_like_any_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mspgt: Any
) -> None:
    """`mspgt report` draws its page and tables anew, as `load_run` advises."""
    from mspgt_tl.study import run as module

    def fail(*_: object) -> None:
        raise CorpusError("No probe task can be scored.")

    monkeypatch.setattr(module, "_run", fail)
    done = run_study(read_study(file), out=tmp_path / "out")
    with pytest.raises(StoreError, match=f"no detection.*`mspgt report {done.folder}` shows"):
        load_run(done.folder)
    told = mspgt("report", str(done.folder), "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["conclusions"], found["steps"].keys()) == (conclusions(Findings(done)), done.outcomes.keys())
    assert "No probe task can be scored." in Path(found["report"]).read_text()
    assert (Path(found["tables"]) / "steps.csv").is_file()
    assert "No detection has finished yet." in mspgt("report", str(done.folder)).stdout


def test_a_study_without_a_plan_is_run_again(tmp_path: Path) -> None:
    """It was stopped before its first step, so nothing can be told of it."""
    Run.create(tmp_path, {"command": "study"})
    with pytest.raises(StoreError, match="run the same `mspgt study` again"):
        load_study(tmp_path)


def test_wrong_names_are_told_before_anything_runs(file: Path, tmp_path: Path) -> None:
    """No model, no corpus, no jobs: nothing is written."""
    out = tmp_path / "out"
    text = file.read_text()
    (tmp_path / "model.toml").write_text(text.replace("[models.llama2-mini]", "[models.llama9-mini]"))
    with pytest.raises(ModelError, match="llama9-mini"):
        run_study(read_study(tmp_path / "model.toml"), out=out)
    with pytest.raises(CorpusError, match=r"nowhere\.txt"):
        run_study(read_study(file, corpora={"lost": "nowhere.txt"}), out=out)
    with pytest.raises(ConfigError, match="job"):
        run_study(read_study(file), out=out, workers=Workers(0))
    assert not out.exists()


def test_no_study_is_told(tmp_path: Path) -> None:
    """A folder without one."""
    with pytest.raises(StoreError, match="no run folder"):
        load_study(tmp_path)


@pytest.mark.slow
def test_a_dry_run_prints_the_plan(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step with time, memory and disk; nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mspgt", "study", str(file), "--dry-run", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["steps"]) == 8
    assert all(step["seconds"] > 0 and step["memory_bytes"] > 1e8 for step in plan["steps"])
    assert math.isclose(plan["seconds"], sum(step["seconds"] for step in plan["steps"]), rel_tol=1e-6)
    assert not list(tmp_path.iterdir())


def test_a_step_records_its_memory(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory in bytes: more than a hundred megabytes with torch loaded."""
    from mspgt_tl.study import run as module
    from mspgt_tl.study.plan import make_steps

    study = read_study(file)
    monkeypatch.setattr(module, "_run", lambda *_: None)
    assert run_step(tmp_path, study, make_steps(study)[0]).peak_bytes > 1e8
