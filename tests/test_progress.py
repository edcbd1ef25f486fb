"""Signs of life: how often, in which words, and to whom."""

from __future__ import annotations

import sys

import pytest

from mspgt_tl.progress import LOG, Lines, Told, telling


class Clock:
    """A clock that tests move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_at_most_every_thirty_seconds_a_stage() -> None:
    """However often a stage tells; the end is always told, and short stages tell nothing but their end."""
    clock, written = Clock(), []
    lines = Lines(written.append, clock)
    for second in range(101):
        clock.now = float(second)
        lines("signals", 10 * second, 1000)
    lines("short", 0, 5)
    lines("short", 5, 5)
    lines("short", 5, 5)
    assert written == [
        "signals: 300 of 1,000 (30%), 10/s, 70 s left",
        "signals: 600 of 1,000 (60%), 10/s, 40 s left",
        "signals: 900 of 1,000 (90%), 10/s, 10 s left",
        "signals: 1,000 done in 2 min",
        "short: 5 done in 0 s",
    ]


def test_what_was_there_before_is_no_speed() -> None:
    """A resumed stage begins where it was: its rate counts what it did since."""
    clock, written = Clock(), []
    lines = Lines(written.append, clock)
    lines("tokens", 900, 1000)
    clock.now = 60.0
    lines("tokens", 910, 1000)
    assert written == ["tokens: 910 of 1,000 (91%), 10/min, 9 min left"]


def test_a_stage_that_comes_again_is_told_again() -> None:
    """Runs of a study have the same stages."""
    written: list[str] = []
    lines = Lines(written.append, Clock())
    for _ in range(2):
        lines("signals", 0, 2)
        lines("signals", 2, 2)
    assert len(written) == 2


def test_the_folder_has_a_log_whoever_watches(tmp_path) -> None:
    """What is said and every stage's lines, with the time, appended to by the next run."""
    heard: list[tuple[str, float, float]] = []
    for _ in range(2):
        with telling(lambda *told: heard.append(told)) as told, told.logged(tmp_path):
            told.say("Detection: 12 blocks.")
            with told.doing("loading"):
                pass
    log = (tmp_path / LOG).read_text(encoding="utf-8").splitlines()
    assert [line[20:] for line in log] == ["Detection: 12 blocks.", "loading: done in 0 s"] * 2
    assert heard == [("loading", 0, 1), ("loading", 1, 1)] * 2


@pytest.mark.parametrize(
    ("asked", "on_terminal", "shown"), [(True, False, True), (None, False, False), (False, True, False)]
)
def test_who_is_told(asked, on_terminal, shown, capsys, monkeypatch) -> None:
    """True tells anyone, None only whoever watches, False nobody; nothing goes to standard output."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    with telling(asked) as told:
        told.say("hello")
        told("signals", 5, 5)
    caught = capsys.readouterr()
    assert ("hello" in caught.err) == shown
    assert caught.out == ""


def test_a_run_inside_tells_the_same_one() -> None:
    """Who tells already is not wrapped."""
    outer = Told(None, None)
    with telling(outer) as inner:
        assert inner is outer
