"""Options of commands whose items can run at the same time: how many, where, and which part of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mspgt_tl.errors import ConfigError
from mspgt_tl.workers import Shard, Workers

JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Items at the same time.")]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend", metavar="serial|joblib|ray", help="Where items run: here, on processes of this machine, or on Ray."
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, auto or HOST:PORT; without it one is started on this machine."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Only the I-th of N parts; others may run at the same time, into the same --out."),
]


def read_workers(jobs: int, backend: str | None, address: str | None) -> Workers:
    """Return where items run; an address means Ray."""
    kind: Any = backend or ("ray" if address else None)
    return Workers(jobs, kind, address)


def read_shard(text: str | None, *, force: bool = False) -> Shard | None:
    """Return the part of the items that is asked for; None for all of them.

    Raises:
        ConfigError: it is none, or the folder that parts share is to be begun anew by one of them.
    """
    if text and force:
        raise ConfigError("--force would take away what the other parts have done; remove the folder by hand first.")
    return Shard.parse(text) if text else None
