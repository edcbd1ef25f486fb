"""Noise of known size does what the Fisher trace says, and closure can tell when it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.theory.closure import compare, copy_as, find_exit, measure_closure
from mspgt_tl.theory.fisher import Fisher, measure_fisher
from mspgt_tl.theory.noise_effects import NoiseEffects, measure_noise
from mspgt_tl.theory.texts import read_texts

SIGMAS = (1e-3, 1e-2, 0.1, 1.0)
SCALES = {0: 1.0, 1: 1.5, 2: 0.7}


def some_tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def three_blocks(build_tiny: Any) -> Any:
    """Gentle enough that its expansion holds for all texts at σ of 1e-3."""
    return build_tiny(3, seed=3, gain=0.8, dtype=torch.float64)


def test_closes_within_two_per_cent_in_float64(three_blocks: Any) -> None:
    """Measured over predicted KL is 1 ± 0.02 at the smallest σ, for layers and for two of them together."""
    closure = measure_closure(
        three_blocks, some_tokens(60, 8), SCALES, seed=0, sets={"both": (0, 2)}, sigmas=SIGMAS, samples=200, draws=100
    )
    assert closure.names == ("layer 0", "layer 1", "layer 2", "both")
    assert (closure.error[:, 0] < 0.01).all()
    np.testing.assert_allclose(closure.ratio[:, 0], 1, atol=0.02)
    np.testing.assert_allclose(closure.predicted[3], closure.predicted[0] + closure.predicted[2])


def test_float32_closes_within_ten_per_cent(build_tiny: Any) -> None:
    """float64 log-probabilities keep float32 logits from drowning at σ of 1e-3."""
    model = build_tiny(3, seed=3, gain=0.8, dtype=torch.float32)
    closure = measure_closure(model, some_tokens(60, 8), SCALES, seed=0, sigmas=SIGMAS, samples=60, draws=30)
    np.testing.assert_allclose(closure.ratio[:, 0], 1, atol=0.1)
    assert closure.dtype == "float32"


def test_a_wrong_trace_does_not_close(three_blocks: Any) -> None:
    """A trace 15 % too large is caught: the ratio is far from 1 in units of its error and no exit is named."""
    tokens = some_tokens(60, 8)
    fisher = measure_fisher(three_blocks, tokens, seed=0, samples=100)
    wrong = Fisher(fisher.sums * 1.15, fisher.left_out, fisher.counts, 0)
    effects = measure_noise(three_blocks, tokens, {"layer 1": (1,)}, [1e-3], SCALES, seed=0, draws=50)
    right, off = (compare(effects, f, SCALES, dtype="float64") for f in (fisher, wrong))
    assert abs(right.ratio[0, 0] - 1) < 4 * right.error[0, 0]
    assert abs(off.ratio[0, 0] - 1) > 4 * off.error[0, 0]
    assert np.isnan(off.exit_sigma[0])
    assert "not closed" in off.reasons[0]


def test_float64_copy_closes_and_leaves_the_model_alone(tiny_folder: Any) -> None:
    """The copy computes in float64, agrees with the original up to its rounding, and the original keeps its dtype."""
    model = load(tiny_folder)
    wide = copy_as(model, "float64")
    tokens = torch.tensor(encode(model, ["the old river"]).ids)
    assert wide.forward(tokens).dtype == torch.float64
    assert model.forward(tokens).dtype == torch.float32
    torch.testing.assert_close(wide.forward(tokens).float(), model.forward(tokens), rtol=1e-3, atol=1e-3)
    assert next(iter(model.named_parameters()))[1].dtype == torch.float32


def test_noise_effects_match_a_slow_obvious_version(two_blocks: Any) -> None:
    """KL and loss of one row equal those from a full forward pass with the noise added by hand."""
    from mspgt_tl.interventions import philox

    tokens = some_tokens(1, 6)
    every = read_texts(two_blocks, tokens, every_token=True)
    effects = measure_noise(two_blocks, every, {"layer 1": (1,)}, [0.3], {1: 2.0}, seed=9)
    epsilon = philox.normal(
        9,
        sample_ids=torch.zeros(6, dtype=torch.long),
        layer=1,
        positions=torch.arange(6),
        width=8,
        dtype=torch.float64,
    )
    hook = ("blocks.1.hook_resid_post", lambda resid, hook: resid + 0.3 * 2.0 * epsilon)
    clean = two_blocks(tokens)[0].log_softmax(-1)
    noised = two_blocks.run_with_hooks(tokens, fwd_hooks=[hook])[0].log_softmax(-1)
    assert effects.kl[0, 0, 0, 0] == pytest.approx(float((clean.exp() * (clean - noised)).sum()))
    following = tokens[0, 1:, None]
    loss = float((clean[:-1] - noised[:-1]).gather(-1, following).sum())
    assert effects.loss[0, 0, 0, 0] == pytest.approx(loss)
    assert effects.predictions.tolist() == [5]
    assert effects.clean_loss[0] == pytest.approx(-float(clean[:-1].gather(-1, following).sum()))


def test_batches_change_nothing(two_blocks: Any) -> None:
    """Rows alone and rows together meet the same noise."""
    rows = [some_tokens(1, n, seed=n)[0].tolist() for n in (3, 7, 5)]
    one, many = (
        measure_noise(two_blocks, rows, {"all": (0, 1)}, [0.1], SCALES, seed=1, draws=2, batch_positions=n)
        for n in (1, 100)
    )
    np.testing.assert_allclose(one.kl, many.kl, rtol=1e-9)
    np.testing.assert_allclose(one.loss, many.loss, rtol=1e-9)


def test_the_first_token_is_left_alone(tiny_folder: Any) -> None:
    """No noise on it and no prediction from it."""
    model = load(tiny_folder)
    ids = encode(model, ["the old river"], bos=True).ids
    effects = measure_noise(model, ids, {"first": (0,)}, [0.1], dict.fromkeys(range(8), 1.0), seed=0)
    assert effects.counts.tolist() == [len(ids[0]) - 1]
    assert effects.predictions.tolist() == [len(ids[0]) - 2]


def test_exit_is_told_or_explained() -> None:
    """Crossings above and below are interpolated; staying inside, failing at once and no prediction are told apart."""
    sigmas = np.array([1e-3, 1e-2, 1e-1])
    assert find_exit(sigmas, np.array([1.0, 1.0, 1.2]))[0] == pytest.approx(10**-1.5)
    assert find_exit(sigmas, np.array([1.0, 1.0, 0.8]))[0] == pytest.approx(10**-1.5)
    assert "stays within" in find_exit(sigmas, np.ones(3))[1]
    assert "not closed" in find_exit(sigmas, np.array([0.8, 1.0, 1.0]))[1]
    assert "trace is zero" in find_exit(sigmas, np.full(3, np.nan))[1]
    assert "trace is zero" in find_exit(sigmas, np.array([1.0, 1.0, np.nan]))[1]


def test_two_draws_have_an_error(two_blocks: Any) -> None:
    """Of labels and of noise: the fewest that are taken give a standard error."""
    found = measure_closure(two_blocks, some_tokens(4, 6), SCALES, seed=0, sigmas=[0.1], samples=2, draws=2)
    assert np.isfinite(found.error).all() and (found.error > 0).all()


@pytest.mark.parametrize(
    ("sigmas", "options", "message"),
    [
        ([0.1, 0.01], {}, "rise"),
        ([], {}, "rise"),
        ([0.0, 0.1], {}, "above 0"),
        ([0.1, float("inf")], {}, "above 0"),
        ([0.1], {"draws": 1}, "2 draws"),
        ([0.1], {"samples": 1}, "2 draws"),
        ([0.1], {"sets": {"none": ()}}, "none empty"),
        ([0.1], {"sets": {"beyond": (5,)}}, "0 to 1"),
    ],
)
def test_refuses_unusable_settings(two_blocks: Any, sigmas: Any, options: Any, message: str) -> None:
    """What cannot be measured is refused by name."""
    with pytest.raises(ConfigError, match=message):
        measure_closure(two_blocks, some_tokens(2, 4), SCALES, seed=0, sigmas=sigmas, **options)


def test_refuses_to_compare_different_texts(two_blocks: Any) -> None:
    """Noise effects of one text do not go with the trace of another."""
    effects = measure_noise(two_blocks, some_tokens(2, 4), {"a": (0,)}, [0.1], SCALES, seed=0)
    assert isinstance(effects, NoiseEffects)
    with pytest.raises(DataError, match="different texts"):
        compare(effects, measure_fisher(two_blocks, some_tokens(3, 4), seed=0), SCALES, dtype="float64")
