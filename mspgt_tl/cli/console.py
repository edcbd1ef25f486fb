"""What every command shares: the app, its consoles, and how our errors and Ctrl-C are told."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import tempfile
import tomllib
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

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
    _settle_streams()
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


def _settle_streams() -> None:
    """Let no command fail by how it is told: a closed stream swallows all, a sign that one lacks becomes its number."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(error: Exception) -> NoReturn:
    """End with what nobody foresaw."""
    what = f"{type(error).__name__}: {without_secrets(str(error))}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="mspgt-", suffix=".traceback", delete=False) as file:
            file.write(without_secrets("".join(traceback.format_exception(error))))
        said = f"{what}. This is a fault of mspgt; the traceback is in {file.name}."
    except OSError as full:
        said = f"{what}. No traceback could be kept: {full.strerror}."
    err.print(mark("Error:", "bold red", said), soft_wrap=True, highlight=False)
    sys.exit(70)


@contextmanager
def resumable(folder: Path, *, given: Path | None) -> Iterator[None]:
    """Say after Ctrl-C, or where a system ends the command (SIGTERM, SIGHUP), how the run goes on.

    Args:
        folder: the run's.
        given: the same where the user named it; else the command to go on with must.
    """
    handlers = {}
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        # Only the main thread hears signals, and `nohup` has its reason to ignore one.
        if current_thread() is main_thread() and signal.getsignal(number) is signal.SIG_DFL:
            handlers[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        out = folder.parent if folder.name == QUICK else folder
        if (folder / MANIFEST).is_file():
            command = ["mspgt", *sys.argv[1:], *([] if given else ["--out", str(out)])]
            told = f"Stopped. What has finished is kept; go on with: {shlex.join(command)}"
        else:
            told = "Stopped before anything was kept."
        with suppress(OSError):  # the terminal may be gone
            err.print(one_line(told), soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
