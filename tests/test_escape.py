"""Terminal lines, CSV, LaTeX and manifests, with names and texts that would do harm."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from mspgt_tl.cli.console import PlainConsole, mark
from mspgt_tl.cli.format import make_table
from mspgt_tl.dashboard.tables import Shown
from mspgt_tl.escape import anonymous, one_line, read_csv, to_csv, to_latex, without_secrets
from mspgt_tl.store import MANIFEST, Run

HOSTILE = [
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "<script>window.hacked = 1</script>",
    'a "quote", a comma',
    "'=1",
    "''=1",
    "\\input{/etc/passwd} {x} ^ ~ & % $ # _",
    "\x1b[2J\x1b]0;title\x07red",
    "[bold]no markup[/bold] [/]",
    "\u202etxt.exe",
    "two\nlines",
]
PLAIN = ["Local", "it's", "-3.5", "+1e-3", "-12 % *", "3", "", "a=b"]


def test_no_cell_of_a_csv_begins_a_formula() -> None:
    """Headers and indices neither; what begins no formula stays, and so do numbers, be they texts."""
    frame = pd.DataFrame({"=name": HOSTILE, "n": range(len(HOSTILE)), "x": [-0.5] * len(HOSTILE)})
    for written in (to_csv(frame), to_csv(frame.set_index("=name"), index=True)):
        for row in csv.reader(io.StringIO(written, newline="")):
            assert not [cell for cell in row if cell[:1] in ("=", "@", "+", "\t", "\r")], row
            assert not [cell for cell in row if cell[:1] == "-" and cell != "-0.5"], row
    assert [row[0] for row in csv.reader(io.StringIO(to_csv(pd.DataFrame({"a": PLAIN}))))][1:] == PLAIN


def test_what_was_written_as_csv_is_read_as_it_was() -> None:
    """The apostrophe goes again, and one that was there stays."""
    texts = [text for text in HOSTILE if "\r" not in text]  # which CSV cannot tell from a line's end
    frame = pd.DataFrame({"=name": texts, "value": [-0.5] * len(texts)})
    pd.testing.assert_frame_equal(read_csv(to_csv(frame).encode()), frame)


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_prints_every_sign(text: str) -> None:
    """In cells, headers and captions: outside of our own commands no sign has a meaning, and no line ends."""
    frame = pd.DataFrame({"a": [text]})
    shown = Shown(text, frame, {text: lambda row: str(row["a"])})
    table = shown.latex("name")
    assert table.count(to_latex(text)) >= 3
    for line in table.splitlines():
        bare = line
        for ours in (
            r"\textbackslash{}",
            r"\textasciitilde{}",
            r"\textasciicircum{}",
            *(f"\\{s}" for s in "{}&%$#_\\"),
        ):
            bare = bare.replace(ours, "")
        assert not set(bare) & set("%$#_^~"), line
    assert not {sign for sign in table if ord(sign) < 32} - {"\n"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_names_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No sequence moves the cursor or sets the title, and brackets are no markup; in lines, tables and marked lines."""
    out = PlainConsole()
    out.print(text, soft_wrap=True)
    out.print(mark("·", "bold", text), soft_wrap=True)
    out.print(make_table(text, ["column"], [[text]], fold=["column"]))
    shown = capsys.readouterr().out
    assert not {sign for sign in shown if ord(sign) < 32 or ord(sign) == 127 or sign == "\u202e"} - {"\n"}
    assert shown.startswith(" ".join(one_line(part) for part in [text]).split(" ")[0])
    if "[bold]" in text:
        assert shown.count("[bold]no markup[/bold] [/]") >= 3


def test_names_that_are_not_utf8_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The system hands them over as lone surrogates, which no terminal takes."""
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    PlainConsole().print(f"{name} is not a file", soft_wrap=True)
    assert capsys.readouterr().out == "caf .txt is not a file\n"


def test_a_manifest_names_no_password_and_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home folder is `~`, so the same run of two users is the same; secrets in addresses are no part of a run."""
    monkeypatch.setenv("HOME", "/home/anna")
    identity = {
        "command": "intervene",
        "model": {"name": "/home/anna/models/mine@random:1"},
        "config": {
            "metrics": {"languagetool": "https://anna:s3cret@lt.example:8081/v2?apiKey=s3cret"},
            "paths": ["/home/anna"],
        },
    }
    run = Run.create(tmp_path / "run", identity)
    run.note(plan={"text": "/home/anna/wiki.txt", "kept": ["/data/x", "/home/annabel", 3, None]})
    text = (run.folder / MANIFEST).read_text(encoding="utf-8")
    assert "s3cret" not in text
    assert "/home/anna/" not in text
    read = json.loads(text)
    assert read["identity"]["model"]["name"] == "~/models/mine@random:1"
    assert read["identity"]["config"]["metrics"]["languagetool"] == "https://lt.example:8081/v2"
    assert read["notes"]["plan"] == {"text": "~/wiki.txt", "kept": ["/data/x", "/home/annabel", 3, None]}
    monkeypatch.setenv("HOME", "/home/bert")
    identity["model"] = {"name": "/home/bert/models/mine@random:1"}
    identity["config"]["paths"] = ["/home/bert"]  # pyright: ignore[reportArgumentType]
    assert Run.create(tmp_path / "run", identity).folder == run.folder


def test_a_user_without_a_home_folder_has_none_to_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the user's number may stand for nobody that the system knows."""

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert anonymous(["/home/anna/x"]) == ["/home/anna/x"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://me:pw@host/p?k=1#f", "http://host/p#f"),
        (
            "GET http://host:1/v2/check?key=abc failed; see ftp://u@h/",
            "GET http://host:1/v2/check failed; see ftp://h/",
        ),
        ("me@host.org is no address of a server", "me@host.org is no address of a server"),
        ("hf:name@split#column", "hf:name@split#column"),
        ("why? http://host/", "why? http://host/"),
    ],
)
def test_only_secrets_of_addresses_go(text: str, left: str) -> None:
    """Names of models and data sets keep their `@`."""
    assert without_secrets(text) == left
    assert anonymous({"a": [text]}) == {"a": [left]}
