"""A run's folder: a manifest, labelled arrays, atomic writes, and resuming.

A run is identified by everything its numbers depend on. A folder that holds a run of the same identity is resumed,
stage by stage; one that holds another run is refused, never overwritten. Files are written beside their place and
renamed, so a killed run leaves only whole files.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.config import hash_plain
from mspgt_tl.contracts import BLOCK
from mspgt_tl.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 1
MANIFEST = "manifest.json"
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


class Run:
    """One run's folder. Open it with `create` (which resumes) or `read`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._nested_seconds = 0.0

    @classmethod
    def create(cls, folder: Path, identity: Mapping[str, Any]) -> Run:
        """Open the folder for a run of this identity, resuming one that is already there.

        Raises:
            StoreError: the folder holds another run, something that is no run, or cannot be written.
        """
        fingerprint = hash_plain(identity)
        if (folder / MANIFEST).exists():
            run = cls.read(folder)
            if run.manifest["fingerprint"] != fingerprint:
                changed = _differences(run.manifest["identity"], identity)
                raise StoreError(f"{folder} holds another run ({changed}). Choose another --out, or remove the folder.")
            return run
        if folder.exists() and (not folder.is_dir() or any(p for p in folder.iterdir() if p.suffix != ".partial")):
            raise StoreError(f"{folder} exists and is no run folder. Choose an empty or new folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder, _new_manifest(identity, fingerprint))
            run._write_manifest()
        except OSError as error:
            raise StoreError(f"{folder} cannot be written: {error.strerror}.") from error
        return run

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
            return cls(folder, manifest)
        except OSError as error:
            raise StoreError(
                f"{folder} is no run folder: it has no {MANIFEST}. `mspgt detect … --out` makes one."
            ) from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StoreError(f"{folder / MANIFEST} is damaged: {error}.") from error

    def stage(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """Return a stage's arrays: from its file when the stage is finished, else computed, written and recorded.

        Raises:
            StoreError: a finished stage's file is missing or damaged, or the disk is full.
        """
        if name not in self.manifest["stages"]:
            # A stage may run others inside; their time is theirs.
            outer, self._nested_seconds = self._nested_seconds, 0.0
            started = time.perf_counter()
            dataset = compute()
            self.write(f"{name}.nc", lambda path: dataset.to_netcdf(path, engine="netcdf4"))
            elapsed = time.perf_counter() - started
            self.manifest["stages"][name] = {"seconds": round(elapsed - self._nested_seconds, 3)}
            self._nested_seconds = outer + elapsed
            self._write_manifest()
        return self.arrays(name)

    def adopt(self, name: str, other: Run) -> None:
        """Take over a stage that another run finished, unless this one has it; the caller knows that it is the same."""
        if name in other.manifest["stages"] and name not in self.manifest["stages"]:
            self.write(f"{name}.nc", lambda path: shutil.copyfile(other.folder / f"{name}.nc", path))
            self.manifest["stages"][name] = {"seconds": 0.0, "from": str(other.folder)}
            self._write_manifest()

    def arrays(self, name: str) -> xr.Dataset:
        """Read the arrays of a finished stage."""
        import xarray as xr

        path = self.folder / f"{name}.nc"
        try:
            with xr.open_dataset(path, engine="netcdf4") as dataset:
                return dataset.load()
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(f"{path} is missing or damaged: remove the run folder and run again. ({error})") from error

    def write(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Write a file of the run atomically and return its path."""
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
