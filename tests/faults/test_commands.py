"""Bad input of kinds that once gave tracebacks: one line, exit code 2, and nothing made."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from mspgt_tl.cli import main
from mspgt_tl.cli.console import _fail, resumable
from mspgt_tl.store import Run

DEEP = "x = " + "[" * 3000 + "]" * 3000


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command, and returns the one line with which it was refused; no folder was made."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["mspgt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert [line.partition(" ")[0] for line in said.splitlines() if "done in" not in line] == ["Error:"], said
        assert sorted(tmp_path.rglob("*")) == before
        return said

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect", "llama2-mini", "--config", "deep.toml"),
        ("study", "deep.toml"),
        ("train", "--recipe", "deep.toml", "--text", "deep.toml", "--valid", "deep.toml", "--out", "out"),
    ],
)
def test_deeply_nested_toml(refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A table a thousand deep exhausts the reader's stack."""
    (tmp_path / "deep.toml").write_text(DEEP, encoding="utf-8")
    assert "deep.toml" in refused(*arguments)


def test_deeply_nested_value_of_an_option(refused: Callable[..., str]) -> None:
    """What is no TOML is a plain string, and no number."""
    assert "probe.epochs" in refused("detect", "llama2-mini", "--set", f"probe.epochs={'[' * 3000}")


@pytest.mark.parametrize("name", ["seed.x=1", "probe.epochs.x=1", "stream=3"])
def test_scalar_where_a_table_stands_and_the_reverse(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    """Settings of a setting that has none, and a number for a whole table."""
    (tmp_path / "plain.toml").write_text("seed = 3\n[probe]\nepochs = 2\n", encoding="utf-8")
    said = refused("detect", "llama2-mini", "--config", "plain.toml", "--set", name)
    assert f"Option '{name.partition('=')[0]}'" in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO])
@pytest.mark.parametrize("arguments", [("report", "locked/run"), ("runs", "locked"), ("intervene", "locked/model")])
def test_folder_that_cannot_be_searched(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], number: int
) -> None:
    """No permission, a link that leads to itself, a name too long, a broken disk: the path and the system's reason."""
    stat, opened = os.stat, os.open

    def failing(call: Callable[..., object]) -> Callable[..., object]:
        def fail(path: object, *rest: object, **options: object) -> object:
            if "locked" in str(path):
                raise OSError(number, os.strerror(number), str(path))
            return call(path, *rest, **options)

        return fail

    monkeypatch.setattr(os, "stat", failing(stat))
    monkeypatch.setattr(os, "open", failing(opened))
    monkeypatch.setattr("io.open", failing(open))
    assert "locked" in refused(*arguments)


@pytest.mark.parametrize("arguments", [("report",), ("open",), ("intervene",)])
def test_name_that_is_too_long(refused: Callable[..., str], arguments: tuple[str, ...]) -> None:
    """The system has a limit, and says so in its own way."""
    refused(*arguments, "a" * 5000)


@pytest.mark.parametrize("arguments", [("report",), ("detect", "llama2-mini", "--quick", "--corpus"), ("intervene",)])
def test_name_that_is_not_utf8(refused: Callable[..., str], arguments: tuple[str, ...]) -> None:
    """It can neither be printed nor stored as it is."""
    assert "caf" in refused(*arguments, os.fsdecode(b"caf\xe9.txt"))


@pytest.mark.parametrize("arguments", [("report",), ("detect", "llama2-mini", "--quick", "--corpus"), ("runs",)])
def test_brackets_and_terminal_sequences_in_a_path(refused: Callable[..., str], arguments: tuple[str, ...]) -> None:
    """Neither is obeyed, and the name can be read."""
    said = refused(*arguments, "[/red]\x1b[2J[bold].txt")
    assert "\x1b" not in said
    assert "[/red]" in said
    assert "[bold]" in said


@pytest.mark.parametrize("content", [b"\x00\xff\x00", b"[" * 100_000, b"[]", b'{"format": 1}', b'{"format": {}}', b""])
def test_manifest_that_is_none(refused: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    """Binary, nested a hundred thousand deep, of another shape, or empty."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_bytes(content)
    assert "manifest.json" in refused("report", "run") or content == b'{"format": {}}'


@pytest.mark.parametrize("lacks", ["signs", "stream"])
def test_streams_that_cannot_show_what_is_told(monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    """An output in ASCII shows a sign by its number; one that was closed before the command began shows nothing."""
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", None if lacks == "stream" else stream)
    monkeypatch.setattr(sys, "argv", ["mspgt", "models", "--help"])
    with contextlib.suppress(SystemExit):
        main()
    if lacks == "stream":
        assert sys.stdout.name == os.devnull
    else:
        print("σ is told")
        assert stream.buffer.getvalue().endswith(b"\\u03c3 is told\n")  # pyright: ignore[reportAttributeAccessIssue]


def test_a_fault_of_ours_is_one_line_where_no_traceback_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full or missing temporary folder hides no error."""

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", fail)
    with pytest.raises(SystemExit) as ended:
        _fail(ValueError("http://me:secret@host/ is odd"))
    assert ended.value.code == 70
    assert capsys.readouterr().err == (
        "Error: ValueError: http://host/ is odd. No traceback could be kept: No usable temporary directory found.\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_the_system_ends_says_how_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """A queue's SIGTERM and a closed terminal end it as Ctrl-C does; afterwards they mean what they did."""
    before = signal.getsignal(number)
    Run.create(tmp_path, {"command": "toy"})
    with pytest.raises(typer.Exit) as ended, resumable(tmp_path, given=tmp_path):
        signal.raise_signal(number)
    assert ended.value.exit_code == 130
    assert "go on with: mspgt" in capsys.readouterr().err
    assert signal.getsignal(number) is before
