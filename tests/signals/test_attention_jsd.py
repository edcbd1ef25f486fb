"""Tests of attention drift: the divergence, what counts as a row and a key, and the sums."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from mspgt_tl.contracts import SIGNALS, Batch
from mspgt_tl.errors import DataError
from mspgt_tl.signals.attention_jsd import MIN_KEYS, AttentionDrift, jensen_shannon

N_LAYERS, N_HEADS, N_FOLDS = 3, 2, 2
LENGTHS = (9, 12, 6, 4, 2)

# scipy divides by half of a value, which overflows below the smallest normal number.
values = st.floats(0, 1).map(lambda value: value if value > 1e-30 else 0.0)
distributions = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*[st.lists(values, min_size=n, max_size=n).filter(lambda row: sum(row) > 0.1)] * 2)
)


def normalised(rows: tuple[list[float], list[float]]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64) / sum(row) for row in rows]


@settings(max_examples=200, deadline=None)
@given(distributions)
def test_the_divergence_is_scipys_squared_distance(rows):
    """In nats, between 0 and ln 2, the same in both directions."""
    p, q = normalised(rows)
    found = jensen_shannon(p, q).item()
    # scipy takes the root of its sum, which rounding can make negative and so nan.
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(jensenshannon(p, q)) ** 2
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 <= found <= math.log(2)
    assert jensen_shannon(q, p).item() == pytest.approx(found, abs=1e-15)


def test_equal_rows_give_zero_and_disjoint_rows_ln_2():
    """The two ends of the range, for a batch of rows; whole numbers are rows too."""
    p = torch.tensor([[1, 0, 0], [0, 1, 0]])
    q = torch.tensor([[1, 0, 0], [0, 0, 1]])
    torch.testing.assert_close(jensen_shannon(p, q), torch.tensor([0, math.log(2)]))


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.5], [1.0], "one shape"),
        (1.0, 1.0, "one shape"),
        ([0.5, 0.4], [0.5, 0.5], "sum to one"),
        ([1.5, -0.5], [0.5, 0.5], "not negative"),
        ([float("nan"), 1.0], [0.5, 0.5], "finite"),
    ],
)
def test_what_is_no_distribution_is_refused(p, q, message):
    """Shapes, signs, sums and missing values are checked."""
    with pytest.raises(DataError, match=message):
        jensen_shannon(torch.tensor(p), torch.tensor(q))


def make_batch(seed: int = 0, *, has_bos: bool = True, bos_bias: float = 1.0) -> Batch:
    """Random causal patterns of right-padded sentences; pads attend to whatever lies before them, as they really do."""
    generator = torch.Generator().manual_seed(seed)
    n, width = len(LENGTHS), max(LENGTHS)
    is_token = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    is_data = is_token.clone()
    if has_bos:
        is_data[:, 0] = False
    scores = 2 * torch.randn(N_LAYERS, n, N_HEADS, width, width, generator=generator)
    scores[..., 0] += bos_bias
    hidden = torch.triu(torch.ones(width, width, dtype=torch.bool), 1)
    return Batch(
        sentence=np.arange(n),
        fold=np.arange(n) % N_FOLDS,
        drawn=torch.ones(n, dtype=torch.long),
        tokens=torch.zeros(n, width, dtype=torch.long),
        is_data=is_data,
        is_token=is_token,
        resid=[],
        pattern=list(scores.masked_fill(hidden, -torch.inf).softmax(-1)),
    )


def test_rows_with_fewer_than_four_keys_are_left_out():
    """What the first queries look at changes nothing: with two or three keys a divergence is small by construction."""
    batch = make_batch(has_bos=False)

    def scrambled(rows: slice) -> Batch:
        generator, patterns = torch.Generator().manual_seed(1), []
        for pattern in batch.pattern:
            other = torch.rand(pattern.shape, generator=generator) * (pattern > 0)
            changed = pattern.clone()
            changed[:, :, rows] = (other / other.sum(-1, keepdim=True))[:, :, rows]
            patterns.append(changed)
        return replace(batch, pattern=patterns)

    plain = AttentionDrift()

    def drift(one: Batch) -> np.ndarray:
        accumulator = plain.start(n_layers=N_LAYERS, fold_sizes=np.array([3, 2]))
        accumulator.observe(one)
        return plain.curves(dict(accumulator.sums()), np.ones((1, N_FOLDS)))[0]

    np.testing.assert_allclose(drift(scrambled(slice(1, 3))), drift(batch), rtol=1e-6)
    assert not np.allclose(drift(scrambled(slice(5, 6))), drift(batch), rtol=1e-3)


def with_patterns(batch: Batch, change) -> Batch:
    return replace(batch, pattern=[change(pattern.clone()) for pattern in batch.pattern])


def observe(batch: Batch, **options) -> dict[str, np.ndarray]:
    accumulator = AttentionDrift(**options).start(n_layers=N_LAYERS, fold_sizes=np.array([3, 2]))
    accumulator.observe(batch)
    return dict(accumulator.sums())


def curve(batch: Batch, **options) -> np.ndarray:
    return AttentionDrift(**options).curves(observe(batch, **options), np.ones((1, N_FOLDS)))[0]


def kept_keys(batch: Batch, sentence: int, *, sinks: bool) -> list[int]:
    """The keys of one sentence that stay, said slowly."""
    if sinks:
        return [k for k in range(LENGTHS[sentence]) if batch.is_token[sentence, k]]
    return [k for k in range(LENGTHS[sentence]) if batch.is_data[sentence, k]]


def slow_sums(batch: Batch, *, mode: str, sinks: bool) -> dict[str, np.ndarray]:
    """The sums, one sentence, row and pair of heads at a time, by scipy."""
    heads = N_HEADS if mode == "matched" else 1
    divergence, rows = np.zeros((N_FOLDS, N_LAYERS - 1, heads, heads)), np.zeros(N_FOLDS)
    for sentence, fold in enumerate(batch.fold):
        keys = kept_keys(batch, sentence, sinks=sinks)
        for query in range(LENGTHS[sentence]):
            seen = [key for key in keys if key <= query]
            if not batch.is_data[sentence, query] or len(seen) < MIN_KEYS:
                continue
            rows[fold] += 1
            for gap in range(N_LAYERS - 1):
                both = [batch.pattern[layer][sentence, :, query].double().numpy() for layer in (gap, gap + 1)]
                both = [a[:, seen] / a[:, seen].sum(1, keepdims=True) for a in both]
                if mode == "head_average":
                    both = [a.mean(0, keepdims=True) for a in both]
                for i, j in itertools.product(range(heads), repeat=2):
                    divergence[fold, gap, i, j] += jensenshannon(both[0][i], both[1][j]) ** 2
    return {"divergence": divergence, "rows": rows}


@pytest.mark.parametrize("sinks", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("mode", ["head_average", "matched"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("has_bos", [True, False])
def test_sums_equal_a_loop_over_rows(mode, sinks, seed, has_bos):
    """Every fold, gap and pair of heads, with padding, BOS and sinks."""
    batch = make_batch(seed, has_bos=has_bos)
    if seed:
        batch = with_sink(with_patterns(batch, attend_to(2, 0.7)))
    slow = slow_sums(batch, mode=mode, sinks=sinks)
    for name, values in observe(batch, mode=mode, sinks=sinks).items():
        np.testing.assert_allclose(values, slow[name], atol=1e-5, err_msg=name)


def attend_to(key: int, share: float):
    """Return a change that gives a share of the second sentence's rows to one key, in every head."""

    def change(pattern: torch.Tensor) -> torch.Tensor:
        pattern[1, :, key:] *= 1 - share
        pattern[1, :, key:, key] += share
        return pattern

    return change


