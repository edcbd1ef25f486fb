"""What a study's runs say, from detections made by hand: whose boundaries, which family, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mspgt_tl.study.findings import BOUNDARY_COLUMNS, Findings
from mspgt_tl.study.plan import StudyConfig, StudyCorpus, StudyModel
from mspgt_tl.study.run import Outcome, Study

MODELS = {"ada@seed:0": StudyModel("Ada"), "ada@seed:1": StudyModel("Ada"), "ada@random:0": StudyModel("Ada")}


@pytest.fixture
def found(make_detection: Any) -> Findings:
    """Two training runs and a twin on one corpus; the second run has its boundaries elsewhere on another corpus."""
    config = StudyConfig(models=MODELS, corpora={"wiki": StudyCorpus(), "news": StudyCorpus()})
    outcomes = {"detect/wiki/ada@seed-0": Outcome("detect/wiki/ada@seed-0", 3.0)}
    findings = Findings(Study(config, outcomes, {}, Path("nowhere")))
    places = {
        ("wiki", "ada@seed:0"): (4, 9),
        ("wiki", "ada@seed:1"): (4, 9),
        ("wiki", "ada@random:0"): (2, 6),
        ("news", "ada@seed:1"): (3, 7),
    }
    made: dict[str, Any] = {"detections": {key: make_detection(key[1], gaps) for key, gaps in places.items()}}
    vars(findings).update(made)
    return findings


def test_every_boundary_is_a_row_with_its_model_and_corpus(found: Findings) -> None:
    """Gap over blocks, first and second, as the detections have them; twins say so in their family."""
    table = found.boundaries
    assert list(table.columns) == BOUNDARY_COLUMNS
    assert table["gap"].tolist() == [4, 9, 4, 9, 2, 6, 3, 7]
    assert table["corpus"].tolist() == ["wiki"] * 6 + ["news"] * 2
    assert (table["depth"] == table["gap"] / 12).all()
    assert table["boundary"].tolist() == ["LI", "IG"] * 4
    assert table["family"].tolist() == ["Ada"] * 4 + ["Ada (random weights)"] * 2 + ["Ada"] * 2
    assert table["random"].tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert table["published"].tolist()[:2] == ["4 and 9"] * 2


def test_twins_are_those_of_every_run_of_their_architecture(found: Findings) -> None:
    """The twin's place is held against both runs; where the gaps of one corpus recur in the other run, that counts."""
    told = found.dependence
    assert told is not None
    own = told.boundaries.set_index(["model", "corpus", "gap"])
    assert (own["n_twins"].loc[:, "wiki"] == 1).all()
    assert own.loc[("ada@seed:0", "wiki", 9), "recurs_models"] == 1
    assert own.loc[("ada@seed:1", "wiki", 9), "recurs_corpora"] == 0
    assert "ada@random:0" not in set(told.boundaries["model"])


def test_what_has_not_run_is_an_empty_table(found: Findings) -> None:
    """No sweep and no theory run: empty tables with their columns, and steps that say that they have not run."""
    assert found.doses.empty and found.theory.empty and found.measurements.empty
    assert "kl" in found.doses.columns and "beta" in found.theory.columns
    states = found.progress.set_index("folder")["state"]
    assert states["detect/wiki/ada@seed-0"] == "finished"
    assert set(states.drop("detect/wiki/ada@seed-0")) == {"not run yet"}
    assert found.problems == []
