"""One of everything new, each from this file alone: no other file names it, and it goes through to the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mspgt_tl import detect, intervene, load
from mspgt_tl.cli import app
from mspgt_tl.contracts import SIGNALS
from mspgt_tl.corpora import text
from mspgt_tl.corpora.paragraphs import Line
from mspgt_tl.dashboard.layers import weight_figure
from mspgt_tl.dashboard.sheet import PANELS, Section, panel
from mspgt_tl.errors import DataError
from mspgt_tl.interventions.alternatives import KINDS, Kind, find_kind
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.metrics.base import METRICS, MetricResult, TextMetric, summarise
from mspgt_tl.models.families import FAMILIES, find_family
from mspgt_tl.pipeline.detection import load_run
from mspgt_tl.signals.sums import MeanSignal

QUICK = {"sentences": 220, "probe.epochs": 1, "probe.repeats": 1, "train_trees": 100, "tasks": ("pos",)}


@dataclass(frozen=True)
class NormJump(MeanSignal):
    """How far the mean norm of the stream moves."""

    name: ClassVar[str] = "toy_norm"
    title: ClassVar[str] = "Norm jumps"
    unit: ClassVar[str] = "length"
    source: ClassVar[str] = "a test; N"
    role: ClassVar[Literal["fused", "rival", "audit"]] = "fused"
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    def observe(self, batch):
        norms = torch.stack([(r.norm(dim=-1) * batch.is_data).sum(1) for r in batch.resid], dim=1)
        return norms, batch.is_data.sum(1)


@dataclass(frozen=True)
class Shouting(TextMetric):
    """Share of capital letters."""

    name: ClassVar[str] = "toy_shouting"
    title: ClassVar[str] = "Shouting"
    unit: ClassVar[str] = "share"
    better: ClassVar[Literal["lower", "higher", "none"]] = "none"
    meaning: ClassVar[str] = "Higher: more capital letters."
    bounds: ClassVar[tuple[float, float]] = (0, 1)
    source: ClassVar[str] = "a test; N"

    def measure(self, samples) -> MetricResult:
        shares = [np.mean([letter.isupper() for letter in sample.text] or [np.nan]) for sample in samples]
        return summarise(np.array(shares), undefined="are empty")


def negated_noise(model, layers, sigma, *, bank, **options: Any) -> Any:
    """Return plain noise with another seed."""
    return noise_hooks(model, layers, sigma, **{**options, "seed": options["seed"] + 1})


def read_diary(path: Path) -> Iterator[Line]:
    """Yield the entries of a file of `DATE | sentence` lines, which would not pass as prose."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield Line(line.partition(" | ")[2])


@pytest.mark.parametrize("role", ["fused", "rival"])
def test_a_signal_is_one_class_and_a_panel_one_function(role, tiny_folder, tmp_path, monkeypatch):
    """Fused as a fourth or held beside the three, it reaches boundaries, store and page, and so does a section."""
    monkeypatch.setattr(SIGNALS, "_known", dict(SIGNALS._known))
    monkeypatch.setattr(NormJump, "role", role)
    SIGNALS.register(NormJump)
    draw = panel(lambda data, manifest: [Section("A toy panel", f"{len(data['gap'])} gaps, seed {data.attrs['seed']}")])
    fused = ["cka", "probe", "attention_jsd"] + ["toy_norm"] * (role == "fused")
    weights = (1.0,) * len(fused)
    try:
        detect(tiny_folder, out=tmp_path / "run", rivals=True, weights=weights, resamples=100, null_curves=50, **QUICK)
    finally:
        PANELS.remove(draw)
    found = load_run(tmp_path / "run")
    assert list(found.data["signal"].values) == fused
    assert found.rivals is not None and ("toy_norm" in found.rivals["rival"].values) == (role == "rival")
    if role == "fused":
        with pytest.raises(DataError, match="three signals"):
            weight_figure(found.data, 0)
    own = found.curves.sel(signal="toy_norm") if role == "fused" else found.rivals["curve"].sel(rival="toy_norm")
    assert np.isfinite(own).all()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "toy_norm" in page and "A toy panel" in page and "7 gaps, seed 0" in page


def test_a_metric_a_noise_and_a_corpus_are_one_entry_each(tiny_folder, tmp_path, monkeypatch):
    """Prompts come from the new format, are continued under the new noise, and measured by the new metric."""
    monkeypatch.setattr(METRICS, "_known", dict(METRICS._known))
    METRICS.register(Shouting)
    monkeypatch.setitem(KINDS, "toy", Kind(negated_noise))
    diary = text.Reader(lambda path: path.suffix == ".diary", read_diary)
    monkeypatch.setitem(text.READERS, "diary", diary)
    from mspgt_tl import sample_sentences

    file = tmp_path / "days.diary"
    file.write_text("\n".join(f"2026-01-01 | {one}" for one in sample_sentences(120)), encoding="utf-8")
    few: dict[str, Any] = {
        "samples": 4,
        "new_tokens": 4,
        "effect_sentences": 6,
        "scale_sentences": 30,
        "resamples": 100,
    }
    few |= {"dose_sentences": 4, "controls": 1, "other_doses": (), "prompt_tokens": 4}
    swept = {
        kind: intervene(tiny_folder, file, scales="0-3,4-7", levels=(0.3,), kind=kind, metrics=("toy_shouting",), **few)
        for kind in ("toy", "gaussian")
    }
    assert set(swept["toy"].statistics["metric"]) == {"toy_shouting"}
    assert np.isfinite(swept["toy"].samples["toy_shouting"]).any()
    assert swept["toy"].manifest["identity"]["corpus"]["name"] == "days.diary"
    assert not swept["toy"].samples["prompt"].str.contains("2026").any()
    assert not np.allclose(swept["toy"].effects["kl"], swept["gaussian"].effects["kl"])
    assert find_kind("toy").largest == np.inf


def test_a_model_family_is_one_entry(tiny_folder, tmp_path, monkeypatch):
    """A `model_type` of our own loads, and its residuals equal Hugging Face's (the parity check runs)."""
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    class ToyConfig(LlamaConfig):
        model_type = "toy_llama"

    class ToyForCausalLM(LlamaForCausalLM):
        config_class = ToyConfig

    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", dict(CONFIG_MAPPING._extra_content))
    monkeypatch.setattr(MODEL_FOR_CAUSAL_LM_MAPPING, "_extra_content", dict(MODEL_FOR_CAUSAL_LM_MAPPING._extra_content))
    AutoConfig.register("toy_llama", ToyConfig)
    AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM)
    folder = tmp_path / "toy"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "toy_llama", "architectures": ["ToyForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setitem(FAMILIES, "toy_llama", FAMILIES["llama"])
    assert find_family(ToyConfig()) is FAMILIES["llama"]
    assert load(folder).cfg.n_layers == 8


def test_a_command_is_one_function():
    """It stands in the overview and runs."""

    @app.command()
    def toy() -> None:
        """Say hello."""
        print("hello from a toy")

    try:
        assert "Say hello." in CliRunner().invoke(app, ["--help"]).stdout
        assert CliRunner().invoke(app, ["toy"]).stdout == "hello from a toy\n"
    finally:
        app.registered_commands.pop()
