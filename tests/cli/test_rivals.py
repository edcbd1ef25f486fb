"""`mspgt detect --rivals`: one pass, the same result, and a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mspgt_tl.errors import MspgtError
from mspgt_tl.pipeline import detect, load_run

QUICK = {
    "sentences": 220,
    "probe.epochs": 2,
    "probe.repeats": 1,
    "train_trees": 150,
    "tasks": ("pos",),
    "resamples": 100,
}
NAMES = {
    "block_influence",
    "angular_distance",
    "logit_lens_entropy",
    "logit_lens_agreement",
    "intrinsic_dimension",
    "matrix_entropy",
    "cka_blocks",
    "first_token_norm",
    "sink_rate",
    "compression",
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detection with rivals."""
    folder = tmp_path_factory.mktemp("rivals") / "run"
    detect(tiny_folder, out=folder, rivals=True, **QUICK)
    return folder


def test_the_result_is_the_same_with_and_without(run, tiny_folder):
    """Rivals only watch: every number of the result is equal to the bit, and the run is the same run."""
    plain = detect(tiny_folder, **QUICK)
    assert plain.rivals is None
    with_rivals = load_run(run)
    assert with_rivals.data.identical(plain.data)
    assert with_rivals.manifest["fingerprint"] == plain.manifest["fingerprint"]


def test_every_rival_is_told(run):
    """Curves over the gaps of the model, finite, each with its place in the table."""
    rivals = load_run(run).rivals
    assert rivals is not None
    assert set(rivals["rival"].values) == NAMES
    assert rivals["curve"].sizes == {"rival": len(NAMES), "gap": 7}
    assert np.isfinite(rivals["curve"]).all()


def test_the_text_is_read_once(tiny_folder, tmp_path, monkeypatch):
    """Signals, audit and rivals watch the same pass; asked for later, only the rivals are read."""
    from mspgt_tl.pipeline import detection

    always = {"cka", "attention_jsd", "audit-cka", "audit-attention"}
    watched, real = [], detection.observe_corpus

    def spy(model, sentences, signals, **options):
        watched.append(set(signals))
        return real(model, sentences, signals, **options)

    monkeypatch.setattr(detection, "observe_corpus", spy)
    first = detect(tiny_folder, out=tmp_path / "together", rivals=True, **QUICK)
    assert watched == [always | NAMES]
    detect(tiny_folder, out=tmp_path / "later", **QUICK)
    later = detect(tiny_folder, out=tmp_path / "later", rivals=True, **QUICK)
    assert watched[1:] == [always, NAMES]
    assert first.rivals is not None and later.rivals is not None
    np.testing.assert_allclose(later.rivals["curve"], first.rivals["curve"])


def test_saving_keeps_the_rivals(run, tmp_path):
    """A copy holds them too."""
    found = load_run(run)
    found.save(tmp_path / "copy")
    copied = load_run(tmp_path / "copy").rivals
    assert copied is not None and found.rivals is not None and copied.identical(found.rivals)


def test_the_command_prints_and_gives_json(run, mspgt):
    """`mspgt report` shows what the run holds."""
    human = mspgt("report", str(run)).stdout
    assert "Rival readings of 8 blocks" in human
    assert all(name in human for name in NAMES)
    rows = json.loads(mspgt("report", str(run), "--json").stdout)["rivals"]
    assert {row["rival"] for row in rows} == NAMES
    assert "--rivals" in mspgt("detect", "--help").stdout


def test_a_model_without_unembedding_is_refused_before_work(tiny_folder, tmp_path):
    """No run folder is left behind."""
    from mspgt_tl.models.pretrained import load

    model = load(tiny_folder)
    del model.unembed
    with pytest.raises(MspgtError, match="unembed"):
        detect(model, out=tmp_path / "run", rivals=True, **QUICK)
    assert not (tmp_path / "run").exists()
