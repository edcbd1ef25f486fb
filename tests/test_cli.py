"""The command line: output, exit codes, one-line errors, quick start."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

QUICK = ["--sentences", "220", "--set", "probe.epochs=2", "--set", "probe.repeats=1", "--set", "train_trees=150"]


def test_every_command_has_help_and_is_in_the_readme(mspgt: Any) -> None:
    """Whatever the app knows: the overview lists it, `--help` describes it, and the README shows it."""
    from typer.main import get_command

    from mspgt_tl.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {"detect", "study"} <= set(commands)
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    overview = mspgt("--help").stdout
    for name, command in commands.items():
        assert name in overview
        assert (command.help or "").strip()
        assert f"mspgt {name}" in (command.epilog or ""), f"mspgt {name} has no example"
        texts = [command.help, command.epilog, *(getattr(option, "help", "") for option in command.params)]
        assert not any("[" in (text or "") for text in texts), "square brackets are markup: they vanish"
        assert f"mspgt {name}" in readme


def test_depth_is_the_gap_over_the_number_of_blocks(capsys: pytest.CaptureFixture) -> None:
    """Gap 3 of 12 blocks lies at a quarter."""
    from mspgt_tl.cli import detection

    row = {"gap": 3, "interval": None, "p_value": None, "presence": None, "grade": "", "verdict": "not found"}
    summary: dict[str, Any] = {"model": "m", "n_layers": 12, "rule": "mspgt", "boundaries": [row]}
    detection.print_detection(summary | {"nulls": {}, "rivals": []})
    assert "25.0%" in capsys.readouterr().out


def test_help_and_import_load_nothing_heavy() -> None:
    """Neither the package nor its help imports torch, TransformerLens or Plotly."""
    heavy = ("torch", "transformer_lens", "plotly")
    code = f"import sys, mspgt_tl, mspgt_tl.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_detect_prints_verdict_table_and_dashboard(tiny_folder: Path, tmp_path: Path, mspgt: Any) -> None:
    """The human output names the model and the report; --json and `report` agree with it."""
    run = tmp_path / "run"
    human = mspgt("detect", str(tiny_folder), "--out", str(run), *QUICK)
    assert human.returncode == 0, human.stderr
    assert "Page:" in human.stdout
    assert (run / "report.html").exists()
    again = mspgt("detect", str(tiny_folder), "--out", str(run), "--json", *QUICK)
    summary = json.loads(again.stdout)
    assert summary["n_layers"] == 8
    assert summary == json.loads(mspgt("report", str(run), "--json").stdout)
    for row in summary["boundaries"]:
        assert row["verdict"] in human.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect", "lama2-mini"], "Did you mean"),
        (["detect", "llama2-mini", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (["detect", "llama2-mini", "--treebank", "nowhere"], "nowhere"),
        (["detect", "/nowhere/model"], "nothing at /nowhere/model"),
        (["detect", "llama2-mini", "--corpus", __file__ + "/no"], "is not a file"),
        (["detect", "llama2-mini", "--out", __file__ + "/run"], "cannot be written"),
        (["open", "nowhere"], "nowhere is no run folder"),
        (["detect", "llama2-mini", "--tasks", "pos,syntax"], "Unknown probe task 'syntax'"),
        (["detect", "llama2-mini", "--rule", "papre"], "boundaries.rule"),
        (["detect", "llama2-mini", "--weights", "1,two"], "1,two"),
        (["detect", "llama2-mini", "--set", "probe.epoch=2"], "Did you mean 'probe.epochs'"),
        (["detect", "llama2-mini", "--config", "nowhere.toml"], "nowhere.toml"),
        (["detect", "llama2-mini", "--device", "cuda"], "cuda"),
        (["detect", "llama2-mini", "--null", "nonsense"], "Unknown null"),
        (["report", "nowhere"], "no run folder"),
        (["plan", "nowhere"], "Unknown model 'nowhere'"),
        (["plan", "llama2-mini", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (["train", "--recipe", "llama2-mni", "--text", "t", "--valid", "v", "--out", "o"], "Did you mean"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mspgt: Any
) -> None:
    """No traceback, nothing half-written."""
    monkeypatch.chdir(tmp_path)
    done = mspgt(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error:") == 1
    assert not list(tmp_path.iterdir())


def test_corrupt_and_tokenizerless_folders_are_refused(tiny_folder: Path, tmp_path: Path, mspgt: Any) -> None:
    """Truncated weights and a missing tokenizer are told apart."""
    import shutil

    for name, spoil in (
        ("corrupt", lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100)),
        ("mute", lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")]),
    ):
        folder = tmp_path / name
        shutil.copytree(tiny_folder, folder)
        spoil(folder)
        done = mspgt("detect", str(folder), "--out", str(tmp_path / "run"))
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert ("tokenizer" if name == "mute" else "weights") in done.stderr
        assert not (tmp_path / "run").exists()


def test_malformed_treebank_is_located_and_skippable(tiny_folder: Path, tmp_path: Path, mspgt: Any) -> None:
    """A bad line is reported with file and line; --skip-bad keeps the rest and says how much it left out."""
    assert mspgt("export-treebank", str(tmp_path / "bank"), "--train", "150", "--dev", "200").returncode == 0
    path = tmp_path / "bank" / "train.conllup"
    lines = path.read_text(encoding="utf-8").splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith("2\t"))
    lines[number] = lines[number].replace("\t", " ", 1)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = [
        "detect",
        str(tiny_folder),
        "--treebank",
        str(tmp_path / "bank"),
        *QUICK,
        "--out",
        str(tmp_path / "run"),
    ]
    refused = mspgt(*arguments)
    assert refused.returncode == 2
    assert f"train.conllup:{number + 1}" in refused.stderr
    kept = mspgt(*arguments, "--skip-bad")
    assert kept.returncode == 0, kept.stderr
    assert "1 malformed sentence" in kept.stderr.replace("\n", " ") or "1 of" in kept.stderr


def test_what_nobody_foresaw_is_one_line_and_a_file(monkeypatch, capsys) -> None:
    """The traceback is kept for a report, not shown; the exit code tells it from bad input."""
    from mspgt_tl.cli import console

    def fail() -> None:
        raise RuntimeError("first line [bold]\nsecond line")

    monkeypatch.setattr(console, "app", fail)
    with pytest.raises(SystemExit) as left:
        console.main()
    shown = capsys.readouterr().err
    assert left.value.code == 70
    assert shown.count("\n") == 1
    assert "RuntimeError: first line [bold] second line" in shown
    kept = Path(shown.rpartition(" in ")[2].strip().removesuffix("."))
    assert "Traceback" in kept.read_text(encoding="utf-8")
    kept.unlink()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tiny_folder: Path, tmp_path: Path) -> None:
    """One line with the whole command, the folder in it though none was given, and no traceback; it works."""
    arguments = ["detect", str(tiny_folder), *QUICK, "--tasks", "pos,deprel", "--set", "boundaries.resamples=100"]
    command = [sys.executable, "-m", "mspgt_tl.cli", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/probe-pos.nc")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown = process.communicate(timeout=300)[1]
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    last = shown.splitlines()[-1]
    (folder,) = tmp_path.glob("runs/*")
    assert last.startswith("Stopped. What has finished is kept; go on with: mspgt detect ")
    assert last.endswith(f" --out {folder.relative_to(tmp_path)}")
    again = shlex.split(last.partition(": mspgt ")[2])
    done = subprocess.run(command[:3] + again, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    assert "Finished already: " in done.stderr and "probe-pos" in done.stderr
    assert "probes: pos" not in done.stderr
