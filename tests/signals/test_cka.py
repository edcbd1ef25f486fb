"""Tests of representation change: the estimator, its sums over folds, and the curve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspgt_tl.config import SignalConfig
from mspgt_tl.contracts import SIGNALS, Batch
from mspgt_tl.errors import DataError
from mspgt_tl.signals.cka import CkaChange, cka_matrix, linear_cka

N_LAYERS, FOLD_SIZE, N_FOLDS, D_MODEL, LENGTH = 4, 12, 3, 6, 5


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def song_hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """The debiased HSIC as written in Song et al. (2012), eq. 5, up to the factor both sides of a ratio share."""
    k, m = x @ x.T, y @ y.T
    n, ones = len(k), torch.ones(len(k), dtype=k.dtype)
    k, m = k.clone().fill_diagonal_(0), m.clone().fill_diagonal_(0)
    first = torch.trace(k @ m)
    second = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * (ones @ k @ m @ ones)
    return float((first + second - third) / (n * (n - 3)))


def song_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    return song_hsic(x, y) / (song_hsic(x, x) * song_hsic(y, y)) ** 0.5


@pytest.mark.parametrize("debiased", [True, False])
def test_a_set_of_rows_is_like_itself(debiased):
    """CKA of x with x is 1."""
    x = gaussian(20, 7, seed=0)
    assert linear_cka(x, x, debiased=debiased) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 30), st.integers(1, 8), st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_rotation_and_scale_do_not_matter(n_rows, d, scale, seed):
    """An orthogonal map, an isotropic scale and a shift leave CKA as it was."""
    x = gaussian(n_rows, d, seed=seed)
    y = x[:, :1] + gaussian(n_rows, 3, seed=seed + 1)
    rotation = torch.linalg.qr(gaussian(d, d, seed=seed + 2))[0]
    moved = scale * (x @ rotation) + 5
    before, after = linear_cka(x, y), linear_cka(moved, y)
    assert after == pytest.approx(before, abs=1e-6, rel=1e-6, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 30), st.integers(0, 10_000), st.booleans())
def test_either_order_gives_the_same(n_rows, seed, debiased):
    """CKA is symmetric, up to rounding."""
    x, y = gaussian(n_rows, 5, seed=seed), gaussian(n_rows, 3, seed=seed + 1)
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(linear_cka(y, x, debiased=debiased), nan_ok=True)


def test_only_the_debiased_form_tells_independent_wide_rows_apart():
    """Independent Gaussians of width 4,096 and 256 rows: about 0 debiased, 0.94 biased (docs/method.md)."""
    x, y = gaussian(256, 4096, seed=0), gaussian(256, 4096, seed=1)
    assert abs(linear_cka(x, y)) < 0.02
    assert linear_cka(x, y, debiased=False) == pytest.approx(0.94, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 20), st.integers(1, 6), st.integers(0, 10_000))
def test_the_estimate_is_that_of_song_et_al(n_rows, d, seed):
    """U-centred kernels give the explicit formula."""
    x = gaussian(n_rows, d, seed=seed)
    y = x[:, :1] + gaussian(n_rows, 4, seed=seed + 1)
    if song_hsic(x, x) > 1e-6 and song_hsic(y, y) > 1e-6:
        assert linear_cka(x, y) == pytest.approx(song_cka(x, y), abs=1e-6)


def test_constant_rows_have_no_cka():
    """No variance is no geometry: nan, in both forms."""
    x = gaussian(10, 3, seed=0)
    for debiased in (True, False):
        assert np.isnan(linear_cka(torch.full((10, 3), 0.1), x, debiased=debiased))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(6, 2), "same 4 or more rows"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "same 4 or more rows"),
        (torch.zeros(5), torch.zeros(5), r"\[row, d\]"),
        (torch.zeros(5, 2), torch.full((5, 2), torch.nan), "finite"),
        (torch.full((5, 2), torch.inf), torch.zeros(5, 2), "finite"),
    ],
)
def test_unusable_rows_are_refused(x, y, message):
    """Shapes that do not fit and values that are not numbers are named."""
    with pytest.raises(DataError, match=message):
        linear_cka(x, y)


def corpus(seed: int = 0, *, constant_layer: int | None = None) -> Batch:
    """All sentences at once; neighbouring layers share part of their values."""
    n = FOLD_SIZE * N_FOLDS
    resid = gaussian(N_LAYERS, n, LENGTH, D_MODEL, seed=seed).cumsum(0)
    if constant_layer is not None:
        resid[constant_layer] = 0.1
    rng = np.random.default_rng(seed)
    tokens = torch.zeros(n, LENGTH, dtype=torch.long)
    return Batch(
        sentence=np.arange(n),
        fold=rng.permutation(np.repeat(np.arange(N_FOLDS), FOLD_SIZE)),
        drawn=torch.from_numpy(rng.integers(0, LENGTH, n)),
        tokens=tokens,
        is_data=tokens == 0,
        is_token=tokens == 0,
        resid=list(resid.float()),
        pattern=[],
    )


def take(batch: Batch, rows: np.ndarray) -> Batch:
    return Batch(
        sentence=batch.sentence[rows],
        fold=batch.fold[rows],
        drawn=batch.drawn[rows],
        tokens=batch.tokens[rows],
        is_data=batch.is_data[rows],
        is_token=batch.is_token[rows],
        resid=[resid[rows] for resid in batch.resid],
        pattern=[],
    )


def observe(batch: Batch, parts: list[np.ndarray], *, raw: bool = False) -> np.ndarray:
    accumulator = CkaChange(raw=raw).start(n_layers=N_LAYERS, fold_sizes=np.full(N_FOLDS, FOLD_SIZE))
    for rows in parts:
        accumulator.observe(take(batch, rows))
    return accumulator.sums()["hsic"]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.sets(st.integers(1, FOLD_SIZE * N_FOLDS - 1), max_size=6))
def test_batches_and_order_do_not_matter(random, cuts):
    """A fold's HSIC is the same however its sentences arrive."""
    batch = corpus()
    order = list(range(len(batch.fold)))
    random.shuffle(order)
    split = observe(batch, np.split(np.array(order), sorted(cuts)))
    np.testing.assert_allclose(split, observe(batch, [np.arange(len(order))]), rtol=1e-10)


