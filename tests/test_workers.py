"""Items of work: split into shards, run here or on processes, and on a real Ray cluster of two workers."""

from __future__ import annotations

import operator
import os
from pathlib import Path

import pytest

from mspgt_tl.errors import ConfigError, DataError, StoreError, WorkerError
from mspgt_tl.workers import Shard, Workers, check_shared_folder


@pytest.mark.parametrize("count", [1, 3, 20, 30])
def test_shards_together_have_every_item_once(count: int) -> None:
    """Whatever their number, more shards than items among them."""
    items = list(range(23))
    parts = [Shard(i, count).pick(items) for i in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/2/3", "-1/3", ""])
def test_unusable_shards_are_refused(text: str) -> None:
    """With the form that was needed."""
    with pytest.raises(ConfigError, match="3/20"):
        Shard.parse(text)


def test_unusable_workers_are_refused() -> None:
    """None at all, a kind that is none, an address without Ray, several in a row."""
    for arguments, told in (
        ((0,), "At least one"),
        ((2, "ary"), "Did you mean 'ray'"),
        ((2, "joblib", "auto"), "--backend ray"),
        ((2, "serial"), "--jobs 2"),
    ):
        with pytest.raises(ConfigError, match=told):
            Workers(*arguments)


@pytest.mark.parametrize("workers", [Workers(), Workers(2, "joblib")])
def test_every_item_comes_back_once(workers: Workers, tmp_path: Path) -> None:
    """One after the other, and on two processes."""
    found = list(workers.run(operator.mul, [(i, 3) for i in range(7)], folder=tmp_path))
    assert sorted(found) == [0, 3, 6, 9, 12, 15, 18]


def test_errors_of_an_item_reach_the_caller(tmp_path: Path) -> None:
    """As they are."""
    with pytest.raises(ZeroDivisionError):
        list(Workers().run(operator.truediv, [(1, 0)], folder=tmp_path))


def test_a_killed_process_is_told(tmp_path: Path) -> None:
    """By the system, for its memory: one line, and what has finished is kept."""
    with pytest.raises(WorkerError, match="out of memory"):
        list(Workers(2).run(os._exit, [(9,), (9,)], folder=tmp_path))


# What runs on the cluster is sent there whole: the workers know nothing of this file.


def _note_and_double(folder: Path, number: int) -> int:
    with (folder / "ran.txt").open("a") as file:
        file.write(f"{number}\n")
    return 2 * number


def _die_once(folder: Path, number: int) -> int:
    """Kill the worker in the middle of the third item, the first time it comes."""
    import os as system
    import signal as signals

    if number == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        system.kill(system.getpid(), signals.SIGKILL)
    return 2 * number


def _always_die(number: int) -> int:
    import os as system
    import signal as signals

    if number == 1:
        system.kill(system.getpid(), signals.SIGKILL)
    return number


def _refuse(number: int) -> int:
    from mspgt_tl.errors import DataError as Refusal

    raise Refusal(f"Nothing can be done with {number}.")


def _process() -> int:
    import os as system
    import time as clock

    clock.sleep(0.2)
    return system.getpid()


@pytest.mark.slow
class TestOnRay:
    """Two workers on a local cluster."""

    workers = property(lambda self: Workers(2, "ray"))
    pytestmark = pytest.mark.usefixtures("ray_cluster")

    def test_items_come_back_once(self, tmp_path: Path) -> None:
        """Each is run once, on one of two processes that are not this one."""
        found = list(self.workers.run(_note_and_double, [(tmp_path, i) for i in range(9)], folder=tmp_path))
        assert sorted(found) == list(range(0, 18, 2))
        assert sorted(map(int, (tmp_path / "ran.txt").read_text().split())) == list(range(9))
        processes = set(self.workers.run(_process, [()] * 6, folder=tmp_path))
        assert len(processes) == 2
        assert os.getpid() not in processes

    def test_a_killed_worker_is_replaced_and_its_item_run_again(self, tmp_path: Path) -> None:
        """Killed with -9 in the middle of an item: every item comes back, and once."""
        found = list(self.workers.run(_die_once, [(tmp_path, i) for i in range(8)], folder=tmp_path))
        assert (tmp_path / "died").exists()
        assert sorted(found) == list(range(0, 16, 2))

    def test_an_item_that_kills_every_worker_is_told(self, tmp_path: Path) -> None:
        """The others come back; the caller decides what stands in its place, or it is an error."""
        items = [(i,) for i in range(3)]
        found = list(self.workers.run(_always_die, items, folder=tmp_path, lost=lambda number, why: (number, why)))
        assert [one for one in found if isinstance(one, int)] in ([0, 2], [2, 0])
        assert (1, "its worker died 4 times (out of memory?)") in found
        with pytest.raises(WorkerError, match="Item 2 of 3"):
            list(self.workers.run(_always_die, items, folder=tmp_path))

    def test_errors_reach_the_caller_as_they_are(self, tmp_path: Path) -> None:
        """One of ours keeps its type and its words."""
        with pytest.raises(DataError, match=r"^Nothing can be done with 5\.$"):
            list(self.workers.run(_refuse, [(5,)], folder=tmp_path))

    def test_a_folder_that_workers_do_not_see_is_refused(self, tmp_path: Path) -> None:
        """At the start, with the host that does not see it; nothing is left in it."""
        import ray

        class Blind:
            def sees(self, token: Path) -> tuple[str, bool]:
                return "node-7", False

        blind = ray.remote(Blind).remote()
        with pytest.raises(StoreError, match="not the same folder on node-7"):
            check_shared_folder(ray, [blind], tmp_path)
        assert not list(tmp_path.iterdir())
        ray.kill(blind)

    def test_more_gpus_than_there_are_is_refused(self, tmp_path: Path) -> None:
        """Instead of waiting for them for ever."""
        with pytest.raises(ConfigError, match="needs 1 GPU"):
            list(self.workers.run(operator.neg, [(1,)], folder=tmp_path, gpus=1))
