"""Run folders: identity, resuming, atomic writes, damage."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mspgt_tl import store
from mspgt_tl.errors import StoreError
from mspgt_tl.store import JOURNAL, MANIFEST, Run, allow_other_versions, pack_sums, unpack_sums

IDENTITY = {"command": "detect", "config": {"seed": 0, "stream": {"max_length": 128}}}


def test_finished_stages_are_not_computed_again(tmp_path: Path) -> None:
    """A second run of the same identity reads what the first one wrote."""
    sums = {"hsic": np.arange(24.0).reshape(2, 3, 4), "rows": np.ones(2)}
    Run.create(tmp_path / "run", IDENTITY).stage("cka", lambda: pack_sums(sums))
    again = Run.create(tmp_path / "run", IDENTITY).stage("cka", lambda: pytest.fail("computed twice"))
    assert all(np.array_equal(unpack_sums(again)[name], array) for name, array in sums.items())


def test_a_stage_is_the_same_file_whenever_it_is_made(tmp_path: Path) -> None:
    """Bit by bit, so that runs can be compared by the hashes in their manifests."""
    files = []
    for name in "ab":
        Run.create(tmp_path / name, IDENTITY).stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
        files.append((tmp_path / name / "cka.nc").read_bytes())
        time.sleep(1.1 * (name == "a"))  # netCDF could keep seconds
    assert files[0] == files[1]
    assert len(files[0]) < 20_000


@pytest.mark.parametrize("name", ["a\\b", "caf\udce9", "two\nlines", "50 %d {x} $HOME 'a' \"b\"", "-dash", "[x]#?&"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The library of netCDF takes backslashes for slashes, and no name that is not UTF-8."""
    Run.create(tmp_path / name, IDENTITY).stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
    assert Run.read(tmp_path / name).arrays("cka")["rows"].size == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_told_from_other_troubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of netCDF says only that something failed."""

    def fail(error: Exception, *_: object, **__: object) -> None:
        raise error

    run = Run.create(tmp_path / "run", IDENTITY)
    silent, misled = RuntimeError("NetCDF: HDF error"), PermissionError(13, "Permission denied")
    cases = [(silent, 1e4, "disk is full"), (misled, 1e4, "disk is full"), (silent, 1e9, "written: NetCDF: HDF error")]
    for error, free, message in cases:
        monkeypatch.setattr(xr.Dataset, "to_netcdf", partial(fail, error))
        monkeypatch.setattr(store, "free_bytes", lambda _, free=free: free)
        with pytest.raises(StoreError, match=message):
            run.stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
    assert Run.read(run.folder).manifest["stages"] == {}


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


@pytest.mark.parametrize("place", ["link", "link/run", "file/run"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path, place: str) -> None:
    """A link that leads nowhere, and a file where a folder is needed."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        store.refuse_other_run(tmp_path / place, IDENTITY)


def test_a_run_that_may_not_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody took the permission away since it was begun."""
    Run.create(tmp_path / "run", IDENTITY)
    monkeypatch.setattr(store.os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="cannot be written: no permission"):
        store.refuse_other_run(tmp_path / "run", IDENTITY)


def test_a_lock_that_was_removed_meanwhile_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removed the folder between our opening of the lock and our taking it."""
    flock = store.fcntl.flock  # pyright: ignore[reportOptionalMemberAccess]

    def late(*arguments: int) -> None:
        (tmp_path / ".lock").rename(tmp_path / "gone")
        (tmp_path / ".lock").touch()
        flock(*arguments)

    monkeypatch.setattr(store.fcntl, "flock", late)
    with pytest.raises(StoreError, match="removed by another process"):
        Run.create(tmp_path, IDENTITY)


def test_stage_that_died_is_computed_again(tmp_path: Path) -> None:
    """An exception inside a stage leaves it unfinished."""
    run = Run.create(tmp_path / "run", IDENTITY)
    with pytest.raises(RuntimeError):
        run.stage("cka", lambda: (_ for _ in ()).throw(RuntimeError("killed")))
    assert "cka" not in Run.read(tmp_path / "run").manifest["stages"]


