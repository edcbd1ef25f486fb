"""Which signals are resampled together."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from mspgt_tl.evidence import resample_curves


def test_signals_of_the_text_share_their_draws_and_probes_have_their_own() -> None:
    """The treebank's sentences are not the text's, so a draw of the one says nothing about the other."""

    def shown(group: str) -> SimpleNamespace:
        # A signal that shows its weights.
        return SimpleNamespace(curves=lambda _sums, weights: weights, resampled_with=group)

    names = ("cka", "probe", "attention_jsd")
    curves, resampled = resample_curves(
        {name: shown("trees" if name == "probe" else "text") for name in names},
        {name: {"sum": np.zeros(30)} for name in names},
        resamples=20,
        seed=3,
    )
    np.testing.assert_array_equal(curves, 1)
    np.testing.assert_array_equal(resampled[:, 0], resampled[:, 2])
    assert not (resampled[:, 0] == resampled[:, 1]).all(axis=1).any()
    assert abs(np.corrcoef(resampled[:, 0].ravel(), resampled[:, 1].ravel())[0, 1]) < 0.15
