"""Files as a run needs them: whole or absent, in nobody's place, and an error that says what the disk lacks.

A file is made under a name of its own that did not exist before, so that no symbolic link is followed and nothing is
written over; it is moved into place once it is whole and on disk. Scratch has no name at all: the system takes its
space back when the process ends, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mspgt_tl.errors import StoreError

PARTIAL = ".partial"
"""How the names of files end that are not whole yet."""


def write_atomically(path: Path, content: bytes | str | Callable[[Path], Any]) -> bytes:
    """Write a file, which is there whole or not at all, and return what it holds.

    Args:
        content: or what writes it to a path, for libraries that do nothing else.

    Raises:
        StoreError: the disk is full, the folder cannot be written, or the name is taken by a folder.
    """
    data = None if callable(content) else _encode(content)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.unlink(missing_ok=True)  # a killed process had the same number, or somebody put a link there
        with open(partial, "xb", opener=open_own) as file:
            file.write(data or b"")
        if callable(content):
            content(partial)
        with open(partial, "rb+", opener=open_own) as file:
            data = file.read() if data is None else data
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise refusal(path, error, needed=None if data is None else len(data)) from error
    finally:
        # A folder that went read-only meanwhile cannot be tidied; the error that matters is on its way.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return data


def append_whole(path: Path, line: str) -> None:
    """Append a line to a file, on disk when this returns; a line that does not fit leaves the file as it was.

    Raises:
        StoreError: the disk is full, or the file cannot be written.
    """
    try:
        with open(path, "ab", opener=open_own) as file:
            before = file.tell()
            try:
                file.write(line.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
    except OSError as error:
        raise refusal(path, error) from error


def describe(content: bytes | str) -> dict[str, Any]:
    """Return the size and hash by which a file is known again."""
    data = _encode(content)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def describe_file(path: Path) -> dict[str, Any]:
    """Return the same of a file on disk, without holding it in memory."""
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, if it is there; of a symbolic link the link alone."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def scratch_array(folder: Path | None, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """Return an array to fill: in memory, or in a nameless file in a folder, for more than fits into memory.

    The file's space is taken before anything is written, for a full disk would otherwise end the process at some later
    write; it is free again when the array is gone.

    Raises:
        StoreError: the disk has not that much room, or the folder cannot be written.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if folder is None or size == 0:
        return np.empty(shape, dtype)
    try:
        # Asked first: the system would take all there is, from everybody, before it finds that it does not suffice.
        if size > free_bytes(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, dtype, "r+", shape=tuple(shape))  # holds the file open
    except OSError as error:
        raise refusal(folder, error, needed=size) from error


def refusal(path: Path, error: OSError, *, needed: int | None = None) -> StoreError:
    """Return the error of one line for a path that could not be written: what is missing, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        room = "" if needed is None else f" {needed / 1e6:,.1f} MB are needed,"
        return StoreError(
            f"{path} cannot be written: the disk is full.{room} {free_bytes(path) / 1e6:,.1f} MB are free there. "
            "Make room, or choose another --out; what is finished is kept, and the same command goes on."
        )
    if error.errno == errno.EROFS:
        return StoreError(f"{path} cannot be written: it lies on a read-only medium. Choose another --out.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreError(f"{path} cannot be written: no permission. Choose another --out.")
    return StoreError(f"{path} cannot be written: {error.strerror or error}.")


def free_bytes(path: Path) -> float:
    """Return what a normal user may still write beside a path, which may not be there itself; nan if not known."""
    for place in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return float("nan")


def _encode(content: bytes | str) -> bytes:
    # A name that is not UTF-8 has lone surrogates in it, which no page can hold.
    return content.encode("utf-8", "replace") if isinstance(content, str) else content


def open_own(path: str, flags: int) -> int:
    """Open a file that is not a symbolic link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
