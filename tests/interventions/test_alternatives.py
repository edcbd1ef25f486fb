"""Covariance-matched noise, resample ablation and block skipping."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspgt_tl.config import StreamConfig
from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError
from mspgt_tl.interventions import disturbance_hooks, generate, measure_activations, noise_hooks
from mspgt_tl.interventions.alternatives import KINDS
from mspgt_tl.passes.corpus import stream
from mspgt_tl.passes.folds import Folds

SENTENCES = generated_corpus(seed=3, limit=60).sentences
TOKENS = torch.tensor([[0, 9, 30, 7, 44, 12], [0, 33, 4, 90, 17, 8]])


@pytest.fixture(scope="module")
def bank(model: Any) -> Any:
    """Measured on all sentences."""
    return measure_activations(model, SENTENCES, seed=0)


def streams(model: Any, hooks: Any, tokens: torch.Tensor = TOKENS) -> list[torch.Tensor]:
    """Return the stream after every block under hooks."""
    with torch.inference_mode(), model.hooks(fwd_hooks=hooks):
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_resid_post"))
    return [cache[f"blocks.{layer}.hook_resid_post"] for layer in range(model.cfg.n_layers)]


def test_roots_are_of_the_covariance(model: Any, bank: Any) -> None:
    """Root times root is numpy's covariance over all tokens, scaled to a mean variance of 1."""
    import numpy as np

    rows = [
        batch.resid[5][batch.is_data].double().numpy()
        for batch in stream(
            model,
            SENTENCES,
            needs=frozenset({"resid"}),
            folds=Folds(np.arange(len(SENTENCES)), 1),
            seed=0,
            config=StreamConfig(),
        )
    ]
    covariance = np.cov(np.concatenate(rows).T, ddof=0)
    expected = covariance / np.trace(covariance) * len(covariance)
    np.testing.assert_allclose((bank.roots[5] @ bank.roots[5]).numpy(), expected, atol=1e-8)


def test_covariance_noise_has_the_power_of_plain_noise(model: Any, bank: Any) -> None:
    """Over many tokens, the same mean square; along the leading direction, more."""
    tokens = torch.randint(5, 300, (40, 30), generator=torch.Generator().manual_seed(0))
    clean = streams(model, [], tokens)[4]
    options: dict[str, Any] = {"seed": 1, "sample_ids": list(range(40)), "unit": 1.0}
    plain = streams(model, noise_hooks(model, [4], 0.1, **options), tokens)[4] - clean
    shaped = (
        streams(model, disturbance_hooks(model, [4], 0.1, kind="covariance", bank=bank, **options), tokens)[4] - clean
    )
    assert float(shaped.square().mean()) == pytest.approx(float(plain.square().mean()), rel=0.1)
    leading = torch.linalg.eigh(bank.roots[4]).eigenvectors[:, -1].float()
    assert float((shaped @ leading).square().mean()) > 3 * float((plain @ leading).square().mean())


def test_full_resampling_puts_a_donor_in_every_place(model: Any, bank: Any) -> None:
    """At σ = 1 every token's stream is some donor's, the same donor at both layers; at 0.5 it is half of the way."""
    full = streams(model, disturbance_hooks(model, [2, 3], 1.0, kind="resample", seed=0, sample_ids=[5, 6], bank=bank))
    found = [(full[layer].flatten(0, 1)[:, None] - bank.donors[layer]).norm(dim=-1).min(dim=-1) for layer in (2, 3)]
    assert max(float(f.values.max()) for f in found) < 1e-5
    assert torch.equal(found[0].indices, found[1].indices)
    assert len(found[0].indices.unique()) > 6
    clean = streams(model, [])[2]
    half = streams(model, disturbance_hooks(model, [2], 0.5, kind="resample", seed=0, sample_ids=[5, 6], bank=bank))[2]
    torch.testing.assert_close(half, (clean + full[2]) / 2)


def test_full_skip_removes_the_block(model: Any) -> None:
    """At σ = 1 the stream leaves as it came; a row at 0 is left alone, bit for bit."""
    clean = streams(model, [])
    skipped = streams(model, disturbance_hooks(model, [3], [1.0, 0.0], kind="skip", seed=0, sample_ids=[0, 1]))
    torch.testing.assert_close(skipped[3][0], clean[2][0])
    assert torch.equal(skipped[7][1], clean[7][1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_decodes_alike_in_any_batch(model: Any, bank: Any, kind: Any) -> None:
    """Rows in one batch, alone, and with a shared prompt pass write the same ids."""
    prompts, sigmas = [[0, 9, 30, 7], [0, 33], [0, 9, 30, 7]], torch.tensor([0.4, 0.4, 0.0], dtype=torch.float64)

    def hooks(rows: Any) -> Any:
        return disturbance_hooks(
            model,
            [2, 3],
            sigmas[rows.index],
            kind=kind,
            seed=1,
            sample_ids=rows.sample_ids,
            positions=rows.positions,
            bank=bank,
        )

    options: dict[str, Any] = {"max_new_tokens": 6, "sample_ids": [3, 4, 3], "seed": 0, "hooks": hooks}
    together = generate(model, prompts, **options)
    assert generate(model, prompts, batch_rows=1, **options) == together
    assert generate(model, prompts, untouched=[2, 2, 8], **options) == together
    assert together[2] == generate(model, prompts[2:], max_new_tokens=6, sample_ids=[3], seed=0)[0]


def test_bad_input_is_named(model: Any) -> None:
    """Unknown kinds, a missing bank, shares above 1, rows and positions that do not fit."""
    options: dict[str, Any] = {"seed": 0, "sample_ids": [0, 1]}
    with pytest.raises(ConfigError, match="Unknown kind"):
        disturbance_hooks(model, [1], 0.1, kind="gauss", **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="needs bank"):
        disturbance_hooks(model, [1], 0.1, kind="resample", **options)
    with pytest.raises(ConfigError, match="share from 0 to 1"):
        disturbance_hooks(model, [1], 1.5, kind="skip", **options)
    with pytest.raises(ConfigError, match="roots lack layers"):
        noise_hooks(model, [1], 0.1, roots={}, **options)
    with pytest.raises(DataError, match="batch of 2 rows"):
        streams(model, disturbance_hooks(model, [1], 0.5, kind="skip", seed=0, sample_ids=[0]))
    with pytest.raises(CorpusError, match="two tokens"):
        measure_activations(model, [""], seed=0)
