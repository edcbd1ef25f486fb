"""Kills, damages, crowds and starves every command at random moments, and looks whether anything is lost or wrong.

    python .ci/faults.py                          a hundred rounds, at most ten minutes
    python .ci/faults.py --rounds 20 --seed 7 --commands detect train
    python .ci/faults.py --commands store         the run folder alone: no model, a round in a fraction of a second

Every round takes one command and one fault, drawn by the seed: the command is killed with -9 at a random moment (at an
event of a file in its folder, or by the clock) and started again, up to three times; or a file of a finished folder is
altered, cut off or removed; or the same command is started a second time while it runs; or the folder lies on a small
disk that runs full and is then made larger. After it, the same command must end with the results of an undisturbed run,
bit by bit, or refuse in one line with exit code 2; a report of the folder must show those results or refuse likewise.
Anything else is printed with its seed, and the exit code is 1.

Commands run in forks of one process that has the heavy libraries loaded. Small disks need the right to mount one; where
that is missing, their rounds are left out and counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAULTS = ("kill", "damage", "second", "disk")
PATIENCE = 900.0
"""Seconds after which a command counts as hanging."""

DETECT = {
    "sentences": 220,
    "train_trees": 60,
    "signals": {"tasks": ["pos"]},
    "probe": {"epochs": 2, "repeats": 1, "hidden": 8},
    "boundaries": {"resamples": 100, "null_curves": 100},
}
INTERVENE = {
    "samples": 4,
    "levels": [0.1],
    "other_doses": [],
    "controls": 1,
    "effect_sentences": 12,
    "scale_sentences": 20,
    "dose_sentences": 6,
    "resamples": 100,
    "decode": {"prompt_tokens": 4, "new_tokens": 4, "chunk_samples": 1},
    "metrics": {"names": ["self_bleu", "type_token_ratio"]},
}
THEORY = {
    "sentences": 120,
    "resamples": 100,
    "closure_texts": 2,
    "closure_sigmas": [0.001, 0.1],
    "closure_samples": 2,
    "exact_draws": 2,
    "noise_draws": 2,
    "rate_texts": 20,
    "rate_sigmas": [0.1, 0.5],
    "channel_sigmas": [4.0],
    "hvib": {"steps": 5, "width": 2, "batch": 64, "betas": [0.3, 1.0]},
}
RECIPE = """
name = "tiny"
namesake = "nothing"
[architecture]
model_type = "llama"
num_hidden_layers = 2
hidden_size = 16
intermediate_size = 32
num_attention_heads = 2
num_key_value_heads = 1
tie_word_embeddings = true
[training]
vocab_size = 300
sequence_length = 16
batch_sequences = 4
tokens = 2560
learning_rate = 1e-2
warmup_share = 0.1
decay_share = 0.25
weight_decay = 0.1
"""


@dataclass(frozen=True)
class Command:
    """What is disturbed."""

    run: Callable[[Path], Any]
    show: Callable[[Path], Any]
    """Reads what a report would show; plain values."""
    megabytes: float
    """A disk on which it just fits, roughly."""


def commands(home: Path) -> dict[str, Command]:
    """Return every command with the smallest inputs that it takes."""
    return {
        "store": Command(_toy, _show_toy, 0.6),
        "detect": Command(
            lambda folder: _cli(
                "detect", home / "model", "--config", home / "detect.toml", "--null", "labels", "--out", folder
            ),
            _report,
            3,
        ),
        "intervene": Command(
            lambda folder: _cli(
                "intervene",
                home / "model",
                "--scales",
                "0-1,2-3,4-5",
                "--config",
                home / "intervene.toml",
                "--out",
                folder,
            ),
            _report,
            3,
        ),
        "theory": Command(
            lambda folder: _cli("theory", home / "model", "--config", home / "theory.toml", "--out", folder), _report, 6
        ),
        "calibrate": Command(_calibrate, _show_calibration, 2),
        "study": Command(lambda folder: _cli("study", home / "study.toml", "--out", folder), _show_study, 6),
        "train": Command(
            lambda folder: _train(home, folder), lambda folder: json.loads((folder / "model/card.json").read_text()), 3
        ),
    }


def prepare(home: Path) -> None:
    """Write a model of six blocks, texts, settings and a recipe."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mspgt_tl.corpora.grammar import generated_corpus
    from mspgt_tl.models.training import train_tokenizer

    sentences = generated_corpus(seed=5, limit=500).sentences
    tokenizer = train_tokenizer(iter(sentences), 400)
    shape: Any = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        **shape,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    for name, seed in (("train", 10), ("valid", 11)):
        lines = generated_corpus(seed=seed, limit=300).sentences
        (home / f"{name}.txt").write_text("\n".join(" ".join(lines[i : i + 6]) for i in range(0, 300, 6)), "utf-8")
    (home / "recipe.toml").write_text(RECIPE, "utf-8")
    stages = {"detect": DETECT, "intervene": INTERVENE, "theory": THEORY}
    for name, settings in stages.items():
        (home / f"{name}.toml").write_text("\n".join(_toml(settings)), "utf-8")
    study = {
        "title": "A tiny study",
        "corpora": {"generated": {}},
        "models": {str(home / "model"): {"family": "Tiny"}},
        **stages,
    }
    (home / "study.toml").write_text("\n".join(_toml(study)), "utf-8")


