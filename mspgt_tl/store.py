"""A run's folder: a manifest, labelled arrays, atomic writes, and resuming.

A run is identified by everything its numbers depend on. A folder that holds a run of the same identity is resumed,
stage by stage; one that holds another run is refused, never overwritten. Files are whole or absent (`files`), so a
killed run leaves only whole ones.

Nothing on disk is taken on trust: the manifest holds size and SHA-256 of every file that results are read from, and
they are compared at every reading; its own seal is a hash of all the rest of it. A manifest that has grown is not
written anew for every file: a journal beside it takes one line a file, each sealed with the line before, and goes into
the manifest when it has grown as long. One process at a time works in a folder; the lock is the kernel's, so it ends
with its holder however that ends (on systems without `fcntl` there is none).
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import socket
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from mspgt_tl.config import hash_plain
from mspgt_tl.contracts import FOLD
from mspgt_tl.errors import StoreError
from mspgt_tl.escape import anonymous
from mspgt_tl.files import PARTIAL, append_whole, describe, describe_file, free_bytes, refusal, write_atomically
from mspgt_tl.progress import LOG

if TYPE_CHECKING:
    import xarray as xr

FORMAT, READABLE = 2, (1, 2)
"""Of what is written, and of what is read. Format 1 did not store the peaks of the resamples."""
_FORMAT = "store format"
"""What the format is called among the versions of packages."""
MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"
JOURNAL_FROM = 65_536
"""Size of a manifest in bytes from which on a journal is kept."""
QUICK = "quick"
"""Folder of a quick look, within that of the full run."""
LOCK = ".lock"
"""File whose lock the process that works in a folder holds."""
PACKAGES = ("mspgt-tl", "torch", "transformer-lens", "transformers", "numpy", "scipy", "scikit-learn", "xarray")


def default_folder(name: str) -> Path:
    """Return `runs/NAME-DATE-TIME-PROCESS`, for a run that was given no folder; not made yet, so a refusal leaves none.

    The number of the process keeps two runs that start in the same second apart.
    """
    return Path("runs") / f"{name.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


class _Lock:
    """An exclusive lock on a folder, kept as long as this object lives."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.fdopen(os.open(folder / LOCK, flags, 0o644), "r+", encoding="utf-8", errors="replace")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = self._file.read(200).strip() or "another process"
            self._file.close()
            raise StoreError(f"{folder} is in use by {holder}. Wait for it to end, or choose another --out.") from error
        # Whoever held it may have removed it, with all else of a run that had nothing.
        if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(folder / LOCK)):
            raise StoreError(f"{folder} was removed by another process. Run the same command again.")
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


_LOCKS: weakref.WeakValueDictionary[Path, _Lock] = weakref.WeakValueDictionary()
"""By folder, the locks of this process: a run that opens its own folder again shares the first one's."""


def _lock(folder: Path) -> _Lock:
    key = folder.resolve()
    held = _LOCKS.get(key)
    if held is None:
        held = _LOCKS[key] = _Lock(folder)
    return held


