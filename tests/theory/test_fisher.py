"""Fisher traces meet a closed form, exact Jacobians and an independent estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.theory.fisher import Fisher, fisher_trace, measure_fisher, scale_sensitivity
from mspgt_tl.theory.texts import Texts, read_texts

SAMPLES = 3000


def some_tokens(rows: int, length: int, vocab: int = 11, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def every_token(model: Any, tokens: Any) -> Texts:
    """First tokens and whatever looks like a sink are data, so that exact references hold for all positions."""
    return read_texts(model, tokens, every_token=True)


def softmax_fisher(jacobian: torch.Tensor, logits: torch.Tensor) -> float:
    """tr Jᵀ (diag p − p pᵀ) J for `[vocab, d]` Jacobians of logits, summed over positions."""
    p = logits.softmax(-1)
    second = (p[..., None] * jacobian.square()).sum()
    mean = (p[..., None] * jacobian).sum(-2)
    return float(second - mean.square().sum())


def exact_trace(model: Any, tokens: torch.Tensor, layer: int) -> np.ndarray:
    """tr F at every position of one row, from the exact Jacobian of all logits."""
    _, cache = model.run_with_cache(tokens[None])
    stream = cache[f"blocks.{layer}.hook_resid_post"][0]

    def logits_of(h: torch.Tensor) -> torch.Tensor:
        return model.run_with_hooks(
            tokens[None], fwd_hooks=[(f"blocks.{layer}.hook_resid_post", lambda resid, hook: h[None])]
        )[0]

    jacobian = torch.autograd.functional.jacobian(logits_of, stream)
    logits = logits_of(stream)
    return np.array([softmax_fisher(jacobian[:, :, p], logits) for p in range(len(tokens))])


def assert_within(found: np.ndarray, error: np.ndarray, truth: np.ndarray, sharp: float = 0.05) -> None:
    """Within four standard errors, and the errors are small enough for that to mean something."""
    assert (error < sharp * truth).all()
    np.testing.assert_array_less(np.abs(found - truth), 4 * error)


def test_linear_softmax_has_its_closed_form(linear_softmax: Any) -> None:
    """tr F = Σ p_v |w_v|² − |Σ p_v w_v|² where logits are linear in the stream."""
    tokens = some_tokens(3, 5)
    rows = linear_softmax.W_E[tokens].reshape(-1, 8)
    columns = linear_softmax.W_U.T
    truth = np.mean([softmax_fisher(columns, h @ linear_softmax.W_U) for h in rows])
    found = measure_fisher(linear_softmax, every_token(linear_softmax, tokens), seed=1, samples=SAMPLES)
    assert_within(found.trace, found.label_error, np.array([truth]))


def test_agrees_with_exact_jacobians(two_blocks: Any) -> None:
    """Every layer's trace is that of the whole output by the stream at one position, later positions included."""
    tokens = some_tokens(2, 5)
    truth = np.array([np.mean([exact_trace(two_blocks, row, layer) for row in tokens]) for layer in range(2)])
    found = measure_fisher(two_blocks, every_token(two_blocks, tokens), seed=2, samples=SAMPLES)
    assert_within(found.trace, found.label_error, truth)


def test_later_positions_matter(two_blocks: Any) -> None:
    """A definition that stopped at the position's own output would be caught by the test above."""
    tokens = some_tokens(1, 5)[0]
    whole = exact_trace(two_blocks, tokens, 0)
    assert whole[0] > 1.2 * exact_trace(two_blocks, tokens[:1], 0)[0]


