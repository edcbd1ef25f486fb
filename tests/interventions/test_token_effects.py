"""KL at every token: sums to what the next-token effects measure, and sits on the right tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mspgt_tl.interventions.next_token import next_token_effects
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.interventions.sweep import Condition
from mspgt_tl.interventions.token_effects import token_kl

TEXTS = ["The old bridge was built here.", "A cat sat.", "The committee met in the town hall to discuss it."]


def make_hooks(model: Any, layers: Any, sigma: Any, ids: Any, positions: Any) -> Any:
    return noise_hooks(model, layers, sigma, seed=0, sample_ids=ids, positions=positions)


def test_tokens_add_up_to_the_effect(model: Any) -> None:
    """The mean over all predicted tokens is the KL that `next_token_effects` reports of the same blocks and σ."""
    maker = partial(make_hooks, model)
    conditions = [Condition("clean", "clean"), Condition("middle", "middle", (3, 4), "per_layer", 0.5, 0.5)]
    found = token_kl(model, TEXTS, conditions, maker)
    whole = next_token_effects(model, TEXTS, {"middle": (3, 4)}, [0.5], maker, seed=0, resamples=100)
    assert found["condition"].values.tolist() == ["middle"]
    np.testing.assert_allclose(np.nanmean(found["kl"].values), whole["kl"].values[0, 0], rtol=1e-5)


def test_every_token_but_the_first_has_a_value(model: Any) -> None:
    """Tokens spell the text; a text's first token and what follows its end are nan; σ = 0 changes nothing."""
    none = Condition("none", "middle", (3,), "per_layer", 0.0, 0.0)
    found = token_kl(model, TEXTS, [none], partial(make_hooks, model))
    for tokens, values, text in zip(found["token"].values, found["kl"].values[0], TEXTS, strict=True):
        n = int((tokens != "").sum())
        assert text in "".join(tokens)
        assert np.isnan(values[0]) and np.isnan(values[n:]).all()
        np.testing.assert_allclose(values[1:n], 0, atol=1e-12)
