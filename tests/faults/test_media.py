"""Disks that are full, small or read-only, and tables of earlier versions that were cut off."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mspgt_tl import store
from mspgt_tl.errors import StoreError
from mspgt_tl.files import scratch_array
from mspgt_tl.pipeline.shell import REPORT, Kind
from mspgt_tl.store import Run, pack_sums

ROOT = Path(__file__).parents[2]
IDENTITY = {"command": "toy"}


@pytest.fixture(scope="module")
def faults() -> Any:
    """The fuzzer, as a module."""
    spec = importlib.util.spec_from_file_location("faults", ROOT / ".ci/faults.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def disk(faults: Any, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A disk of 300 kB, and what makes it large."""
    place = tmp_path / "disk"
    place.mkdir()
    with faults.small_disk(place, 300) as enlarge:
        if enlarge is None:
            pytest.skip("mounting a small disk needs the right to")
        yield place, enlarge


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(disk: tuple[Path, Callable[[], None]]) -> None:
    """Stages, kept files, pages and scratch alike; what was finished stays finished."""
    place, enlarge = disk
    run = Run.create(place / "run", IDENTITY)
    run.stage("small", lambda: pack_sums({"rows": np.ones(2)}))
    writers: list[Callable[[], object]] = [
        lambda: run.stage("large", lambda: pack_sums({"rows": np.random.default_rng(0).random(100_000)})),
        lambda: run.keep("table.csv", "x" * 500_000),
        lambda: run.write("report.html", "x" * 500_000),
        lambda: scratch_array(run.folder, (1000, 100)),
    ]
    for write in writers:
        with pytest.raises(StoreError, match=r"cannot be written: the disk is full\..* MB are free there"):
            write()
    assert list(Run.read(run.folder).manifest["stages"]) == ["small"]
    assert not list(run.folder.glob("*.partial")) + list(run.folder.glob(".*.partial"))
    enlarge()
    for write in writers:
        write()
    assert Run.read(run.folder).arrays("large")["rows"].size == 100_000


TOY: Kind[Any] = Kind(
    "toy",
    "toy",
    lambda run: "small" in run.manifest["stages"],
    lambda run: SimpleNamespace(folder=run.folder, manifest=run.manifest, rows=run.arrays("small")["rows"].values),
    lambda _: "a new page",
)


def test_a_finished_run_on_a_read_only_medium_is_read_and_reported(disk: tuple[Path, Callable[[], None]]) -> None:
    """Its page stays as it was drawn, which is said; without one, that is the error."""
    place, _ = disk
    for name in ("with", "without"):
        Run.create(place / name, IDENTITY).stage("small", lambda: pack_sums({"rows": np.ones(2)}))
    Run.read(place / "with").write(REPORT, "the old page")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    try:
        result = TOY.load(place / "with")
        assert result.rows.tolist() == [1, 1]
        with pytest.warns(UserWarning, match=r"read-only medium.*The page that is there was drawn before"):
            assert TOY.write_page(result) == place / "with" / REPORT
        with pytest.raises(StoreError, match="read-only medium"):
            TOY.write_page(TOY.load(place / "without"))
        with pytest.raises(StoreError, match="read-only medium"):
            Run.create(place / "new", IDENTITY)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)


@pytest.mark.parametrize("error", [ValueError("Parquet magic bytes not found"), KeyError("kl"), OSError("truncated")])
def test_tables_that_cannot_be_read_are_named(tmp_path: Path, error: Exception) -> None:
    """Runs of earlier versions have no hashes, and less in them than is looked for."""

    def fail(_: Run) -> Any:
        raise error

    Run.create(tmp_path / "run", IDENTITY)
    kind: Kind[Any] = Kind("toy", "toy", lambda _: True, fail, str)
    with pytest.raises(StoreError, match=r"cannot be read: it is damaged, or of an earlier version .*in a new folder"):
        kind.load(tmp_path / "run")


@pytest.mark.parametrize("name", ["table.csv", "parts/part-0.parquet", "small.nc"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "link"])
def test_a_damaged_table_is_refused_by_readers_and_made_again_by_the_run(
    tmp_path: Path, name: str, damage: str
) -> None:
    """Cut off, one bit, gone, or a link to something else: named, made again, and all else kept."""
    run = Run.create(tmp_path / "run", IDENTITY)
    run.stage("small", lambda: pack_sums({"rows": np.ones(2)}))
    run.keep("table.csv", "a,b\n1,2\n")
    run.keep("parts/part-0.parquet", b"PAR1" * 9)
    path, data = run.folder / name, (run.folder / name).read_bytes()
    path.unlink()
    if damage == "link":
        path.symlink_to(shutil.copyfile(run.folder / store.MANIFEST, tmp_path / "other"))
    elif damage != "remove":
        path.write_bytes(data[:-3] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match=f"{name} is missing or damaged"):
        Run.read(run.folder).content(name)
    with pytest.warns(UserWarning, match=f"{name} is made again"):
        again = Run.create(run.folder, IDENTITY)
    assert {"table.csv", "parts/part-0.parquet", "small.nc"} - set(again.manifest["files"]) == {name}


def test_a_short_fuzz_loses_nothing() -> None:
    """The fuzzer on the run folder alone: kills, damage, a second process, small disks."""
    command = [sys.executable, str(ROOT / ".ci/faults.py"), "--commands", "store", "--rounds", "10", "--seed", "4"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "10 rounds" in ended.stdout
