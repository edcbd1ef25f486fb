"""The list of runs, and the local server of their pages."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mspgt_tl.cli import app
from mspgt_tl.errors import ActivationError, ConfigError, CorpusError, StoreError
from mspgt_tl.models.pretrained import load
from mspgt_tl.pipeline import detect
from mspgt_tl.pipeline.runs import RunInfo, describe_run, find_runs
from mspgt_tl.pipeline.serve import make_server
from mspgt_tl.pipeline.shell import Kind
from mspgt_tl.progress import Told
from mspgt_tl.store import Run

SMALL = {
    "sentences": 200,
    "train_trees": 60,
    "signals": {"tasks": ["pos"]},
    "probe": {"epochs": 1, "repeats": 1},
    "boundaries": {"resamples": 100, "null_curves": 100},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder of two detections, one of them twice as deep inside, and an unfinished run."""
    place = tmp_path_factory.mktemp("runs")
    detect(str(tiny_folder), config=SMALL, out=place / "first")
    shutil.copytree(place / "first", place / "more" / "second")
    Run.create(place / "unfinished", {"command": "detect", "model": {"name": "x/some-model"}})
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Any]:
    """The server of these runs."""
    with running(find_runs([folder])) as server:
        yield server


@contextmanager
def running(runs: list[RunInfo]) -> Iterator[Any]:
    """Serve runs on any free port."""
    server = make_server(runs)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server: Any, path: str, **headers: str) -> tuple[int, str]:
    """Return status and text of a GET."""
    connection = HTTPConnection(*server.server_address)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_runs_are_found_at_any_of_three_levels(folder: Path) -> None:
    """Every run says what it is; an unfinished one says so instead of a verdict."""
    found = {run.folder.name: run for run in find_runs([folder, folder / "first"])}
    assert set(found) == {"first", "second", "unfinished"}
    assert found["first"].model == "tiny-llama" and found["first"].finished and found["first"].size > 10_000
    assert found["unfinished"].verdict.startswith("unfinished")
    assert not found["unfinished"].finished


def test_a_damaged_run_is_listed_with_its_trouble(tmp_path: Path) -> None:
    """One bad folder does not hide the others."""
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    assert "damaged" in describe_run(tmp_path).verdict
    with pytest.raises(StoreError, match="is no folder"):
        find_runs([tmp_path / "nowhere"])


def test_a_folder_that_may_not_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed with the reason, and may hold a run or not."""
    for name in ("locked", "open"):
        Run.create(tmp_path / name, {"command": "toy"})
    read = Path.read_text

    def refuse(path: Path, **options: Any) -> str:
        if path.parent.name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("mspgt_tl.pipeline.runs.os.access", lambda path, _: Path(path).name != "locked")
    found = {run.folder.name: run.verdict for run in find_runs([tmp_path])}
    assert found["locked"].endswith("cannot be read: Permission denied.")
    assert found["open"].startswith("unfinished")


def test_commands_list_and_print_the_version(folder: Path) -> None:
    """`mspgt runs`, as a table and as JSON, and `--version`."""
    runner = CliRunner()
    assert "tiny-llama" in runner.invoke(app, ["runs", str(folder)]).output
    assert '"command": "detect"' in runner.invoke(app, ["runs", str(folder), "--json"]).output
    assert runner.invoke(app, ["--version"]).output.startswith("mspgt-tl ")
    refused = runner.invoke(app, ["open", str(folder / "unfinished")])
    assert isinstance(refused.exception, StoreError) and "no page yet" in str(refused.exception)


def test_pages_are_served_with_one_plotly_and_each_other(server: Any) -> None:
    """The list links to pages that share one plotly.js and can lay every other detection over."""
    status, index = ask(server, "/")
    assert status == 200 and '<a href="/run/' in index and "3 runs, 2 finished" in index
    number = next(i for i in (1, 2, 3) if f'<a href="/run/{i}">first' in index)
    status, page = ask(server, f"/run/{number}")
    assert status == 200 and len(page) < 400_000
    assert '<script src="/plotly.min.js"></script>' in page and "second: tiny-llama" in page
    assert ask(server, "/plotly.min.js")[1].startswith("/**")


@pytest.mark.parametrize(
    "path",
    ["/run/0", "/run/99", "/../manifest.json", "/etc/passwd", "/run/1/../2", "/run/..%2f..%2fetc/passwd", "/%2e%2e/x"],
)
def test_nothing_else_is_served(server: Any, path: str) -> None:
    """Only the list, the pages and plotly.js have addresses."""
    assert ask(server, path)[0] == 404


def test_what_was_altered_is_told_and_hides_no_other_page(folder: Path, tmp_path: Path) -> None:
    """A page that is a link to any file of this machine, a run that was damaged, a name that is not UTF-8."""
    bad = shutil.copytree(folder / "first", tmp_path / os.fsdecode(b"caf\xe9"))
    shutil.copytree(folder / "first", tmp_path / "good")
    (bad / "result.nc").write_bytes(b"")
    linked = Run.create(tmp_path / "linked", {"command": "calibrate"}).folder
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (linked / "report.html").symlink_to(tmp_path / "secret")
    runs = find_runs([tmp_path])
    found = {run.folder.name: number for number, run in enumerate(runs, 1)}
    with running(runs) as server:
        assert ask(server, "/")[0] == 200
        assert ask(server, f"/run/{found['good']}")[0] == 200
        for name, told in ((linked.name, "symbolic links"), (bad.name, "missing or damaged")):
            status, text = ask(server, f"/run/{found[name]}")
            assert status == 500 and told in text and "secret" not in text


def test_foreign_hosts_are_refused(server: Any) -> None:
    """A name that was pointed at this machine gets nothing; the server listens on this machine alone."""
    assert ask(server, "/", Host="evil.example")[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.server_address[1]}")[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_a_run_that_finished_nothing_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    """Damaged weights show in the first pass: the folder would stand in the way of the mended model."""
    damaged: Any = load(tiny_folder, parity=False)
    damaged.blocks[2].mlp.W_out[3, 3] = float("nan")
    (tmp_path / "mine").mkdir()
    for out in ("mine", "new/run"):
        with pytest.raises(ActivationError, match="from block 2 on"):
            detect(damaged, config=SMALL, out=tmp_path / out)
    assert list(tmp_path.rglob("*")) == []


def test_a_run_that_finished_nothing_removes_nothing_of_others(tmp_path: Path) -> None:
    """Somebody's notes, and a quick look that another process has begun inside."""

    def refuse(run: Run) -> None:
        (run.folder / "notes.txt").write_text("mine", encoding="utf-8")
        Run.create(run.folder / "quick", {"command": "toy", "quick": True})
        raise ConfigError("refused")

    toy: Kind[Any] = Kind("toy", "toy", lambda _: True, lambda run: run, str)
    with pytest.raises(ConfigError):
        toy.make(tmp_path / "run", {}, refuse, Told(None, None), "a plan")
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert left == {"notes.txt", "quick", "manifest.json", ".lock"}
    assert Run.read(tmp_path / "run" / "quick").manifest["identity"]["quick"]


def test_a_run_that_finished_something_keeps_it(tiny_folder: Path, tmp_path: Path) -> None:
    """Signals that were measured are there for the next try."""
    settings = {**SMALL, "probe": {"min_items": 10_000}}
    with pytest.raises(CorpusError, match="No probe task can be scored"):
        detect(str(tiny_folder), config=settings, out=tmp_path / "run")
    assert "cka" in Run.read(tmp_path / "run").manifest["stages"]
