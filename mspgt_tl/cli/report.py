"""`mspgt report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mspgt_tl.cli.console import app
from mspgt_tl.cli.options import JsonFlag
from mspgt_tl.cli.results import show


@app.command(
    epilog="""Examples:

    mspgt report runs/mine

    mspgt report runs/mine --json
    """
)
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of any command, or of a study.")],
    as_json: JsonFlag = False,
) -> None:
    """Draw a run's page anew and print its result."""
    import mspgt_tl.study.report  # noqa: F401 - makes studies known, which lie above the pipeline
    from mspgt_tl.pipeline.shell import kind_of

    kind = kind_of(run)
    result = kind.load(run)
    kind.write_page(result)
    show(result, as_json=as_json)
