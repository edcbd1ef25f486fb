"""Which blocks an intervention touches: scales written by hand, and control stretches at other depths."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mspgt_tl.contracts import SCALES
from mspgt_tl.errors import ConfigError

MIN_LAYERS = 2
"""Blocks of a model that noise in a scale can be compared in: one elsewhere is the control."""


def parse_scales(text: str, n_layers: int) -> dict[str, range]:
    """Read scales such as `0-3,4-8,9-11`: ranges of blocks, both ends included.

    Three of them are called local, intermediate and global; any other number, `blocks 0-3` and so on.

    >>> parse_scales("0-3,4-8,9-11", 12)
    {'local': range(0, 4), 'intermediate': range(4, 9), 'global': range(9, 12)}

    Raises:
        ConfigError: not such a list, or a block that the model does not have, or one named twice.
    """
    ranges: list[range] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not found:
            raise ConfigError(f"Scales are ranges of blocks such as 0-3,4-8,9-11; got '{text}'.")
        first = int(found[1])
        ranges.append(range(first, int(found[2] or first) + 1))
    if not all(ranges):
        raise ConfigError(f"Scales are ranges of blocks such as 0-3,4-8,9-11, lower end first; got '{text}'.")
    names = SCALES if len(ranges) == len(SCALES) else [describe_blocks(blocks) for blocks in ranges]
    if len(set(names)) < len(names):
        raise ConfigError(f"A block belongs to one scale; '{text}' names one twice.")
    return check_scales(dict(zip(names, ranges, strict=True)), n_layers)


def check_scales(
    scales: Mapping[str, Sequence[int]], n_layers: int, *, reserved: Collection[str] = ()
) -> dict[str, range]:
    """Return scales as ranges of blocks.

    Args:
        reserved: names that mean something else.

    Raises:
        ConfigError: no scale, one that is empty, has holes or leaves the model, a block in two, a name reserved.
    """
    if not scales:
        raise ConfigError("At least one scale is needed, such as 0-3,4-8,9-11; got none.")
    chosen = {}
    for name, blocks in scales.items():
        if name in reserved:
            raise ConfigError(f"A scale cannot be called '{name}': the results use that name. Call it otherwise.")
        listed = sorted(blocks)
        if not listed or listed[0] < 0 or listed[-1] >= n_layers:
            came = f"goes from {listed[0]} to {listed[-1]}" if listed else "is empty"
            raise ConfigError(f"Scales must lie within blocks 0 to {n_layers - 1}, lower end first; '{name}' {came}.")
        if listed != list(range(listed[0], listed[-1] + 1)):
            raise ConfigError(f"A scale is one stretch of blocks, without holes; '{name}' is {listed}.")
        chosen[name] = range(listed[0], listed[-1] + 1)
    every = [block for blocks in chosen.values() for block in blocks]
    if twice := sorted({block for block in every if every.count(block) > 1}):
        raise ConfigError(f"A block belongs to one scale; block {twice[0]} is in two of {', '.join(chosen)}.")
    return chosen


def describe_blocks(blocks: range) -> str:
    """Return `blocks 3-5`, or `block 3`."""
    return f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}-{blocks[-1]}"


def control_blocks(scale: range, n_layers: int, *, count: int, seed: int) -> list[range]:
    """Return up to `count` stretches of as many contiguous blocks at other depths, drawn without replacement.

    There are `n_layers - len(scale)` of them; they may overlap the scale, for a scale of more than half of the blocks
    leaves no other choice.
    """
    others = [first for first in range(n_layers - len(scale) + 1) if first != scale[0]]
    chosen = np.random.default_rng([seed, scale[0], len(scale)]).permutation(others)[:count]
    return [range(first, first + len(scale)) for first in sorted(int(first) for first in chosen)]