def with_sink(batch: Batch) -> Batch:
    """Say that the third token of the second sentence is no data."""
    is_data = batch.is_data.clone()
    is_data[1, 2] = False
    return replace(batch, is_data=is_data)


def test_heads_that_turn_to_a_sink_leave_no_trace():
    """Heads are averaged after sinks are dropped, so how much one of them gives to a sink does not weigh it."""
    curves = []
    for share in (0.3, 0.95):
        first = make_batch().pattern[0].clone()
        first[1, :1] = attend_to(2, share)(first[:, :1].clone())[1]
        curves.append(curve(with_sink(replace(make_batch(), pattern=[first, *make_batch().pattern[1:]]))))
    np.testing.assert_allclose(*curves, atol=1e-5)


@pytest.mark.parametrize("key", [0, 2], ids=["bos", "sink"])
def test_bos_and_sinks_are_kept_on_request_only(key):
    """What a key takes of all heads' rows moves the raw form alone, if that key is BOS or a sink."""
    batch = with_sink(with_patterns(make_batch(), attend_to(key, 0.6)))
    stronger = with_sink(with_patterns(make_batch(), attend_to(key, 0.9)))
    np.testing.assert_allclose(curve(batch), curve(stronger), atol=1e-5)
    assert np.abs(curve(batch, sinks=True) - curve(stronger, sinks=True)).max() > 1e-3


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("mode", ["head_average", "matched"])
def test_padding_never_matters(mode, sinks):
    """What pad rows look at, and further padding, change nothing."""
    batch = make_batch()

    def scramble(pattern: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(pattern.shape, generator=torch.Generator().manual_seed(9)).tril()
        is_pad = ~batch.is_token[:, None, :, None]
        return torch.where(is_pad, noise / noise.sum(-1, keepdim=True), pattern)

    before = observe(batch, mode=mode, sinks=sinks)
    wider = with_patterns(batch, lambda pattern: torch.nn.functional.pad(scramble(pattern), (0, 3, 0, 3)))
    wider = replace(
        wider,
        is_data=torch.nn.functional.pad(batch.is_data, (0, 3)),
        is_token=torch.nn.functional.pad(batch.is_token, (0, 3)),
    )
    for changed in (with_patterns(batch, scramble), wider):
        for name, values in observe(changed, mode=mode, sinks=sinks).items():
            np.testing.assert_allclose(values, before[name], atol=1e-6)


def test_rows_of_few_visible_keys_are_left_out():
    """Of n tokens after BOS, the first three see fewer than four keys; kept BOS counts as a key."""
    batch = make_batch()
    even = batch.is_token[:, None, None, :].expand(-1, N_HEADS, max(LENGTHS), -1).float().tril()
    batch = with_patterns(batch, lambda _: even / even.sum(-1, keepdim=True))
    per_sentence = [max(0, length - 1 - (MIN_KEYS - 1)) for length in LENGTHS]
    expected = [sum(per_sentence[0::2]), sum(per_sentence[1::2])]
    assert observe(batch)["rows"].tolist() == expected
    raw = [max(0, length - (MIN_KEYS - 1)) for length in LENGTHS]
    assert observe(batch, sinks=True)["rows"].tolist() == [sum(raw[0::2]), sum(raw[1::2])]


def test_batches_and_their_order_do_not_matter():
    """Sums add over sentences."""
    batch = make_batch()
    accumulator = AttentionDrift().start(n_layers=N_LAYERS, fold_sizes=np.array([3, 2]))
    for row in (4, 1, 3, 0, 2):
        accumulator.observe(
            replace(
                batch,
                sentence=batch.sentence[[row]],
                fold=batch.fold[[row]],
                is_data=batch.is_data[[row]],
                is_token=batch.is_token[[row]],
                pattern=[pattern[[row]] for pattern in batch.pattern],
            )
        )
    for name, values in observe(batch).items():
        np.testing.assert_allclose(accumulator.sums()[name], values, atol=1e-5)


def test_matched_heads_may_stand_in_any_order():
    """Permuting a layer's heads changes the pairs, not the curve; equal layers have no drift then."""
    batch = make_batch()
    swapped = replace(batch, pattern=[batch.pattern[0], batch.pattern[1].flip(1), batch.pattern[2]])
    np.testing.assert_allclose(curve(batch, mode="matched"), curve(swapped, mode="matched"), atol=1e-6)
    same = replace(batch, pattern=[batch.pattern[0], batch.pattern[0].flip(1), batch.pattern[0]])
    np.testing.assert_allclose(curve(same, mode="matched"), 0, atol=1e-6)


def test_equal_layers_have_no_drift_and_disjoint_ones_ln_2():
    """The ends of the range, through the whole signal."""
    batch = make_batch()
    even = torch.arange(max(LENGTHS)) % 2 == 0
    parts = [batch.pattern[0] * even, batch.pattern[0] * even, batch.pattern[0] * ~even]
    np.testing.assert_allclose(curve(replace(batch, pattern=parts)), [0, math.log(2)], atol=1e-5)


def test_half_precision_is_summed_in_float32():
    """Patterns of a bfloat16 model give nearly the same curve."""
    batch = make_batch()
    half = with_patterns(batch, lambda pattern: pattern.bfloat16())
    np.testing.assert_allclose(curve(half), curve(batch), atol=2e-3)


def test_resamples_weigh_folds_and_nothing_drawn_is_nan():
    """A mean over the rows of the drawn folds."""
    sums = observe(make_batch())
    weights = np.array([[2.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    found = AttentionDrift().curves(sums, weights)
    total = sums["divergence"][:, :, 0, 0]
    np.testing.assert_allclose(found[0], (2 * total[0] + total[1]) / (2 * sums["rows"][0] + sums["rows"][1]))
    np.testing.assert_allclose(found[1], total[1] / sums["rows"][1])
    assert np.isnan(found[2]).all()


def test_one_row_alone_is_its_own_mean():
    """However few rows a fold has, their sum is divided by their number."""
    sums = {"rows": np.array([1.0]), "divergence": np.full((1, 2, 1, 1), 0.3)}
    np.testing.assert_allclose(AttentionDrift().curves(sums, np.ones((1, 1))), [[0.3, 0.3]])


def test_sums_of_nothing_are_refused():
    """No batch, no sums."""
    with pytest.raises(DataError, match="no batch"):
        AttentionDrift().start(n_layers=2, fold_sizes=np.array([3])).sums()


def test_registered_as_attention_jsd():
    """The registry finds the signal by its name."""
    assert SIGNALS["attention_jsd"] is AttentionDrift
