"""Scales by hand and control stretches."""

from __future__ import annotations

import pytest

from mspgt_tl.errors import ConfigError
from mspgt_tl.interventions.scales import check_scales, control_blocks, describe_blocks, parse_scales


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


@pytest.mark.parametrize(
    ("scales", "why"),
    [
        ({}, "At least one scale"),
        ({"a": range(0)}, "'a' is empty"),
        ({"a": [0, 2]}, "without holes"),
        ({"a": range(3), "b": range(2, 5)}, "block 2 is in two"),
        ({"a": [11, 12]}, "within blocks 0 to 11"),
        ({"clean": range(3)}, "cannot be called 'clean'"),
    ],
)
def test_bad_mappings_are_refused(scales: dict, why: str) -> None:
    """A mapping is held to what a text is."""
    with pytest.raises(ConfigError, match=why):
        check_scales(scales, 12, reserved={"clean"})


def test_blocks_of_a_scale_come_in_any_order() -> None:
    """A set of blocks is a scale."""
    assert check_scales({"a": {2, 1, 0}, "b": (3,)}, 12) == {"a": range(3), "b": range(3, 4)}


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
