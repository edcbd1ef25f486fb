"""Which cases are measured: null models of every kind, and planted boundaries over strength, depth and nuisance.

A cell is one row of the published table. Its cases differ in everything that is drawn: weights, gaps, text, trees,
probes, resamples. All are models run from text to curves; cells simulated as curves are listed apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from mspgt_tl.calibration.measure import Effort, Measured, Reading, measure_model, read_model, shuffled_depth
from mspgt_tl.calibration.simulate import SPACING, CurveCell, curve_cells, draw_gaps
from mspgt_tl.config import ProbeConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError, unknown_name
from mspgt_tl.models.pretrained import load
from mspgt_tl.models.spike_in import spiked
from mspgt_tl.models.synthetic import Nuisances, PlantedModel, Strengths

Kind = Literal[
    "planted",
    "flat",
    "jittered",
    "drifting",
    "massive",
    "uneven",
    "random weights",
    "shuffled labels",
    "shuffled depth",
    "spike-in",
]
NULLS = tuple(kind for kind in get_args(Kind) if kind not in ("planted", "spike-in"))
SHUFFLES = 20
"""Shuffles of each draw of text and trees: of depth they cost nothing, of labels only the probes."""
CHUNK = 10
"""Cases that are computed and stored together."""


@dataclass(frozen=True)
class Cell:
    """One row of the table: cases of one kind under one condition."""

    name: str
    kind: Kind
    cases: int
    n_layers: int = 12
    strength: float = 1.0
    places: Literal["pair", "close", "ends", "one"] = "pair"
    """Planted gaps: a random pair, one exactly 3 gaps apart, first and last gap, or a single random gap."""
    nuisances: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Nuisances`; `"random"` as an onset, end or rival draws a gap, a name takes another field's value."""
    model: str = ""
    """Embedded model, or folder, of the real kinds and of spike-ins."""

    @property
    def is_null(self) -> bool:
        """Whether no boundary is there to be found."""
        return self.kind in NULLS or self.strength == 0

    def chunks(self) -> list[range]:
        """Return the case numbers, chunk by chunk."""
        return [range(start, min(start + CHUNK, self.cases)) for start in range(0, self.cases, CHUNK)]


@dataclass(frozen=True)
class Grid:
    """All cells of a calibration and how much data each case is measured on."""

    name: str
    cells: tuple[Cell, ...]
    effort: Effort
    curves: tuple[CurveCell, ...] = ()
    """Cells that are simulated as curves, without models."""


@dataclass(frozen=True)
class Case:
    """One measured case and its right answer."""

    measured: Measured
    planted: tuple[int, ...] = ()
    rivals: tuple[int, ...] = ()
    """Gaps that are nearly boundaries: to name them is neither right nor a false alarm."""


def make_grid(size: str, *, model: str = "llama2-mini") -> Grid:
    """Return a grid by name.

    `full` is what the documentation publishes, `pretrained` its cells that look like pretrained models, `quick` what
    the test suite repeats.

    Raises:
        ConfigError: no grid of that name.
    """
    if size == "full":
        cells = (*_null_cells(400, model), *_pretrained_cells(100, 40), *_power_cells(40), *_spike_cells(20, model))
        return Grid(size, cells, Effort(), curve_cells(100))
    if size == "pretrained":
        return Grid(size, (*_pretrained_cells(40, 20), *_spike_cells(10, model)), Effort())
    if size == "quick":
        probe = ProbeConfig(hidden=16, epochs=4, batch=64, repeats=1)
        cells = (
            Cell("jittered", "jittered", 10, n_layers=8),
            Cell("massive onset", "massive", 8, n_layers=8, nuisances={"massive_onset": "random"}),
            Cell("strength 1, 10 blocks", "planted", 8, n_layers=10),
        )
        curves = (CurveCell(15, "close", 0.1, 0.1, 40), CurveCell(15, "none", 0.3, 0.05, 80))
        return Grid(size, cells, Effort(probe=probe, resamples=100), curves)
    raise ConfigError(unknown_name("grid", size, ("full", "pretrained", "quick")))


def _null_cells(cases: int, model: str) -> list[Cell]:
    drift = {"jitter": 0.2, "drift": 3.0}
    onset = {"massive_onset": "random", "sink": 0.8, "sink_onset": "massive_onset"}
    return [
        Cell("flat", "flat", cases, nuisances={"jitter": 0.0}),
        Cell("jittered", "jittered", cases),
        Cell("smoothly drifting", "drifting", cases, nuisances=drift),
        Cell("massive onset", "massive", cases, nuisances={"massive_onset": "random"}),
        Cell("massive onset with sinks", "massive", cases, nuisances=onset),
        Cell("random weights", "random weights", cases, model=model),
        Cell("shuffled labels", "shuffled labels", cases, model=model),
        Cell("shuffled depth", "shuffled depth", cases, model=model),
    ]


PLATEAU: Mapping[str, Any] = {
    "massive_on": "delimiters",
    "massive_onset": "random",
    "sink": 0.7,
    "sink_onset": "massive_onset",
    "sink_end": "massive_end",
}
"""Massive activations and sinks on the first two positions and delimiters; an end is to be added."""
UNEVEN = {"first_step": 5.0, "last_step": 5.0}
"""A first and a last block that change the representation five times as much as others."""