SHAPES = [
    {"format": 1, "fingerprint": "", "identity": {}},
    {"format": 1, "fingerprint": "", "identity": {}, "stages": [], "notes": {}},
    {"format": 1, "fingerprint": "", "identity": {}, "stages": {}, "notes": {}, "files": []},
    [],
]


@pytest.mark.parametrize(
    "damage", ["not json", json.dumps({"format": 99}), json.dumps({}), *map(json.dumps, SHAPES), "[" * 100_000]
)
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


def test_one_flipped_bit_is_noticed_and_the_stage_computed_again(tmp_path: Path) -> None:
    """Reading refuses; resuming names the stage, makes it again, and keeps the others."""
    run = Run.create(tmp_path / "run", IDENTITY)
    for name in ("cka", "probe"):
        run.stage(name, lambda: pack_sums({"rows": np.ones(2)}))
    file = run.folder / "cka.nc"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(StoreError, match="altered"):
        Run.read(file.parent).arrays("cka")
    del run  # and with it the lock
    with pytest.warns(UserWarning, match="cka.nc is made again: it was altered"):
        again = Run.create(file.parent, IDENTITY)
    made = again.stage("cka", lambda: pack_sums({"rows": np.full(2, 5.0)}))
    assert made["rows"].values.tolist() == [5, 5]
    again.stage("probe", lambda: pytest.fail("the good stage was computed again"))
    assert Run.read(file.parent).arrays("cka")["rows"].values.tolist() == [5, 5]


def test_an_edited_identity_is_noticed(tmp_path: Path) -> None:
    """A manifest whose seed was edited no longer fits its fingerprint."""
    run = Run.create(tmp_path / "run", IDENTITY)
    path = run.folder / MANIFEST
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    with pytest.raises(StoreError, match="altered"):
        Run.read(run.folder)


def test_an_edited_note_is_noticed(tmp_path: Path) -> None:
    """Tables are drawn by the notes, too, so the manifest is sealed as a whole."""
    run = Run.create(tmp_path / "run", IDENTITY)
    run.note(compared_level=0.1)
    path = run.folder / MANIFEST
    path.write_text(path.read_text(encoding="utf-8").replace('"compared_level": 0.1', '"compared_level": 0.2'), "utf-8")
    with pytest.raises(StoreError, match="altered"):
        Run.read(run.folder)


@pytest.fixture
def journalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose last files are in its journal."""
    monkeypatch.setattr(store, "JOURNAL_FROM", 0)
    run = Run.create(tmp_path / "run", IDENTITY)
    for name in ("cka", "probe"):
        run.stage(name, lambda: pack_sums({"rows": np.ones(2)}))
    assert len((run.folder / JOURNAL).read_bytes().splitlines()) == 2
    return run


def test_a_journal_counts_as_the_manifest_does(journalled: Run) -> None:
    """Readers see what it records, and the next run takes it into the manifest."""
    assert Run.read(journalled.folder).manifest == journalled.manifest
    again = Run.create(journalled.folder, IDENTITY)
    assert not (journalled.folder / JOURNAL).exists()
    assert Run.read(journalled.folder).manifest == again.manifest == journalled.manifest


def test_a_journal_that_was_taken_in_counts_no_more(journalled: Run) -> None:
    """A kill between the new manifest and the end of the journal brings no old record back."""
    old = (journalled.folder / JOURNAL).read_bytes()
    journalled.keep("table.csv", "a")
    journalled.note(a=1)
    (journalled.folder / JOURNAL).write_bytes(old.replace(b"probe", b"other"))
    assert Run.read(journalled.folder).manifest == journalled.manifest


@pytest.mark.parametrize("line", [0, 1])
@pytest.mark.parametrize("cut", [True, False])
def test_what_a_damaged_journal_recorded_is_made_again(journalled: Run, line: int, cut: bool) -> None:
    """Lines before the damage hold, be it a line that a kill cut off or one flipped bit."""
    lines = (journalled.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line][:-9] if cut else lines[line].replace(b"seconds", b"secondt")
    (journalled.folder / JOURNAL).write_bytes(b"".join(lines))
    again = Run.create(journalled.folder, IDENTITY)
    assert list(again.manifest["stages"]) == ["cka", "probe"][:line]
    for name in ("cka", "probe"):
        again.stage(name, lambda: pack_sums({"rows": np.ones(2)}))
    assert sorted(Run.read(journalled.folder).manifest["stages"]) == ["cka", "probe"]


def test_a_journal_ends_when_it_is_as_long_as_the_manifest(journalled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many files rewrite the manifest a few times only, and a reader never has more to go through than twice of it."""
    written: list[Path] = []
    monkeypatch.setattr(store, "write_atomically", lambda path, _: written.append(path))
    for number in range(100):
        journalled.keep(f"part-{number}", "a")
        assert journalled._journal_size < journalled._size + 500
    assert 3 <= written.count(journalled.folder / MANIFEST) <= 7


