"""Run folders: identity, resuming, atomic writes, damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mspgt_tl.errors import StoreError
from mspgt_tl.store import MANIFEST, Run, pack_sums, unpack_sums, write_atomically

IDENTITY = {"command": "detect", "config": {"seed": 0, "stream": {"max_length": 128}}}


def test_finished_stages_are_not_computed_again(tmp_path: Path) -> None:
    """A second run of the same identity reads what the first one wrote."""
    sums = {"hsic": np.arange(24.0).reshape(2, 3, 4), "rows": np.ones(2)}
    Run.create(tmp_path / "run", IDENTITY).stage("cka", lambda: pack_sums(sums))
    again = Run.create(tmp_path / "run", IDENTITY).stage("cka", lambda: pytest.fail("computed twice"))
    assert all(np.array_equal(unpack_sums(again)[name], array) for name, array in sums.items())


def test_other_run_in_the_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    """The error names what differs, and nothing is lost."""
    Run.create(tmp_path, IDENTITY)
    before = (tmp_path / MANIFEST).read_bytes()
    changed = {"command": "detect", "config": {"seed": 0, "stream": {"max_length": 64}}}
    with pytest.raises(StoreError, match=r"config.stream.max_length: 128 there, 64 now"):
        Run.create(tmp_path, changed)
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    """A folder with somebody's files is never written into."""
    (tmp_path / "thesis.tex").write_text("…", encoding="utf-8")
    with pytest.raises(StoreError, match="no run folder"):
        Run.create(tmp_path, IDENTITY)


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """A write that dies leaves the file as it was and no debris."""
    path = tmp_path / "table.txt"
    path.write_text("old", encoding="utf-8")

    def die(partial: Path) -> None:
        partial.write_text("half", encoding="utf-8")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, die)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_stage_that_died_is_computed_again(tmp_path: Path) -> None:
    """An exception inside a stage leaves it unfinished."""
    run = Run.create(tmp_path / "run", IDENTITY)
    with pytest.raises(RuntimeError):
        run.stage("cka", lambda: (_ for _ in ()).throw(RuntimeError("killed")))
    assert "cka" not in Run.read(tmp_path / "run").manifest["stages"]


@pytest.mark.parametrize("damage", ["not json", json.dumps({"format": 99}), json.dumps({})])
def test_damaged_manifest_is_named(tmp_path: Path, damage: str) -> None:
    """A broken or newer manifest is an error of one line."""
    (tmp_path / MANIFEST).write_text(damage, encoding="utf-8")
    with pytest.raises(StoreError, match=r"damaged|format 99"):
        Run.read(tmp_path)


def test_damaged_arrays_are_named(tmp_path: Path) -> None:
    """A truncated array file says what to do."""
    run = Run.create(tmp_path / "run", IDENTITY)
    run.stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
    (run.folder / "cka.nc").write_bytes(b"CDF")
    with pytest.raises(StoreError, match="remove the run folder"):
        run.arrays("cka")


def test_missing_run_says_how_to_make_one(tmp_path: Path) -> None:
    """Reading a folder without a run tells which command makes one."""
    with pytest.raises(StoreError, match="mspgt detect"):
        Run.read(tmp_path)
