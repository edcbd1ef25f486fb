"""What leaves the package is made harmless here: terminal lines, CSV, LaTeX, and what a manifest tells of its user.

Names, labels and texts come from files and from the network. None of them may move a terminal's cursor, start a formula
in a spreadsheet, or end a LaTeX command; and no password, and no home folder, goes into a manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Control characters, and those that reverse the order of what is shown.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_FORMULA = re.compile(r"[=+\-@\t\r\n]|'+[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ %*]*")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "{}&%$#_"},
}


def one_line(text: str) -> str:
    r"""Return a text as a terminal may show it: on one line, without control characters.

    >>> one_line("a\x1b[2Jb\n c")
    'a [2Jb c'
    """
    return " ".join(_CONTROLS.sub(" ", text).split())


def to_csv(frame: pd.DataFrame, *, index: bool = False) -> str:
    """Return a table as CSV that no spreadsheet takes for formulas: an apostrophe goes before a text that begins so.

    `read_csv` takes it away again. Numbers stay as they are, be they kept as texts.
    """
    shown = frame.map(_guard)
    shown.columns = [_guard(name) for name in frame.columns]
    if index:
        shown.index = frame.index.map(_guard).rename(_guard(frame.index.name))
    return shown.to_csv(index=index)


def read_csv(data: bytes) -> pd.DataFrame:
    """Read what `to_csv` wrote."""
    import pandas as pd

    frame = pd.read_csv(BytesIO(data))
    frame.columns = [_unguard(name) for name in frame.columns]
    return frame.map(_unguard)


def _guard(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # A lone carriage return is not put in quotation marks, and begins a row of its own for many readers.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _unguard(value: Any) -> Any:
    return value[1:] if isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value[1:]) else value


def to_latex(text: str) -> str:
    r"""Return a text as LaTeX prints it.

    >>> to_latex("50 % of {a_b}")
    '50 \\% of \\{a\\_b\\}'
    """
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))


def without_secrets(text: str) -> str:
    """Return a text whose addresses name no user, no password and no query.

    >>> without_secrets("http://me:secret@host:8081/v2?key=1 failed")
    'http://host:8081/v2 failed'
    """
    return re.sub(r"(?<=://)([^\s/?#]*@)?([^\s?#]*)(\?[^\s#]*)?", r"\2", text)


def describe_error(error: BaseException) -> str:
    """Return an error's type and the first line of its message, without secrets, for a `reason`.

    >>> describe_error(OSError("no route\\nto host"))
    'OSError: no route'
    """
    first = without_secrets(str(error).strip().split("\n")[0])
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def anonymous(value: Any) -> Any:
    """Return nested plain values without secrets, and with `~` for the home folder of whoever runs this."""
    if isinstance(value, Mapping):
        return {name: anonymous(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [anonymous(one) for one in value]
    return _tilde(without_secrets(value)) if isinstance(value, str) else value


def _tilde(text: str) -> str:
    try:
        home = str(Path.home())
    except RuntimeError:  # no HOME, and a user whom the system does not know, as in containers
        return text
    return f"~{text[len(home) :]}" if len(home) > 1 and (text == home or text.startswith(f"{home}/")) else text
