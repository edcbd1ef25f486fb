"""The paper's own tables, as data with their provenance."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import Any

from mspgt_tl.comparison.families import FamilyRow, family_table

METRICS = ("self_bleu", "sentence_length_variance", "type_token_ratio", "prompt_coherence")
"""Columns of Table 2, by the names of our metrics."""


@lru_cache(maxsize=1)
def paper_tables() -> dict[str, Any]:
    """Return Tables 1 (`boundaries`), 2 (`effects`, per cent) and 3 (`families`) and figures of the text (`text`).

    Source: arXiv 2505.18244v2. Positions of Tables 1 and 3 are percentages as printed.
    """
    return tomllib.loads((files("mspgt_tl.comparison") / "data" / "paper.toml").read_text(encoding="utf-8"))


def paper_positions() -> dict[str, list[tuple[int, int, int]]]:
    """Return Table 1 as `family_table` takes it."""
    families: dict[str, list[tuple[int, int, int]]] = {}
    for row in paper_tables()["boundaries"]:
        families.setdefault(row["family"], []).append((row["b_LI"], row["b_IG"], row["n_layers"]))
    return families


def recomputed_table3() -> dict[str, dict[str, Any]]:
    """Return, family by family, Table 3 as `published`, and from Table 1 as `rounded` (one decimal) and `exact`.

    The published 0.06 for Qwen's L-I comes from rounded percentages; unrounded positions give 0.067.
    """
    rounded, exact = family_table(paper_positions(), decimals=1), family_table(paper_positions())
    published = {row["family"]: row for row in paper_tables()["families"]}
    return {
        family: {"published": _fractions(published[family], exact[family]), "rounded": rounded[family], "exact": row}
        for family, row in exact.items()
    }


def _fractions(printed: dict[str, float], like: FamilyRow) -> FamilyRow:
    return FamilyRow(
        n=like["n"],
        mean_LI=printed["mean_LI"] / 100,
        cv_LI=printed["cv_LI"],
        mean_IG=printed["mean_IG"] / 100,
        cv_IG=printed["cv_IG"],
    )
