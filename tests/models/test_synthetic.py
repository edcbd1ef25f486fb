"""Planted models: each signal moves where it was planted and nowhere else, and nuisances do what they say."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from mspgt_tl import detect, load
from mspgt_tl.calibration.measure import Effort, measure_model
from mspgt_tl.config import ProbeConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.errors import ConfigError
from mspgt_tl.models.pretrained import encode, hash_parameters
from mspgt_tl.models.synthetic import (
    _SLICES,
    DELIVERED_FIRST,
    FULL_CHANGE,
    LABEL_SHARE,
    NEVER,
    OFFSET,
    Nuisances,
    PlantedModel,
    Strengths,
    _gains,
    _generated_vocabulary,
    _release,
    split_word,
)

EFFORT = Effort(probe=ProbeConfig(hidden=16, epochs=6, batch=64, repeats=1), resamples=100)
GAPS = (3, 7)
QUIET = Nuisances(jitter=0.0)


@cache
def curves_of(strengths: Strengths, nuisances: Nuisances = QUIET, gaps: tuple[int, ...] = GAPS) -> np.ndarray:
    """Return the three signals of a 9-block planted model."""
    return measure_model(PlantedModel(9, gaps, strengths, nuisances).build(seed=3), EFFORT, seed=3).curves


TEXT = "A sister left another very boring book on the shelf."


def residuals(model: CausalModel, text: str = TEXT) -> list[np.ndarray]:
    """Return the residual stream after every block, `[pos, d_model]`."""
    import torch

    _, cache = model.run_with_cache(torch.tensor(encode(model, [text]).ids))
    return [cache[f"blocks.{layer}.hook_resid_post"][0].numpy() for layer in range(model.cfg.n_layers)]


ONLY = {
    0: Strengths(1.0, 0.0, 0.0),
    1: Strengths(0.0, 1.0, 0.0),
    2: Strengths(0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("signal", ONLY)
def test_a_signal_moves_at_its_gaps_only(signal: int) -> None:
    """One planted signal peaks at both gaps; elsewhere, and in the other two, nothing happens."""
    curves = curves_of(ONLY[signal])
    planted = [gap - 1 for gap in GAPS]
    assert curves[signal, planted].min() > 0.03
    rest = np.delete(curves[signal], planted)
    assert rest.max() < 0.25 * curves[signal, planted].min()
    # Probes are retrained at every layer, so rounding alone moves their F1 a little.
    quiet = np.array([1e-3, 0.02, 1e-6])
    others = [i for i in range(3) if i != signal]
    assert (curves[others].max(axis=1) < quiet[others]).all()


def test_no_strength_is_no_change() -> None:
    """At strength 0 and without jitter all blocks do the same: a flat null."""
    curves = curves_of(Strengths(0.0, 0.0, 0.0))
    assert np.abs(curves[[0, 2]]).max() < 1e-6
    assert curves[1].max() < 0.02


@pytest.mark.parametrize("signal", [0, 1, 2])
def test_strength_is_monotone(signal: int) -> None:
    """More strength, more change, in every signal, on average over both gaps."""
    planted = [gap - 1 for gap in GAPS]
    heights = [curves_of(Strengths(s, s, s))[signal, planted].mean() for s in (0.25, 1.0)]
    assert heights[0] < 0.6 * heights[1]


def test_first_and_last_gap_can_be_planted() -> None:
    """The ends are gaps like others."""
    curves = curves_of(Strengths(), gaps=(1, 8))
    for curve in curves:
        assert set(np.argsort(curve)[-2:]) == {0, 7}


@pytest.mark.parametrize("step", [0.25, 1.0])
def test_representation_step_has_its_known_size(step: float) -> None:
    """For independent content channels, a step of q takes CKA to exp(-q / 2)."""
    gains = np.concatenate([_gains(np.array([step]), np.random.default_rng(seed)) for seed in range(2000)], axis=1)
    before, after = gains**2
    cka = before @ after / np.sqrt((before @ before) * (after @ after))
    assert cka == pytest.approx(np.exp(-FULL_CHANGE * step), abs=0.02)


def test_labels_arrive_at_the_last_letter_of_the_stems_chosen() -> None:
    """The steps say which share of the stems is delivered at which gap, and delivery is exact and permanent."""
    plan = PlantedModel(9, GAPS, nuisances=QUIET)
    model = plan.build(seed=3)
    ids = encode(model, [TEXT]).ids[0]
    embedded = model.W_E[ids].numpy()  # type: ignore[attr-defined]
    last = [i for i, id_ in enumerate(ids) if i and embedded[i - 1, _SLICES["known"]].any()]
    arrived = np.stack([h[last][:, _SLICES["delivered"]] - OFFSET for h in residuals(model)])
    known = embedded[np.array(last) - 1][:, _SLICES["known"]]
    is_there = np.isclose(arrived, known, atol=1e-4).all(axis=2)
    assert (np.isclose(arrived, known, atol=1e-4) | np.isclose(arrived, 0, atol=1e-4)).all()
    assert (np.diff(is_there.astype(int), axis=0) >= 0).all()
    changed = np.flatnonzero(np.diff(is_there.sum(axis=1))) + 1
    assert set(changed.tolist()) <= set(GAPS)
    assert is_there[-1].sum() > is_there[0].sum()


def test_release_follows_the_steps() -> None:
    """Over the vocabulary, the share of stems delivered at each gap is the step times its scale."""
    words = _generated_vocabulary()
    labels = np.array([0.0, 1.0, 0.5])
    released = np.concatenate([_release(words, labels, np.random.default_rng(s))[words.is_stem] for s in range(20)])
    shares = [np.mean(released == gap) for gap in (0, 1, 2, 3)]
    assert np.allclose(shares, [DELIVERED_FIRST, 0, LABEL_SHARE, LABEL_SHARE / 2], atol=0.01)
    assert np.mean(released == NEVER) == pytest.approx(1 - DELIVERED_FIRST - 1.5 * LABEL_SHARE, abs=0.01)


def test_norm_growth_moves_norms_and_no_signal() -> None:
    """Growth of 1.3 a block multiplies the stream and leaves the three curves as they were."""
    grown = Nuisances(jitter=0.0, norm_growth=1.3)
    plain, scaled = (residuals(PlantedModel(9, GAPS, nuisances=n).build(seed=3)) for n in (QUIET, grown))
    for layer, (a, b) in enumerate(zip(plain, scaled, strict=True)):
        assert np.allclose(b, a * 1.3**layer, rtol=1e-3, atol=1e-3)
    difference = np.abs(curves_of(Strengths(), grown) - curves_of(Strengths(), QUIET)).max(axis=1)
    assert (difference < [1e-3, 0.03, 1e-4]).all()


def test_massive_activations_start_at_their_block() -> None:
    """Before the onset nothing exceeds 100 medians; from it on a few tokens do, in one channel; no signal sees it."""
    onset = 5
    model = PlantedModel(9, (), nuisances=Nuisances(jitter=0.05, massive_onset=onset)).build(seed=3)
    texts = generated_corpus(seed=1, limit=20).sentences
    found = [np.abs(np.stack(residuals(model, text))) for text in texts]
    largest = np.max([h.max(axis=(1, 2)) for h in found], axis=0)
    median = np.median(np.concatenate(found, axis=1), axis=(1, 2))
    assert (largest[:onset] < 100 * median[:onset]).all()
    assert (largest[onset:] > 100 * median[onset:]).all()
    curves = measure_model(model, EFFORT, seed=3).curves
    assert curves[0, onset - 1] < 0.05
    assert curves[0].argmax() != onset - 1


def test_massive_activations_of_pretrained_models_have_their_places_and_their_end() -> None:
    """The first two positions and every delimiter carry them from onset to end, in as many channels as asked for."""
    extra = Nuisances(massive_on="delimiters", massive_onset=3, massive_end=7, massive_channels=2, massive_size=500.0)
    model = PlantedModel(9, (), nuisances=extra).build(seed=3)
    text = generated_corpus(seed=1, limit=1).sentences[0]
    tokens = model.tokenizer.convert_ids_to_tokens(encode(model, [text]).ids[0])
    carries = np.array([i < 2 or not any(map(str.isalnum, token)) for i, token in enumerate(tokens)])
    for layer, h in enumerate(residuals(model, text)):
        large = np.abs(h) > 100
        assert (large.any(axis=1) == (carries & (3 <= layer < 7))).all()
        assert large.any(axis=0).sum() == (2 if 3 <= layer < 7 else 0)


@pytest.mark.slow
def test_boundaries_beside_massive_activations_that_end_are_found() -> None:
    """Massive activations and sinks on first words and delimiters, ending before the last block, hide no boundary."""
    extra = Nuisances(massive_on="delimiters", massive_onset=2, massive_end=15, sink=0.7, sink_onset=2, sink_end=15)
    trees = generate_treebank(seed=0, train=300, dev=200)
    config = {"sentences": 400, "signals": {"tasks": ["pos"]}, "probe": {"hidden": 16, "epochs": 6, "batch": 64}}
    found = detect(PlantedModel(16, (5, 11), nuisances=extra).build(seed=3), None, trees, config=config)
    assert found.boundaries == (5, 11)
    assert found.verdicts == ("supported", "supported")
    assert found.data["onset"].sel(gap=[2, 15]).values.tolist() == [1, -1]


def test_sink_takes_its_share_from_its_onset() -> None:
    """BOS takes about the mass asked for, and little before the onset."""
    import torch

    model = PlantedModel(9, (), nuisances=Nuisances(sink=0.8, sink_onset=4)).build(seed=3)
    ids = encode(model, generated_corpus(seed=1, limit=40).sentences).ids
    mass = []
    for row in ids:
        _, cache = model.run_with_cache(torch.tensor([row]))
        mass.append([float(cache[f"blocks.{b}.attn.hook_pattern"][0, 1:, 8:, 0].mean()) for b in range(9)])
    share = np.mean(mass, axis=0)
    assert (share[:4] < 0.3).all()
    assert (share[4:] > 0.5).all()


def test_drift_falls_in_all_signals() -> None:
    """With drift, background steps fall with depth by its exponent, on average."""
    plan = PlantedModel(24, (), nuisances=Nuisances(jitter=0.2, drift=3.0))
    steps = np.mean([np.stack(list(vars(plan.steps(seed=s)).values()))[[0, 2]] for s in range(200)], axis=0)
    assert np.allclose(steps[:, -1] / steps[:, 0], np.exp(-3), rtol=0.3)


def test_rival_is_nearly_a_boundary() -> None:
    """The rival's step is its ratio of the strength, in every signal."""
    plan = PlantedModel(12, (4,), nuisances=Nuisances(rival=9, rival_ratio=0.9))
    steps = plan.steps(seed=0)
    assert steps.representation[[3, 8]].tolist() == steps.attention[[3, 8]].tolist() == [1.0, 0.9]


