"""Signs of life: bars where somebody watches, a line now and then where the output is a file, and always a log.

A stage tells `(stage, done, total)` as often as it likes. On a terminal and in a notebook that moves a bar; elsewhere
one line at most every 30 s a stage says how far it is, how fast and how long it will take, and one line says when it
ends. The same lines go into `progress.log` in the run's folder, whoever watches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mspgt_tl.contracts import Progress
from mspgt_tl.escape import one_line
from mspgt_tl.files import open_own, refusal

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

LOG = "progress.log"
EVERY = 30.0
"""Seconds between two lines of a stage."""


def duration(seconds: float) -> str:
    """Return a time as a newcomer reads it.

    >>> duration(42), duration(600), duration(9000), duration(float("nan"))
    ('42 s', '10 min', '2.5 h', '?')
    """
    if seconds != seconds:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass
class _Stage:
    began: float
    first: float
    """What was done when it began: a resumed stage does not begin at nought."""
    told: float
    """When a line was last written."""
    ended: bool = False


@dataclass
class Lines:
    """Progress as lines of text."""

    write: Callable[[str], Any]
    clock: Callable[[], float] = time.monotonic
    stages: dict[str, _Stage] = field(default_factory=dict)

    def __call__(self, stage: str, done: float, total: float) -> None:
        now = self.clock()
        state = self.stages.get(stage)
        if state is None or (state.ended and done < total):
            state = self.stages[stage] = _Stage(now, done, now)
        if state.ended:
            return
        elapsed, new = now - state.began, done - state.first
        if done >= total:
            state.ended = True
            much = f"{total:,.0f} " if total > 1 else ""
            self.write(f"{stage}: {much}done in {duration(elapsed)}")
        elif now - state.told >= EVERY:
            state.told = now
            line = f"{stage}: {done:,.0f} of {total:,.0f} ({done / total:.0%})"
            if new > 0:
                line += f", {_rate(new / elapsed)}, {duration((total - done) * elapsed / new)} left"
            self.write(line)


def _rate(a_second: float) -> str:
    """Return how fast something goes.

    >>> _rate(120.4), _rate(0.05)
    ('120/s', '3/min')
    """
    return f"{a_second:,.0f}/s" if a_second >= 1 else f"{60 * a_second:.2g}/min"


class BarLines:
    """Progress as bars on a terminal or in a notebook."""

    def __init__(self, bars: Bars) -> None:
        self.bars, self.tasks, self.first = bars, dict[str, Any](), dict[str, float]()

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total, rate="")
            self.first[stage] = done
        task = self.tasks[stage]
        # The next run of a study has the same stages.
        if self.bars.tasks[task].finished and done < total:
            self.bars.reset(task, total=total)
            self.first[stage] = done
        elapsed, new = self.bars.tasks[task].elapsed or 0, done - self.first[stage]
        rate = _rate(new / elapsed) if elapsed > 1 and new > 0 and total > 100 else ""
        self.bars.update(task, completed=done, total=total, rate=rate)


class Told:
    """What a run tells: to whoever watches, and into its folder's log."""

    def __init__(self, display: Progress | None, say: Callable[[str], Any] | None) -> None:
        self._display, self._say = display, say
        self._log: TextIO | None = None
        self._lines = Lines(self._write)

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Tell how far a stage is."""
        if self._display is not None:
            self._display(stage, done, total)
        self._lines(stage, done, total)

    def say(self, line: str) -> None:
        """Tell something that is no stage."""
        if self._say is not None:
            self._say(line)
        self._write(line)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Tell one thing that takes a while and cannot tell how far it is."""
        self(what, 0, 1)
        yield
        self(what, 1, 1)

    @contextmanager
    def logged(self, folder: Path | None) -> Iterator[None]:
        """Write a log into a folder while the body runs."""
        if folder is None:
            yield
            return
        try:
            log = open(folder / LOG, "a", encoding="utf-8", buffering=1, opener=open_own)  # noqa: SIM115
        except OSError as error:
            raise refusal(folder / LOG, error) from error
        with log as self._log:
            try:
                yield
            finally:
                self._log = None

    def _write(self, line: str) -> None:
        if self._log is not None:
            with suppress(OSError):  # a full disk is told by what has to be written
                self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {one_line(line)}\n")


@contextmanager
def telling(progress: Progress | bool | None) -> Iterator[Told]:
    """Show a run's progress while the body runs.

    Args:
        progress: True shows it on standard error; None does so where somebody watches: a terminal, a notebook; False
            does not; a function is called instead. A `Told` is taken as it is.
    """
    if isinstance(progress, Told):
        yield progress
    elif progress is False or (progress is None and not _is_watched()):
        yield Told(None, None)
    elif not isinstance(progress, bool) and progress is not None:
        yield Told(progress, None)
    else:
        with _on_screen() as told:
            yield told


@contextmanager
def _on_screen() -> Iterator[Told]:
    from rich.console import Console

    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    if not (console.is_terminal or console.is_jupyter):
        yield Told(Lines(say), say)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        yield Told(BarLines(bars), say)


def _is_watched() -> bool:
    """Return whether somebody sees standard error now: a terminal, or a notebook."""
    kernel = sys.modules.get("IPython")
    return sys.stderr.isatty() or (kernel is not None and kernel.get_ipython() is not None)
