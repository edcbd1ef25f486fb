"""Rows of text from whatever the `datasets` library opens: `hf:NAME[/CONFIG][@SPLIT][#COLUMN]`.

A name that looks like a path is looked up before the library sees it: given a folder that does not exist, it searches
its parents, and given `/` the whole disk.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mspgt_tl.corpora.formats import DATA_SUFFIXES, recognise
from mspgt_tl.corpora.lines import COMPRESSIONS, decode_head, expand, find_kind, read_head, read_lines
from mspgt_tl.corpora.paragraphs import PEEK, TITLE, Line
from mspgt_tl.errors import CorpusError, closest
from mspgt_tl.escape import describe_error

PREFIX = "hf:"
MAX_FILES = 10_000
"""Files in a folder beyond which it is no data set."""

_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
_SEVERAL = re.compile(r"[.!?]['\"”’)]*\s+\S|\n")


@dataclass(frozen=True)
class Reference:
    """What an `hf:` name asks for."""

    name: str
    split: str | None
    column: str | None
    path: Path | None
    """The local file or folder; None on the hub."""


def is_dataset_name(source: str) -> bool:
    """Return whether a source is a data set rather than a file of text."""
    return source.startswith(PREFIX)


def open_rows(reference: str, notes: Counter[str]) -> tuple[Iterator[Line], Path | None]:
    """Return the lines of a data set's rows and, where it is local, its path.

    A row is a document where rows hold more than one sentence and no `= Title =` says otherwise.

    Raises:
        CorpusError: it cannot be opened, or has no column of text of that name.
    """
    wanted = parse_reference(reference)
    if wanted.path is not None and wanted.path.is_file() and _find_format(wanted.path) == ".txt":
        return (Line(text) for _, text in read_lines(wanted.path)), wanted.path
    rows = _read(reference, wanted)
    head = list(itertools.islice(rows, PEEK))
    if not head:
        raise CorpusError(f"hf:{reference}: rows of text needed, but the split is empty.")
    column = _choose_column(reference, wanted.column, head)
    return _lines(reference, column, head, rows, notes), wanted.path


def _read(reference: str, wanted: Reference) -> Iterator[Any]:
    """Yield the rows; whatever goes wrong in the library, at the first row or the last, is told in one line."""
    number = 0
    try:
        for row in _stream(wanted):
            yield row
            number += 1
    except CorpusError:
        raise
    except Exception as error:  # `datasets` raises whatever its loaders, file systems and network libraries raise
        after = f" after row {number}" if number else ""
        raise CorpusError(
            f"hf:{reference}: dataset as hf:NAME[/CONFIG][@SPLIT][#COLUMN] needed, but loading it failed{after}: "
            f"{_explain(error)}"
        ) from error


def parse_reference(reference: str) -> Reference:
    """Take an `hf:` name apart; `@` and `#` inside an existing path belong to it.

    Raises:
        CorpusError: it names a file or folder that is not there, or one too large to be a data set.
    """
    if not reference.strip():
        raise CorpusError("hf:NAME needed, but the name is empty.")
    rest, split, column = reference, None, None
    if find_kind(expand(rest)) == "nothing" and "#" in rest:
        rest, _, column = rest.rpartition("#")
    if find_kind(expand(rest)) == "nothing" and "@" in rest.rpartition("/")[2]:
        rest, _, split = rest.rpartition("@")
    path: Path | None = expand(rest)
    if find_kind(path) == "nothing":
        if _looks_local(rest):
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            where = "" if path.parent.is_dir() else f" Neither is the folder {path.parent}."
            raise CorpusError(f"hf:{reference}: file or folder needed, but {path} is not there."
                              f"{where}{closest(path.name, beside)}")  # fmt: skip
        path = None
    elif path.is_dir():
        _check_folder(path)
    return Reference(rest, split or None, column or None, path)


def _looks_local(name: str) -> bool:
    """Return whether a name that does not exist here can only be a path: hub names are `owner/name/config` at most."""
    parts = Path(name).parts
    inside = len(parts) > 2 and Path(*parts[:2]).is_dir()
    return name[0] in "/.~" or "\\" in name or len(parts) > 3 or inside or _suffix(Path(name)) in _BUILDERS


def _suffix(path: Path) -> str:
    """Return the last suffix below compression, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
    return suffixes[-1] if suffixes else ""


