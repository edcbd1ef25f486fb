"""Rivals on the page: each is named with the source that the result stores, whatever their number."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from mspgt_tl.contracts import GAP
from mspgt_tl.dashboard.rivals import rivals_section

NAN = np.nan


def watched() -> xr.Dataset:
    """Return what two rivals, one with a boundary and a flat one, say beside a boundary at gap 4."""
    pair = ("rival", "rank")
    return xr.Dataset(
        {
            "reliability": ("rival", [0.9, 0.2]),
            "boundary": (pair, [[4.0, NAN], [NAN, NAN]]),
            "interval": ((*pair, "bound"), [[[3.0, 5.0], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]]),
            "presence": (pair, [[0.97, NAN], [NAN, NAN]]),
            "distance": (("rival", "found"), [[0.0], [NAN]]),
            "distance_interval": (("rival", "found", "bound"), [[[-1.0, 1.0]], [[NAN, NAN]]]),
            "within_one": (("rival", "found"), [[0.8], [NAN]]),
            "within_one_chance": (("rival", "found"), [[0.25], [0.0]]),
            "correlation": ("rival", [0.5, NAN]),
            "correlation_interval": (("rival", "bound"), [[0.4, 0.6], [NAN, NAN]]),
            "title": ("rival", ["Turning", "Widening"]),
            "source": ("rival", ["Someone et al. 2024; N", "Other 2025, eq. 2; N"]),
        },
        coords={"rival": ["turning", "widening"], "found": [4]},
        attrs={"reasons": json.dumps({"turning": [], "widening": ["flat"]})},
    )


FUSED = xr.Dataset({"boundary": ("found", [4])}, coords={GAP: np.arange(1, 12)}, attrs={"n_layers": 12})


def test_every_rival_has_its_source() -> None:
    """The definition is made of what the result says of its own rivals, so one more rival is described, too."""
    (section,) = rivals_section(FUSED, watched())
    assert section.definition.endswith(
        "cannot be tested for existence. Turning: Someone et al. 2024; Widening: Other 2025, eq. 2. N."
    )
    assert section.lead.startswith("Where 2 other signals put their boundaries")


def test_rows_tell_place_agreement_and_what_is_flat() -> None:
    """A boundary with its interval, the share within one gap beside that of chance; dashes for what is not known."""
    (section,) = rivals_section(FUSED, watched())
    assert section.tables[0].columns[-1] == "within one of gap 4 (by chance)"
    assert section.tables[0].rows == [
        ["turning", "0.9", "4 [3, 5]", "0.5 [0.4, 0.6]", "80 % (25 %)"],
        ["widening", "0.2", "flat", "–", "– (0 %)"],
    ]
    assert section.plots[0].summary == "Boundaries by rival: turning: 4; widening: none."


def test_without_rivals_there_is_no_section() -> None:
    """Most runs watch none."""
    assert rivals_section(FUSED, None) == []
