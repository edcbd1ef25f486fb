"""Bad input of kinds that once gave tracebacks: one line, exit code 2, and nothing made."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mspgt_tl.cli import main

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


@pytest.mark.parametrize("arguments", [("report",), ("detect", "llama2-mini", "--corpus"), ("intervene",)])
def test_name_that_is_not_utf8(refused: Callable[..., str], arguments: tuple[str, ...]) -> None:
    """It can neither be printed nor stored as it is."""
    assert "caf" in refused(*arguments, os.fsdecode(b"caf\xe9.txt"))


@pytest.mark.parametrize("arguments", [("report",), ("detect", "llama2-mini", "--corpus"), ("runs",)])
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
