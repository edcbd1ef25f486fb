"""Which runs lie in a folder, what each of them is, and what it found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mspgt_tl.errors import MspgtError, StoreError
from mspgt_tl.pipeline.shell import REPORT
from mspgt_tl.store import MANIFEST, QUICK, Run

DEPTH = 3
"""Folders below a given one that are searched."""
UNREADABLE = "?"
"""In the place of the command of a run that cannot be read."""


@dataclass(frozen=True)
class RunInfo:
    """One run at a glance."""

    folder: Path
    command: str
    model: str
    corpus: str
    created: str
    finished: bool
    """Whether its page has been written."""
    verdict: str
    size: int
    """Bytes on disk."""

    @property
    def title(self) -> str:
        """The folder's name; that of a quick look with the folder it lies in, for all of them are called alike.

        >>> RunInfo(Path("runs/mine/quick"), "detect", "m", "text", "", True, "", 0).title
        'mine/quick'
        """
        name = self.folder.resolve().name
        return f"{self.folder.resolve().parent.name}/{name}" if name == QUICK else name

    @property
    def page(self) -> Path:
        """Its page, whether or not it is there yet."""
        return self.folder / REPORT


def find_runs(places: Iterable[Path]) -> list[RunInfo]:
    """Return the runs in these folders and up to three levels below, the newest first.

    Raises:
        StoreError: a place does not exist.
    """
    found = {}
    for place in places:
        if not place.is_dir():
            raise StoreError(f"{place} is no folder. Give a run's folder, or one that holds runs, such as runs/.")
        for folder in _folders(place, DEPTH):
            if not _may_read(folder) or (folder / MANIFEST).is_file():
                found[folder.resolve()] = folder
    return sorted(map(describe_run, found.values()), key=lambda run: run.created, reverse=True)


def _folders(place: Path, depth: int) -> Iterator[Path]:
    yield place
    if depth and _may_read(place):
        for inner in sorted(place.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                yield from _folders(inner, depth - 1)


def _may_read(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def describe_run(folder: Path) -> RunInfo:
    """Return what a run is; one that cannot be read says why in place of its verdict."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # a run at work removes its unfinished files
            size += file.stat().st_size if file.is_file() else 0
    try:
        manifest = Run.read(folder).manifest
    except StoreError as error:
        return RunInfo(folder, UNREADABLE, "?", "?", "", False, str(error), size)
    identity = manifest["identity"]
    command = str(identity.get("command", "detect"))
    finished = (folder / REPORT).is_file()
    return RunInfo(
        folder=folder,
        command=f"{command} (quick)" if identity.get("quick") else command,
        model=_name(identity.get("model")),
        corpus=_name(identity.get("corpus")),
        created=str(manifest.get("created", "")),
        finished=finished,
        verdict=_verdict(folder, command) if finished else "unfinished: the same command goes on",
        size=size,
    )


def _name(part: Any) -> str:
    return Path(str(part["name"])).name if isinstance(part, Mapping) and "name" in part else "–"


def _verdict(folder: Path, command: str) -> str:
    """Return a detection's headline; other runs have theirs on their page."""
    if command != "detect":
        return "see its page"
    from mspgt_tl.dashboard.words import verdict_words
    from mspgt_tl.pipeline.detection import load_run

    try:
        return verdict_words(load_run(folder).data)[0]
    except MspgtError as error:
        return str(error)
