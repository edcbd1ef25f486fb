"""Detections with known boundaries, made without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mspgt_tl.boundaries import Boundaries, find_boundaries
from mspgt_tl.store import Run
from mspgt_tl.verdicts.positions import Located


def planted_result(
    gaps: Sequence[int], n_layers: int = 12, *, noise: float = 0.05, seed: int = 0, rule: str = "mspgt"
) -> tuple[xr.Dataset, Boundaries]:
    """Three signals with a peak at each gap, resampled with noise, and what is found in them."""
    rng = np.random.default_rng(seed)
    curves = 0.05 * rng.random((3, n_layers - 1))
    for gap in gaps:
        curves[:, gap - 1] += 1
    resampled = (curves + noise * rng.standard_normal((300, *curves.shape))).astype(np.float32)
    found = find_boundaries(curves, resampled=resampled.astype(np.float64), rule=rule, n_null=200)
    data = xr.Dataset(
        {
            "resampled": (("resample", "signal", "gap"), resampled),
            "weight": ("signal", found.weights),
            "gain": ("signal", found.gain),
            "boundary": ("found", np.array(found.boundaries, dtype=np.int64)),
            "verdict": ("found", np.array(found.verdicts, dtype=str)),
            "interval": (("found", "bound"), found.intervals),
        },
        attrs={"n_layers": n_layers},
    )
    return data, found


@pytest.fixture
def planted_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run of a model with planted boundaries and return its folder."""

    def make(name: str, gaps: Sequence[int], n_layers: int = 12, **options) -> Path:
        folder = tmp_path / name.replace("@", "-").replace(":", "-")
        random_seed = int(name.rpartition(":")[2]) if "@random:" in name else None
        model = {"name": name, "architecture": "LlamaForCausalLM", "n_layers": n_layers, "random_seed": random_seed}
        Run.create(folder, {"model": model}).stage("result", lambda: planted_result(gaps, n_layers, **options)[0])
        return folder

    return make


def located(
    name: str,
    first: float,
    second: float,
    *,
    family: str = "a",
    n_layers: int = 100,
    spread: float = 0.0,
    draws: int = 400,
) -> Located:
    """Return a model with these gaps and normal draws around them."""
    rng = np.random.default_rng([ord(c) for c in name])
    drawn = np.array([first, second]) + spread * rng.standard_normal((draws, 2))
    interval = np.quantile(drawn, [0.025, 0.975], axis=0).T if draws else np.full((2, 2), np.nan)
    gaps = np.array([first, second], dtype=np.float64)
    return Located(name, family, name, n_layers, gaps, interval, ("supported", "supported"), drawn)


@pytest.fixture(name="located")
def located_fixture() -> Callable[..., Located]:
    return located


@pytest.fixture(name="planted_result")
def planted_result_fixture() -> Callable[..., tuple[xr.Dataset, Boundaries]]:
    return planted_result
