"""A run's folder: a manifest, labelled arrays, atomic writes, and resuming.

A run is identified by everything its numbers depend on. A folder that holds a run of the same identity is resumed,
stage by stage; one that holds another run is refused, never overwritten. Files are written beside their place and
renamed, so a killed run leaves only whole files.

Nothing on disk is taken on trust: the manifest holds size and SHA-256 of every file that results are read from, and
they are compared at every reading. One process at a time works in a folder; the lock is the kernel's, so it ends with
its holder however that ends (on systems without `fcntl` there is none).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from mspgt_tl.config import hash_plain
from mspgt_tl.contracts import BLOCK
from mspgt_tl.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = ".lock"
"""File whose lock the process that works in a folder holds."""
PACKAGES = ("mspgt-tl", "torch", "transformer-lens", "transformers", "numpy", "scipy", "scikit-learn", "xarray")


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a temporary path and move the file into place once it is whole and on disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def default_folder(name: str) -> Path:
    """Return `runs/NAME-DATE-TIME-PROCESS`, for a run that was given no folder; not made yet, so a refusal leaves none.

    The number of the process keeps two runs that start in the same second apart.
    """
    return Path("runs") / f"{name.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


class _Lock:
    """An exclusive lock on a folder, kept as long as this object lives."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.fdopen(os.open(folder / LOCK, flags, 0o644), "r+")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise StoreError(f"{folder} is in use by {holder}. Wait for it to end, or choose another --out.") from error
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