def test_agrees_with_curvlinops(two_blocks: Any) -> None:
    """Hutchinson's estimate of the trace of the Gauss-Newton matrix, which is the Fisher of a softmax output."""
    curvlinops = pytest.importorskip("curvlinops")
    tokens = some_tokens(1, 6)

    class Shifted(torch.nn.Module):
        """Logits of every position as a function of what is added to the stream after the first block."""

        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(6, 8, dtype=torch.float64))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            hook = ("blocks.0.hook_resid_post", lambda resid, hook: resid + self.shift)
            return two_blocks.run_with_hooks(ids, fwd_hooks=[hook])[0]

    shifted, labels = Shifted(), torch.zeros(6, dtype=torch.long)
    operator = curvlinops.GGNLinearOperator(
        shifted, torch.nn.CrossEntropyLoss(reduction="sum"), [shifted.shift], [(tokens, labels)]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.mean([float(curvlinops.hutchinson_trace(operator, 40)) for _ in range(25)]) / 6
    found = measure_fisher(two_blocks, every_token(two_blocks, tokens), seed=3, samples=SAMPLES)
    assert abs(found.trace[0] - theirs) < 4 * found.label_error[0] + 0.03 * theirs


def test_batches_and_padding_change_nothing(two_blocks: Any) -> None:
    """Rows of unlike length give the same sums one at a time, together, or padded on either side."""
    rows = [some_tokens(1, n, seed=n)[0].tolist() for n in (3, 7, 5)]
    together = measure_fisher(two_blocks, rows, seed=4, samples=2)
    alone = measure_fisher(two_blocks, rows, seed=4, samples=2, batch_positions=1)
    padded, mask = torch.zeros(3, 7, dtype=torch.long), torch.zeros(3, 7)
    for i, row in enumerate(rows):
        padded[i, 7 - len(row) :], mask[i, 7 - len(row) :] = torch.tensor(row), 1
    left = measure_fisher(two_blocks, padded, seed=4, samples=2, mask=mask)
    for other in (alone, left):
        np.testing.assert_allclose(other.sums, together.sums, rtol=1e-10)
    assert together.counts.tolist() == read_texts(two_blocks, rows).counts.tolist()


@pytest.mark.parametrize("bos", [True, False])
def test_first_tokens_are_kept_apart(tiny_folder: Any, bos: bool) -> None:
    """A first token, BOS or not, adds to `left_out` and neither to the trace nor to the count of tokens."""
    model = load(tiny_folder)
    ids = encode(model, ["the old river", "a small house"], bos=bos).ids
    found, every = (measure_fisher(model, tokens, seed=0) for tokens in (ids, every_token(model, ids)))
    assert found.counts.tolist() == [len(row) - 1 for row in ids]
    assert every.counts.tolist() == [len(row) for row in ids]
    assert (found.left_out[:, 0] > 0).all() and not every.left_out.any()


def test_sinks_are_left_out(tiny_folder: Any) -> None:
    """A token whose norm is massive at one layer is no data, as in any signal; what follows it is predicted still."""
    model: Any = load(tiny_folder)
    ids = encode(model, ["the old river"], bos=True).ids

    def grow(_module: Any, _inputs: Any, resid: torch.Tensor) -> torch.Tensor:
        massive = torch.ones(resid.shape[1], 1)
        massive[2] = 1e3
        return resid * massive

    handle = model.blocks[3].hook_resid_post.register_forward_hook(grow)
    texts = read_texts(model, ids)
    handle.remove()
    expected = [place not in (0, 2) for place in range(len(ids[0]))]
    assert texts.is_data[0].tolist() == expected
    assert texts.counts.tolist() == [sum(expected)] and texts.predictions.tolist() == [sum(expected[:-1])]


def test_seeds_repeat_and_differ(two_blocks: Any) -> None:
    """One seed gives one result, another seed another."""
    tokens = some_tokens(4, 6)
    first, again, other = (fisher_trace(two_blocks, tokens, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert first.dtype == np.float64


def test_interval_covers_the_trace_of_many_texts(two_blocks: Any) -> None:
    """Of 40 samples of 100 texts, the 95 % interval holds the mean over 4,000 in at least 85 %."""
    found = measure_fisher(two_blocks, every_token(two_blocks, some_tokens(4000, 6)), seed=7)
    hits = 0
    for start in range(0, 4000, 100):
        part = slice(start, start + 100)
        low, high = Fisher(found.sums[:, part], found.left_out[part], found.counts[part], start).interval(resamples=300)
        hits += int(low[1] <= found.trace[1] <= high[1])
    assert 34 <= hits <= 40


def planted(trace: float, rows: int = 40, seed: int = 0) -> Fisher:
    sums = np.random.default_rng(seed).gamma(4, trace / 4, size=(1, rows, 3))
    return Fisher(sums * 10, np.zeros((rows, 3)), np.full(rows, 10), seed)


def test_scale_sums_of_planted_models() -> None:
    """Sums weigh layers by s², and the interval holds them."""
    scales = {0: 1.0, 1: 2.0, 2: 0.5}
    one = planted(8.0)
    strong = scale_sensitivity(one, [0, 1], scales)
    assert strong.value == pytest.approx(one.trace[0] + 4 * one.trace[1])
    assert 2 * one.predicted_kl(0.1, [0, 1], scales) / 0.01 == pytest.approx(strong.value)
    low, high = strong.interval
    assert low < strong.value < high and high / low < 2
    with pytest.raises(ConfigError, match="with a unit each"):
        scale_sensitivity(one, [0, 1], {0: 1.0})


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (torch.zeros(2, 3), {}, "whole numbers"),
        (torch.zeros(3, dtype=torch.long), {}, "whole numbers"),
        ([], {}, "At least one row"),
        ([[1, 2], [3, 11]], {}, "between 0 and 10"),
        ([[1, -1]], {}, "between 0 and 10"),
        ([list(range(10)) * 2], {}, "context ends at 16"),
        ([[]], {}, "Row 0 holds no data"),
        ([[1, 2], [3]], {}, "Row 1 holds no data"),
        ("text", {}, "lists of ids"),
        ([[1]], {"mask": torch.ones(1, 1)}, "belongs to a tensor"),
        (torch.ones(2, 3, dtype=torch.long), {"mask": torch.ones(2, 2)}, "The mask is"),
    ],
)
def test_refuses_unusable_tokens(two_blocks: Any, tokens: Any, options: Any, message: str) -> None:
    """What is no text of this model is refused by name."""
    with pytest.raises(DataError, match=message):
        fisher_trace(two_blocks, tokens, seed=0, **options)


def test_refuses_what_lies_outside_its_domain(two_blocks: Any) -> None:
    """Seeds, draws, few texts for an interval, layers that are not there."""
    tokens = some_tokens(2, 4)
    with pytest.raises(ConfigError, match="seed"):
        fisher_trace(two_blocks, tokens, seed=-1)
    with pytest.raises(ConfigError, match="samples"):
        fisher_trace(two_blocks, tokens, seed=0, samples=0)
    found = measure_fisher(two_blocks, tokens, seed=0)
    with pytest.raises(DataError, match="20 texts"):
        found.interval()
    with pytest.raises(ConfigError, match="Layers from 0 to 2"):
        scale_sensitivity(planted(1.0), [2, 3], dict.fromkeys(range(4), 1.0))
    assert np.isnan(found.label_error).all()


def test_works_through_the_bridge(tiny_folder: Any) -> None:
    """TransformerBridge gives the same traces as HookedTransformer, up to rounding."""
    hooked, bridge = load(tiny_folder), load(tiny_folder, backend="bridge")
    ids = encode(hooked, ["the old river", "a small house"]).ids
    np.testing.assert_allclose(fisher_trace(bridge, ids, seed=0), fisher_trace(hooked, ids, seed=0), rtol=1e-3)


def test_resamples_of_a_constant_ratio_are_constant() -> None:
    """Numerator and denominator are drawn together: texts of equal trace and any length leave no doubt about it."""
    counts = np.arange(1, 31)
    found = Fisher(2.0 * counts[None, :, None] * np.ones((1, 1, 3)), np.zeros((30, 3)), counts, seed=0)
    np.testing.assert_allclose(found.resample(50), 2.0)
    np.testing.assert_allclose(found.trace, 2.0)


def test_interval_is_the_middle_95_per_cent() -> None:
    """numpy's 2.5 and 97.5 % quantiles of the same resamples."""
    sums = np.random.default_rng(0).random((2, 40, 3))
    found = Fisher(sums, np.zeros((40, 3)), np.full(40, 7), seed=4)
    np.testing.assert_allclose(found.interval(resamples=300), np.quantile(found.resample(300), [0.025, 0.975], axis=0))
