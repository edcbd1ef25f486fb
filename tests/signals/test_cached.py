"""Curves from a cache and from trees: the numbers of `measure` and of a detection on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mspgt_tl
from mspgt_tl.corpora.grammar import generate_treebank, sample_sentences
from mspgt_tl.errors import DataError
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.models.tokens import pad
from mspgt_tl.signals import cka_curve, jsd_curve, probe_curve
from mspgt_tl.signals.cka import linear_cka

SENTENCES = sample_sentences(210, seed=3)
PROBE: dict[str, Any] = {"hidden": 8, "epochs": 1, "repeats": 1}


@pytest.fixture(scope="module")
def models(tiny_folder: Path) -> dict[str, Any]:
    """The tiny Llama in both backends."""
    return {backend: load(tiny_folder, backend=backend) for backend in ("hooked", "bridge")}


@pytest.fixture(scope="module")
def measured(models: dict[str, Any]) -> Any:
    """What `measure` says of the sentences; 200 of 210 fill its folds."""
    return mspgt_tl.measure(models["hooked"], SENTENCES, seed=4)


def cached(model: Any, sentences: Any = SENTENCES, side: Any = "right", **options: Any) -> tuple[Any, torch.Tensor]:
    """The cache of one real pass over all sentences, two hooks kept, and its mask."""
    tokens, mask = pad(encode(model, sentences).ids, side=side, pad_id=0)
    with torch.inference_mode():
        _, cache = model.run_with_cache(
            tokens,
            attention_mask=mask,
            names_filter=lambda name: name.endswith(("hook_resid_post", "hook_out", "attn.hook_pattern")),
            **options,
        )
    return cache, mask


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_curves_are_those_of_measure(backend: str, side: str, models: dict[str, Any], measured: Any) -> None:
    """Both kinds of model, padded on either side; labelled by gap, in the signal's unit."""
    cache, mask = cached(models[backend], side=side)
    for name, curve in (("cka", cka_curve), ("attention_jsd", jsd_curve)):
        found = curve(cache, mask, seed=4)
        np.testing.assert_allclose(found, measured.sel(signal=name), atol=1e-6)
        assert found.dims == ("gap",)
        assert found["gap"].values.tolist() == list(range(1, 8))
        assert found.attrs["unit"] == str(measured.sel(signal=name)["unit"].values)
        assert found.attrs["sentences"] == 200


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"tokens": "all"}, {"stream": mspgt_tl.config.StreamConfig(tokens="all")}),
        ({"raw": True}, {"config": mspgt_tl.config.SignalConfig(rows="raw")}),
        ({"mode": "matched"}, {"config": mspgt_tl.config.SignalConfig(attention_mode="matched")}),
        ({"sinks": True}, {"config": mspgt_tl.config.SignalConfig(attention_sinks=True)}),
    ],
)
def test_other_forms_are_those_of_measure(options: Any, same: Any, models: dict[str, Any], measured: Any) -> None:
    name = "attention_jsd" if {"mode", "sinks"} & set(options) else "cka"
    expected = mspgt_tl.measure(models["hooked"], SENTENCES, [name], seed=4, **same)[0]
    cache, mask = cached(models["hooked"])
    found = (cka_curve if name == "cka" else jsd_curve)(cache, mask, seed=4, **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, measured.sel(signal=name), atol=1e-4)


