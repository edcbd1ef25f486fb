"""Studies with less in them than their report knows to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

STUDY = """
title = "Detections alone"
[corpora.generated]
[models."{model}"]
family = "Tiny"
stages = ["detect"]
[detect]
sentences = 220
train_trees = 60
signals.tasks = ["pos"]
probe = {{repeats = 1, epochs = 2, hidden = 8}}
boundaries = {{resamples = 100, null_curves = 100}}
"""


@pytest.mark.slow
def test_a_study_of_detections_alone_has_a_report(tiny_folder: Path, tmp_path: Path, mspgt: Any) -> None:
    """Neither a sweep nor a theory run, for none of its models."""
    (tmp_path / "study.toml").write_text(STUDY.format(model=tiny_folder), encoding="utf-8")
    ended = mspgt("study", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    assert "Tiny" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
