"""`mspgt compare`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mspgt_tl.cli.console import app, mark, out
from mspgt_tl.cli.format import make_table
from mspgt_tl.cli.options import JsonFlag, SeedOption
from mspgt_tl.cli.results import print_json, say
from mspgt_tl.escape import one_line

if TYPE_CHECKING:
    from mspgt_tl.comparison import Comparison

NUMERIC = re.compile(r"[-+\d.,%∞–\[\] ]*")
"""What a column of numbers holds."""
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished detections.")]
Families = Annotated[
    list[str] | None,
    typer.Option("--family", metavar="NAME=FAMILY", help="Family of a model, by its name or run folder. Repeatable."),
]
Architectures = Annotated[
    list[str] | None,
    typer.Option("--architecture", metavar="NAME=ARCHITECTURE", help="Architecture of a model. Repeatable."),
]
EffectsFile = Annotated[
    Path | None,
    typer.Option(help="CSV of noise effects: model,family,scale,metric,effect,low,high,dose (effects in per cent)."),
]
CountOption = Annotated[str, typer.Option(help="Boundaries that count: found, or supported by the test of existence.")]


@app.command(
    epilog="""Examples:

    mspgt compare runs/llama2 runs/qwen2.5 --family qwen2.5=Qwen

    mspgt compare runs/a runs/b --count supported --json
    """,
)
def compare(
    runs: Runs,
    family: Families = None,
    architecture: Architectures = None,
    effects: EffectsFile = None,
    count: CountOption = "found",
    seed: SeedOption = 0,
    page: Annotated[
        Path | None,
        typer.Option("--out", metavar="PAGE", help="Write a page of the comparison, such as all.html."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare the boundaries of several models: positions, families, drift, and whether differences are real."""
    from mspgt_tl.pipeline import compare as compare_runs

    found = compare_runs(
        runs,
        families=read_pairs("--family", family),
        architectures=read_pairs("--architecture", architecture),
        effects=effects,
        count=cast(Any, checked_count(count)),
        seed=seed,
    )
    written = None if page is None else found.save(page)
    if as_json:
        print_json(found.to_plain())
        return
    _print(found)
    if written:
        out.print(f"Page: {one_line(str(written))}", highlight=False, soft_wrap=True)


def checked_count(count: str) -> str:
    """Return the choice of boundaries that count.

    Raises:
        ConfigError: it is none.
    """
    from mspgt_tl.errors import ConfigError, unknown_name

    if count not in ("found", "supported"):
        raise ConfigError(unknown_name("choice of --count", count, ("found", "supported")))
    return count


def read_pairs(option: str, pairs: Sequence[str] | None) -> dict[str, str]:
    """Read NAME=VALUE pairs; the last `=` separates.

    Raises:
        ConfigError: one is no pair.
    """
    from mspgt_tl.errors import ConfigError

    read = {}
    for pair in pairs or ():
        name, _, value = pair.rpartition("=")
        if not name or not value:
            raise ConfigError(f"{option} needs NAME=VALUE, got '{pair}'.")
        read[name] = value
    return read


def _print(found: Comparison) -> None:
    from mspgt_tl.dashboard.comparison import tables_of

    for shown in tables_of(found).values():
        text = shown.text()
        if text.empty:
            continue
        words = [name for name in text.columns if not all(map(NUMERIC.fullmatch, text[name]))]
        rows = text.to_numpy().tolist()
        out.print(make_table(shown.caption, list(text.columns), rows, left=words, fold=text.columns))
        if shown.note:
            say(shown.note)
    for doubt in found.doubts:
        out.print(mark("·", "bold yellow", doubt), highlight=False)
