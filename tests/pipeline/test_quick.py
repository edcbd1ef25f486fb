"""A quick look: less work, its own folder, marked everywhere, and taken over where the full run sees the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mspgt_tl import detect, intervene, load_run
from mspgt_tl.cli import app
from mspgt_tl.config import DetectConfig, InterveneConfig, TheoryConfig, quicken, settings_of
from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.errors import StoreError
from mspgt_tl.pipeline import Detection
from mspgt_tl.pipeline.runs import find_runs
from mspgt_tl.store import Run

FAST: dict[str, Any] = {"probe": {"epochs": 1, "hidden": 16}, "boundaries": {"resamples": 100, "null_curves": 100}}
SMALL: dict[str, Any] = {"sentences": 210, "train_trees": 60, "tasks": ("pos",)}


@pytest.fixture(scope="module")
def quick(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Detection:
    """A quick look in a folder where the full run is to come."""
    trees = generate_treebank(seed=1, train=80, dev=320)
    return detect(tiny_folder, None, trees, out=tmp_path_factory.mktemp("quick"), config=FAST, quick=True, **SMALL)


@pytest.mark.parametrize("kind", [DetectConfig, InterveneConfig, TheoryConfig])
def test_it_never_does_more_than_was_asked(kind: Any) -> None:
    """Settings that are smaller already stay; it is a whole config, and less of one."""
    small = settings_of(kind, None, {}, quick=True)
    assert small != kind()
    assert settings_of(kind, small, {}, quick=True) == small
    assert settings_of(DetectConfig, DetectConfig(sentences=220), {}, quick=True).sentences == 220


def test_what_the_options_ask_goes_before_the_profile() -> None:
    """Of an explicit choice nothing is taken away, nor is anything put in that a config left out."""
    assert settings_of(DetectConfig, None, {"sentences": 5000, "tasks": ("srl",)}, quick=True).sentences == 5000
    assert quicken(DetectConfig, {"signals": {"tasks": ["ner", "srl", "deprel"]}})["signals"]["tasks"] == ("deprel",)
    assert quicken(DetectConfig, {"signals": {"tasks": ["ner", "srl"]}})["signals"]["tasks"] == ("ner", "srl")
    assert settings_of(InterveneConfig, {"level": 0.5}, {}, quick=True).levels == (0.05, 0.1, 0.2, 0.5)


def test_it_lies_in_a_folder_of_its_own_and_says_what_it_is(quick: Detection) -> None:
    """In repr, summary, notes, page, list of runs, tables and JSON."""
    assert quick.folder is not None and quick.folder.name == "quick"
    assert repr(quick).startswith("Quick look. ")
    assert "A quick look: 210 sentences, probes of pos on 60 trees with 1 training each." in quick.quick
    assert "quick look" in quick._repr_html_()
    assert not len(quick.summary()) or quick.summary()["quick"].all()
    page = (quick.folder / "report.html").read_text(encoding="utf-8")
    assert "Quick look: " in page and "A quick look: 210 sentences" in page
    assert find_runs([quick.folder.parent])[0].command == "detect (quick)"
    printed = CliRunner().invoke(app, ["report", str(quick.folder)]).stdout
    assert printed.startswith("· A quick look")
    told = json.loads(CliRunner().invoke(app, ["report", str(quick.folder), "--json"]).stdout)
    assert told["quick"] == quick.quick
    assert quick.manifest["identity"]["treebank"]["dev"] == 300


def test_a_folder_with_nothing_else_says_so(quick: Detection) -> None:
    """Where a detection is needed, no model is looked for instead."""
    assert quick.folder is not None
    for use in (load_run, intervene):
        with pytest.raises(StoreError, match="holds a quick look alone: give"):
            use(quick.folder.parent)


def test_the_full_run_takes_over_what_is_the_same(quick: Detection, tiny_folder: Path, tmp_path: Path) -> None:
    """Signals of the same sentences are there already; probes measured on more trees are not, and both are said."""
    import shutil

    assert quick.folder is not None
    shutil.copytree(quick.folder, tmp_path / "run" / "quick")
    trees = generate_treebank(seed=1, train=80, dev=320)
    config = {**FAST, "probe": {**FAST["probe"], "repeats": 1}}
    full = detect(tiny_folder, None, trees, out=tmp_path / "run", config=config, **SMALL)
    stages = Run.read(tmp_path / "run").manifest["stages"]
    taken = {name for name, stage in stages.items() if "from" in stage}
    assert taken == {"cka", "attention_jsd", "audit-cka", "audit-attention", "profile"}
    assert full.quick == "" and "quick" not in full.manifest["identity"]
    assert full.manifest["notes"]["sentences"] == quick.manifest["notes"]["sentences"]
    log = (tmp_path / "run" / "progress.log").read_text(encoding="utf-8")
    assert "Taken over from" in log and "attention_jsd" in log
    assert (full.curves.sel(signal="cka") == quick.curves.sel(signal="cka")).all()
