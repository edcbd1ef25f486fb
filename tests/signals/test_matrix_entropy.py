"""Matrix entropy: closed forms, invariances, and the mean over sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mspgt_tl.signals.matrix_entropy import MatrixEntropy, matrix_entropy


def all_data(rows: torch.Tensor) -> torch.Tensor:
    return torch.ones(rows.shape[:-1], dtype=torch.bool)


def test_one_direction_has_no_entropy():
    """All tokens along one vector."""
    rows = torch.outer(torch.tensor([1.0, -2, 3]), torch.tensor([1.0, 2, 0, 1]))
    assert float(matrix_entropy(rows, all_data(rows))) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("tokens", "d"), [(3, 8), (8, 3)])
def test_orthogonal_tokens_have_the_most(tokens, d):
    """ln of the smaller of tokens and width."""
    n = max(tokens, d)
    turned = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0)))[0]
    rows = 5 * turned[:tokens, :d]
    assert float(matrix_entropy(rows, all_data(rows))) == pytest.approx(np.log(min(tokens, d)), rel=1e-6)


def test_two_eigenvalues_give_the_binary_entropy():
    """Two orthogonal tokens of lengths 1 and 2: shares 1/5 and 4/5."""
    rows = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]])
    expected = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8))
    assert float(matrix_entropy(rows, all_data(rows))) == pytest.approx(expected)


def test_rotation_and_scale_do_not_matter():
    """Only the shares of eigenvalues count."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(5, 4, generator=generator)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    expected = pytest.approx(float(matrix_entropy(rows, all_data(rows))), rel=1e-5)
    for scale in (1e-4, 3.0, 1e4):
        assert float(matrix_entropy(scale * rows @ turn, all_data(rows))) == expected


def test_zero_rows_have_none():
    """No trace, no shares: nan."""
    assert torch.isnan(matrix_entropy(torch.zeros(3, 4), torch.ones(3, dtype=torch.bool)))


def test_levels_are_means_over_sentences(batch, sums_of):
    """Against the eigenvalues of each sentence's own Gram matrix."""
    levels = []
    for resid in batch.resid:
        found = []
        for sentence in range(len(batch.fold)):
            rows = resid[sentence][batch.is_data[sentence]].double().numpy()
            share = np.linalg.svd(rows, compute_uv=False) ** 2
            share = share / share.sum()
            found.append(-(share * np.log(share)).sum())
        levels.append(np.mean(found))
    curve = MatrixEntropy().curves(sums_of(MatrixEntropy(), batch), np.ones((1, 3)))[0]
    np.testing.assert_allclose(curve, np.abs(np.diff(levels)), rtol=1e-6)
