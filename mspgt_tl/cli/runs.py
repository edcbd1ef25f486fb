"""`mspgt runs`, `mspgt open` and `mspgt dashboard`."""

from __future__ import annotations

import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mspgt_tl.cli.console import app, out
from mspgt_tl.cli.format import make_table, number
from mspgt_tl.cli.options import JsonFlag
from mspgt_tl.cli.results import print_json
from mspgt_tl.errors import StoreError

Places = Annotated[
    list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders, or folders that hold them. Default: runs.")
]


@app.command(
    epilog="""Examples:

    mspgt runs

    mspgt runs runs/ other/ --json
    """,
)
def runs(places: Places = None, as_json: JsonFlag = False) -> None:
    """List runs with their model, corpus, verdict, state and size."""
    from mspgt_tl.pipeline.runs import find_runs

    found = find_runs(places or [Path("runs")])
    if as_json:
        print_json([{**asdict(run), "folder": str(run.folder)} for run in found])
        return
    columns = ("folder", "command", "model", "corpus", "what it found", "MB")
    rows = [(r.folder, r.command, r.model, r.corpus, r.verdict, number(r.size / 1e6, ".1f")) for r in found]
    out.print(make_table(f"{len(found)} runs", columns, rows, left=columns[:-1], fold=columns))


@app.command(
    "open",
    epilog="""Examples:

    mspgt open runs/mine
    """,
)
def open_page(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Open a run's page in the browser."""
    from mspgt_tl.pipeline.runs import UNREADABLE, describe_run

    found = describe_run(run)
    if not found.finished:
        raise StoreError(found.verdict if found.command == UNREADABLE else f"{run} has no page yet. {found.verdict}")
    out.print(str(found.page.resolve()), soft_wrap=True, highlight=False)
    # Unlike `typer.launch`, this says nothing where there is no browser; the path above is there to be copied.
    webbrowser.open(found.page.resolve().as_uri())


@app.command(
    epilog="""Examples:

    mspgt dashboard runs/ --port 0
    """,
)
def dashboard(
    places: Places = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 8765,
) -> None:
    """Serve the pages of many runs on this machine, with any other detection to lay over; Ctrl-C ends it."""
    from mspgt_tl.pipeline.runs import find_runs
    from mspgt_tl.pipeline.serve import ADDRESS, make_server

    found = find_runs(places or [Path("runs")])
    if not found:
        raise StoreError("No run lies there. `mspgt detect MODEL --out runs/NAME` makes one.")
    try:
        server = make_server(found, port)
    except OSError as error:
        raise StoreError(f"Port {port} cannot be used ({error.strerror}). Choose another with --port, or 0.") from error
    out.print(f"{len(found)} runs at http://{ADDRESS}:{server.server_address[1]}/ (Ctrl-C ends it)", highlight=False)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
