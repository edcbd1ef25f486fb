"""The table of all embedded models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mspgt_tl
from mspgt_tl.errors import StoreError
from mspgt_tl.models.embedded import list_embedded
from mspgt_tl.pipeline.survey import as_markdown, best_f1, survey_models

SETTINGS = {"sentences": 220, "train_trees": 60, "tasks": ["pos"], "resamples": 100, "null_curves": 100}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Detections of one embedded model and of its random twin, and a folder that is no run."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "other").mkdir()
    config = {"probe": {"epochs": 2, "repeats": 1}}
    for name in ("llama2-mini", "llama2-mini@random:0"):
        mspgt_tl.detect(name, out=folder / name.replace(":", "-"), config=config, **SETTINGS)
    return folder


def test_survey_joins_cards_and_runs(runs: Path) -> None:
    """Gains are differences of best layers; models without a run have no boundaries; twins stand at the end."""
    table = survey_models(runs).set_index("model")
    assert list(table.index) == [row["name"] for row in list_embedded()] + ["llama2-mini@random:0"]
    row, twin = table.loc["llama2-mini"], table.loc["llama2-mini@random:0"]
    assert row["gain pos"] == pytest.approx(row["F1 pos"] - twin["F1 pos"])
    assert 0 < row["F1 pos"] <= 1
    assert table.loc["llama3-mini", "boundaries"] is None or table.isna().loc["llama3-mini", "boundaries"]
    run = mspgt_tl.load_run(runs / "llama2-mini")
    assert row["F1 pos"] == np.nanmax(run.data["f1"].sel(task="pos", kind="mlp"))
    assert best_f1(run.data, "ner") is None
    text = as_markdown(survey_models(runs))
    assert text.count("| llama2-mini |") == 3 and "nan" not in text


def test_folder_without_detections_is_refused(tmp_path: Path) -> None:
    """It says how to make one."""
    with pytest.raises(StoreError, match="mspgt detect NAME"):
        survey_models(tmp_path)
