"""Runs stored by earlier versions open as they did: `tests/format_1` was written before format 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from mspgt_tl.evidence import peak_draws
from mspgt_tl.pipeline.detection import load_run


def test_format_1_is_read(tmp_path: Path) -> None:
    """Its boundaries, verdicts and intervals are its own; the peaks that it did not store are picked again."""
    folder = shutil.copytree(Path(__file__).parents[1] / "format_1", tmp_path / "run")
    result = load_run(folder)
    assert result.manifest["format"] == 1 and "peak" not in result.data
    assert result.boundaries == (3, 6)
    assert result.found.verdicts == tuple(result.data["verdict"].values.tolist())
    assert result.found.peaks.shape == (100, 2)
    counted = np.bincount(np.isfinite(result.found.peaks).sum(axis=1), minlength=3) / 100
    np.testing.assert_allclose(counted, result.data["peak_count"].values, atol=0.01)
    present = np.isfinite(peak_draws(result.data)).mean(axis=0)
    np.testing.assert_allclose(present, result.found.presence, atol=0.01)
    assert list(result.scales(unsupported=True)) == ["local", "intermediate", "global"]