def _toml(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if not isinstance(value, dict):
            yield f"{json.dumps(name)} = {json.dumps(value)}"
    for name, value in values.items():
        if isinstance(value, dict):
            table = f"{prefix}{json.dumps(name)}"
            yield f"[{table}]"
            yield from _toml(value, f"{table}.")


def _cli(*arguments: Any) -> None:
    from mspgt_tl.cli import main

    sys.argv = ["mspgt", *map(str, arguments)]
    try:
        main()
    except SystemExit as error:
        if error.code:
            raise


def _report(folder: Path) -> Any:
    from typer.testing import CliRunner

    from mspgt_tl.cli import app

    found = CliRunner().invoke(app, ["report", str(folder), "--json"])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return {name: value for name, value in json.loads(found.stdout).items() if name not in ("run", "report", "folder")}


def _toy(folder: Path) -> None:
    """Work in a run folder as commands do: stages, one inside another, parts, notes, tables, a page, and a journal."""
    import numpy as np

    from mspgt_tl import store

    store.JOURNAL_FROM = 1500
    run = store.Run.create(folder, {"command": "toy", "seed": 0})
    run.note(shown=[1, 2])
    for number in range(6):
        run.stage(f"cases-{number}", lambda number=number: store.pack_sums({"rows": np.full(3, float(number))}))
    run.stage("result", lambda: run.stage("inner", lambda: store.pack_sums({"rows": np.arange(3.0)})) + 1)
    for number in range(4):
        if not run.has(f"parts/part-{number}"):
            run.keep(f"parts/part-{number}", f"{number}\n" * 40)
    run.keep("table.csv", b"".join(run.content(name) for name in run.kept("parts/")))
    run.note(finished=True)
    run.write("report.html", "page " * 1000)


def _show_toy(folder: Path) -> Any:
    from mspgt_tl.store import Run

    run = Run.read(folder)
    stages = {
        name: run.arrays(name)["rows"].values.tolist() for name in sorted(run.manifest["stages"]) if name != "inner"
    }
    return [run.manifest["notes"], stages, run.content("table.csv").decode()]


def _calibrate(folder: Path) -> None:
    from mspgt_tl.calibration.grid import Cell, Grid
    from mspgt_tl.calibration.measure import Effort
    from mspgt_tl.calibration.simulate import CurveCell
    from mspgt_tl.config import ProbeConfig
    from mspgt_tl.pipeline import calibration

    effort = Effort(train_trees=60, dev_trees=60, probe=ProbeConfig(hidden=8, epochs=2, repeats=1), resamples=100)
    cells = tuple(Cell(f"strength {s:g}", "planted", 1, n_layers=6, strength=s) for s in (0.5, 1.0))
    small = Grid("small", cells, effort, (CurveCell(11, "pair", 0.1, 0.1, 4),))
    calibration.make_grid = lambda _size, *, model: small
    _cli("calibrate", "--jobs", 1, "--out", folder)


def _show_calibration(folder: Path) -> Any:
    from mspgt_tl.store import Run

    return Run.read(folder).content("calibration.csv").decode()


def _show_study(folder: Path) -> Any:
    import pandas as pd

    from mspgt_tl.study import load_study, write_study_report

    done = load_study(folder)
    told = write_study_report(done)[1]
    assert not done.unfinished, done.unfinished
    # Times are of the run that was made, not of what it found.
    tables = {
        path.stem: pd.read_csv(path) for path in sorted((folder / "tables").glob("*.csv")) if path.stem != "costs"
    }
    return [told, {name: table.drop(columns="seconds", errors="ignore").to_csv() for name, table in tables.items()}]


def _train(home: Path, folder: Path) -> None:
    import mspgt_tl.models.training as training
    from mspgt_tl.models.recipes import TrainingRun, load_recipe

    recipe = load_recipe(str(home / "recipe.toml"))
    run = TrainingRun(recipe, home / "train.txt", home / "valid.txt", folder, snapshots=(0.5,))
    training.train(run, save_every=5, evaluate_every=10)


def results_of(folder: Path) -> dict[str, Any]:
    """Return the hash of every file that results are read from, in the run and in runs inside."""
    found = {}
    for manifest in sorted(folder.rglob("manifest.json")):
        from mspgt_tl.store import Run

        where = manifest.parent.relative_to(folder)
        files = Run.read(manifest.parent).manifest["files"]
        # Checkpoints and the log in them tell how a training went on, not what it gave.
        found |= {str(where / name): state for name, state in files.items() if not name.startswith("checkpoints/")}
    return found


@dataclass
class Ended:
    """How a command in a fork ended."""

    code: int
    said: str

    @property
    def refused(self) -> bool:
        return self.code == 2 and len(self.said.strip().splitlines()) > 0


class Fork:
    """A command in a fork of this process."""

    def __init__(
        self, work: Callable[[], Any], *, watch: Path | None = None, events: int = 0, seconds: float = 0.0
    ) -> None:
        """Start it.

        Args:
            events: it kills itself at so many events of files in the folder `watch`; 0 for never.
            seconds: the system kills it after so long; 0 for never.
        """
        self.output = Path(tempfile.mkstemp(prefix="mspgt-faults-")[1])
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work, watch, events, seconds)

    def _run(self, work: Callable[[], Any], watch: Path | None, events: int, seconds: float) -> None:
        code = 70
        try:
            handle = os.open(self.output, os.O_WRONLY | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            warnings.simplefilter("ignore")
            if events and watch is not None:
                _at_events(
                    str(watch), lambda number: os.kill(os.getpid(), signal.SIGKILL) if number >= events else None
                )
            if seconds:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, seconds)
            from mspgt_tl.errors import MspgtError

            try:
                work()
                code = 0
            except MspgtError as error:
                print(error, file=sys.stderr)
                code = 2
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> Ended:
        """Return how it ended; one that hangs is killed and counts as such."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.01)
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            code = 124
        said = self.output.read_text("utf-8", errors="replace")
        self.output.unlink()
        return Ended(code, said)


def _at_events(folder: str, act: Callable[[int], None]) -> None:
    """Call a function at every event of a file in a folder (opened, made, renamed, removed) with its number, from 1."""
    number = 0

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal number
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree") and any(
            isinstance(value, str | Path) and str(value).startswith(folder) for value in values
        ):
            number += 1
            act(number)

    sys.addaudithook(hook)


def count_events(command: Command, folder: Path) -> tuple[int, float]:
    """Return how many file events an undisturbed run has, and how long it takes; the folder then holds it."""
    started, numbers, counted = time.monotonic(), [0], folder.with_suffix(".events")

    def work() -> None:
        _at_events(str(folder), numbers.append)
        command.run(folder)
        counted.write_text(str(numbers[-1]))

    ended = Fork(work).wait()
    if ended.code:
        raise SystemExit(f"The undisturbed run failed with {ended.code}:\n{ended.said}")
    return int(counted.read_text()), time.monotonic() - started


class Round:
    """One command, one fault, and what must hold after it."""

    def __init__(
        self, name: str, command: Command, whole: Path, events: int, seconds: float, rng: random.Random
    ) -> None:
        self.name, self.command, self.whole, self.rng = name, command, whole, rng
        self.events, self.seconds = events, seconds
        self.told: list[str] = []

    def play(self, fault: str, folder: Path) -> str:
        """Return what went wrong, or nothing."""
        return getattr(self, f"_{fault}")(folder)

    def _start(self, folder: Path, *, killed: bool = False) -> Fork:
        by_event = self.rng.random() < 0.7
        return Fork(
            lambda: self.command.run(folder),
            watch=folder,
            events=self.rng.randint(1, self.events) if killed and by_event else 0,
            seconds=self.rng.uniform(0.02, 1.1 * self.seconds) if killed and not by_event else 0.0,
        )

    def _kill(self, folder: Path) -> str:
        for _ in range(self.rng.randint(1, 3)):
            ended = self._start(folder, killed=True).wait()
            self.told.append(f"ended with {ended.code}")
            if ended.code not in (0, -signal.SIGKILL, -signal.SIGALRM):
                return f"a killed run ended with {ended.code}: {ended.said}"
        return self._must_finish(folder)

    def _damage(self, folder: Path) -> str:
        shutil.copytree(self.whole, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        path = self.rng.choice(files)
        data, kind = bytearray(path.read_bytes()), self.rng.choice(("flip", "cut", "remove"))
        place = self.rng.randrange(len(data))
        self.told.append(f"{kind} {path.relative_to(folder)} at {place} of {len(data)}")
        if kind == "remove":
            path.unlink()
        else:
            path.write_bytes(
                data[:place]
                if kind == "cut"
                else data[:place] + bytes([data[place] ^ 1 << self.rng.randrange(8)]) + data[place + 1 :]
            )
        return self._must_show_or_refuse(folder) or self._must_finish(folder, may_refuse=True)

    def _second(self, folder: Path) -> str:
        first = self._start(folder)
        time.sleep(self.rng.uniform(0, self.seconds))
        second = self._start(folder).wait()
        ended = first.wait()
        self.told.append(f"first {ended.code}, second {second.code}")
        for one in (ended, second):
            if one.code and not (one.refused and "in use by process" in one.said):
                return f"beside another, it ended with {one.code}: {one.said}"
        if ended.code and second.code:
            return f"both were refused: {ended.said}"
        return self._must_finish(folder)

    def _disk(self, folder: Path) -> str:
        folder.mkdir()
        size = int(self.rng.uniform(0.05, 1.0) * self.command.megabytes * 1024)
        with small_disk(folder, size) as enlarge:
            if enlarge is None:
                return "left out"
            ended = self._start(folder / "run").wait()
            self.told.append(f"{size} kB: ended with {ended.code}")
            if ended.code and not (ended.refused and "disk is full" in ended.said):
                return f"on a full disk, it ended with {ended.code}: {ended.said}"
            enlarge()
            return self._must_finish(folder / "run")

    def _must_finish(self, folder: Path, *, may_refuse: bool = False) -> str:
        ended = self._start(folder).wait()
        if may_refuse and ended.refused:
            self.told.append("refused")
            return ""
        if ended.code:
            return f"it did not resume, and ended with {ended.code}: {ended.said}"
        lost, expected = results_of(folder), results_of(self.whole)
        if may_refuse:
            # A stage inside another is not made again for its own sake: what it was for is there.
            expected = {name: state for name, state in expected.items() if name in lost}
        if lost != expected:
            names = sorted(name for name in {*lost, *expected} if lost.get(name) != expected.get(name))
            return f"its results differ from the undisturbed run's: {names}"
        return self._must_show_or_refuse(folder, may_refuse=False)

    def _must_show_or_refuse(self, folder: Path, *, may_refuse: bool = True) -> str:
        answer = folder.with_name(folder.name + ".shown")
        ended = Fork(lambda: answer.write_text(json.dumps(self.command.show(folder)))).wait()
        if ended.code == 2 and may_refuse:
            return ""
        if ended.code:
            return f"its report ended with {ended.code}: {ended.said}"
        expected = self.whole.with_name(self.whole.name + ".shown")
        return "" if answer.read_text() == expected.read_text() else "its report shows something else"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[], None] | None]:
    """Mount a small disk on a folder and yield what makes it large; None where this is not allowed."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount(f"size={kilobytes}k"):
        yield None
        return
    try:
        yield lambda: (mount("remount,size=500m"), None)[1]
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--commands", nargs="+", default=["detect", "intervene", "theory", "calibrate", "study", "train", "store"]
    )
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=FAULTS)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    until = time.monotonic() + 60 * options.minutes
    counts, failed = Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="mspgt-faults-") as place:
        home = Path(place)
        if set(options.commands) - {"store"}:
            import torch

            import mspgt_tl.cli
            import mspgt_tl.pipeline
            import mspgt_tl.study

            assert mspgt_tl.pipeline and mspgt_tl.study
            torch.set_num_threads(1)
            _loaded()
            # In a fork of its own: threads that it starts would be lost in the forks to come.
            ended = Fork(lambda: prepare(home)).wait()
            assert ended.code == 0, ended.said
        import xarray

        assert xarray
        ready: dict[str, tuple[Path, int, float]] = {}
        for number in range(options.rounds):
            if time.monotonic() > until:
                break
            rng = random.Random(f"{options.seed} {number}")
            name, fault = options.commands[number % len(options.commands)], rng.choice(options.faults)
            command = commands(home)[name]
            if name not in ready:
                whole = home / f"whole-{name}"
                ready[name] = (whole, *count_events(command, whole))
                shown = whole.with_name(whole.name + ".shown")
                ended = Fork(
                    lambda command=command, whole=whole, shown=shown: shown.write_text(json.dumps(command.show(whole)))
                ).wait()
                assert ended.code == 0, ended.said
                print(f"{name}: {ready[name][1]} events of files, {ready[name][2]:.1f} s", flush=True)
            folder = home / f"round-{number}"
            one = Round(name, command, *ready[name], rng)
            wrong = one.play(fault, folder)
            shutil.rmtree(folder, ignore_errors=True)
            counts[f"{fault} ({wrong})" if wrong == "left out" else fault] += 1
            if wrong and wrong != "left out":
                failed += 1
                print(
                    f"WRONG, seed {options.seed} round {number}, {name}, {fault}: {'; '.join(one.told)}\n  {wrong}",
                    flush=True,
                )
    print(f"{sum(counts.values())} rounds ({dict(counts)}): {failed} wrong")
    return int(failed > 0)


def _loaded() -> None:
    """Import what commands import late."""
    import netCDF4
    import pandas
    import plotly.graph_objects
    import pyarrow.parquet
    import scipy.stats
    import sklearn.model_selection
    import transformer_lens
    import transformers.trainer

    assert netCDF4 and pandas and plotly and pyarrow and scipy and sklearn and transformer_lens and transformers


if __name__ == "__main__":
    sys.exit(main())
