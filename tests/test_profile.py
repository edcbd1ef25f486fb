"""Boundary or BOS: what the profile of massive activations and sinks measures, and what coincides with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from mspgt_tl.config import StreamConfig
from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.models.pretrained import encode
from mspgt_tl.models.synthetic import Nuisances, PlantedModel
from mspgt_tl.passes.corpus import observe_corpus, usable_sentences
from mspgt_tl.passes.folds import assign_folds
from mspgt_tl.profile import PROFILE, StreamProfile, find_onsets, label_profile

ONSET, END = 3, 7
EXTRA = Nuisances(
    massive_on="delimiters", massive_onset=ONSET, massive_end=END, sink=0.8, sink_onset=ONSET, sink_end=END
)


@pytest.fixture(scope="module")
def profile() -> xr.Dataset:
    """The profile of a planted model whose massive activations start at block 3 and end at block 7."""
    return profile_of(PlantedModel(9, (), nuisances=EXTRA), batch_positions=4096)


def profile_of(plan: PlantedModel, *, batch_positions: int) -> xr.Dataset:
    model = plan.build(seed=3)
    config = StreamConfig(batch_positions=batch_positions)
    sentences = usable_sentences(model, generated_corpus(seed=1, limit=220).sentences, config)
    folds = assign_folds(len(sentences), seed=0)
    sums = observe_corpus(model, sentences, {PROFILE: StreamProfile()}, folds=folds, seed=0, config=config)
    return label_profile(sums[PROFILE], np.array([ONSET, 5]))


def test_onset_and_end_are_where_they_were_planted(profile: xr.Dataset) -> None:
    """1 at the onset, -1 at the end, nothing elsewhere; a boundary there coincides, one further away does not."""
    assert profile["onset"].values.tolist() == [0, 0, 1, 0, 0, 0, -1, 0]
    assert profile["near_onset"].values.tolist() == [True, False]
    assert float(profile["onset_chance"]) == pytest.approx(6 / 8)


def test_norms_masses_and_channels_follow(profile: xr.Dataset) -> None:
    """Between onset and end the first token is long, sinks take the mass and one channel is massive; not outside."""
    inside = (profile["layer"] >= ONSET) & (profile["layer"] < END)
    assert (profile["first_norm"][inside] > 8).all()
    assert (profile["first_norm"][~inside] < 2).all()
    assert float(profile["sink_mass"][inside].min()) > float(profile["sink_mass"][~inside].max())
    assert (profile["massive_channels"][inside] == 1).all()
    assert (profile["massive_channels"][~inside] == 0).all()
    assert float(profile["spectrum_entropy"][inside].max()) < float(profile["spectrum_entropy"][~inside].min())


def test_every_token_is_counted_once(profile: xr.Dataset) -> None:
    """First tokens, sinks and data make up all tokens; delimiters and second tokens are the sinks."""
    sentences, tokens, first, sinks, data = profile["token_count"].values
    assert first == sentences
    assert tokens == first + sinks + data
    assert sinks >= 2 * sentences  # the second position and the full stop


def test_batches_change_nothing(profile: xr.Dataset) -> None:
    """Small batches give the same profile."""
    other = profile_of(PlantedModel(9, (), nuisances=EXTRA), batch_positions=64)
    for name in profile.data_vars:
        np.testing.assert_allclose(other[name].values, profile[name].values, rtol=1e-4, err_msg=str(name))


def test_first_norm_is_the_slow_one() -> None:
    """One sentence at a time, by numpy."""
    model = PlantedModel(6, (), nuisances=Nuisances(jitter=0.1)).build(seed=1)
    config = StreamConfig()
    sentences = usable_sentences(model, generated_corpus(seed=1, limit=200).sentences, config)
    folds = assign_folds(len(sentences), seed=0)
    sums = observe_corpus(model, sentences, {PROFILE: StreamProfile()}, folds=folds, seed=0, config=config)
    expected = []
    for i in folds.order:
        _, cache = model.run_with_cache(torch.tensor(encode(model, [sentences[i]]).ids))
        norms = cache["blocks.2.hook_resid_post"][0].norm(dim=-1)
        expected.append(float(norms[0] / norms[1:].median()))
    found = label_profile(sums[PROFILE], np.empty(0, dtype=int))["first_norm"].values[2]
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


def test_small_steps_are_no_onsets() -> None:
    """A norm that doubles without being massive, and a mass that drifts, are neither onset nor end."""
    layers = 6
    assert not find_onsets(np.array([0.2, 0.5, 1, 1, 2.5, 3]), np.full(layers, 50.0), np.linspace(0, 0.9, layers)).any()
    assert find_onsets(np.ones(layers), np.full(layers, 9.0), np.array([0, 0, 0.5, 0.5, 0, 0])).tolist() == [
        0,
        1,
        0,
        -1,
        0,
    ]
