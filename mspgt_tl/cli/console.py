"""What every command shares: the app, its consoles, and how our errors and Ctrl-C are told."""

from __future__ import annotations

import shlex
import sys
import tempfile
import tomllib
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from mspgt_tl.cli.format import plain
from mspgt_tl.config import NOT_TOML
from mspgt_tl.errors import ConfigError, MspgtError
from mspgt_tl.escape import one_line, without_secrets
from mspgt_tl.store import MANIFEST, QUICK

app = typer.Typer(
    name="mspgt",
    help="Find, test and question the layer boundaries between processing scales of causal language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


class PlainConsole(Console):
    """A console on which names are names: nothing in a text is read as markup, and nothing in it moves the cursor."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make what is printed from a string; all strings pass here, those in tables, too."""
        return super().render_str("\n".join(map(one_line, text.split("\n"))), **options)


out = PlainConsole()
err = PlainConsole(stderr=True)


def mark(sign: str, style: str, text: str) -> Text:
    """Return a text with a sign before it in a style, both on one line."""
    return Text.assemble((sign, style), f" {one_line(text)}")


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
    # What a run does differently than asked is said in one line, like an error.
    warnings.showwarning = lambda message, *_, **__: err.print(
        mark("Warning:", "bold yellow", str(message)), soft_wrap=True, highlight=False
    )
    try:
        app()
    except MspgtError as error:
        err.print(mark("Error:", "bold red", str(error)), soft_wrap=True, highlight=False)
        sys.exit(2)
    except OSError as error:
        # A folder that may not be searched, a name that is too long, a link that leads to itself: no fault of ours.
        if error.errno is None or error.filename is None:
            _fail(error)
        err.print(mark("Error:", "bold red", f"{error.filename}: {error.strerror}."), soft_wrap=True, highlight=False)
        sys.exit(2)
    except Exception as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    """End with what nobody foresaw."""
    with tempfile.NamedTemporaryFile("w", prefix="mspgt-", suffix=".traceback", delete=False) as file:
        file.write(without_secrets("".join(traceback.format_exception(error))))
    what = f"{type(error).__name__}: {without_secrets(str(error))}"
    said = f"{what}. This is a fault of mspgt; the traceback is in {file.name}."
    err.print(mark("Error:", "bold red", said), soft_wrap=True, highlight=False)
    sys.exit(70)


@contextmanager
def resumable(folder: Path, *, given: Path | None) -> Iterator[None]:
    """Say after Ctrl-C how the run goes on.

    Args:
        folder: the run's.
        given: the same where the user named it; else the command to go on with must.
    """
    try:
        yield
    except KeyboardInterrupt:
        out = folder.parent if folder.name == QUICK else folder
        if (folder / MANIFEST).is_file():
            command = ["mspgt", *sys.argv[1:], *([] if given else ["--out", str(out)])]
            told = f"Stopped. What has finished is kept; go on with: {shlex.join(command)}"
        else:
            told = "Stopped before anything was kept."
        err.print(plain(told), soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None


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
        except NOT_TOML:
            settings[name.strip()] = value
    return settings
