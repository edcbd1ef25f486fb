"""One way for every command that makes a run: identity, folder, stages, load, page.

A command says once, as a `Kind`, how its finished runs are read and drawn. Its stages are methods marked with `stage`:
each is read from its file where it has finished, else computed and kept, so that a killed run goes on where it was.
"""

from __future__ import annotations

import pkgutil
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from mspgt_tl.errors import ConfigError, MspgtError, StoreError, unknown_name
from mspgt_tl.escape import describe_error
from mspgt_tl.progress import Told
from mspgt_tl.store import MANIFEST, QUICK, Run

if TYPE_CHECKING:
    import xarray as xr

REPORT = "report.html"
"""The page of every run."""
NAMED = 12
"""Finished stages that a resumed run names; a calibration has hundreds."""


class HasRun(Protocol):
    """What has stages."""

    @property
    def run(self) -> Run: ...


S = TypeVar("S", bound=HasRun)
R = TypeVar("R")
P = ParamSpec("P")


def stage(
    name: str,
) -> Callable[[Callable[Concatenate[S, P], xr.Dataset]], Callable[Concatenate[S, P], xr.Dataset]]:
    """Mark a method as a stage of its object's run: read from its file where it has finished, else computed and kept.

    Args:
        name: the stage's name, in which `{0}` stands for the object and `{1}` and so on for the arguments.
    """

    def decorate(compute: Callable[Concatenate[S, P], xr.Dataset]) -> Callable[Concatenate[S, P], xr.Dataset]:
        @wraps(compute)
        def finished(self: S, *args: P.args, **options: P.kwargs) -> xr.Dataset:
            return self.run.stage(name.format(self, *args), lambda: compute(self, *args, **options))

        return finished

    return decorate


@dataclass(frozen=True)
class Kind(Generic[R]):
    """What one command makes."""

    command: str
    noun: str
    """What a run of it is called: `detection`."""
    is_finished: Callable[[Run], bool]
    read: Callable[[Run], R]
    """Makes the result from a finished run."""
    draw: Callable[[R], str]
    """Draws its page."""

    def make(
        self, out: str | Path | None, identity: Mapping[str, Any], work: Callable[[Run], None], told: Told, plan: str
    ) -> R:
        """Do the work in a run's folder, and return the result; its page is written where the folder is kept.

        Args:
            out: the folder; a run of the same identity is resumed there. None keeps nothing on disk.
            identity: everything the numbers depend on.
            told: hears what is done; its log lies in the folder.
            plan: what will be done, in one line.

        Raises:
            StoreError: the folder holds another run, or cannot be written.
        """
        with _folder(out) as folder:
            fresh = _fresh(folder)
            run = Run.create(folder, {"command": self.command, **identity})
            try:
                with told.logged(None if out is None else folder):
                    finished = list(run.manifest["stages"])
                    more = f" and {len(finished) - NAMED} more" if len(finished) > NAMED else ""
                    told.say(plan + (f" Finished already: {', '.join(finished[:NAMED])}{more}." if finished else ""))
                    work(run)
                    result: Any = self.read(run)
                    if out is None:
                        return replace(result, folder=None)
                    with told.doing("page"):
                        self.write_page(result)
                    return result
            except MspgtError:
                # What is left of a run that was refused would stand in the way of the mended input.
                if fresh and not run.manifest["stages"] and not run.manifest["files"]:
                    run.discard()
                    for path in fresh:
                        with suppress(OSError):  # something else was put there
                            path.rmdir()
                raise
            except KeyboardInterrupt as stopped:
                if out is not None:
                    stopped.add_note(f"What has finished is kept in {folder}: the same call goes on there.")
                raise

    def load(self, folder: str | Path) -> R:
        """Read a finished run from its folder.

        Raises:
            StoreError: no run of this command is there, or it has not finished.
        """
        run = Run.read(_not_only_quick(Path(folder)))
        command = run.manifest["identity"].get("command", "detect")
        if command != self.command:
            raise StoreError(
                f"{folder} holds a run of `mspgt {command}`, no {self.noun}: give the folder of a finished "
                f"`mspgt {self.command}`. `mspgt report {folder}` shows what is there."
            )
        if not self.is_finished(run):
            raise StoreError(f"{folder} has not finished: run the same `mspgt {self.command}` again to resume it.")
        try:
            return self.read(run)
        except MspgtError:
            raise
        except (ValueError, KeyError, TypeError, OSError) as error:
            # The hashes hold, or there are none: a run of an earlier version, with less in it or damaged.
            raise StoreError(
                f"{folder} cannot be read: it is damaged, or of an earlier version ({describe_error(error)}). Run the "
                f"same `mspgt {self.command}` in a new folder."
            ) from error

    def write_page(self, result: R) -> Path:
        """Draw the page of a result into its folder and return its path; one that is there stays on a read-only medium.

        Raises:
            StoreError: the result has no folder, or nothing can be written there.
        """
        kept: Any = result
        if kept.folder is None:
            raise StoreError(f"This {self.noun} has no folder: make it with out=FOLDER.")
        page = self.draw(result)
        try:
            return Run(kept.folder, dict(kept.manifest)).write(REPORT, page)
        except StoreError as error:
            if not (kept.folder / REPORT).is_file():
                raise
            warnings.warn(f"{error} The page that is there was drawn before.", stacklevel=2)
            return kept.folder / REPORT


def quick_folder(out: str | Path | None) -> Path | None:
    """Return where the quick look of a run lies."""
    return None if out is None else Path(out) / QUICK


def _not_only_quick(folder: Path) -> Path:
    """Return a folder, refused where only a quick look lies in it."""
    inner = folder / QUICK
    if (inner / MANIFEST).is_file() and not (folder / MANIFEST).exists():
        raise StoreError(f"{folder} holds a quick look alone: give {inner}, or make the full run first.")
    return folder


KINDS: dict[str, Kind[Any]] = {}
"""By command, for those whose modules have been imported; `kind_of` imports the package's own."""


def register(kind: Kind[R]) -> Kind[R]:
    """Make a kind of run known, so that `mspgt report` and `mspgt runs` read it."""
    KINDS[kind.command] = kind
    return kind


def kind_of(folder: str | Path) -> Kind[Any]:
    """Return the kind of the run in a folder.

    Raises:
        StoreError: no run is there.
        ConfigError: it is of a command that this version does not know.
    """
    command = str(Run.read(_not_only_quick(Path(folder))).manifest["identity"].get("command", "detect"))
    if command not in KINDS:
        import mspgt_tl.pipeline as package

        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    if command not in KINDS:
        raise ConfigError(unknown_name("command", command, KINDS))
    return KINDS[command]


def claim(folder: Path, identity: Mapping[str, Any], *, patience: float = 0.0) -> Run:
    """Open a run's folder, and wait for a while where another process holds it.

    Args:
        patience: seconds. Shards hold the folder that they share only while they write down what the run is.

    Raises:
        StoreError: as `Run.create`.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return Run.create(folder, identity)
        except StoreError as error:
            if "in use" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _fresh(folder: Path) -> list[Path]:
    """Return the folder, if nothing is in it yet, and those above it that will be made with it."""
    above = [path for path in folder.parents if not path.exists()]
    return [] if folder.is_dir() and any(folder.iterdir()) else [folder, *above]


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Yield the run's folder; one that is not to be kept is removed."""
    if out is not None:
        yield Path(out)
        return
    folder = Path(tempfile.mkdtemp(prefix="mspgt-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
