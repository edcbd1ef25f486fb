"""Information meets planted channels, data processing and shuffled targets; slopes meet planted kinks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.passes.readout import unembed
from mspgt_tl.theory.mutual_information import (
    channel_information,
    refuse_beyond,
    slope_test,
    spectrum,
    v_information,
)
from mspgt_tl.theory.streams import collect_streams, split_texts, sum_by_text
from mspgt_tl.theory.texts import read_texts

CLASSES = 6


def planted(noises: tuple[float, ...], n: int = 12_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Markov chain y → h_0 → h_1 → …: each layer adds Gaussian noise to the one before."""
    rng = np.random.default_rng(seed)
    following = rng.integers(CLASSES, size=n)
    stream = 2.0 * np.eye(CLASSES)[following]
    layers = []
    for noise in noises:
        stream = stream + noise * rng.normal(size=stream.shape)
        layers.append(stream)
    return np.stack(layers).astype(np.float32), following, np.repeat(np.arange(n // 20), 20)


def true_information(vectors: np.ndarray, following: np.ndarray, noise: float) -> float:
    """I(h; y) of the planted mixture, from its own posterior."""
    means = 2.0 * np.eye(CLASSES)
    logs = -0.5 * np.square(vectors[:, None] - means).sum(-1) / noise**2
    logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return math.log(CLASSES) + float(logs[np.arange(len(following)), following].mean())


@pytest.fixture(scope="module")
def chain() -> Any:
    noises = (0.6, 0.8, 1.0)
    vectors, following, row = planted(noises)
    trained: dict[str, Any] = {"epochs": 25, "learning_rate": 0.05}
    return vectors, following, row, v_information(vectors, following, row, n_classes=CLASSES, seed=0, **trained)


def test_linear_readout_finds_a_planted_mixture(chain: Any) -> None:
    """Where the true posterior is a linear softmax, V-information is mutual information, within 5 %."""
    vectors, following, _, found = chain
    for layer, noise in enumerate(np.sqrt(np.cumsum(np.square((0.6, 0.8, 1.0))))):
        truth = true_information(vectors[layer].astype(float), following, float(noise))
        assert found.value[layer] == pytest.approx(truth, rel=0.05)
        assert found.interval[0, layer] < truth * 1.03


def test_data_processing_inequality(chain: Any) -> None:
    """Along a Markov chain information falls, beyond the intervals (eq. 25)."""
    found = chain[3]
    assert (np.diff(found.value) < 0).all()
    assert (found.interval[1, 1:] < found.interval[0, :-1]).all()


def test_shuffled_targets_tell_nothing(chain: Any) -> None:
    """With targets dealt anew there is no information: at most 0.005 nats, of the ln 6 that the target holds."""
    vectors, following, row, _ = chain
    shuffled = np.random.default_rng(1).permutation(following)
    found = v_information(vectors, shuffled, row, n_classes=CLASSES, seed=0, epochs=2)
    assert (np.abs(found.value) < 0.005).all()
    assert found.entropy == pytest.approx(math.log(CLASSES), abs=0.01)


def test_ridge_readout_on_a_model(two_blocks: Any) -> None:
    """On texts sampled from a model, its own last layer tells H(y) less its loss; a shuffled target tells nothing."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(11, (300, 1), generator=generator)
    for _ in range(11):
        tokens = torch.cat(
            [tokens, torch.multinomial(two_blocks(tokens)[:, -1].softmax(-1), 1, generator=generator)], 1
        )
    streams = collect_streams(two_blocks, tokens)

    def decode(vectors: torch.Tensor) -> torch.Tensor:
        return unembed(two_blocks, vectors.double())

    settings: dict[str, Any] = {"n_classes": 11, "seed": 0, "readout": "ridge", "decode": decode}
    found = v_information(streams.vectors, streams.following, streams.row, **settings)
    logits = two_blocks(tokens)[:, :-1].log_softmax(-1)
    loss = -logits.gather(-1, tokens[:, 1:, None])[..., 0].numpy()[np.isin(np.arange(300), measured_texts(300))].mean()
    assert found.value[-1] == pytest.approx(found.entropy - loss, abs=0.01)
    assert found.value[-1] > found.value[0] > 0.02
    shuffled = np.random.default_rng(1).permutation(streams.following)
    nothing = v_information(streams.vectors, shuffled, streams.row, **settings)
    assert (nothing.value < 0.01).all()


def measured_texts(n: int) -> np.ndarray:
    split = split_texts(np.arange(n), seed=0)
    return np.flatnonzero(split.measure)


def test_streams_are_what_the_model_shows(two_blocks: Any) -> None:
    """Rows of unlike length keep their order, vectors and next tokens."""
    rows = [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    streams = collect_streams(two_blocks, read_texts(two_blocks, rows, every_token=True), batch_positions=4)
    assert streams.following.tolist() == [2, 3, 4, 6, 8, 9]
    assert streams.row.tolist() == [0, 0, 0, 1, 2, 2]
    _, cache = two_blocks.run_with_cache(torch.tensor([rows[2]]))
    expected = cache["blocks.1.hook_resid_post"][0, :2].float().numpy()
    np.testing.assert_allclose(streams.vectors[1, 4:], expected, rtol=1e-5)


def test_streams_kept_on_disk_are_the_same(two_blocks: Any, tmp_path: Any) -> None:
    """A file instead of memory changes nothing."""
    rows = [[1, 2, 3, 4], [5, 6]]
    on_disk = collect_streams(two_blocks, rows, store=tmp_path)
    np.testing.assert_array_equal(on_disk.vectors, collect_streams(two_blocks, rows).vectors)


def test_gaussian_channel_within_five_per_cent() -> None:
    """½ Σ log(1 + λ/σ²) from samples meets its closed form."""
    variances = np.array([4.0, 1.0, 0.25])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3)) * np.sqrt(variances)
    truth = 0.5 * np.log1p(variances / 0.5**2).sum()
    assert channel_information(spectrum(x), 0.5) == pytest.approx(truth, rel=0.05)


def test_refuses_beyond_ln_n() -> None:
    """n samples show ln n nats and no more."""
    value, reasons = refuse_beyond(np.array([4.6, 4.7]), 100)
    assert value[0] == 4.6
    assert np.isnan(value[1])
    assert "ln n = 4.61" in reasons[0]


def test_slope_test_finds_planted_kinks() -> None:
    """A curve that bends at gaps 4 and 9 alone has the smallest p that 9 gaps can give, and others have none."""
    layers = np.arange(12.0)
    curve = 0.5 * layers - 0.4 * np.maximum(layers - 3.5, 0) + 0.6 * np.maximum(layers - 8.5, 0)
    found = slope_test(curve, (4, 9), seed=0)
    assert found.p_value == pytest.approx(found.smallest_p) == pytest.approx(1 / math.comb(9, 2))
    assert found.statistic == pytest.approx(0.5)
    assert found.jump[3] == pytest.approx(0.4)
    assert slope_test(curve, (6, 7), seed=0).p_value == 1


def test_excess_interval_holds_the_planted_excess() -> None:
    """Resamples around a curve with two kinks give an interval around the excess of their jumps."""
    slope = np.where(np.arange(23) < 8, 0.1, np.where(np.arange(23) < 15, 0.5, 0.2))
    curve = np.concatenate([[0.0], np.cumsum(slope)])
    drawn = curve + np.random.default_rng(0).normal(scale=1e-3, size=(500, 24))
    found = slope_test(curve, (8, 15), seed=0, resampled=drawn)
    low, high = found.excess_interval
    assert low < found.statistic - found.elsewhere < high
    assert high - low < 0.02
    assert np.isnan(slope_test(curve, (8, 15), seed=0).excess_interval).all()


def test_slope_test_keeps_its_level() -> None:
    """On random curves with boundaries picked in advance, p < 0.05 in at most 5 %, within Monte-Carlo error."""
    rng = np.random.default_rng(0)
    p_values = [slope_test(rng.normal(size=24), (8, 15), seed=0).p_value for _ in range(400)]
    assert np.mean(np.array(p_values) < 0.05) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert 0.4 < np.mean(p_values) < 0.6


def test_slope_test_says_what_it_cannot_tell() -> None:
    """End gaps, no boundaries, and too few gaps each come with a reason."""
    curve = np.random.default_rng(0).normal(size=12)
    ends = slope_test(curve, (1, 6), seed=0)
    assert "gap 1:" in ends.reasons[0]
    assert np.isnan(ends.jump[[0, -1]]).all()
    assert "there are none" in slope_test(curve, (), seed=0).reasons[0]
    one = slope_test(curve, (6,), seed=0)
    assert one.smallest_p == pytest.approx(1 / 9)
    assert "cannot give less" in one.reasons[0]
    broken = slope_test(np.full(12, np.nan), (4, 9), seed=0)
    assert np.isnan(broken.p_value)


def test_many_gaps_are_sampled() -> None:
    """Four boundaries of 39 gaps have too many choices to list; p stays valid and the planted kinks are found."""
    layers = np.arange(42.0)
    curve = sum(((-1) ** i) * np.maximum(layers - (gap - 0.5), 0) for i, gap in enumerate((8, 16, 24, 32)))
    assert slope_test(np.asarray(curve), (8, 16, 24, 32), seed=0).p_value < 0.001


def test_sums_by_text() -> None:
    """Sums and counts follow the texts."""
    sums, counts = sum_by_text(np.array([[1.0, 2.0, 4.0]]), np.array([3, 3, 7]))
    assert sums.tolist() == [[3.0, 4.0]]
    assert counts.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"readout": "knn"}, ConfigError, "Unknown readout"),
        ({"readout": "ridge"}, ConfigError, "needs decode"),
        ({"n_classes": 3}, DataError, "Targets lie between"),
        ({"row": np.zeros(400, dtype=int)}, DataError, "20 texts"),
        ({"row": np.zeros(10, dtype=int)}, DataError, "do not fit"),
        ({"vectors": np.zeros((1, 400, 300), np.float32)}, DataError, "needs 600 tokens"),
    ],
)
def test_refuses_unusable_input(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each refusal names what was needed."""
    vectors, following, row = planted((1.0,), n=400)
    given: dict[str, Any] = {"vectors": vectors, "following": following, "row": row, "n_classes": CLASSES} | changes
    with pytest.raises(error, match=message):
        v_information(**given, seed=0)


def test_refuses_too_few_samples() -> None:
    """Covariances and correlations want samples enough for their dimensions; a channel wants noise."""
    x = np.random.default_rng(0).normal(size=(30, 8))
    with pytest.raises(DataError, match="40 tokens"):
        spectrum(x)
    with pytest.raises(ConfigError, match="above 0"):
        channel_information(np.ones(2), 0.0)
    with pytest.raises(DataError, match="five layers"):
        slope_test(np.ones(4), (2,), seed=0)
    with pytest.raises(DataError, match="gaps from 1"):
        slope_test(np.ones(8), (8,), seed=0)


def test_nothing_to_predict_is_refused(two_blocks: Any) -> None:
    """Texts whose only data token is the last have no next one."""
    with pytest.raises(DataError, match="nothing to predict"):
        collect_streams(two_blocks, [[1, 2], [2, 3]])


def test_layers_are_read_out_many_tokens_at_once() -> None:
    """The readout is called once a layer and part of the text; token by token it would take hours."""
    vectors, following, row = planted((0.6, 0.8), n=1200)
    calls: list[int] = []

    def decode(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x.float()

    v_information(vectors, following, row, n_classes=CLASSES, seed=0, readout="ridge", decode=decode)
    assert min(calls) >= 100


def test_a_misleading_readout_is_mixed_away() -> None:
    """Where a layer tells nothing and the model's own readout is biased, the constant prediction takes over."""
    rng = np.random.default_rng(0)
    following = rng.integers(CLASSES, size=6000)
    last = 2.0 * np.eye(CLASSES)[following]
    vectors = np.stack([rng.normal(size=last.shape), last]).astype(np.float32)
    biased = torch.tensor([6.0, 0, 0, 0, 0, 0])
    found = v_information(
        vectors,
        following,
        np.repeat(np.arange(300), 20),
        n_classes=CLASSES,
        seed=0,
        readout="ridge",
        decode=lambda x: 4 * x.float() + biased,
    )
    assert found.value[0] == pytest.approx(0, abs=0.02)
