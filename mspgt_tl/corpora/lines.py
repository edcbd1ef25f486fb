"""Streams the lines of UTF-8 files, plain or xz."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

from mspgt_tl.errors import CorpusError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers, from 1, and lines without their ends; a byte order mark is skipped.

    Raises:
        CorpusError: the file is missing, is not UTF-8, or is a damaged xz file.
    """
    if not path.is_file():
        raise CorpusError(f"File needed, plain or .xz, but {path} is not a file; check the path.")
    opener = lzma.open if path.suffix == ".xz" else open
    number = 0
    try:
        with opener(path, "rb") as lines:
            # Bytes are cut at line feeds only: text mode would also decode ahead and lose the line of a bad byte.
            for number, line in enumerate(lines, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise CorpusError(
            f"{path}:{number}: UTF-8 text needed, but byte {byte:#04x} came; convert the file."
        ) from error
    except (lzma.LZMAError, EOFError) as error:
        raise CorpusError(f"{path}: whole xz file needed, but it is damaged after line {number} ({error}).") from error