class Run:
    """One run's folder. Open it with `create` (which resumes, and locks out other processes) or `read`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], lock: _Lock | None = None) -> None:
        self.folder, self.manifest = folder, manifest
        self._nested_seconds, self._lock = 0.0, lock
        self._seal, self._size, self._journal_size = "", 0, 0
        self._other_packages: dict[str, str] = {}
        """Those with which this process makes what it makes, where they are not what the run began with."""

    @classmethod
    def create(cls, folder: Path, identity: Mapping[str, Any]) -> Run:
        """Open the folder for a run of this identity, resuming one that is already there.

        What was altered since it was written, or is gone, is named in a warning and counts as not done.

        Raises:
            StoreError: the folder holds another run, something that is no run, or cannot be written.
        """
        identity = anonymous(json.loads(json.dumps(identity)))  # as it will be read back
        fingerprint = hash_plain(identity)
        try:
            refuse_other_run(folder, identity)
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
            if (folder / MANIFEST).exists():
                run = cls.read(folder)
                run._lock = lock
                if hash_plain(anonymous(run.manifest["identity"])) != fingerprint:
                    raise _other_run(folder, run.manifest["identity"], identity)
                # Runs of earlier versions recorded nothing: what is there when they go on is what later readings find.
                if "files" not in run.manifest:
                    run.manifest["files"] = {name: describe_file(folder / name) for name in run._results()}
                run._sweep()
                run._drop_damaged()
                if run._journal_size:
                    run._write_manifest()
                return run
            run = cls(folder, _new_manifest(identity, fingerprint), lock)
            run._write_manifest()
        except OSError as error:
            raise refusal(folder, error) from error
        return run

    def _sweep(self) -> None:
        """Remove the unfinished files that killed processes left in this folder; runs inside it are their own."""
        for left in self.folder.glob(f"*{PARTIAL}"):
            if not left.name.endswith(f".{os.getpid()}{PARTIAL}") and (left.is_symlink() or not left.is_dir()):
                left.unlink()

    def _drop_damaged(self) -> None:
        """Forget what is not as it was written, so that it is made again; all the rest is kept."""
        for name in list(self.manifest["files"]):
            try:
                why = "" if describe_file(self.folder / name) == self.manifest["files"][name] else "it was altered"
            except OSError as error:
                why = str(error.strerror)
            if why:
                warnings.warn(f"{self.folder / name} is made again: {why}.", stacklevel=3)
                del self.manifest["files"][name]
        stages, files = self.manifest["stages"], self.manifest["files"]
        for stage in [one for one in stages if not files.keys() >= set(self.files_of(one))]:
            del stages[stage]

    def _results(self) -> list[str]:
        """Return the names of the files that results are read from, by their kinds."""
        found = [path for kind in ("*.nc", "*.csv", "*.parquet", "*/*.parquet") for path in self.folder.glob(kind)]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Open a run that exists.

        Raises:
            StoreError: no such run, or its manifest is damaged or of a newer format.
        """
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
            manifest = json.loads(text)
            if manifest["format"] not in READABLE:
                raise StoreError(
                    f"{folder} was written in format {manifest['format']}; "
                    f"this version reads {READABLE[0]} to {FORMAT}. Install a newer mspgt-tl."
                )
            for part in ("identity", "stages", "notes", "files"):
                if not isinstance(manifest.get(part, {} if part == "files" else None), dict):
                    raise StoreError(f"{folder / MANIFEST} is damaged: its '{part}' is no table.")
            seal = manifest.pop("seal", None)  # runs of earlier versions have none
            if hash_plain(manifest["identity"]) != manifest["fingerprint"] or seal not in (None, hash_plain(manifest)):
                raise StoreError(
                    f"{folder / MANIFEST} was altered: it is not as the run wrote it. Remove the run folder and run "
                    "again."
                )
            run = cls(folder, manifest)
            run._seal, run._size = seal or "", len(text)
            run._read_journal()
            return run
        except FileNotFoundError as error:
            raise StoreError(
                f"{folder} is no run folder: it has no {MANIFEST}. `mspgt detect … --out` makes one."
            ) from error
        except OSError as error:
            raise StoreError(f"{folder / MANIFEST} cannot be read: {error.strerror}.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
            raise StoreError(f"{folder / MANIFEST} is damaged: {error}.") from error

    def stage(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """Return a stage's arrays: from its file when the stage is finished, else computed, written and recorded.

        Raises:
            StoreError: the disk is full, or the run began with other versions of the packages.
        """
        if name in self.manifest["stages"]:
            return self.arrays(name)
        self.require_same_versions()
        # A stage may run others inside; their time is theirs.
        outer, self._nested_seconds = self._nested_seconds, 0.0
        started = time.perf_counter()
        dataset = compute()
        data = self._put(f"{name}.nc", partial(_pack, dataset))
        elapsed = time.perf_counter() - started
        self._record({f"{name}.nc": describe(data)}, name, {"seconds": round(elapsed - self._nested_seconds, 3)})
        self._nested_seconds = outer + elapsed
        return _unpack(data)  # as it will be read when the run is resumed

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Bill the time of what several stages share to itself, not to the stage that happens to need it first."""
        outer, self._nested_seconds = self._nested_seconds, 0.0
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        shared = self.manifest.setdefault("shared", {})
        before = shared.get(name, {"seconds": 0.0})["seconds"]
        shared[name] = {"seconds": round(before + elapsed - self._nested_seconds, 3)}
        self._write_manifest()
        self._nested_seconds = outer + elapsed

    def adopt(self, name: str, other: Run) -> None:
        """Take over a stage that another run finished, unless this one has it; the caller knows that it is the same."""
        if name in other.manifest["stages"] and name not in self.manifest["stages"]:
            data = other.content(f"{name}.nc")
            self.write(f"{name}.nc", data)
            origin = Path(os.path.relpath(other.folder, self.folder)).as_posix()
            self._record({f"{name}.nc": describe(data)}, name, {"seconds": 0.0, "from": origin})

    def arrays(self, name: str) -> xr.Dataset:
        """Read the arrays of a finished stage.

        Raises:
            StoreError: its file is missing, altered or damaged.
        """
        data = self.content(f"{name}.nc")
        try:
            return _unpack(data)
        except (OSError, ValueError, RuntimeError) as error:  # runs of earlier versions recorded no hash
            raise _damaged(self.folder / f"{name}.nc", str(error)) from error

    def content(self, name: str) -> bytes:
        """Return a file that results are read from, compared with what was written.

        Raises:
            StoreError: it is missing, or not what the run wrote.
        """
        path, files = self.folder / name, self.manifest.get("files")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _damaged(path, str(error.strerror)) from error
        # Runs of earlier versions recorded nothing.
        if files is not None and describe(data) != files.get(name):
            raise _damaged(path, "It was altered.")
        return data

    def kept(self, prefix: str) -> list[str]:
        """Return the names of recorded files that begin so, in order."""
        return sorted(name for name in self.manifest.get("files", {}) if name.startswith(prefix))

    def has(self, name: str) -> bool:
        """Return whether a file is recorded.

        Raises:
            StoreError: it is not, so it is to be made, and the run began with other versions of the packages.
        """
        if name in self.manifest["files"]:
            return True
        self.require_same_versions()
        return False

    def files_of(self, stage: str) -> list[str]:
        """Return the names of the files of a finished stage."""
        return self.manifest["stages"][stage].get("files", [f"{stage}.nc"])

    def keep_folder(self, stage: str, folder: Path) -> None:
        """Record a stage that is a folder of files, such as a checkpoint that a library wrote."""
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        states = {path.relative_to(self.folder).as_posix(): describe_file(path) for path in found}
        self._record(states, stage, {"files": list(states)})

    def forget(self, stage: str) -> None:
        """Take a stage and its files off the record; who removes them says so first."""
        for name in self.files_of(stage):
            self.manifest["files"].pop(name, None)
        del self.manifest["stages"][stage]
        self._write_manifest()

    def discard(self) -> None:
        """Remove what a run that has nothing yet left in its folder; what others put there meanwhile stays."""
        self._sweep()
        for name in (LOG, JOURNAL, MANIFEST, LOCK):
            (self.folder / name).unlink(missing_ok=True)

    def require_same_versions(self) -> None:
        """Raise if what is about to be made could differ from what is there, for it is made with other packages.

        Another release of a package (the first two numbers of its version) can move results; a patch of it is said in
        a warning. A run that has nothing yet begins anew with what is installed.

        Raises:
            StoreError: another release of a package, which was not allowed (`allow_other_versions`).
        """
        # A run of an earlier format goes on as little: its name of a stage may stand for something else today.
        then, now = {**self.manifest["packages"], _FORMAT: str(self.manifest["format"])}, installed_packages()
        changed = {name: (then.get(name, "unknown"), now[name]) for name in now if then.get(name) != now[name]}
        if not changed or self._other_packages:
            return
        told = ", ".join(f"{name} {old}, now {new}" for name, (old, new) in changed.items())
        allowed = self.manifest.get("allowed_packages") == now
        if not self.manifest["stages"] and not self.manifest["files"]:
            self.manifest |= {"packages": now, "format": FORMAT}
        elif allowed or all(_release(old) == _release(new) for old, new in changed.values()):
            warnings.warn(f"{self.folder} was begun with {told}. What is made now says so.", stacklevel=3)
            self._other_packages = {name: new for name, (_, new) in changed.items()}
        else:
            raise StoreError(
                f"{self.folder} was begun with {told}: what is missing might not fit what is there. Install what it "
                "was begun with, choose another --out, or go on with --force, which the manifest then says."
            )

    def keep(self, name: str, content: bytes | str) -> Path:
        """Write a file that results are read from, record its size and hash, and return its path."""
        self.write(name, content)
        self._record({name: describe(content)})
        return self.folder / name

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file of the run that no result is read from, such as its page, and return its path.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        self._put(name, content)
        return self.folder / name

    def _put(self, name: str, content: bytes | str | Callable[[Path], Any]) -> bytes:
        path = self.folder / name
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise refusal(path, error) from error
        return write_atomically(path, content)

    def note(self, **values: Any) -> None:
        """Record plain values in the manifest that are not part of the run's identity."""
        self.manifest["notes"].update(anonymous(json.loads(json.dumps(values))))  # as they will be read back
        self._write_manifest()

    def _record(
        self, files: Mapping[str, Any], stage: str | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        """Record files that were written, and the stage that is finished with them."""
        other = {"packages": self._other_packages} if self._other_packages else {}
        entry = {"files": dict(files), "stages": {} if stage is None else {stage: {**(about or {}), **other}}}
        self._take(entry)
        if self._size < JOURNAL_FROM or self._journal_size > self._size:
            self._write_manifest()
            return
        self._seal = hash_plain([self._seal, entry])
        line = _to_json({**entry, "seal": self._seal}) + "\n"
        append_whole(self.folder / JOURNAL, line)
        self._journal_size += len(line)

    def _take(self, entry: Mapping[str, Any]) -> None:
        for part in ("files", "stages"):
            self.manifest.setdefault(part, {}).update(entry[part])

    def _read_journal(self) -> None:
        """Take what the journal records beyond the manifest.

        Its first line is sealed with the manifest's seal, so a journal that is already in the manifest counts no more,
        nor does anything after a line that a kill cut off, or that was altered: what it recorded is made again.
        """
        try:
            lines = (self.folder / JOURNAL).read_bytes().splitlines(keepends=True)
        except OSError:
            return
        for line in lines:
            try:
                entry = json.loads(line)
                seal = entry.pop("seal")
                if not line.endswith(b"\n") or seal != hash_plain([self._seal, entry]):
                    break
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            self._take(entry)
            self._seal = seal
        self._journal_size = sum(map(len, lines))

    def _write_manifest(self) -> None:
        self._seal = hash_plain(self.manifest)
        text = _to_json({**self.manifest, "seal": self._seal}, indent=1) + "\n"
        self.write(MANIFEST, text)
        (self.folder / JOURNAL).unlink(missing_ok=True)
        self._size, self._journal_size = len(text), 0


def refuse_other_run(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise if a folder cannot be that of a run of which this much of the identity is known.

    Raises:
        StoreError: it holds another run, and in what they differ; it is no run's folder; or it cannot be written.
    """
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise refusal(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    if not (folder / MANIFEST).exists():
        if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
            raise StoreError(f"{folder} exists and is no run folder. Choose an empty or new folder.")
        if not folder.exists():
            _refuse_unwritable(folder)
        return
    now = anonymous(json.loads(json.dumps(identity)))  # as it would be read back
    there = _known_part(anonymous(Run.read(folder).manifest["identity"]), now)
    if there != now:
        raise _other_run(folder, there, now)


def _refuse_unwritable(folder: Path) -> None:
    """Raise if a folder cannot be made: something is tried where it would be, for permissions alone do not tell."""
    # A link that leads nowhere is nearest, too: no folder can be made of it.
    nearest = next(path for path in (folder, *folder.parents) if path.is_symlink() or path.exists())
    try:
        tempfile.TemporaryDirectory(prefix=".mspgt-", dir=nearest).cleanup()
    except OSError as error:
        raise refusal(folder, error) from error


def _known_part(there: Any, now: Any) -> Any:
    """Return as much of a table as is known of another one."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        return {name: _known_part(there.get(name), value) for name, value in now.items()}
    return there


def _other_run(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> StoreError:
    return StoreError(
        f"{folder} holds another run ({_differences(there, now)}). Choose another --out, or remove the folder."
    )


def _is_foreign(path: Path) -> bool:
    """Return whether a file in a folder without a manifest is somebody's, and not a killed run's."""
    return path.name not in (LOCK, QUICK) and not (path.name.startswith(f".{MANIFEST}.") and path.suffix == PARTIAL)


def _new_manifest(identity: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "identity": identity,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed_packages(),
        "stages": {},
        "files": {},
        "notes": {},
    }


def _to_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Return JSON that people can read; what is no text, as in names that are not UTF-8, is escaped."""
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} is missing or damaged: remove the run folder and run again. ({why})")


def _pack(dataset: xr.Dataset, path: Path) -> None:
    """Write netCDF by its library: its files in memory hold the time and are padded, so no two are alike."""
    # The library reads a backslash as a slash, and takes no name that is not UTF-8: there, a link leads to the folder.
    odd = os.sep == "/" and re.search("[\\\\\ud800-\udfff]", str(path))
    try:
        with tempfile.TemporaryDirectory() if odd else nullcontext() as place:
            if place:
                (Path(place) / "folder").symlink_to(path.parent.absolute())
            # Counts of labels, most of all, are a tenth as large compressed.
            numbers = [
                str(name) for name, array in dataset.variables.items() if array.dtype.kind in "biuf" and array.ndim
            ]
            dataset.to_netcdf(
                Path(place) / "folder" / path.name if place else path,
                engine="netcdf4",
                encoding={name: {"zlib": True, "complevel": 1, "shuffle": True} for name in numbers},
            )
    except (
        RuntimeError,
        OSError,
    ) as error:  # it does not say why: a full disk is "no permission" where it begins a file
        full = free_bytes(path) < dataset.nbytes + 65_536
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


def _unpack(data: bytes) -> xr.Dataset:
    import xarray as xr

    with xr.open_dataset(data, engine="netcdf4") as dataset:
        return dataset.load()


def allow_other_versions(folder: Path) -> None:
    """Let a run, and runs inside its folder, go on with the packages that are installed now; their manifests say so.

    Raises:
        StoreError: a run there is in use, or damaged, or cannot be written.
    """
    for manifest in sorted(folder.rglob(MANIFEST)):
        lock = _lock(manifest.parent)
        run = Run.read(manifest.parent)
        run._lock = lock
        run.manifest["allowed_packages"] = installed_packages()
        run._write_manifest()


def installed_packages() -> dict[str, str]:
    """Return the versions of the packages that results rest on, and the format in which they are stored."""
    return {_FORMAT: str(FORMAT)} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """Name the first few values in which two identities differ."""
    found = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if inner := _differences(a, b, f"{prefix}{name}."):
                found.append(inner)
        elif a != b:
            found.append(f"{prefix}{name}: {a!r} there, {b!r} now")
    return "; ".join(found[:3])


def pack_sums(sums: Mapping[str, np.ndarray], **attributes: str) -> xr.Dataset:
    """Return sums over folds as a labelled dataset; axes beyond the fold are numbered."""
    import xarray as xr

    variables = {
        name: ((FOLD, *(f"{name}_{axis}" for axis in range(1, array.ndim))), array) for name, array in sums.items()
    }
    return xr.Dataset(variables, attrs=attributes)


def unpack_sums(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Return what `pack_sums` was given."""
    return {str(name): values.to_numpy() for name, values in dataset.data_vars.items()}
