"""Which blocks are a scale, wherever scales are needed."""

from __future__ import annotations

from typing import Any

import pytest

from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.pipeline.scales import choose_scales


class Found:
    """A detection as far as scales are concerned."""

    def __init__(self, *gaps: int, supported: bool) -> None:
        self.boundaries, self.are_supported, self.verdict = gaps, supported, "gap 4: not found"

    @property
    def found(self) -> Found:
        return self

    def scales(self, *, unsupported: bool) -> dict[str, range]:
        if len(self.boundaries) != 2:
            raise DataError("Three scales need two boundaries")
        first, second = self.boundaries
        return {"local": range(first), "intermediate": range(first, second), "global": range(second, 12)}


THIRDS = {"local": range(4), "intermediate": range(4, 8), "global": range(8, 12)}


def detection(*gaps: int, supported: bool = True) -> Any:
    """Return a stand-in with these boundaries."""
    return Found(*gaps, supported=supported)


def test_given_ranges_go_before_a_detection() -> None:
    """Ranges are read, and say where they come from; nothing is doubted about them."""
    chosen = choose_scales("0-3,4-8,9-11", detection(2, 3, supported=False), 12, three=True)
    assert chosen.ends == {"local": [0, 3], "intermediate": [4, 8], "global": [9, 11]}
    assert (chosen.origin, chosen.doubt) == ("given", "")


@pytest.mark.parametrize("three", [True, False])
def test_a_detection_cuts_them_and_its_doubt_comes_along(three: bool) -> None:
    """Boundaries that are not supported are used, and said to be none."""
    sure = choose_scales(None, detection(4, 8), 12, three=three)
    assert (dict(sure.blocks), sure.origin, sure.doubt) == (THIRDS, "detected", "")
    assert "not supported (gap 4: not found)" in choose_scales(None, detection(4, 8, supported=False), 12).doubt


def test_thirds_stand_in_or_are_asked_for() -> None:
    """Where three are needed without boundaries; never in silence where any would do."""
    assert choose_scales(None, None, 12, three=True).origin == "equal thirds"
    assert choose_scales(None, detection(4), 12, three=True).origin == "equal thirds"
    assert choose_scales("thirds", None, 12).blocks == THIRDS
    with pytest.raises(ConfigError, match="or thirds, or the folder"):
        choose_scales(None, None, 12)
    with pytest.raises(DataError, match="two boundaries"):
        choose_scales(None, detection(4), 12)
    with pytest.raises(ConfigError, match="three blocks"):
        choose_scales("thirds", None, 2)


@pytest.mark.parametrize("wrong", ["0-3,4-8", "0-3,5-8,9-11", "0-3,4-8,9-10"])
def test_three_that_cover_all_blocks_are_asked_for(wrong: str) -> None:
    """Too few, with a hole, or short of the last block."""
    with pytest.raises(ConfigError, match="Three scales"):
        choose_scales(wrong, None, 12, three=True)


def test_names_of_results_are_no_names_of_scales() -> None:
    """A scale by hand cannot be called what the clean condition or a layer is called."""
    for name in ("clean", "layer 3"):
        with pytest.raises(ConfigError, match="cannot be called"):
            choose_scales({name: range(3)}, None, 12)
