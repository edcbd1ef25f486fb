"""How commands show what a run found: one way for all of them, keyed by the command that made the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mspgt_tl.cli.console import mark, out
from mspgt_tl.config import json_values
from mspgt_tl.escape import one_line

Summary = dict[str, Any]
"""A result as plain values."""


class Printer:
    """Prints a result for people, from the same plain values that `--json` gives."""

    def __init__(self, summarise: Callable[[Any], Summary], print_tables: Callable[[Summary], None]) -> None:
        self.summarise, self.print_tables = summarise, print_tables


PRINTERS: dict[str, Printer] = {}
"""By command; filled by the modules of the commands."""


def prints(command: str, summarise: Callable[[Any], Summary]) -> Callable[[Callable[[Summary], None]], Any]:
    """Mark a function as what prints the runs of a command.

    Args:
        summarise: makes plain values from a result; `reasons` among them are printed below the tables.
    """

    def mark(print_tables: Callable[[Summary], None]) -> Callable[[Summary], None]:
        PRINTERS[command] = Printer(summarise, print_tables)
        return print_tables

    return mark


def show(result: Any, *, as_json: bool) -> None:
    """Print a result: its tables, what was cut or left out while reading, why something is missing, and its page."""
    from mspgt_tl.pipeline.shell import REPORT

    printer = PRINTERS[str(result.manifest["identity"].get("command", "detect"))]
    page = (result.folder / REPORT).resolve() if result.folder else None
    summary: Summary = json_values(
        printer.summarise(result)
        | {
            "quick": result.manifest["notes"].get("quick"),
            "doubt": result.manifest["notes"].get("scales_doubt") or None,
            "reading": reading(result.manifest),
            "run": str(result.folder) if result.folder else None,
            "report": str(page) if page else None,
        }
    )
    if as_json:
        print_json(summary)
        return
    if summary["quick"]:
        out.print(mark("·", "bold yellow", summary["quick"]))
    printer.print_tables(summary)
    if summary["doubt"]:
        out.print(mark("·", "bold yellow", summary["doubt"]), highlight=False)
    for line in [*summary["reading"], *summary.get("reasons", [])]:
        say(line)
    if page:
        out.print(f"Page: {page}", soft_wrap=True, highlight=False)


def say(line: str, *, soft_wrap: bool = False) -> None:
    """Print one remark below a table."""
    out.print(f"· {one_line(line)}", highlight=False, soft_wrap=soft_wrap)


def print_json(value: Any) -> None:
    """Print what `--json` asks for."""
    print(json.dumps(json_values(value), indent=1))


def reading(manifest: Mapping[str, Any]) -> list[str]:
    """Return how a run's inputs were read: what was joined, cut or left out, and what the bootstrap resamples."""
    from mspgt_tl.corpora.text import count_up

    notes = manifest["notes"]
    parts = [part for part in ("corpus", "treebank") if f"reading_{part}" in notes]
    told = [f"{part}: {count_up(notes[f'reading_{part}'])}" for part in parts]
    units = {"corpus": notes.get("resampled"), "treebank": notes.get("trees_resampled")}
    return told + [f"{part}: the bootstrap resamples {unit}" for part, unit in units.items() if unit]