def test_files_are_listed_not_searched(tmp_path: Path) -> None:
    """A stray file beside the recorded ones is none of the run's; an altered one is made again."""
    run = Run.create(tmp_path / "run", IDENTITY)
    run.keep("parts/part-0", "a")
    (run.folder / "parts" / "part-1").write_text("stray", encoding="utf-8")
    assert run.kept("parts/") == ["parts/part-0"]
    assert (run.has("parts/part-0"), run.has("parts/part-1")) == (True, False)
    (run.folder / "parts" / "part-0").write_text("b", encoding="utf-8")
    folder = run.folder
    del run
    with pytest.warns(UserWarning, match="made again"):
        assert not Run.create(folder, IDENTITY).has("parts/part-0")


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [("2.12.1+cpu", "2.13.0+cpu", True), ("2.13.0", "2.13.1+cpu", False), ("not installed", "1.0", True)],
)
def test_other_versions_go_on_only_where_results_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, refused: bool
) -> None:
    """Another release is refused when something is to be made, a patch is said; what is allowed is on record."""

    def install(version: str) -> None:
        monkeypatch.setattr(store, "_version", lambda name: version if name == "torch" else "1.0")

    install(old)
    run = Run.create(tmp_path / "run", IDENTITY)
    run.stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
    install(new)
    again = Run.create(run.folder, IDENTITY)
    again.stage("cka", lambda: pytest.fail("computed twice"))  # reading is no matter of versions
    if refused:
        for ask in (lambda: again.stage("probe", lambda: pytest.fail("computed")), lambda: again.has("part")):
            with pytest.raises(StoreError, match=re.escape(f"begun with torch {old}, now {new}")):
                ask()
        allow_other_versions(run.folder)
        again = Run.create(run.folder, IDENTITY)
    with pytest.warns(UserWarning, match="What is made now says so"):
        again.stage("probe", lambda: pack_sums({"rows": np.ones(2)}))
    stages = Run.read(run.folder).manifest["stages"]
    assert "packages" not in stages["cka"]
    assert stages["probe"]["packages"] == {"torch": new}


def test_a_run_of_an_earlier_format_goes_on_only_where_asked(tmp_path: Path) -> None:
    """What is missing would be made by other rules than what is there; a run that has nothing yet begins anew."""

    def age(run: Run) -> Path:
        run.manifest["format"] = 1
        run._write_manifest()
        return run.folder

    begun, empty = Run.create(tmp_path / "begun", IDENTITY), Run.create(tmp_path / "empty", IDENTITY)
    begun.stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
    again = Run.create(age(begun), IDENTITY)
    assert again.arrays("cka")["rows"].size == 2
    with pytest.raises(StoreError, match="begun with store format 1, now 2"):
        again.stage("probe", lambda: pytest.fail("computed"))
    allow_other_versions(begun.folder)
    with pytest.warns(UserWarning, match="What is made now says so"):
        Run.create(begun.folder, IDENTITY).stage("probe", lambda: pack_sums({"rows": np.ones(2)}))
    stages = Run.read(begun.folder).manifest["stages"]
    assert stages["probe"]["packages"] == {"store format": "2"} and "packages" not in stages["cka"]
    Run.create(age(empty), IDENTITY).stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
    assert Run.read(empty.folder).manifest["format"] == 2


