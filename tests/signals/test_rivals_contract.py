"""What every rival signal keeps: batches do not matter, pads and BOS never count, weights weigh, bounds hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mspgt_tl.contracts import SIGNALS
from mspgt_tl.evidence import make_signals
from mspgt_tl.signals.block_influence import AngularDistance, BlockInfluence
from mspgt_tl.signals.cka_blocks import CkaBlocks
from mspgt_tl.signals.intrinsic_dimension import IntrinsicDimension
from mspgt_tl.signals.logit_lens import LogitLensAgreement, LogitLensEntropy
from mspgt_tl.signals.matrix_entropy import MatrixEntropy

UNEMBED = torch.from_numpy(np.random.default_rng(9).standard_normal((6, 11))).float()


def read(rows: torch.Tensor) -> torch.Tensor:
    """A readout without normalisation."""
    return rows @ UNEMBED


RIVALS = {
    "block_influence": (BlockInfluence(), 2.0),
    "angular_distance": (AngularDistance(), 1.0),
    "logit_lens_entropy": (LogitLensEntropy(read), np.log(11)),
    "logit_lens_agreement": (LogitLensAgreement(read), 1.0),
    "intrinsic_dimension": (IntrinsicDimension(), np.inf),
    "matrix_entropy": (MatrixEntropy(), np.log(6)),
    "cka_blocks": (CkaBlocks(), np.inf),
}
every_rival = pytest.mark.parametrize("name", RIVALS)


@every_rival
@pytest.mark.parametrize("seed", range(3))
def test_batches_and_order_do_not_matter(name, seed, batch, sums_of):
    """However sentences arrive, the sums are the same."""
    signal, _ = RIVALS[name]
    whole, parts = sums_of(signal, batch), sums_of(signal, batch, shuffled=seed)
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        np.testing.assert_allclose(parts[key], value, rtol=1e-6)


@every_rival
def test_pads_and_bos_never_count(name, batch, sums_of):
    """Other numbers there change nothing."""
    signal, _ = RIVALS[name]
    spoilt = replace(batch, resid=[torch.where(batch.is_data[..., None], r, -7 * r + 3) for r in batch.resid])
    before, after = sums_of(signal, batch), sums_of(signal, spoilt)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


@every_rival
def test_drawing_a_fold_twice_is_having_it_twice(name, batch, sums_of):
    """Weights multiply a fold's sums, so resampling needs no model; no fold at all is nan."""
    signal, _ = RIVALS[name]
    sums = sums_of(signal, batch)
    doubled = {key: np.concatenate([value, value[:1]]) for key, value in sums.items()}
    twice = signal.curves(sums, np.array([[2.0, 1, 1]]))
    np.testing.assert_allclose(twice, signal.curves(doubled, np.ones((1, 4))))
    assert np.abs(twice - signal.curves(sums, np.ones((1, 3)))).max() > 0
    assert np.isnan(signal.curves(sums, np.zeros((1, 3)))).all()


@every_rival
def test_curves_have_one_value_a_gap_within_the_bounds(name, batch, sums_of):
    """From 0 to the stated bound."""
    signal, bound = RIVALS[name]
    curve = signal.curves(sums_of(signal, batch), np.ones((1, 3)))
    assert curve.shape == (1, 3)
    assert ((curve >= 0) & (curve <= bound)).all() and (curve > 0).any()


@every_rival
def test_layers_that_change_nothing_give_zero(name, batch, sums_of):
    """Equal layers are at distance 0 by every reading."""
    signal, _ = RIVALS[name]
    still = replace(batch, resid=[batch.resid[0]] * 4)
    np.testing.assert_allclose(signal.curves(sums_of(signal, still), np.ones((1, 3))), 0, atol=4e-4)


@every_rival
def test_rivals_are_registered_but_not_fused(name):
    """The registry knows them; the fused signals are still three."""
    assert SIGNALS[name] is type(RIVALS[name][0])
    from mspgt_tl.config import SignalConfig

    assert list(make_signals(SignalConfig())) == ["cka", "probe", "attention_jsd"]
