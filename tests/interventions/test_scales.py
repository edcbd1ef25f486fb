"""Scales by hand and control stretches."""

from __future__ import annotations

import pytest

from mspgt_tl.errors import ConfigError
from mspgt_tl.interventions.scales import control_blocks, describe_blocks, parse_scales


def test_three_ranges_are_the_three_scales() -> None:
    """Both ends belong to a range; other numbers of ranges are named by their blocks."""
    assert parse_scales("0-3, 4-8,9-11", 12) == {
        "local": range(4),
        "intermediate": range(4, 9),
        "global": range(9, 12),
    }
    assert list(parse_scales("2,4-5", 12)) == ["block 2", "blocks 4-5"]


@pytest.mark.parametrize("text", ["", "a-b", "3-1", "0-12", "0-3,3-5", "1--2", "0-3,"])
def test_bad_scales_are_refused(text: str) -> None:
    """What cannot be read, lies outside or overlaps."""
    with pytest.raises(ConfigError, match=r"Scales|one scale"):
        parse_scales(text, 12)


def test_controls_have_the_same_length_at_other_depths() -> None:
    """Drawn without replacement, never the scale itself, the same for the same seed."""
    for scale in (range(0, 4), range(4, 6), range(6, 12)):
        found = control_blocks(scale, 12, count=5, seed=0)
        assert len(found) == len(set(found)) == 5
        assert all(len(other) == len(scale) and other != scale and other[-1] < 12 for other in found)
        assert found == control_blocks(scale, 12, count=5, seed=0)
    assert control_blocks(range(0, 11), 12, count=5, seed=0) == [range(1, 12)]
    assert control_blocks(range(0, 12), 12, count=5, seed=0) == []


def test_blocks_have_names() -> None:
    """One block or several."""
    assert (describe_blocks(range(3, 4)), describe_blocks(range(3, 6))) == ("block 3", "blocks 3-5")
