"""Imports point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import mspgt_tl

PACKAGE = Path(mspgt_tl.__file__).parent
ORDER = (
    {"cli"},
    {"study"},
    {"pipeline"},
    {"dashboard"},
    {"predictions"},
    {"comparison"},
    {"calibration", "rivals", "theory"},
    {"audit", "evidence", "profile"},
    {"boundaries", "interventions", "metrics", "signals"},
    {"activations"},
    {"models"},
    {"corpora"},
    {"stats", "store", "nulls"},
    {"config"},
    {"contracts"},
    {"errors"},
)
"""From the top down; parts on one line do not import each other."""
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}


def imports_of(path: Path) -> set[str]:
    """Return the first part of every `mspgt_tl.…` import, those for type checkers included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("mspgt_tl.")}
    return found


def test_imports_point_down() -> None:
    """No module imports from a part above or beside its own."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        wrong += [
            f"{part} imports {other}" for other in imports_of(path) if other != part and RANK[other] <= RANK[part]
        ]
    assert not wrong


def test_public_names_are_importable() -> None:
    """Everything in `__all__` can be had, and `__all__` is sorted."""
    assert mspgt_tl.__all__ == sorted(mspgt_tl.__all__)
    assert all(getattr(mspgt_tl, name) is not None for name in mspgt_tl.__all__)


def test_parts_are_attributes() -> None:
    """Every folder and file of the package that holds something public is reachable without another import."""
    assert set(mspgt_tl._PARTS) <= set(dir(mspgt_tl))
    assert all(getattr(mspgt_tl, part).__name__ == f"mspgt_tl.{part}" for part in mspgt_tl._PARTS)
    assert {"calibration", "config", "study", "theory"} <= set(mspgt_tl._PARTS)
