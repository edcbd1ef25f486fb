"""Detections without a model: curves with peaks at known gaps, and everything that a result holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.config import DetectConfig, SignalConfig, to_plain
from mspgt_tl.evidence import label_result, make_signals
from mspgt_tl.pipeline.detection import Detection


def made_detection(name: str, at: Sequence[int], probe_at: int | None = None) -> Detection:
    """Return a detection of 12 blocks whose three signals peak at these gaps, the probe perhaps at one more."""
    rng, gaps = np.random.default_rng(0), np.arange(1, 12)
    shape = 0.1 * rng.random((3, 11))
    for height, gap in zip((1.0, 0.9), at, strict=True):
        shape += height * np.exp(-4.0 * (gaps - gap) ** 2)
    if probe_at is not None:
        shape[1] += 0.7 * np.exp(-4.0 * (gaps - probe_at) ** 2)
    resampled = shape + 0.02 * rng.normal(size=(100, 3, 11))
    names = list(make_signals(SignalConfig()))
    found = find_boundaries(shape, resampled=resampled, names=names, n_null=200, seed=0)
    hsic = np.exp(-np.abs(np.arange(12)[:, None] - np.arange(12)) / 12)
    keys = [f"pos.{kind}.{part}" for kind in ("mlp", "linear", "control") for part in ("total", "hits")]
    counts = dict.fromkeys(keys, np.full((4, 2, 12, 3), 100.0))
    sums = {"probe": counts, "cka": {"hsic": hsic[None]}, "attention_jsd": {}}
    data = label_result(make_signals(SignalConfig()), sums, found, shape, resampled)
    identity = {"command": "detect", "config": to_plain(DetectConfig()), "model": {"name": name}}
    return Detection(data, {"identity": identity, "notes": {}, "stages": {}}, {}, None)


@pytest.fixture(scope="session")
def make_detection() -> Callable[..., Detection]:
    return made_detection
