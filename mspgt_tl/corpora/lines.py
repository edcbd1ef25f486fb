"""Streams the lines of text files, whatever their compression, encoding and line ends.

Compression and encoding are told by content, never by name: a `.txt` that is gzipped reads like one that is not.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from mspgt_tl.errors import CorpusError, closest

SAMPLE = 1 << 16
"""Bytes looked at to tell an encoding or a format."""

COMPRESSIONS = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd", ".bz2": b"BZh"}
"""Suffixes that say nothing about the content below them, and the first bytes of such a file."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HIGH_BYTES = 8
"""Most values that the high byte of UTF-16 takes in a sample of an alphabetic script with its punctuation."""
_LFS = b"version https://git-lfs"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield line numbers, from 1, and lines without their ends (`\n`, `\r\n` or `\r`); byte order marks are skipped.

    Plain, gzip, xz, zstd and bzip2 files in UTF-8, or in UTF-16 or UTF-32 (in UTF-16 without a byte order mark, too).

    Raises:
        CorpusError: the file is missing, damaged, a git-lfs pointer, in another encoding, or holds NUL characters.
    """
    encoding = guess_encoding(read_head(path))
    number = 0
    try:
        with open_bytes(path) as file:
            # Bytes are cut at line feeds before decoding: a text layer decodes ahead and loses the line of a bad byte.
            lines = file if encoding.startswith("utf-8") else _recode(file, encoding)
            for raw in lines:
                for line in re.split("\r(?=.)", raw.decode("utf-8").rstrip("\r\n"), flags=re.DOTALL):
                    number += 1
                    if "\0" in line:
                        raise CorpusError(f"{path}:{number}: text needed, but a NUL byte came; is it a binary file?")
                    yield number, line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError as error:
        byte = error.object[error.start] if error.start < len(error.object) else 0
        raise CorpusError(
            f"{path}:{number + 1}: UTF-8 text needed, but byte {byte:#04x} came; convert the file "
            f"(for example `iconv -f WINDOWS-1252 -t UTF-8`)."
        ) from error
    except PermissionError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}.") from error
    except (lzma.LZMAError, zlib.error, EOFError, zstd_module().ZstdError, OSError) as error:
        raise CorpusError(
            f"{path}: whole compressed or plain file needed, but it is damaged after line {number} ({error})."
        ) from error


def _recode(file: IO[bytes], encoding: str) -> Iterator[bytes]:
    with io.TextIOWrapper(file, encoding, newline="\n") as lines:
        yield from (line.encode("utf-8", "surrogatepass") for line in lines)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading its bytes as they were before compression.

    Raises:
        CorpusError: there is no such file, or it is a git-lfs pointer.
    """
    check_file(path)
    with path.open("rb") as file:
        magic = file.read(len(_LFS))
    if magic == _LFS:
        raise CorpusError(f"{path} is a git-lfs pointer, not the file it stands for; fetch that with `git lfs pull`.")
    suffix = next((suffix for suffix, start in COMPRESSIONS.items() if magic.startswith(start)), "")
    return _openers().get(suffix, open)(path, "rb")


def open_for_writing(path: Path) -> IO[str]:
    """Open a text file for writing, compressed as its suffix says (`.gz`, `.xz`, `.zst`, `.bz2`)."""
    return _openers().get(path.suffix, open)(path, "wt", encoding="utf-8", newline="\n")


def _openers() -> dict[str, Callable[..., Any]]:
    return dict(zip(COMPRESSIONS, (gzip.open, lzma.open, zstd_module().open, bz2.open), strict=True))


def zstd_module() -> Any:
    """Return Python's own `zstd` where it has one."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def check_file(path: Path) -> None:
    """Raise with the closest name beside it where `path` is not a file.

    Raises:
        CorpusError: it is missing, or a folder.
    """
    kind = find_kind(path)
    if kind == "folder":
        raise CorpusError(f"File needed, but {path} is a folder; name the file in it, or a data set as hf:{path}.")
    if kind != "file":
        beside = [other.name for other in _list(path.parent)]
        # A sentence in the place of a file's name is a common slip.
        hint = closest(path.name, beside) or (" Sentences come as a list of strings." if " " in path.name else "")
        raise CorpusError(f"File needed, but {path} is not a file; check the path.{hint}")


def find_kind(path: Path) -> Literal["file", "folder", "other", "nothing"]:
    """Return what a path leads to.

    Raises:
        CorpusError: it cannot be a path, such as a text given in place of one.
    """
    try:
        if path.is_dir():
            return "folder"
        return "file" if path.is_file() else "other" if path.exists() else "nothing"
    except (OSError, ValueError) as error:
        start = str(path)[:40]
        raise CorpusError(f"Path of a file needed, but '{start}…' is none; give sentences as a list.") from error


def expand(path: str | Path) -> Path:
    """Return a path with `~` as the home folder; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:1000]
    except OSError:
        return []


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file below its compression; fewer where it is damaged."""
    with open_bytes(path) as file:
        try:
            return file.read(SAMPLE)
        except (lzma.LZMAError, zlib.error, EOFError, zstd_module().ZstdError, OSError):
            return b""


def decode_head(head: bytes) -> str:
    """Return the text of a file's first bytes, a character cut at their end left out."""
    encoding = guess_encoding(head)
    return codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")


def guess_encoding(head: bytes) -> str:
    """Return the encoding that a byte order mark names, UTF-16 where zeros fall as they do there, else UTF-8."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    for encoding, high in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        low = head[0::2] if encoding == "utf-16-le" else head[1::2]
        # Spaces and line ends have a zero high byte in every script; the letters of an alphabet share one or two.
        if high.count(0) > 0.02 * len(high) and 0 not in low and len(set(high)) <= _HIGH_BYTES:
            return encoding
    return "utf-8"