def test_few_rows_are_one_fold(models: dict[str, Any]) -> None:
    """Under 200 rows, the plain debiased CKA of the drawn rows, as blocks read them; other seeds draw other tokens."""
    from mspgt_tl.passes.data import as_read

    model = models["hooked"]
    cache, mask = cached(model, SENTENCES[:30])
    short = cache["blocks.0.hook_resid_post"].clone()
    found = cka_curve(cache, mask, seed=1)
    assert not np.allclose(found, cka_curve(cache, mask, seed=2))
    # Sentences of one data token leave nothing to draw.
    one = mask.clone()
    one[:, 3:] = 0
    cache = {f"blocks.{layer}.hook_resid_post": cache[f"blocks.{layer}.hook_resid_post"][:, :3] for layer in range(8)}
    drawn = [as_read(cache[f"blocks.{layer}.hook_resid_post"], centred=False) for layer in range(8)]
    found = cka_curve(cache, one[:, :3], centred=False, tokens="all", seed=1)
    draw = (np.random.default_rng([1, 1]).random(30) * 3).astype(int)
    expected = [1 - linear_cka(*(drawn[layer][range(30), draw] for layer in (b - 1, b))) for b in range(1, 8)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert torch.equal(short[:, :3], cache["blocks.0.hook_resid_post"])


def test_a_cka_over_all_tokens_is_another_number(models: dict[str, Any], measured: Any) -> None:
    """What the docstring warns of."""
    cache, mask = cached(models["hooked"])
    rows = [cache[f"blocks.{layer}.hook_resid_post"][mask.bool()][:1500] for layer in (0, 1)]
    assert abs(1 - linear_cka(*rows, debiased=False) - float(measured.sel(signal="cka")[0])) > 0.005


def test_patterns_alone_are_enough_for_all_tokens(models: dict[str, Any]) -> None:
    cache, mask = cached(models["hooked"], SENTENCES[:20])
    alone = {name: value for name, value in cache.items() if name.endswith("hook_pattern")}
    np.testing.assert_array_equal(jsd_curve(alone, mask, tokens="all"), jsd_curve(cache, mask, tokens="all"))
    with pytest.raises(DataError, match=r"lacks blocks\.0\.hook_resid_post"):
        jsd_curve(alone, mask)


def test_plain_dictionaries_say_how_their_model_normalises(models: dict[str, Any]) -> None:
    cache, mask = cached(models["hooked"], SENTENCES[:20])
    plain, _ = cached(models["hooked"], SENTENCES[:20], return_cache_object=False)
    with pytest.raises(DataError, match="centred=False"):
        cka_curve(plain, mask)
    np.testing.assert_array_equal(cka_curve(plain, mask, centred=False), cka_curve(cache, mask))


def test_what_does_not_fit_is_refused(models: dict[str, Any]) -> None:
    """Missing blocks, masks of another shape, too few sentences, no batch axis, unknown words."""
    cache, mask = cached(models["hooked"], SENTENCES[:20])
    holed = {name: value for name, value in cache.items() if not name.startswith("blocks.3.")}
    with pytest.raises(DataError, match=r"lacks blocks\.3\.hook_resid_post"):
        cka_curve(holed, mask, centred=False)
    with pytest.raises(DataError, match="two blocks"):
        cka_curve({}, mask, centred=False)
    with pytest.raises(DataError, match="The mask is"):
        cka_curve(cache, mask[:, 1:])
    with pytest.raises(DataError, match="the cache has 3"):
        cka_curve(*cached(models["hooked"], SENTENCES[:3]))
    with pytest.raises(DataError, match="batch axis"):
        single = {name: value[0] for name, value in cache.items()}
        cka_curve(single, centred=False)
    with pytest.raises(DataError, match="Did you mean 'data'"):
        cka_curve(cache, mask, tokens="date")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def detected(tiny_folder: Path) -> tuple[Any, Any]:
    """A detection with one task, and its trees."""
    trees = generate_treebank(seed=0, train=80, dev=60)
    settings = {"signals": {"tasks": ["pos"]}, "probe": PROBE, "boundaries": {"resamples": 100}}
    return mspgt_tl.detect(tiny_folder, SENTENCES, trees, config=settings, seed=4), trees


def test_probes_are_those_of_a_detection(detected: Any, models: dict[str, Any]) -> None:
    """From a treebank and from a pair of trees, to the last digits."""
    result, trees = detected
    options: dict[str, Any] = {"tasks": ["pos"], "seed": 4, "probe": mspgt_tl.config.ProbeConfig(**PROBE)}
    for given in (trees, (trees.train, trees.dev)):
        found = probe_curve(models["hooked"], given, **options)
        np.testing.assert_allclose(found, result.curves.sel(signal="probe"), atol=1e-6)
        assert found.attrs["tasks"] == ["pos"]
        assert found.dims == ("gap",)


def test_trees_that_cannot_be_used_are_refused(models: dict[str, Any]) -> None:
    trees = generate_treebank(seed=0, train=4, dev=2)
    for bad in (trees.train, (trees.train, ())):
        with pytest.raises(DataError, match="a pair"):
            probe_curve(models["hooked"], bad)
    with pytest.raises(DataError, match="Did you mean 'pos'"):
        probe_curve(models["hooked"], trees, tasks=["poss"])
    with pytest.raises(DataError, match=r"No probe task can be scored\. .*pos"):
        probe_curve(models["hooked"], trees, tasks=["pos"], probe=mspgt_tl.config.ProbeConfig(**PROBE))