def _check_folder(path: Path) -> None:
    files = (os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
    found = list(itertools.islice(files, MAX_FILES + 1))
    if len(found) > MAX_FILES:
        raise CorpusError(
            f"hf:{path}: folder of a data set needed, but it holds over {MAX_FILES} files; name one in it."
        )
    if not any(_suffix(Path(name)) in _BUILDERS for name in found):
        raise CorpusError(
            f"hf:{path}: folder of a data set needed, but it holds no file that ends in {', '.join(_BUILDERS)}."
        )


def _stream(wanted: Reference) -> Any:
    import datasets

    path, split = wanted.path, wanted.split or "train"
    if path is None:
        owner_and_name, config = wanted.name.split("/")[:2], wanted.name.split("/")[2:]
        return datasets.load_dataset("/".join(owner_and_name), *config[:1], split=split, streaming=True)
    if path.is_file():
        return _stream_file(path, split)
    if (path / "state.json").exists():
        return datasets.load_from_disk(str(path))
    if (path / "dataset_dict.json").exists():
        return _choose_split(datasets.load_from_disk(str(path)), split)
    return _choose_split(datasets.load_dataset(str(path), streaming=True), split)


def _choose_split(splits: Any, wanted: str) -> Any:
    if wanted not in splits:
        raise CorpusError(f"Split needed, but there is no '{wanted}'; name one with @SPLIT: {', '.join(splits)}.")
    return splits[wanted]


def _stream_file(path: Path, split: str) -> Any:
    import datasets

    suffix = _find_format(path)
    options: dict[str, Any] = {}
    if suffix == ".tsv":
        # Tables of tabs rarely quote: a quotation mark that opens and does not close would swallow rows.
        lone = any(line.count('"') % 2 for line in decode_head(read_head(path)).splitlines())
        options = {"sep": "\t", "quoting": csv.QUOTE_NONE if lone else csv.QUOTE_MINIMAL}
    return datasets.load_dataset(
        _BUILDERS[suffix], data_files={split: str(path)}, split=split, streaming=True, **options
    )


def _find_format(path: Path) -> str:
    """Return the suffix that says how a file is read: its own, or by content where that is none or `.txt`.

    Raises:
        CorpusError: it is damaged, or neither data nor prose.
    """
    head, suffix = read_head(path), _suffix(path)
    if suffix in _BUILDERS and suffix != ".txt":
        return suffix
    found = recognise(head)
    if found is not None and found.name in DATA_SUFFIXES:
        return DATA_SUFFIXES[found.name]
    if found is None and suffix == ".txt":
        return suffix
    what = f"is {found.name}" if found is not None else f"ends in '{path.suffix}'"
    raise CorpusError(f"hf:{path}: file of data needed, but this {what}; known: {', '.join(_BUILDERS)}.")


def _explain(error: BaseException) -> str:
    """Return type and first line of an error, and the first line of what lies under it where that says more."""
    under = error.__cause__ or error.__context__
    below = str(under).strip().split("\n")[0] if under is not None and str(under) != str(error) else ""
    return describe_error(error) + (f" ({below})" if below else "")


def _choose_column(reference: str, column: str | None, head: list[Any]) -> str:
    """Return the column to read: the one asked for, `text`, or the only one that holds strings.

    The first rows decide together: any of them may be null.
    """
    texts = [key for key in head[0] if any(isinstance(row.get(key), str) for row in head)]
    chosen = column or ("text" if "text" in texts or len(texts) != 1 else texts[0])
    if chosen not in texts:
        empty = chosen in head[0] and all(row.get(chosen) is None for row in head)
        why = f"is null in the first {len(head)} rows" if empty else "is none"
        raise CorpusError(
            f"hf:{reference}: text column needed, but '{chosen}' {why}. "
            f"Name one with #COLUMN: {', '.join(texts) or 'none'}."
        )
    return chosen


def _lines(reference: str, column: str, head: list[Any], rows: Iterator[Any], notes: Counter[str]) -> Iterator[Line]:
    texts = [row[column] for row in head if isinstance(row[column], str)]
    titled = any(TITLE.fullmatch(text.strip()) for text in texts)
    # A row of one sentence may be any line of something longer: then nothing is known of documents.
    are_documents = not titled and sum(bool(_SEVERAL.search(text.strip())) for text in texts) > len(texts) / 2
    for number, row in enumerate(itertools.chain(head, rows)):
        text = row.get(column)
        if text is None:
            notes["rows without text"] += 1
            continue
        if not isinstance(text, str):
            raise CorpusError(
                f"hf:{reference}: text needed in column '{column}', but row {number + 1} holds {type(text).__name__}."
            )
        for line in re.split(r"\r\n|\n|\r", text):
            yield Line(line, number if are_documents else None)
        if not are_documents:
            yield Line("")  # rows are never joined
