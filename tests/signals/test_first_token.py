"""What the first token does: known norms, known patterns, slow versions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mspgt_tl.config import SignalConfig
from mspgt_tl.contracts import SIGNALS
from mspgt_tl.evidence import make_signals
from mspgt_tl.signals.first_token import FirstTokenNorm, SinkRate
from mspgt_tl.signals.matrix_entropy import SpectrumCompression

ONES = np.ones((1, 3))


def test_a_norm_that_grows_tenfold_is_ln_ten(batch, sums_of):
    """The first token's vector of one layer, all others as they were."""
    resid = [batch.resid[0].clone() for _ in range(4)]
    for later in resid[2:]:
        later[:, 0] *= 10
    curve = FirstTokenNorm().curves(sums_of(FirstTokenNorm(), replace(batch, resid=resid)), ONES)[0]
    np.testing.assert_allclose(curve, [0, np.log(10), 0], atol=1e-5)


def test_norms_against_a_slow_version(batch, sums_of):
    """Mean over sentences of the first norm over the median of data tokens."""
    levels = []
    for resid in batch.resid:
        norms = resid.norm(dim=-1).numpy()
        ratios = []
        for row, is_data in zip(norms, batch.is_data.numpy(), strict=True):
            data = np.sort(row[is_data])
            ratios.append(row[0] / data[(len(data) - 1) // 2])  # torch's median is the lower of two
        levels.append(np.mean(ratios))
    curve = FirstTokenNorm().curves(sums_of(FirstTokenNorm(), batch), ONES)[0]
    np.testing.assert_allclose(curve, np.abs(np.diff(np.log(levels))), rtol=1e-5)


def pattern_with(share: torch.Tensor, length: int) -> torch.Tensor:
    """Heads that put these shares on the first key and the rest on the second."""
    pattern = torch.zeros(1, len(share), length, length)
    pattern[0, :, :, 0] = share[:, None]
    pattern[0, :, :, 1] = 1 - share[:, None]
    return pattern


def test_sink_rate_counts_heads_over_the_limit(batch, sums_of):
    """None of two heads, one of two, both, both."""
    shares = [(0.1, 0.2), (0.1, 0.4), (0.9, 0.31), (0.5, 0.5)]
    n, length = batch.tokens.shape
    pattern = [pattern_with(torch.tensor(one), length).expand(n, -1, -1, -1) for one in shares]
    curve = SinkRate().curves(sums_of(SinkRate(), replace(batch, pattern=pattern)), ONES)[0]
    np.testing.assert_allclose(curve, [0.5, 0.5, 0])


def test_a_massive_first_token_compresses_the_spectrum(batch, sums_of):
    """With it in the rows one direction is all that is left; without it nothing moves."""
    resid = [batch.resid[0].clone() for _ in range(4)]
    resid[3][:, 0] *= 1e4
    curve = SpectrumCompression().curves(sums_of(SpectrumCompression(), replace(batch, resid=resid)), ONES)[0]
    assert curve[:2] == pytest.approx([0, 0])
    assert curve[2] > 0.5


@pytest.mark.parametrize("signal", [FirstTokenNorm(), SpectrumCompression()])
def test_batches_and_pads_do_not_matter(signal, batch, sums_of):
    """Sums are the same in other batches, and with other numbers at pads."""
    spoilt = replace(batch, resid=[torch.where(batch.is_token[..., None], r, 3 - 7 * r) for r in batch.resid])
    whole = sums_of(signal, batch)
    for key, value in sums_of(signal, spoilt, shuffled=1).items():
        np.testing.assert_allclose(value, whole[key], rtol=1e-6)


def test_they_are_rivals():
    """Registered, and never fused."""
    for name in ("first_token_norm", "sink_rate", "compression", "cka_blocks"):
        assert SIGNALS[name].role == "rival"
        assert name not in make_signals(SignalConfig())
