"""Where independent items of work run: one after the other, on processes of this machine, or on a Ray cluster.

An item is a function and its arguments, and must be safe to run again: what it leaves behind, it leaves in a run folder
that resumes. Results come back in the order in which they finish, and only whoever asked for them writes them down, so
an item whose worker was killed is run again and nothing is counted twice.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from mspgt_tl.errors import ConfigError, StoreError, WorkerError, unknown_name

Kind = Literal["serial", "joblib", "ray"]
RETRIES = 3
"""A killed worker is started again so often, and so often an item is tried again."""

PATIENCE = 60.0
"""Seconds that a shard waits for another one to write down what it is that they share."""

T = TypeVar("T")
Lost = Callable[[int, str], Any]


@dataclass(frozen=True)
class Shard:
    """The items that one of several processes takes care of: every `count`-th, from the `index`-th on (from 1)."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `I/N`.

        Raises:
            ConfigError: it is not of that form, or I does not lie in 1 … N.

        >>> Shard.parse("3/20").pick(list(range(100)))
        [2, 22, 42, 62, 82]
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"A shard is I/N with I from 1 to N, such as 3/20; got '{text}'.")
        return cls(int(found[1]), int(found[2]))

    def pick(self, items: Sequence[T]) -> list[T]:
        """Return this shard's items; all shards together have each item once."""
        return list(items[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


@dataclass(frozen=True)
class Workers:
    """How many items run at a time, and where.

    Raises:
        ConfigError: no workers, an unknown kind, an address without Ray, or Ray is not installed.
    """

    count: int = 1
    kind: Kind | None = None
    """None: `serial` for one worker, else `joblib`."""
    address: str | None = None
    """Of a running Ray cluster, such as `auto` or `HOST:6379`; None starts one on this machine for the while."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"At least one job is needed, got {self.count}.")
        if self.kind not in (None, *get_args(Kind)):
            raise ConfigError(unknown_name("backend", str(self.kind), get_args(Kind)))
        if self.address and self.kind != "ray":
            raise ConfigError("A Ray address goes with the Ray backend: --backend ray --ray-address …")
        if self.kind == "serial" and self.count > 1:
            raise ConfigError(f"The serial backend runs one item at a time; --jobs {self.count} needs joblib or ray.")
        if self.kind == "ray":
            _ray()

    @property
    def is_serial(self) -> bool:
        """Whether items run one after the other in this process, where they can report their progress."""
        return self.kind == "serial" or (self.kind is None and self.count == 1)

    def run(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        *,
        folder: Path,
        gpus: float = 0,
        lost: Lost | None = None,
    ) -> Iterator[Any]:
        """Yield `function(*item)` of every item as it finishes.

        Args:
            folder: what the items share; every worker of a cluster has to see it under this path.
            gpus: that an item needs; a cluster runs as many items at a time as it has.
            lost: called with an item's number and the reason where its worker died again and again; what it returns
                takes the place of the result. None raises.

        Raises:
            StoreError: a worker does not see the folder.
            WorkerError: an item's worker died again and again.
        """
        if self.is_serial:
            yield from (function(*item) for item in items)
        elif self.kind == "ray":
            yield from _on_ray(self, function, items, folder, gpus, lost)
        else:
            from joblib import Parallel, cpu_count, delayed

            threads = max(1, cpu_count() // self.count)
            parallel: Any = Parallel(n_jobs=self.count, return_as="generator_unordered", batch_size=1)  # pyright: ignore
            try:
                yield from parallel(delayed(_on_threads)(threads, function, item) for item in items)
            except BrokenProcessPool as error:
                raise WorkerError(
                    "A worker was killed (out of memory?). What has finished is kept, and the same command goes on; "
                    f"fewer than --jobs {self.count} need less memory."
                ) from error


def _on_threads(threads: int, function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
    import torch

    torch.set_num_threads(threads)
    return function(*item)


def _ray() -> Any:
    if "ray" not in sys.modules:
        # Read once, as Ray is imported: nobody without the token may send work to a cluster that is started here.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The Ray backend needs Ray: pip install 'mspgt-tl[ray]'.") from error
    return ray


class _Worker:
    """Runs items in a process of its own, which keeps what their functions cache, such as a loaded model."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def sees(self, token: Path) -> tuple[str, bool]:
        import socket

        return socket.gethostname(), token.is_file()

    def run(self, function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
        return _on_threads(self.threads, function, item)


def _on_ray(
    workers: Workers,
    function: Callable[..., Any],
    items: Sequence[tuple[Any, ...]],
    folder: Path,
    gpus: float,
    lost: Lost | None,
) -> Iterator[Any]:
    ray = _ray()
    with _cluster(ray, workers):
        there = ray.cluster_resources()
        cores = int(there.get("CPU", 1))
        count = min(workers.count, len(items), cores, int(there.get("GPU", 0) // gpus) if gpus else len(items))
        if items and count < 1:
            raise ConfigError(f"An item needs {gpus:g} GPU; the Ray cluster has {there.get('GPU', 0):g}.")
        threads = max(1, cores // max(1, workers.count))
        options = {"num_cpus": threads, "num_gpus": gpus, "max_restarts": RETRIES, "max_task_retries": RETRIES}
        actor = ray.remote(**options)(_Worker)
        idle = [actor.remote(threads) for _ in range(count)]
        check_shared_folder(ray, idle, folder)
        waiting, busy = deque(enumerate(items)), {}
        while waiting or busy:
            while idle and waiting:
                worker, (number, item) = idle.pop(), waiting.popleft()
                busy[worker.run.remote(function, item)] = worker, number
            (done,), _ = ray.wait(list(busy), num_returns=1)
            worker, number = busy.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayActorError as error:
                reason = f"its worker died {RETRIES + 1} times (out of memory?)"
                if lost is None:
                    raise WorkerError(f"Item {number + 1} of {len(items)} is lost: {reason}.") from error
                result, worker = lost(number, reason), actor.remote(threads)
            idle.append(worker)
            yield result


@contextmanager
def _cluster(ray: Any, workers: Workers) -> Iterator[None]:
    """Join a running cluster, or start one on this machine; one that is joined already is used and left."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": True, "configure_logging": False}
    if workers.address:
        try:
            ray.init(address=workers.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"No Ray cluster answers at '{workers.address}': {error}") from error
    else:
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")  # a busy machine is slower than Ray expects
        ray.init(num_cpus=max(workers.count, os.cpu_count() or 1), include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def check_shared_folder(ray: Any, workers: Sequence[Any], folder: Path) -> None:
    """Raise unless every worker sees a file that is made in the folder.

    Raises:
        StoreError: one of them does not.
    """
    token = folder.resolve() / f".seen-{uuid.uuid4().hex}.partial"
    token.touch()
    try:
        blind = {host for host, sees in ray.get([worker.sees.remote(token) for worker in workers]) if not sees}
    finally:
        token.unlink(missing_ok=True)
    if blind:
        raise StoreError(
            f"{folder} is not the same folder on {', '.join(sorted(blind))}: choose an --out that every worker sees "
            "under the same path, such as one on a shared disk."
        )