def _file_state(path: Path) -> dict[str, Any]:
    """Return what the manifest records of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class Run:
    """One run's folder. Open it with `create` (which resumes, and locks out other processes) or `read`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], lock: _Lock | None = None) -> None:
        self.folder, self.manifest = folder, manifest
        self._nested_seconds, self._lock = 0.0, lock

    @classmethod
    def create(cls, folder: Path, identity: Mapping[str, Any]) -> Run:
        """Open the folder for a run of this identity, resuming one that is already there.

        Raises:
            StoreError: the folder holds another run, something that is no run, or cannot be written.
        """
        fingerprint = hash_plain(json.loads(json.dumps(identity)))  # as it will be read back
        known = (folder / MANIFEST).exists()
        if not known and folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
            raise StoreError(f"{folder} exists and is no run folder. Choose an empty or new folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shared = folder.resolve() in _LOCKS
            lock = _lock(folder)
            if (folder / MANIFEST).exists():
                run = cls.read(folder)
                run._lock = lock
                if run.manifest["fingerprint"] != fingerprint:
                    changed = _differences(run.manifest["identity"], identity)
                    raise StoreError(
                        f"{folder} holds another run ({changed}). Choose another --out, or remove the folder."
                    )
                if not shared:
                    run._sweep()
                # Runs of earlier versions recorded nothing: what is there when they go on is what later readings find.
                run.manifest.setdefault("files", {name: _file_state(folder / name) for name in run._results()})
                return run
            run = cls(folder, _new_manifest(identity, fingerprint), lock)
            run._write_manifest()
        except OSError as error:
            raise StoreError(f"{folder} cannot be written: {error.strerror}.") from error
        return run

    def _sweep(self) -> None:
        """Remove what killed processes left in this folder; runs inside it are their own."""
        for left in self.folder.glob("*.partial"):
            if left.is_symlink() or not left.is_dir():
                left.unlink()

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
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise StoreError(f"{folder} was written in format {manifest['format']}; this version reads {FORMAT}.")
            for part in ("identity", "stages", "notes", "files"):
                if not isinstance(manifest.get(part, {} if part == "files" else None), dict):
                    raise StoreError(f"{folder / MANIFEST} is damaged: its '{part}' is no table.")
            if hash_plain(manifest["identity"]) != manifest["fingerprint"]:
                raise StoreError(
                    f"{folder / MANIFEST} was altered: what it says the run depends on is not what the run began with. "
                    "Remove the run folder and run again."
                )
            return cls(folder, manifest)
        except OSError as error:
            raise StoreError(
                f"{folder} is no run folder: it has no {MANIFEST}. `mspgt detect … --out` makes one."
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
            raise StoreError(f"{folder / MANIFEST} is damaged: {error}.") from error

    def stage(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """Return a stage's arrays: from its file when the stage is finished, else computed, written and recorded.

        A finished stage whose file is missing or altered is named in a warning and computed again.

        Raises:
            StoreError: the disk is full.
        """
        if name in self.manifest["stages"]:
            try:
                return self.arrays(name)
            except StoreError as error:
                warnings.warn(f"Stage '{name}' is computed again: {error}", stacklevel=2)
                del self.manifest["stages"][name]
        # A stage may run others inside; their time is theirs.
        outer, self._nested_seconds = self._nested_seconds, 0.0
        started = time.perf_counter()
        dataset = compute()
        self.keep(f"{name}.nc", lambda path: dataset.to_netcdf(path, engine="netcdf4"))
        elapsed = time.perf_counter() - started
        self.manifest["stages"][name] = {"seconds": round(elapsed - self._nested_seconds, 3)}
        self._nested_seconds = outer + elapsed
        self._write_manifest()
        return self.arrays(name)

    def adopt(self, name: str, other: Run) -> None:
        """Take over a stage that another run finished, unless this one has it; the caller knows that it is the same."""
        if name in other.manifest["stages"] and name not in self.manifest["stages"]:
            self.keep(f"{name}.nc", lambda path: shutil.copyfile(other.file(f"{name}.nc"), path))
            self.manifest["stages"][name] = {"seconds": 0.0, "from": str(other.folder)}
            self._write_manifest()

    def arrays(self, name: str) -> xr.Dataset:
        """Read the arrays of a finished stage.

        Raises:
            StoreError: its file is missing, altered or damaged.
        """
        import xarray as xr

        path = self.file(f"{name}.nc")
        try:
            with xr.open_dataset(path, engine="netcdf4") as dataset:
                return dataset.load()
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(f"{path} is missing or damaged: remove the run folder and run again. ({error})") from error

    def file(self, name: str) -> Path:
        """Return the path of a file that results are read from, compared with what was written.

        Raises:
            StoreError: it is missing, or not what the run wrote.
        """
        path, files = self.folder / name, self.manifest.get("files")
        try:
            state = _file_state(path)
        except OSError as error:
            raise StoreError(
                f"{path} is missing or damaged: remove the run folder and run again. ({error.strerror})"
            ) from error
        # Runs of earlier versions recorded nothing.
        if files is not None and state != files.get(name):
            raise StoreError(f"{path} is missing or damaged: remove the run folder and run again. (It was altered.)")
        return path

    def kept(self, prefix: str) -> list[str]:
        """Return the names of recorded files that begin so, in order."""
        return sorted(name for name in self.manifest.get("files", {}) if name.startswith(prefix))

    def has(self, name: str) -> bool:
        """Return whether a file is recorded, there, and what was written; a warning names one that is not."""
        if name not in self.manifest.get("files", {}):
            return False
        try:
            self.file(name)
        except StoreError as error:
            warnings.warn(f"'{name}' is made again: {error}", stacklevel=2)
            return False
        return True

    def keep(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Write a file that results are read from, record its size and hash, and return its path."""
        path = self.write(name, write)
        self.manifest.setdefault("files", {})[name] = _file_state(path)
        self._write_manifest()
        return path

    def write(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Write a file of the run atomically, such as its page, and return its path."""
        try:
            write_atomically(self.folder / name, write)
        except OSError as error:
            raise StoreError(f"{self.folder / name} cannot be written: {error.strerror or error}.") from error
        return self.folder / name

    def note(self, **values: Any) -> None:
        """Record plain values in the manifest that are not part of the run's identity."""
        self.manifest["notes"].update(values)
        self._write_manifest()

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n"
        self.write(MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))


def _is_foreign(path: Path) -> bool:
    """Return whether a file in a folder without a manifest is somebody's, and not a killed run's."""
    return path.name != LOCK and not (path.name.startswith(f".{MANIFEST}.") and path.suffix == ".partial")


def _new_manifest(identity: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "identity": identity,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "stages": {},
        "files": {},
        "notes": {},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


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
    """Return sums over blocks as a labelled dataset; axes beyond the block are numbered."""
    import xarray as xr

    variables = {
        name: ((BLOCK, *(f"{name}_{axis}" for axis in range(1, array.ndim))), array) for name, array in sums.items()
    }
    return xr.Dataset(variables, attrs=attributes)


def unpack_sums(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Return what `pack_sums` was given."""
    return {str(name): values.to_numpy() for name, values in dataset.data_vars.items()}
