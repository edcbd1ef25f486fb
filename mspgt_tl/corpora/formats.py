"""Tells what a file holds that is no prose, by its content: a name may be missing or lie.

Each format is a few signs in the first lines. They are strict: prose that was refused is one line to the user, markup
read as sentences is a curve that nobody doubts. What no sign names is refused when it does not look like words.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mspgt_tl.corpora.lines import SAMPLE, decode_head, guess_encoding
from mspgt_tl.errors import CorpusError

LINES = 200
"""Lines looked at."""
MIN_LETTERS = 0.5
"""Share of letters among the characters of prose; numbers, logs and code have fewer."""
MAX_WORD = 25
"""Mean length of words beyond which there are no words: base64, minified code, scripts without spaces."""

AS_TREEBANK = "give it as --treebank"
AS_DATASET = "read its text column with hf:{path}#COLUMN"
AS_PLAIN = "convert it to plain text first"
DATA_SUFFIXES = {"JSON": ".json", "JSON lines": ".jsonl", "CSV": ".csv", "TSV": ".tsv", "Parquet": ".parquet"}
"""Formats that `hf:` opens, and the suffix of their names."""


LooksSo = Callable[[str, Sequence[str]], bool]
"""From a text and its first lines."""


@dataclass(frozen=True)
class Format:
    """A kind of content that is no prose."""

    name: str
    advice: str
    """What to do instead; `{path}` stands for the file."""

    def refusal(self, path: Path, wanted: str, *, option: str = "") -> CorpusError:
        """Return the error for a file of this format where another was wanted; `option` reads data sets there."""
        advice = self.advice.format(path=path).replace("hf:", f"{option}hf:")
        return CorpusError(f"{path}: {wanted} needed, but this is {self.name}; {advice}.")


_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "PDF", AS_PLAIN),
    (b"%!PS", "PostScript", AS_PLAIN),
    (b"{\\rtf", "RTF", AS_PLAIN),
    (b"PK\x03\x04", "ZIP (or DOCX, ODT, EPUB)", "unpack it, or " + AS_PLAIN),
    (b"PAR1", "Parquet", AS_DATASET),
    (b"ARROW1", "Arrow", "read its folder with hf:FOLDER#COLUMN"),
    (b"\xd0\xcf\x11\xe0", "Word or Excel 97", AS_PLAIN),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "unpack it"),
    (b"Rar!", "RAR", "unpack it"),
    (b"SQLite format 3", "SQLite", AS_PLAIN),
    (b"\x89PNG", "PNG image", "give a text"),
    (b"\xff\xd8\xff", "JPEG image", "give a text"),
    (b"GIF8", "GIF image", "give a text"),
    (b"\x89HDF", "HDF5", "give a text"),
    (b"\x93NUMPY", "NumPy array", "give a text"),
    (b"\x7fELF", "program", "give a text"),
    (b"GGUF", "GGUF weights", "give a text"),
)


def recognise(head: bytes) -> Format | None:
    """Return what the first bytes of a file hold, or None where they may be prose."""
    for magic, name, advice in _MAGIC:
        if head.startswith(magic):
            return Format(name, advice)
    if head[257:262] == b"ustar":
        return Format("tar archive", "unpack it")
    controls = sum(byte < 32 and byte not in b"\t\n\v\f\r\x1a\x1b" for byte in head)
    if guess_encoding(head) == "utf-8" and controls > 0.1 * len(head):
        return Format("binary", "give a text")
    text = decode_head(head).lstrip()
    lines = [line.rstrip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    if len(head) >= SAMPLE and len(lines) > 1:
        lines.pop()  # cut short
    lines = lines[:LINES]
    if not lines:
        return None
    for name, advice, looks_so in _FORMATS:
        if looks_so(text, lines):
            return Format(name, advice)
    return _no_words(lines)


def _no_words(lines: Sequence[str]) -> Format | None:
    words = " ".join(lines).split()
    signs = "".join(words)
    letters = sum(unicodedata.category(sign)[0] in "LM" for sign in signs)
    if letters < MIN_LETTERS * len(signs):
        return Format("mostly digits and signs", "give a text")
    if len(signs) > MAX_WORD * len(words) and len(signs) > 4 * MAX_WORD:
        return Format("without spaces between words", "give a text whose words are separated by spaces")
    return None


def _share(pattern: str, lines: Sequence[str], least: float, *, flags: int = 0, at_least: int = 2) -> bool:
    """Return whether the pattern is found in this share of lines, and in so many."""
    hits = sum(bool(re.search(pattern, line, flags)) for line in lines)
    return hits >= max(least * len(lines), min(at_least, len(lines)))


def _begins(pattern: str) -> LooksSo:
    return lambda text, lines: bool(re.match(pattern, text))


def _has(pattern: str, least: float, *, at_least: int = 2) -> LooksSo:
    return lambda text, lines: _share(pattern, lines, least, at_least=at_least)


def _is_conllu(text: str, lines: Sequence[str]) -> bool:
    marks = r"#\s*(global\.columns|sent_id|text|newdoc|newpar)\b.*=|#\s*newdoc\s*$"
    rows = r"^\d+(-\d+|\.\d+)?(\t[^\t]*){6,}$"
    return bool(re.match(marks, lines[0])) or _share(rows, lines, 0.4)


def _is_json_lines(text: str, lines: Sequence[str]) -> bool:
    try:
        return all(isinstance(json.loads(line), dict | list) for line in lines[:5])
    except ValueError:
        return False


def _is_markup(text: str, lines: Sequence[str]) -> bool:
    opens = re.match(r"(<!--.*?-->\s*)*<(!doctype|html|\?xml|svg|[a-z][\w:-]*(\s[^>]*)?/?>)", text, re.I | re.S)
    closes = re.search(r"</[a-z][\w:-]*>", text, re.I)
    return bool(opens and (closes or opens[2][0] in "!?")) or _share(
        r"</[a-z][\w:-]*>|<br\s*/?>", lines, 0.1, flags=re.I
    )


def _is_markdown(text: str, lines: Sequence[str]) -> bool:
    signs = (
        r"^#{1,6}\s+\S", r"^(```|~~~)", r"^\|.*\|$", r"\[[^\]]+\]\([^)\s]+\)", r"^(=|-|~|\^){4,}$", r"\*\*\S[^*]*\*\*",
        r"^\s*[-*+] \[[ xX]\] ", r"^> \S", r"^\[[^\]]+\]: \S", r"^\.\. [\w-]+::", r"`[^`]+`",
    )  # fmt: skip
    hits = [sum(bool(re.search(sign, line)) for line in lines) for sign in signs]
    front = bool(re.match(r"---\s*\n.*?\n---\s*\n", text, re.S))
    return front or (
        sum(hits) >= 2 and sum(hits) >= 0.04 * len(lines) and (sum(map(bool, hits)) > 1 or max(hits[:3]) > 1)
    )


def _is_tagged(text: str, lines: Sequence[str]) -> bool:
    words = " ".join(lines).split()
    tagged = sum(bool(re.fullmatch(r"\S+[/_|]([A-Z][A-Z$.-]*|[.,:;])", word)) for word in words)
    tokens = _share(r"^\S+([ \t]\S+){0,3}[ \t](O|[BI]-[A-Za-z]+)$", lines, 0.6)
    return tokens or tagged > 0.5 * len(words) or lines[0].startswith("-DOCSTART-")


def _is_table(delimiter: str) -> LooksSo:
    def looks_so(text: str, lines: Sequence[str]) -> bool:
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            return False
        width = len(rows[0])
        if len(rows) < 2 or width < 2:
            return False
        same = sum(len(row) == width for row in rows) >= 0.9 * len(rows)
        wide = sum(len(row) >= width for row in rows) >= 0.9 * len(rows)  # texts whose commas nobody quoted
        if delimiter == "\t":
            return same
        named = all(re.fullmatch(r"\ufeff?[\w.#-]+([ _][\w.#-]+){0,2}", cell) for cell in rows[0])
        column = any(all(re.fullmatch(r"-?\d[\d.]*", row[i]) for row in rows if len(row) > i) for i in range(width))
        return (wide and named) or (same and column)

    return looks_so


def _is_log(text: str, lines: Sequence[str]) -> bool:
    stamp = (
        r"\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d|\[?\d\d:\d\d(:\d\d)?\b|[A-Z][a-z]{2}\s+\d+ \d\d:\d\d:\d\d|\d{10}(\.\d+)?\b"
    )
    level = r"\[?(DEBUG|INFO|WARN|WARNING|ERROR|FATAL|TRACE)\b"
    access = r"^\S+ \S+ \S+ \[\d\d/[A-Z][a-z]{2}/\d{4}"
    return _share(rf"^[\[(<]?({stamp}|{level})|{access}", lines, 0.5)


def _is_mail(text: str, lines: Sequence[str]) -> bool:
    headers = r"^(From|To|Cc|Subject|Date|Received|Message-ID|Content-Type|MIME-Version|Return-Path|Reply-To)(:| \S+@)"
    return sum(bool(re.match(headers, line, re.I)) for line in lines[:10]) >= 3


def _is_code(text: str, lines: Sequence[str]) -> bool:
    starts = (
        r"^\s*(def \w+\(|class \w+[(:{]|import \w|from [\w.]+ import|#include|using \w|package [\w.]+;|func \w+\("
        r"|fn \w+|function\b.*[({]|var \w+|const \w+ ?=|let \w+ ?=|public |private |return\b.*[;)]"
        r"|(if|for|while) ?\(|@\w+$|//|/\*)"
    )
    ends = r"[;{}]$|^\s*[})\]]+[;,]?$|\w\(.*\):?$|^\s*(if|for|while|else|try|with|elif)\b.*:$"
    assigns = r"^\s*[\w.\[\]]+ ?[-+*/]?=[^=]"
    return text.startswith("#!") or _share(f"{starts}|{ends}|{assigns}", lines, 0.4)


def _is_sequence(text: str, lines: Sequence[str]) -> bool:
    return lines[0].startswith(">") and _share(r"^[ACGTUNacgtun*-]{10,}$|^[A-Z*-]{20,}$", lines, 0.4, at_least=1)


_FORMATS: tuple[tuple[str, str, LooksSo], ...] = (
    ("CoNLL-U", AS_TREEBANK, _is_conllu),
    (
        "CoNLL-U whose tabs became spaces",
        "restore the tabs and give it as --treebank",
        _has(r"^\d+(-\d+|\.\d+)?\s+\S+\s+\S+\s+([A-Z]+|_)\s+\S+\s+\S+\s+(\d+|_)\s+\S+\s+\S+\s+\S+$", 0.4),
    ),
    ("tagged words", "convert it to CoNLL-U and " + AS_TREEBANK, _is_tagged),
    ("bracketed trees", "convert it to CoNLL-U and " + AS_TREEBANK, _begins(r"\(\s*(\([A-Z]|[A-Z]+\s*\()")),
    ("JSON lines", AS_DATASET, _is_json_lines),
    ("JSON", AS_DATASET, _begins(r"""\{\s*["'}]|\[\s*(\{\s*["']|\[\s*["'\d\[]|"[^"]*"\s*,)""")),
    ("HTML or XML", AS_PLAIN, _is_markup),
    (
        "LaTeX",
        AS_PLAIN,
        _has(r"^\s*\\(documentclass|usepackage|begin|end|section|chapter|item|title)\b", 0.05, at_least=1),
    ),
    ("wiki markup", AS_PLAIN, _has(r"\[\[[^\]]+\]\]|\{\{[^}]*|'''", 0.1, at_least=1)),
    ("subtitles", AS_PLAIN, _has(r"\d\d:\d\d[.,]\d{3}\s+-->\s+", 0.1, at_least=1)),
    ("a patch", "give a text", _has(r"^@@ -\d+(,\d+)? \+\d+|^diff --git ", 0.0, at_least=1)),
    ("encoded data", "decode it", _begins("-----BEGIN ")),
    ("encoded data", "decode it", _has(r"^[A-Za-z0-9+/=_-]{50,}$", 0.6, at_least=1)),
    ("sequences", "give a text", _is_sequence),
    ("TSV", AS_DATASET, _is_table("\t")),
    ("a log", "give a text", _is_log),
    ("e-mail", AS_PLAIN, _is_mail),
    ("source code", "give a text", _is_code),
    (
        "settings",
        "give a text",
        _has(r"^\s*(- )?[a-z_][\w.-]*\s*[:=](\s|$)|^\[[\w.:\" -]+\]$|^\s*- \S+$", 0.6, at_least=3),
    ),
    ("CSV", AS_DATASET, _is_table(",")),
    ("CSV", AS_DATASET, _is_table(";")),
    ("Markdown", AS_PLAIN, _is_markdown),
    ("CSV", AS_DATASET, _is_table("|")),
)
