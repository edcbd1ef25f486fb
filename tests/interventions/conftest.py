"""A tiny model, and noise of an absolute size in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.models.pretrained import load


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    """The tiny random Llama."""
    return load(tiny_folder)


@pytest.fixture
def noise(model: Any) -> Any:
    """A maker of noise hooks."""
    return lambda layers, sigma, ids, at: noise_hooks(
        model, layers, sigma, seed=4, sample_ids=ids, positions=at, unit=1.0
    )
