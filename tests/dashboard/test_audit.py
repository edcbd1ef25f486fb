"""The artefact audit on the page, from one small result to exact sentences, cells and marks."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mspgt_tl.audit import ARTEFACT, ROBUST
from mspgt_tl.contracts import GAP
from mspgt_tl.dashboard.audit import RULE, audit_section
from mspgt_tl.signals.cka_variants import MASKED_OVER


def audited() -> xr.Dataset:
    """Return two boundaries among eleven gaps: one that every choice keeps, one that masking loses."""
    return xr.Dataset(
        {
            "audit_gap": (("variant", "found"), [[4.0, np.nan], [5.0, 9.0]]),
            "audit_p_value": (("variant", "found"), [[0.01, np.nan], [0.2, 0.0004]]),
            "weight_agreement": ("found", [1.0, 0.4]),
            "massive_share": ("found", [0.05, 0.912]),
            "grade": ("found", [ROBUST, ARTEFACT]),
            "boundary": ("found", [4, 9]),
        },
        coords={"variant": ["massive masked", "whitened"], GAP: np.arange(1, 12)},
        attrs={"n_layers": 12},
    )


def test_the_rule_names_the_factor_that_the_audit_masks_at() -> None:
    """Readers are told the number that decides, 20 medians, and not the hundred of raw activations."""
    assert f"massive channels ({MASKED_OVER:.0f} times the layer's median and more)" in RULE
    assert "(20 times" in RULE


def test_boundaries_are_told_by_grade_and_choice() -> None:
    """Every cell holds the nearest boundary, how far it moved, and its p-value; a lost one is a dash."""
    (section,) = audit_section(audited())
    assert section.notes == [
        "Gap 4: robust. It stays within one layer whatever is chosen.",
        "Gap 9: artefact. It is made by a few massive channels, not by what the layers do to language.",
    ]
    assert section.tables[0].columns == ("choice", "gap 4", "gap 9")
    assert section.tables[0].rows == [
        ["massive masked", "4 (+0), p = 0.01", "–"],
        ["whitened", "5 (+1), p = 0.2", "9 (+0), p < 0.001"],
        ["weights that keep it", "100 %", "40 %"],
        ["1 − CKA that goes with massive channels", "0.05", "0.91"],
    ]


def test_kept_and_lost_boundaries_are_marked_apart() -> None:
    """A boundary within one gap is kept; one that is lost has a cross at the left end, and nothing else."""
    (section,) = audit_section(audited())
    drawn = {trace.name: list(trace.x) for trace in section.plots[0].figure.data if trace.name and len(trace.x)}
    assert {name: at for name, at in drawn.items() if name.startswith("gap")} == {
        "gap 4, kept": [4.0, 5.0],
        "gap 9, kept": [9.0],
        "gap 9, lost": [0.5],
    }


def test_results_without_an_audit_have_no_section() -> None:
    """Neither older results nor those without a boundary show an empty table."""
    assert audit_section(audited().drop_vars("grade")) == []
    assert audit_section(audited().isel(found=[])) == []
