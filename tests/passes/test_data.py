"""One rule of what is data; vectors as blocks read them."""

from __future__ import annotations

import torch

from mspgt_tl.passes.data import SINK_NORM, as_read, data_tokens


def test_a_token_massive_at_any_layer_is_no_data_at_all() -> None:
    """First tokens and tokens over the limit at one layer go; padding neither counts nor moves the median."""
    resid = [torch.ones(2, 6, 4) for _ in range(3)]
    resid[1][0, 3] = 1.1 * SINK_NORM
    resid[2][1, 2] = 0.9 * SINK_NORM
    is_token = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    resid[0][1, 4:] = 1e6
    found = data_tokens(resid, is_token)
    assert found.tolist() == [[False, True, True, False, True, True], [False, True, True, True, False, False]]


def test_a_sentence_never_loses_all_its_tokens() -> None:
    """Two tokens, each massive at another layer: both stay."""
    resid = [torch.ones(1, 3, 4), torch.ones(1, 3, 4)]
    resid[0][0, 1] = resid[1][0, 2] = 100.0
    assert data_tokens(resid, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[False, True, True]]


def test_rows_are_read_as_the_norm_reads_them() -> None:
    """Root mean square 1 for RMSNorm; mean 0 and variance 1 for LayerNorm; zero stays zero."""
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) + 3
    assert torch.allclose(as_read(rows, centred=False).square().mean(-1), torch.ones(5))
    assert torch.allclose(as_read(rows, centred=True), torch.nn.functional.layer_norm(rows, (8,), eps=0), atol=1e-5)
    assert (as_read(torch.zeros(2, 3), centred=True) == 0).all()
