"""Files that are whole or absent, scratch, and disks that are full, read-only or closed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspgt_tl import files
from mspgt_tl.errors import StoreError
from mspgt_tl.files import append_whole, scratch_array, write_atomically


def failing(number: int) -> object:
    """Return a function that fails as the system's own would."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("content", [b"x" * 2_000_000, lambda path: path.write_bytes(b"x" * 2_000_000)])
@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the disk is full\.( 2\.0 MB are needed,)? [\d,.]+ MB are free there"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "read-only medium"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, call: str, number: int, message: str
) -> None:
    """A write that fails, at its begin or its end, says what is missing, leaves the file as it was, and no debris."""
    path = tmp_path / "table.txt"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(files.os, call, failing(number))
    with pytest.raises(StoreError, match=message):
        write_atomically(path, content)
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_at_the_name_of_an_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    """Nobody's file is written through a symbolic link; the link goes, its target stays."""
    target = tmp_path / "precious"
    target.write_text("mine", encoding="utf-8")
    (tmp_path / f".table.csv.{os.getpid()}.partial").symlink_to(target)
    write_atomically(tmp_path / "table.csv", lambda path: path.write_text("ours", encoding="utf-8"))
    assert target.read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == "ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "table.csv"]


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line would hide all lines after it."""
    path = tmp_path / "journal"
    append_whole(path, "first\n")
    monkeypatch.setattr(files.os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(StoreError, match="disk is full"):
        append_whole(path, "second\n")
    monkeypatch.undo()
    append_whole(path, "third\n")
    assert path.read_text(encoding="utf-8") == "first\nthird\n"


def test_scratch_has_no_name_and_holds_what_is_written(tmp_path: Path) -> None:
    """Nothing is left to sweep, even by a process that is killed, and nothing to put a link at."""
    array = scratch_array(tmp_path, (3, 5))
    array[:] = np.arange(15).reshape(3, 5)
    assert not list(tmp_path.iterdir())
    assert (array.dtype, array.sum()) == (np.float32, 105)
    assert scratch_array(tmp_path, (0, 5)).shape == scratch_array(None, (0, 5)).shape == (0, 5)


def test_scratch_takes_its_space_before_anything_is_written(tmp_path: Path) -> None:
    """More than the disk has is refused with what is needed and what is free; mapping it would end in SIGBUS later."""
    with pytest.raises(StoreError, match=r"disk is full\. 1,125,899,906\.8 MB are needed"):
        scratch_array(tmp_path, (1 << 48,))
    assert not list(tmp_path.iterdir())


def test_scratch_is_reserved_not_only_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may take the room between the question and the answer."""
    monkeypatch.setattr(files.os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(StoreError, match="disk is full"):
        scratch_array(tmp_path, (100,))
    assert not list(tmp_path.iterdir())
