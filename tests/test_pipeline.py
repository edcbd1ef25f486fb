"""A whole detection: result, resuming, nulls, bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mspgt_tl import detect, load, load_run, measure
from mspgt_tl.contracts import TASKS, Treebank
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.corpora.treebank import write_conllup
from mspgt_tl.errors import ConfigError, CorpusError, StoreError
from mspgt_tl.pipeline import REPORT, Detection
from mspgt_tl.pipeline.inputs import shuffle_labels

QUICK: dict[str, Any] = {
    "sentences": 220,
    "probe": {"epochs": 2, "repeats": 1, "hidden": 16},
    "boundaries": {"resamples": 100, "null_curves": 200},
}


@pytest.fixture(scope="module")
def trees() -> Treebank:
    """A small generated treebank."""
    return generate_treebank(seed=1, train=80, dev=200)


@pytest.fixture(scope="module")
def result(tiny_folder: Path, trees: Treebank, tmp_path_factory: pytest.TempPathFactory) -> Detection:
    """One quick detection, written to disk."""
    return detect(tiny_folder, None, trees, out=tmp_path_factory.mktemp("runs") / "one", config=QUICK)


def test_little_memory_changes_nothing_but_where_vectors_lie(
    tiny_folder: Path, trees: Any, result: Detection, tmp_path: Path
) -> None:
    """Vectors in a file and one layer at a time give the curves of vectors in memory, and leave no file behind."""
    found = detect(tiny_folder, None, trees, out=tmp_path / "run", config=QUICK, memory="1KB")
    assert "in a file" in found.manifest["notes"]["word_vectors"]["kept"]
    assert result.manifest["notes"]["word_vectors"] == {
        "bytes": found.manifest["notes"]["word_vectors"]["bytes"],
        "kept": "in memory",
    }
    np.testing.assert_allclose(found.curves, result.curves, atol=0.02)
    assert result.folder is not None
    left = {path.suffix for path in (tmp_path / "run").iterdir()}
    assert left <= {path.suffix for path in result.folder.iterdir()}


def test_result_has_everything_it_promises(result: Detection) -> None:
    """Boundaries, verdicts, labelled curves, tables, and a report on disk."""
    assert result.curves.dims == ("signal", "gap")
    assert result.curves["signal"].values.tolist() == ["cka", "probe", "attention_jsd"]
    assert result.curves["gap"].values.tolist() == list(range(1, 8))
    assert len(result.verdicts) == len(result.boundaries) <= 2
    assert np.isfinite(result.data["f1"]).all()
    assert result.data["f1"].shape == (4, 3, 8)
    assert np.allclose(np.diag(result.data["cka"]), 1)
    assert result.data["resampled"].shape == (100, 3, 7)
    assert result.folder is not None
    assert (result.folder / REPORT).stat().st_size > 1_000_000
    assert not list(result.folder.glob("*.partial"))


def test_manifest_says_what_the_numbers_depend_on(result: Detection) -> None:
    """Config, seeds, hashes, versions, device, dtype, weight processing and timings are recorded."""
    identity = result.manifest["identity"]
    assert identity["config"]["probe"]["epochs"] == 2
    assert identity["config"]["seed"] == 0
    assert len(identity["model"]["sha256"]) == len(identity["corpus"]["sha256"]) == 64
    assert identity["model"]["weight_processing"] == "none"
    assert (identity["model"]["dtype"], identity["model"]["device"]) == ("float32", "cpu")
    assert result.manifest["packages"]["transformer-lens"].startswith("3.")
    read = {"cka", "attention_jsd", "audit-cka", "audit-attention", "profile"}
    assert set(result.manifest["stages"]) == {*read, "result", *(f"probe-{task}" for task in TASKS)}


def test_runs_read_back_equal(result: Detection, tmp_path: Path) -> None:
    """What is loaded, and what is saved elsewhere and loaded, equals the original."""
    assert result.folder is not None
    xr.testing.assert_identical(load_run(result.folder).data, result.data)
    result.save(tmp_path / "copy")
    xr.testing.assert_identical(load_run(tmp_path / "copy").data, result.data)


def test_same_seed_repeats_and_another_does_not(tiny_folder: Path, trees: Treebank, result: Detection) -> None:
    """Without a folder the same numbers come back to the last bit; another seed gives others."""
    again = detect(tiny_folder, None, trees, config=QUICK)
    assert again.folder is None
    xr.testing.assert_identical(again.data, result.data)
    other = detect(tiny_folder, None, trees, seed=1, config=QUICK)
    assert not np.allclose(other.curves, result.curves)


class Stop(Exception):
    """Stands for whatever interrupts a run."""


def test_interrupted_run_resumes_to_the_same_numbers(
    tiny_folder: Path, trees: Treebank, result: Detection, tmp_path: Path
) -> None:
    """A run stopped between probe tasks redoes no finished stage and ends with the same result."""
    done: list[str] = []

    def stop_at_ner(stage: str, *_: float) -> None:
        done.append(stage)
        if stage == "probes: ner":
            raise Stop

    with pytest.raises(Stop):
        detect(tiny_folder, None, trees, out=tmp_path / "run", config=QUICK, progress=stop_at_ner)
    with pytest.raises(StoreError, match="not finished"):
        load_run(tmp_path / "run")
    done.clear()
    resumed = detect(
        tiny_folder, None, trees, out=tmp_path / "run", config=QUICK, progress=lambda stage, *_: done.append(stage)
    )
    assert {"signals", "probes: pos", "probes: deprel"}.isdisjoint(done)
    xr.testing.assert_identical(resumed.data, result.data)


@pytest.mark.slow
def test_killed_process_resumes_to_the_same_numbers(tiny_folder: Path, tmp_path: Path) -> None:
    """`kill -9` in the middle loses nothing that was finished, and the numbers are those of an undisturbed run."""
    command = [sys.executable, "-m", "mspgt_tl.cli", "detect", str(tiny_folder), "--sentences", "220"]
    command += ["--set", "probe.epochs=3", "--set", "probe.repeats=1", "--set", "train_trees=200"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "probe-pos.nc").exists():
        assert time.monotonic() < deadline and victim.poll() is None
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    finished = set(load_stages(tmp_path / "killed"))
    assert "result" not in finished
    for name in ("killed", "whole"):
        subprocess.run([*command, "--out", str(tmp_path / name)], env=environment, check=True, capture_output=True)
    xr.testing.assert_identical(load_run(tmp_path / "killed").data, load_run(tmp_path / "whole").data)


def load_stages(folder: Path) -> list[str]:
    """Return the finished stages of a run."""
    from mspgt_tl.store import Run

    return list(Run.read(folder).manifest["stages"])


def test_folder_of_another_run_is_refused(tiny_folder: Path, trees: Treebank, result: Detection) -> None:
    """Changing a setting needs another folder, and the error names the setting."""
    with pytest.raises(StoreError, match=r"config\.sentences: 220 there, 210 now"):
        detect(tiny_folder, None, trees, out=result.folder, config={**QUICK, "sentences": 210})


def test_nulls_run_beside_the_model(tiny_folder: Path, trees: Treebank, tmp_path: Path) -> None:
    """Each null is a whole result of its own, kept in the run, and changes what it should and nothing else."""
    nulls = ("random:1", "labels", "tokens")
    found = detect(tiny_folder, None, trees, out=tmp_path / "run", config=QUICK, nulls=nulls)
    assert set(load_run(tmp_path / "run").nulls) == {"random-1", "labels", "tokens"}
    curves = {name: data["curve"] for name, data in found.nulls.items()}
    assert np.array_equal(curves["labels"].sel(signal="cka"), found.curves.sel(signal="cka"))
    assert not np.array_equal(curves["labels"].sel(signal="probe"), found.curves.sel(signal="probe"))
    assert np.array_equal(curves["tokens"].sel(signal="probe"), found.curves.sel(signal="probe"))
    assert not np.array_equal(curves["tokens"].sel(signal="cka"), found.curves.sel(signal="cka"))
    assert not np.array_equal(curves["random-1"], found.curves)


def test_shuffled_labels_keep_counts(trees: Treebank) -> None:
    """Shuffling deals the same labels anew: every label stays as frequent as it was."""
    shuffled = shuffle_labels(trees, seed=0)
    for name in ("upos", "deprel", "ner"):
        before, after = (
            sorted(str(getattr(w, name)) for t in bank.train for w in t.words) for bank in (trees, shuffled)
        )
        assert before == after
    assert [w.upos for w in shuffled.dev[0].words] != [w.upos for w in trees.dev[0].words]


def test_loaded_objects_and_sentence_lists_are_taken(tiny_folder: Path, trees: Treebank, result: Detection) -> None:
    """A model object and a list of sentences give the same curves as their names."""
    from mspgt_tl.corpora.grammar import generated_corpus

    sentences = list(generated_corpus(seed=1, limit=220).sentences)
    found = detect(load(tiny_folder), sentences, trees, config=QUICK)
    assert np.array_equal(found.curves, result.curves)


def test_models_with_other_weights_never_share_a_run(tiny_folder: Path, tmp_path: Path) -> None:
    """An object has no file to hash, so its parameters are."""
    import torch
    from transformers import AutoModelForCausalLM

    tree = generate_treebank(seed=1, train=30, dev=60)
    hashes = set()
    for change in (0.0, 1e-3):
        model = AutoModelForCausalLM.from_pretrained(tiny_folder)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight += change
        try:
            found = detect(model, None, tree, out=tmp_path / "run", config={**QUICK, "signals": {"tasks": ["pos"]}})
            hashes.add(found.manifest["identity"]["model"]["parameters_sha256"])
        except StoreError as error:
            assert "parameters_sha256" in str(error)
            hashes.add("refused")
    assert len(hashes) == 2
    assert "refused" in hashes


def test_paper_rule_by_option(tiny_folder: Path, trees: Treebank, result: Detection) -> None:
    """The published rule sees the same curves, but for `cka` of raw rows, and tests nothing."""
    found = detect(tiny_folder, None, trees, config=QUICK, rule="paper")
    assert np.array_equal(found.curves[1:], result.curves[1:])
    raw = detect(tiny_folder, None, trees, config=QUICK, rows="raw")
    assert np.array_equal(found.curves[0], raw.curves[0])
    assert set(found.verdicts) <= {"accepted", "not accepted"}


def test_treebank_without_a_layer_is_named(tiny_folder: Path, trees: Treebank) -> None:
    """A missing layer says which tasks there are; asking for those works."""
    from dataclasses import replace

    partial = replace(trees, tasks=("pos", "deprel"))
    with pytest.raises(CorpusError, match=r"lacks the labels of ner, srl; it has pos, deprel.*--tasks pos,deprel"):
        detect(tiny_folder, None, partial, config=QUICK)
    found = detect(tiny_folder, None, partial, config=QUICK, tasks=["pos", "deprel"])
    assert np.isnan(found.data["f1"].sel(task="ner")).all()
    assert np.isfinite(found.curves).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nulls": ["randm:1"]}, ConfigError, "Unknown null"),
        ({"corpus": ["one sentence"]}, CorpusError, "At least 200"),
        ({"treebank": "/nowhere"}, CorpusError, "neither"),
        ({"sentense": 5}, ConfigError, "Did you mean 'sentences'"),
    ],
)
def test_bad_input_is_named(
    tiny_folder: Path, tmp_path: Path, options: dict, error: type[Exception], message: str
) -> None:
    """Each mistake gives one clear error before any work is done, and nothing is written."""
    with pytest.raises(error, match=message):
        detect(tiny_folder, out=tmp_path / "run", config=QUICK, **options)
    assert not (tmp_path / "run").exists()


def test_documents_are_resampled_whole_and_told(tiny_folder: Path, tmp_path: Path) -> None:
    """A text of articles and a treebank of documents: the manifest says what was resampled and what was left out."""
    sentences = generated_corpus(seed=1, limit=240).sentences
    text = tmp_path / "articles.txt"
    articles = [f"= Title {i} =\n{' '.join(sentences[i * 12 : i * 12 + 12])}\n" for i in range(20)]
    text.write_text("\n".join(articles), encoding="utf-8")
    drawn = generate_treebank(train=60, dev=40)
    for split, trees in (("train", drawn.train), ("dev", drawn.dev)):
        write_conllup([replace(tree, document=i // 4) for i, tree in enumerate(trees)], tmp_path / f"{split}.conllup")
    result = detect(
        tiny_folder,
        text,
        (tmp_path / "train.conllup", tmp_path / "dev.conllup"),
        config={**QUICK, "sentences": 1000},
        tasks=["pos"],
    )
    notes = result.manifest["notes"]
    assert (notes["resampled"], notes["trees_resampled"]) == ("20 documents", "documents")
    assert notes["reading_corpus"]["headings left out"] == 20
    curves = measure(tiny_folder, text, signals=("cka",))
    assert np.allclose(curves.sel(signal="cka"), result.curves.sel(signal="cka"))
