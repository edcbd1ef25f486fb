"""What every command shares: the app, its consoles, progress bars, and how our errors are printed."""

from __future__ import annotations

import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mspgt_tl.cli.format import plain
from mspgt_tl.errors import ConfigError, MspgtError

app = typer.Typer(
    name="mspgt",
    help="Find, test and question the layer boundaries between processing scales of causal language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
out = Console()
err = Console(stderr=True)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"mspgt-tl {version('mspgt-tl')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line.

    Our own errors become one line on standard error and exit code 2. What nobody foresaw becomes one line, too, with
    its traceback in a file, and exit code 70.
    """
    try:
        app()
    except MspgtError as error:
        err.print(f"[bold red]Error:[/] {plain(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="mspgt-", suffix=".traceback", delete=False) as file:
            traceback.print_exception(error, file=file)
        said = f"{type(error).__name__}: {error}. This is a fault of mspgt; the traceback is in {file.name}."
        err.print(f"[bold red]Error:[/] {plain(said)}", soft_wrap=True, highlight=False)
        sys.exit(70)


class ProgressBars:
    """Progress of a run's stages as bars with rate and time left."""

    def __init__(self, bars: Progress) -> None:
        self.bars, self.tasks = bars, dict[str, TaskID]()

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total, rate="")
        if self.bars.tasks[self.tasks[stage]].finished and done < total:
            self.bars.reset(self.tasks[stage], total=total)  # the next run of a study has the same stages
        elapsed = self.bars.tasks[self.tasks[stage]].elapsed or 0
        rate = f"{done / elapsed:,.0f}/s" if elapsed > 1 and total > 100 else ""
        self.bars.update(self.tasks[stage], completed=done, total=total, rate=rate)


@contextmanager
def progress_bars() -> Iterator[ProgressBars]:
    """Show progress on standard error while the body runs."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err) as bars:
        yield ProgressBars(bars)


def parse_numbers(text: str) -> list[float]:
    """Read numbers separated by commas.

    Raises:
        ConfigError: something else stands there.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"Numbers separated by commas are needed, got '{text}'.") from error


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a value is TOML, or else a plain string.

    Raises:
        ConfigError: a pair without an equals sign.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set needs NAME=VALUE, got '{pair}'.")
        try:
            settings[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name.strip()] = value
    return settings