def _pretrained_cells(nulls: int, planted: int) -> list[Cell]:
    """Return cells with what pretrained models have: without a boundary, and with two."""
    ending = {**PLATEAU, "massive_end": "random"}
    large = {**ending, "massive_size": 5000.0, "massive_channels": 3, "delimiters": 0.5}
    everything = {**PLATEAU, **UNEVEN, "massive_end": "before last", "norm_growth": 1.15}
    cells = []
    for depth in (12, 24, 32):
        blocks = f", {depth} blocks"
        cells += [
            Cell(f"delimiters massive, then not{blocks}", "massive", nulls, depth, nuisances=ending),
            Cell(f"first and last block change more{blocks}", "uneven", nulls, depth, nuisances=UNEVEN),
        ]
    cells.append(Cell("very massive in three channels, 24 blocks", "massive", nulls, 24, nuisances=large))
    for depth in (12, 16, 24, 32):
        for strength in (0.5, 1.0):
            name = f"like pretrained, strength {strength:g}, {depth} blocks"
            cells.append(Cell(name, "planted", planted, depth, strength, nuisances=everything))
    return cells


def _spike_cells(cases: int, model: str) -> list[Cell]:
    """Return spike-ins of known size in a trained model: nulls at strength 0."""
    return [
        Cell(f"spike-in {strength:g} in {model}", "spike-in", cases, 0, strength, "one", model=model)
        for strength in (0.0, 0.25, 0.5, 1.0)
    ]


def _power_cells(cases: int) -> list[Cell]:
    cells = [
        Cell(f"strength {strength:g}, {depth} blocks", "planted", cases, n_layers=depth, strength=strength)
        for depth in (8, 12, 24, 48)
        for strength in (0.25, 0.5, 0.75, 1.0)
    ]
    nuisances = {"norm_growth": 1.15, "massive_onset": "random", "sink": 0.7}
    conditions: dict[str, dict[str, Any]] = {
        "jitter 0.02": {"nuisances": {"jitter": 0.02}},
        "jitter 0.1": {"nuisances": {"jitter": 0.1}},
        "3 gaps apart": {"places": "close"},
        "first and last gap": {"places": "ends"},
        "one boundary": {"places": "one"},
        "rival of 0.9": {"places": "one", "nuisances": {"rival": "random"}},
        "growth, massive, sink": {"nuisances": nuisances},
    }
    for label, options in conditions.items():
        cells += [Cell(f"{label}, strength {s:g}", "planted", cases, strength=s, **options) for s in (0.5, 1.0)]
    near: dict[str, Any] = {"places": "close", "nuisances": {"jitter": 0.1}}
    return [*cells, Cell("3 gaps apart, 24 blocks, jitter 0.1", "planted", cases, n_layers=24, **near)]


def case_seed(seed: int, cell: Cell, index: int) -> int:
    """Return the seed of one case: the same whatever else the grid holds, and in whatever order it runs."""
    key = f"{seed}\0{cell.name}\0{index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")


def measure_case(cell: Cell, index: int, effort: Effort, *, seed: int) -> Case:
    """Draw one case of a cell and measure it."""
    own, shared = case_seed(seed, cell, index), case_seed(seed, cell, index // SHUFFLES)
    if cell.kind == "shuffled depth":
        return Case(shuffled_depth(_measured_once(cell.model, effort, shared), seed=own))
    if cell.kind == "shuffled labels":
        return Case(_read_once(cell.model, effort, shared).with_shuffled_labels(seed=own))
    if cell.kind == "random weights":
        return Case(measure_model(load(f"{cell.model}@random:{own}"), effort, seed=own))
    if cell.kind == "spike-in":
        return _spiked(cell, effort, own)
    plan = draw_plan(cell, seed=own)
    rivals = (plan.nuisances.rival,) if plan.nuisances.rival else ()
    return Case(measure_model(plan.build(seed=own), effort, seed=own), plan.boundaries, rivals)


def _spiked(cell: Cell, effort: Effort, seed: int) -> Case:
    """Plant one change between two blocks of a trained model, away from the ends, and measure it on a draw of text."""
    model = _loaded(cell.model)
    n_layers = int(model.cfg.n_layers)
    gap = int(np.random.default_rng([seed, 20]).integers(2, n_layers - 1))
    with spiked(model, gap, cell.strength, seed=seed):
        measured = measure_model(model, effort, seed=seed)
    return Case(measured, (gap,) if cell.strength else ())


def draw_plan(cell: Cell, *, seed: int) -> PlantedModel:
    """Draw the planted gaps and onsets of one case."""
    rng = np.random.default_rng([seed, 20])
    gaps = draw_gaps(cell.places, cell.n_layers - 1, rng) if cell.kind == "planted" else ()
    values = dict(cell.nuisances)
    if values.get("massive_onset") == "random":
        values["massive_onset"] = int(rng.integers(1, cell.n_layers))
    if values.get("massive_end") == "before last":
        values["massive_onset"] = int(rng.integers(0, cell.n_layers - 2))
        values["massive_end"] = cell.n_layers - 1
    if values.get("massive_end") == "random":
        values["massive_onset"], values["massive_end"] = map(int, np.sort(rng.choice(cell.n_layers, 2, replace=False)))
    for field_name in ("sink_onset", "sink_end"):
        if isinstance(values.get(field_name), str):
            values[field_name] = values[values[field_name]]
    if values.get("rival") == "random":
        free = [gap for gap in range(1, cell.n_layers) if all(abs(gap - g) >= SPACING for g in gaps)]
        values["rival"] = int(rng.choice(free))
    strength = Strengths(*(3 * [cell.strength]))
    return PlantedModel(cell.n_layers, gaps, strength, replace(Nuisances(), **values))


@lru_cache(maxsize=2)
def _loaded(name: str) -> CausalModel:
    return load(name)


@lru_cache(maxsize=2)
def _measured_once(name: str, effort: Effort, seed: int) -> Measured:
    """Measure a real model once for all shuffles of a draw that this process makes."""
    return measure_model(_loaded(name), effort, seed=seed)


@lru_cache(maxsize=1)
def _read_once(name: str, effort: Effort, seed: int) -> Reading:
    return read_model(_loaded(name), effort, seed=seed)
