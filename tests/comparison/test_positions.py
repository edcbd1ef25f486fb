"""Where models' boundaries lie, read from runs."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mspgt_tl.comparison.positions import Located, architecture_of, locate, paper_models, read_runs
from mspgt_tl.contracts import Existence
from mspgt_tl.errors import ConfigError, StoreError
from mspgt_tl.evidence import peak_draws
from mspgt_tl.pipeline.detection import load_run
from mspgt_tl.store import Run

SWEEP = {"identity": {"command": "intervene"}}


@pytest.mark.parametrize(("gaps", "noise"), [((3, 8), 0.05), ((3, 8), 0.4), ((5,), 0.4)])
def test_draws_give_the_intervals_of_the_result(planted_result, gaps, noise):
    """Peaks picked again from the stored resamples have the quantiles and the presence that the detection reported."""
    data, found = planted_result(gaps, noise=noise)
    draws = peak_draws(data)
    assert draws.shape == (300, len(found.boundaries))
    for i in range(len(found.boundaries)):
        there = draws[~np.isnan(draws[:, i]), i]
        assert len(there) / len(draws) == pytest.approx(found.presence[i])
        if not np.isnan(found.intervals[i]).any():
            expected = np.quantile(there, [0.025, 0.975], method="inverted_cdf")
            assert found.intervals[i].tolist() == expected.tolist()


def is_lost(model: Located) -> bool:
    """Whether places of two boundaries are there to be filled, and all are empty."""
    shapes = (model.gaps.shape, model.intervals.shape, model.draws.shape) == ((2,), (2, 2), (0, 2))
    return shapes and bool(np.isnan(model.gaps).all() and np.isnan(model.intervals).all())


def test_two_boundaries_are_located(planted_result):
    """Absolute and relative, with verdicts and whether they exist."""
    model = locate(planted_result((3, 8))[0], name="m", family="f", architecture="a")
    assert model.gaps.tolist() == [3, 8]
    assert model.relative == pytest.approx([0.25, 8 / 12])
    assert model.exists is True
    assert model.reason is None


def test_one_boundary_is_neither(planted_result):
    """A single peak may be L-I or I-G, so both are missing, with the reason."""
    model = locate(planted_result((5,))[0], name="m", family="f", architecture="a")
    assert is_lost(model)
    assert "one boundary, at gap 5" in (model.reason or "")
    assert model.exists is False


def test_the_published_rule_tests_no_existence(planted_result):
    """Under `rule="paper"` existence is unknown, and such boundaries never count as supported."""
    model = locate(planted_result((3, 8), rule="paper")[0], name="m", family="f", architecture="a")
    assert model.exists is None
    assert model.counting("found") is model
    assert is_lost(model.counting("supported"))
    assert "accepted" in (model.counting("supported").reason or "")


def test_one_supported_boundary_of_two_does_not_count(planted_result):
    """Both must pass the test of existence."""
    model = locate(planted_result((3, 8))[0], name="m", family="f", architecture="a")
    half = replace(model, verdicts=(Existence.SUPPORTED, Existence.LOCALISED))
    assert half.exists is False
    assert is_lost(half.counting("supported"))


def test_supported_boundaries_count(planted_result):
    """They are kept as they are."""
    model = locate(planted_result((3, 8))[0], name="m", family="f", architecture="a")
    assert model.counting("supported") is model


def test_runs_are_read_with_family_and_architecture(planted_run):
    """By the model's name; seeds share an architecture, twins are families of their own, names can be given."""
    runs = [planted_run(n, (3, 8)) for n in ("llama2-mini", "llama2-mini@seed:1", "llama2-mini@random:0", "other")]
    read = list(map(load_run, runs))
    models = read_runs(read, families={"other": "qwen"}, architectures={str(runs[3]): "x"})
    assert [m.family for m in models] == ["llama", "llama", "llama (random weights)", "qwen"]
    assert [m.architecture for m in models] == ["llama2-mini", "llama2-mini", "llama2-mini (random weights)", "x"]


def test_folders_go_by_their_dimensions():
    """The last part of a path is no architecture: two runs in `…/model` would look alike."""
    sizes = {"architecture": "LlamaForCausalLM", "n_layers": 12, "d_model": 64, "n_heads": 4, "n_key_value_heads": 2}
    assert architecture_of({"name": "runs/a/model", "random_seed": None, **sizes}) == "LlamaForCausalLM 12×64×4×2"


def test_two_runs_of_one_model_keep_their_folders(planted_run, tmp_path):
    """Their names tell them apart."""
    first = planted_run("m", (3, 8))
    second = first.rename(tmp_path / "elsewhere")
    names = [m.name for m in read_runs([load_run(planted_run("m", (3, 8))), load_run(second)])]
    assert len(set(names)) == 2 and all(name.startswith("m (") for name in names)


def test_a_run_given_twice_is_refused(planted_run):
    """It would count as two models that agree."""
    run = load_run(planted_run("m", (3, 8)))
    with pytest.raises(ConfigError, match="twice"):
        read_runs([run, run])


def test_unknown_names_are_refused(planted_run):
    """With the closest known one."""
    with pytest.raises(ConfigError, match="Did you mean 'qwen-mini'"):
        read_runs([load_run(planted_run("qwen-mini", (3, 8)))], families={"qwen-mimi": "q"})


def test_old_runs_are_refused(planted_result, tmp_path):
    """They lack what draws are made from."""
    old = Run.create(tmp_path / "old", {"model": {"name": "m"}})
    old.stage("result", lambda: planted_result((3, 8))[0].drop_vars("gain"))
    with pytest.raises(StoreError, match=r"older version.*gain"):
        read_runs([load_run(tmp_path / "old")])


def test_what_is_no_detection_is_refused(planted_run):
    """A folder says how it is read, a result of another command which one it is."""
    folder = planted_run("m", (3, 8))
    for given, told in ((folder, re.escape(repr(folder))), (SimpleNamespace(manifest=SWEEP), "intervene")):
        with pytest.raises(ConfigError, match=rf"load_run\(FOLDER\).*run 2 is: {told}"):
            read_runs([load_run(folder), given])


def test_the_paper_has_four_models_without_draws():
    """Positions as printed, no intervals, existence untested."""
    models = paper_models()
    assert [m.gaps.tolist() for m in models] == [[13, 16], [13, 16], [2, 20], [2, 8]]
    assert all(m.exists is None and len(m.draws) == 0 and np.isnan(m.intervals).all() for m in models)
