"""The table of docs/faults.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_row_names_a_test() -> None:
    """Each fault with a file of tests, or one test in it."""
    page = (ROOT / "docs/faults.md").read_text(encoding="utf-8").partition("## The crash fuzzer")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "| ---"))]
    assert len(rows) > 30
    for row in rows:
        fault, what, test = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert fault
        assert what
        found = re.fullmatch(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", test)
        assert found, row
        source = (ROOT / found[1]).read_text(encoding="utf-8")
        assert f"def {found[2] or 'test_'}" in source, row
