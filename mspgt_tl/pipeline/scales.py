"""Which blocks are a scale: given, cut at a detection's boundaries, or equal thirds; the one place that decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mspgt_tl.contracts import SCALES, layer_target
from mspgt_tl.errors import ConfigError
from mspgt_tl.interventions.scales import check_scales, parse_scales
from mspgt_tl.interventions.sweep import CLEAN
from mspgt_tl.models.names import pinned_name
from mspgt_tl.pipeline.checks import count_blocks
from mspgt_tl.pipeline.detection import Detection, as_detection

THIRDS, GIVEN, DETECTED = "equal thirds", "given", "detected"
"""Where scales come from."""
ASK_FOR_THIRDS = "thirds"


@dataclass(frozen=True)
class Scales:
    """The blocks of every scale."""

    blocks: Mapping[str, range]
    origin: str
    doubt: str = ""
    """What is wrong with the boundaries they are cut at; empty if nothing is, or if there are none."""

    @property
    def ends(self) -> dict[str, list[int]]:
        """First and last block of each, as an identity holds them."""
        return {name: [stretch[0], stretch[-1]] for name, stretch in self.blocks.items()}


def choose_source(model: Any, scales: Any, *, three: bool = False) -> tuple[Any, Detection | None]:
    """Return what to load, and the detection that scales are cut by if one was given instead of a model.

    Scales that cannot be used are refused here, where the number of blocks can be told without loading.

    Raises:
        MspgtError: as `as_detection`, `count_blocks` and `choose_scales`.
    """
    detection = as_detection(model)
    n_layers = count_blocks(model) if detection is None else int(detection.data.attrs["n_layers"])
    if n_layers is not None:
        choose_scales(scales, detection, n_layers, three=three)
    return model if detection is None else pinned_name(detection.manifest["identity"]["model"]), detection


def choose_scales(
    given: str | Mapping[str, Sequence[int]] | None,
    detection: Detection | None,
    n_layers: int,
    *,
    three: bool = False,
) -> Scales:
    """Return the scales of a run.

    Args:
        given: such as `"0-3,4-8,9-11"`, `"thirds"`, or blocks by name; None takes the detection's.
        three: exactly three that cover all blocks in order are needed; equal thirds stand in where there are none.

    Raises:
        ConfigError: they cannot be used with this model, or there are none.
        DataError: the detection does not have two boundaries, and thirds may not stand in for them.
    """
    if given == ASK_FOR_THIRDS:
        return Scales(_thirds(n_layers), THIRDS)
    if given is not None:
        blocks = _read(given, n_layers)
        return Scales(_check_three(blocks, given, n_layers) if three else blocks, GIVEN)
    if detection is not None and (len(detection.boundaries) == len(SCALES) - 1 or not three):
        found = detection.found
        doubt = "" if found.are_supported else f"cut at boundaries that are not supported ({found.verdict})"
        return Scales(detection.scales(unsupported=True), DETECTED, f"The scales are {doubt}." if doubt else "")
    if three:
        return Scales(_thirds(n_layers), THIRDS)
    raise ConfigError(
        f"Which of the {n_layers} blocks are a scale? Give --scales such as 0-3,4-8,9-{n_layers - 1}, or thirds, or "
        "the folder of a detection with two boundaries."
    )


def _read(given: Any, n_layers: int) -> dict[str, range]:
    if isinstance(given, str):
        return parse_scales(given, n_layers)
    reserved = {CLEAN, *map(layer_target, range(n_layers))}
    return check_scales({str(name): blocks for name, blocks in given.items()}, n_layers, reserved=reserved)


def _check_three(blocks: Mapping[str, range], given: Any, n_layers: int) -> dict[str, range]:
    every = [block for stretch in blocks.values() for block in stretch]
    if len(blocks) != len(SCALES) or every != list(range(n_layers)):
        raise ConfigError(f"Three scales that cover blocks 0 to {n_layers - 1} in order are needed, got {given!r}.")
    return dict(zip(SCALES, blocks.values(), strict=True))


def _thirds(n_layers: int) -> dict[str, range]:
    if n_layers < len(SCALES):
        raise ConfigError(f"Three scales need three blocks or more, this model has {n_layers}.")
    first, second = round(n_layers / 3), round(2 * n_layers / 3)
    return dict(zip(SCALES, (range(first), range(first, second), range(second, n_layers)), strict=True))