def test_a_stage_may_be_a_folder(tmp_path: Path) -> None:
    """Such as a checkpoint: whole with all its files, gone with one of them, and forgotten with all."""
    run = Run.create(tmp_path / "run", IDENTITY)
    for name in ("a", "b"):
        run.write(f"checkpoint/{name}", name)
    run.keep_folder("checkpoint", run.folder / "checkpoint")
    assert Run.read(run.folder).files_of("checkpoint") == ["checkpoint/a", "checkpoint/b"]
    run.keep_folder("another", run.folder / "checkpoint")
    run.forget("another")
    assert list(Run.read(run.folder).manifest["stages"]) == ["checkpoint"]
    run.keep_folder("checkpoint", run.folder / "checkpoint")
    folder = run.folder
    del run
    (folder / "checkpoint" / "a").unlink()
    with pytest.warns(UserWarning, match="checkpoint/a is made again: No such file"):
        assert not Run.create(folder, IDENTITY).manifest["stages"]


def test_another_process_is_locked_out_as_long_as_the_first_works(tmp_path: Path) -> None:
    """The refusal names the holder; a holder that was killed holds nothing, and its partial files go."""
    folder = tmp_path / "run"
    hold = (
        "import sys, time; from pathlib import Path; from mspgt_tl.store import Run\n"
        f"run = Run.create(Path({str(folder)!r}), {IDENTITY!r}); print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"in use by process {holder.pid} on "):
            Run.create(folder, IDENTITY)
    finally:
        holder.kill()
        holder.communicate()
    (folder / "words-dev.1.partial").write_bytes(b"half")
    run = Run.create(folder, IDENTITY)
    assert not list(folder.glob("*.partial"))
    assert Run.create(folder, IDENTITY).folder == run.folder  # the same process may open it again


def test_scratch_of_a_run_inside_is_left_alone(tmp_path: Path) -> None:
    """A study's folder holds runs that other processes may be working in, and folders of any name."""
    inner = Run.create(tmp_path / "study" / "detect", IDENTITY)
    scratch = inner.folder / "words-dev.7.partial"
    scratch.write_bytes(b"half")
    (tmp_path / "study" / "model.partial").mkdir()
    Run.create(tmp_path / "other", IDENTITY)
    outer = tmp_path / "study" / MANIFEST
    outer.write_bytes((tmp_path / "other" / MANIFEST).read_bytes())
    Run.create(tmp_path / "study", IDENTITY)
    assert scratch.exists()


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Where the manifest recorded no files, those that are there count."""
    run = Run.create(tmp_path / "run", IDENTITY)
    run.stage("cka", lambda: pack_sums({"rows": np.ones(2)}))
    manifest = json.loads((run.folder / MANIFEST).read_text(encoding="utf-8"))
    del manifest["files"], manifest["seal"]
    (run.folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    again = Run.create(run.folder, IDENTITY)
    again.stage("probe", lambda: pack_sums({"rows": np.ones(2)}))
    again.stage("cka", lambda: pytest.fail("computed twice"))


def test_any_identity_that_json_can_hold_is_found_again(tmp_path: Path) -> None:
    """Numbers as names sort otherwise once they are text."""
    identity = {"command": "detect", "sizes": {10: "a", 2: "b"}}
    Run.create(tmp_path / "run", identity)
    assert Run.create(tmp_path / "run", identity).folder == tmp_path / "run"


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """Nobody's file is written through a symbolic link."""
    target = tmp_path / "precious"
    target.write_text("mine", encoding="utf-8")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(target)
    with pytest.raises(StoreError, match="cannot be written"):
        Run.create(folder, IDENTITY)
    assert target.read_text(encoding="utf-8") == "mine"


def test_missing_run_says_how_to_make_one(tmp_path: Path) -> None:
    """Reading a folder without a run tells which command makes one."""
    with pytest.raises(StoreError, match="mspgt detect"):
        Run.read(tmp_path)
