"""The variants of representation change: their rows, their channels, and sums that give the debiased estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mspgt_tl.passes.data import as_read
from mspgt_tl.signals.cka import linear_cka
from mspgt_tl.signals.cka_variants import OF_DRAWN, OF_OTHERS, CkaVariants, _other_rows, massive_channels, whiten

ONES = np.ones((1, 3))


def rows_of(batch, fold: int, drawn: torch.Tensor, *, raw: bool = False) -> torch.Tensor:
    """Return the rows of one fold, `[layer, row, d_model]`, as the next block reads them."""
    members = np.flatnonzero(batch.fold == fold)
    rows = torch.stack([layer[members, drawn[members]] for layer in batch.resid])
    return rows if raw else as_read(rows, centred=batch.centred)


def test_a_channel_is_massive_where_it_is_at_any_layer():
    """Above twenty times the layer's median magnitude in one row of one layer: masked at all of them."""
    rows = torch.ones(3, 5, 4)
    rows[1, 2, 3] = -21.0
    rows[2, 0, 0] = 20.0
    assert massive_channels(rows).tolist() == [False, False, False, True]


def test_whitening_leaves_the_kernel_of_its_definition():
    """G (G + λ)⁻¹ with the mean eigenvalue as λ, by numpy."""
    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    white = whiten(x)
    for layer in range(2):
        centred = x[layer].double().numpy() - x[layer].double().numpy().mean(axis=0)
        gram = centred @ centred.T
        ridge = np.trace(gram) / 7
        expected = gram @ np.linalg.inv(gram + ridge * np.eye(7))
        np.testing.assert_allclose((white[layer] @ white[layer].T).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("name", [*OF_DRAWN, *OF_OTHERS])
def test_one_fold_alone_gives_the_debiased_cka_of_its_rows(name, batch, sums_of):
    """Every variant, of the rows and channels that its name says, at every gap."""
    if name == "massive masked":
        batch = replace(batch, resid=[layer + 400 * (torch.arange(6) == 2) for layer in batch.resid])
    sums = sums_of(CkaVariants(), batch)
    for fold in range(3):
        drawn = batch.drawn if name in OF_DRAWN else _other_rows(batch)[name]
        rows = rows_of(batch, fold, drawn, raw=name == "raw rows")
        if name == "whitened":
            rows = whiten(rows)
        if name == "massive masked":
            assert massive_channels(rows).tolist() == [False, False, True, False, False, False]
            rows = rows * (torch.arange(6) != 2)
        found = CkaVariants(variant=name).curves(sums, np.eye(3)[[fold]])[0]
        expected = [1 - linear_cka(rows[gap], rows[gap + 1]) for gap in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_sums_of_uneven_folds_are_hsic_over_their_own_sizes(batch):
    """A fold counts by its HSIC, whose divisor n (n − 3) is that of its own n."""
    signal, sizes = CkaVariants(variant="raw rows"), np.array([6, 24])
    accumulator = signal.start(n_layers=4, fold_sizes=sizes)
    uneven = replace(batch, fold=np.repeat([0, 1], sizes))
    accumulator.observe(uneven)
    sums = accumulator.sums()
    for fold, n in enumerate(sizes):
        x = rows_of(uneven, fold, batch.drawn, raw=True).double()
        kernel = x @ x.transpose(1, 2)
        kernel.diagonal(dim1=1, dim2=2).zero_()
        total = kernel.sum((1, 2))
        unbiased = (kernel * kernel).sum((1, 2)) + total**2 / ((n - 1) * (n - 2))
        unbiased -= 2 / (n - 2) * (kernel.sum(1) ** 2).sum(1)
        np.testing.assert_allclose(sums["raw rows"][fold, 0], unbiased / (n * (n - 3)), rtol=1e-4)


def test_other_rows_are_told_by_the_sentence_alone(batch):
    """The last data token; one at any place in the sentence; the first token in one of n + 1 sentences."""
    many = replace(
        batch,
        sentence=np.arange(3000),
        fold=np.zeros(3000, dtype=int),
        drawn=torch.full((3000,), 2),
        is_data=(torch.arange(7) > 0).expand(3000, -1) & (torch.arange(7) < 5),
    )
    rows = _other_rows(many)
    assert (rows["last token"] == 4).all()
    counts = torch.bincount(rows["another token"], minlength=7)[1:5] / 3000
    assert (counts - 0.25).abs().max() < 0.03 and counts.sum() == 1
    first = rows["first token kept"]
    assert set(first.tolist()) == {0, 2} and float((first == 0).float().mean()) == pytest.approx(1 / 5, abs=0.03)