def slow_hsic(batch: Batch, fold: int, i: int, j: int) -> float:
    """HSIC of two layers in one fold, sentence by sentence and by Song's formula."""
    members = np.flatnonzero(batch.fold == fold)
    x, y = (torch.stack([batch.resid[layer][s, batch.drawn[s]] for s in members]).double() for layer in (i, j))
    x, y = (rows / rows.square().mean(dim=1, keepdim=True).sqrt() for rows in (x, y))
    return song_hsic(x, y)


def test_the_length_of_a_row_does_not_matter():
    """Rows multiplied by any numbers, layer by layer, give the same sums; raw rows do not."""
    batch = corpus()
    lengths = 10 ** torch.rand(len(batch.resid), len(batch.fold), 1, 1, generator=torch.Generator().manual_seed(0))
    stretched = replace(batch, resid=[h * by for h, by in zip(batch.resid, lengths, strict=True)])
    every = [np.arange(len(batch.fold))]
    np.testing.assert_allclose(observe(stretched, every), observe(batch, every), rtol=1e-4, atol=1e-6)
    assert not np.allclose(observe(stretched, every, raw=True), observe(batch, every, raw=True), rtol=0.5)


def test_the_curve_averages_hsic_over_folds_before_dividing():
    """1 - sum HSIC(K, M) / sqrt(sum HSIC(K, K) sum HSIC(M, M)), with folds weighted as they were drawn."""
    batch = corpus()
    sums = {"hsic": observe(batch, [np.arange(len(batch.fold))])}
    weights = np.array([[1.0, 1, 1], [0, 2, 1]])
    expected = np.empty((2, N_LAYERS - 1))
    for row, counts in enumerate(weights):
        total = {
            (i, j): sum(c * slow_hsic(batch, b, i, j) for b, c in enumerate(counts))
            for i in range(N_LAYERS)
            for j in (i, i + 1)
            if j < N_LAYERS
        }
        for gap in range(N_LAYERS - 1):
            own = total[gap, gap] * total[gap + 1, gap + 1]
            expected[row, gap] = 1 - total[gap, gap + 1] / own**0.5
    np.testing.assert_allclose(CkaChange().curves(sums, weights), expected, rtol=1e-6)
    np.testing.assert_allclose(np.diag(cka_matrix(sums), 1), 1 - expected[0], rtol=1e-6)
    np.testing.assert_allclose(np.diag(cka_matrix(sums)), 1)


def test_sums_are_the_hsic_of_song_et_al_for_each_fold():
    """Every pair of layers, divided as the estimator says, so that folds of other sizes weigh alike."""
    batch = corpus()
    found = observe(batch, [np.arange(len(batch.fold))], raw=True)
    for fold in range(N_FOLDS):
        members = np.flatnonzero(batch.fold == fold)
        rows = [layer[members, batch.drawn[members]].double() for layer in batch.resid]
        expected = [[song_hsic(x, y) for y in rows] for x in rows]
        np.testing.assert_allclose(found[fold], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "rule", "raw"), [("read", "mspgt", False), ("raw", "mspgt", True), ("read", "paper", True)]
)
def test_rows_follow_the_settings_and_the_rule(rows, rule, raw):
    """The published rule always takes raw rows."""
    assert CkaChange.from_config(SignalConfig(rows=rows), rule).raw is raw


def test_a_constant_layer_is_nan_at_its_gaps_only():
    """Without variance the denominator is 0: nan there, numbers elsewhere."""
    batch = corpus(constant_layer=3)
    curve = CkaChange().curves({"hsic": observe(batch, [np.arange(len(batch.fold))])}, np.ones((1, N_FOLDS)))[0]
    assert np.isnan(curve).tolist() == [False, False, True]


def test_a_negative_variance_is_nan():
    """The debiased estimate of a variance can be negative; its root is not taken."""
    hsic = np.array([[[1.0, 0.5], [0.5, -0.1]]])
    assert np.isnan(CkaChange().curves({"hsic": hsic}, np.ones((1, 1)))).all()
    assert np.isnan(cka_matrix({"hsic": hsic})[0, 1])


def test_folds_need_four_sentences():
    """The estimator divides by rows - 3."""
    with pytest.raises(DataError, match="4 sentences a fold, got 3"):
        CkaChange().start(n_layers=2, fold_sizes=np.array([5, 3]))


def test_registered_as_cka():
    """The registry finds the signal by its name."""
    assert SIGNALS["cka"] is CkaChange