@pytest.mark.parametrize("n_layers", [8, 48])
def test_depths_build_and_load_by_name(n_layers: int) -> None:
    """Names load to the same weights as the plan, at every depth, seed by seed."""
    named = load(f"planted:{n_layers}:2,5@seed:3")
    assert named.cfg.n_layers == n_layers
    assert hash_parameters(named) == hash_parameters(PlantedModel(n_layers, (2, 5)).build(seed=3))
    assert hash_parameters(named) != hash_parameters(PlantedModel(n_layers, (2, 5)).build(seed=4))


def test_a_whole_detection_finds_what_was_planted() -> None:
    """The ordinary command path names both planted gaps and supports them."""
    trees = generate_treebank(seed=0, train=300, dev=200)
    settings = {
        "sentences": 400,
        "signals": {"tasks": ["pos"]},
        "probe": {"epochs": 6, "hidden": 32, "batch": 64, "repeats": 1},
        "boundaries": {"resamples": 200, "null_curves": 500},
    }
    result = detect("planted:12:4,9@seed:3", None, trees, config=settings)
    assert result.boundaries == (4, 9)
    assert result.verdicts == ("supported", "supported")
    assert result.manifest["identity"]["model"]["prepends_bos"] is True


def test_words_split_into_stem_and_last_letter() -> None:
    """The tokenizer cuts as the vocabulary does, contractions and punctuation included."""
    model = PlantedModel(4, ()).build()
    ids = encode(model, ["Who didn't put off the mayor's ride?"]).ids[0]
    pieces = [p for w in ("Who", "did", "n't", "put", "off", "the", "mayor", "'s", "ride", "?") for p in split_word(w)]
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["<s>", *pieces]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlantedModel(12, (12,)), "1 … 11"),
        (lambda: PlantedModel(12, (0,)), "1 … 11"),
        (lambda: PlantedModel(3, ()), "4 to 96"),
        (lambda: PlantedModel(12, (2, 4, 6)), "At most two"),
        (lambda: PlantedModel(12, (4, 4)), "At most two"),
        (lambda: Strengths(labels=1.5), "labels must lie in"),
        (lambda: Nuisances(norm_growth=3), "norm_growth"),
        (lambda: Nuisances(jitter=-1), "jitter"),
        (lambda: load("planted:12:4-8"), "planted:LAYERS"),
        (lambda: load("planted:12:4,8", backend="bridge"), "hooked"),
    ],
)
def test_impossible_plans_are_named(make: Callable[[], object], message: str) -> None:
    """Each mistake gives one line that says what is possible."""
    with pytest.raises(ConfigError, match=message):
        make()
