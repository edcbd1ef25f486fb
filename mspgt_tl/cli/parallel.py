"""Options of commands whose items can run at the same time: how many, where, and which part of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mspgt_tl.errors import ConfigError
from mspgt_tl.workers import Shard, Workers

JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Items at the same time.")]


@dataclass(frozen=True)
class ParallelOptions:
    """Where items run, and which of them."""

    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="serial|joblib|ray",
            help="Where items run: here, on processes of this machine, or on Ray.",
        ),
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster, auto or HOST:PORT; without it one is started on this machine."),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only the I-th of N parts; others may run at the same time, into the same --out."
        ),
    ] = None

    def read(self, jobs: int, *, force: bool = False) -> tuple[Workers, Shard | None]:
        """Return where items run (an address means Ray), and the part of them that is asked for; None for all.

        Raises:
            ConfigError: it is none, or the folder that parts share is to be begun anew by one of them.
        """
        if self.shard and force:
            raise ConfigError(
                "--force would take away what the other parts have done; remove the folder by hand first."
            )
        kind: Any = self.backend or ("ray" if self.ray_address else None)
        return Workers(jobs, kind, self.ray_address), Shard.parse(self.shard) if self.shard else None
