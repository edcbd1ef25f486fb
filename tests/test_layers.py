"""Imports point one way, as the picture of the layers says; what is public can be had."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import mspgt_tl

ROOT = Path(__file__).parents[1]


def contracts() -> list[dict]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


def test_imports_point_down_without_circles() -> None:
    """import-linter keeps every contract of pyproject.toml, imports for type checkers and inside functions included."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert f"{len(contracts())} kept, 0 broken" in found.stdout


def test_every_part_has_a_layer() -> None:
    """The contract names each folder and file of the package once."""
    named = [part for line in contracts()[0]["layers"] for part in line.split(" | ")]
    there = {
        path.stem for path in (ROOT / "mspgt_tl").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(there - {"__init__"})


def test_the_picture_of_the_layers_is_the_contract() -> None:
    """docs/architecture.md draws the layers of the contract from the top down, each with what it holds."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^    ([a-z_]+(?: \| [a-z_]+)*) {2,}\S", text, re.MULTILINE)
    assert drawn == contracts()[0]["layers"]


def test_public_names_are_importable() -> None:
    """Everything in `__all__` can be had, and `__all__` is sorted."""
    assert mspgt_tl.__all__ == sorted(mspgt_tl.__all__)
    assert all(getattr(mspgt_tl, name) is not None for name in mspgt_tl.__all__)


def test_parts_are_attributes() -> None:
    """Every folder and file of the package that holds something public is reachable without another import."""
    assert set(mspgt_tl._PARTS) <= set(dir(mspgt_tl))
    assert all(getattr(mspgt_tl, part).__name__ == f"mspgt_tl.{part}" for part in mspgt_tl._PARTS)
    assert {"calibration", "config", "study", "theory"} <= set(mspgt_tl._PARTS)
