"""The generator: published vectors, the counter's layout, distribution, independence along every axis, speed."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest

from mspgt_tl.contracts import check_seed
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.interventions import philox

torch = pytest.importorskip("torch")

VECTORS = {
    (0, 0, 0, 0, 0, 0): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    (0xFFFFFFFF,) * 6: "408f276d 41c83b0e a20bc7c6 6d5451fd",
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0): "d16cfe09 94fdcceb 5001e420 24126ea1",
}
"""Known answers of Random123's philox4x32-10: counter and key, and the words they give."""
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[NO_GPU, pytest.mark.gpu])]


def draw(seed=0, ids=(0,), layer=0, positions=(0,), width=8, device="cpu", **options):
    """Normals for lists of ids and positions."""
    ids, positions = torch.tensor(ids, device=device), torch.tensor(positions, device=device)
    return philox.normal(seed, sample_ids=ids, layer=layer, positions=positions, width=width, **options)


def reference_words(counter, key):
    """Philox as its paper writes it, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            second >> 32 ^ c[1] ^ k[0],
            second & 0xFFFFFFFF,
            first >> 32 ^ c[3] ^ k[1],
            first & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("numbers", VECTORS)
def test_published_vectors(numbers, device):
    """The words are those that the generator's authors publish."""
    words = philox.philox4x32(torch.tensor(numbers[:4], device=device), numbers[4:])
    assert " ".join(f"{int(word):08x}" for word in words) == VECTORS[numbers]


@pytest.mark.parametrize("device", DEVICES)
def test_many_counters_at_once_equal_one_at_a_time(device):
    """Vectorised words equal those of the plain definition, whatever the shape; the counters are left alone."""
    counters = torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, (4, 5, 7)))
    before, key = counters.clone(), (0xDEADBEEF, 7)
    words = philox.philox4x32(counters.to(device), key).cpu()
    assert torch.equal(counters, before)
    for at in np.ndindex(5, 7):
        assert words[:, *at].tolist() == reference_words(counters[:, *at].tolist(), key)


def test_normals_are_box_muller_of_the_documented_counters():
    """Channel, position, sample, use and layer stand where the module says."""
    seed, sample, layer, position = 5 + (9 << 32), 12, 3, 40
    found = draw(seed, [sample], layer, [position], width=10, dtype=torch.float64)[0]
    for channel in range(10):
        words = reference_words((channel // 4, position, sample, 1 << 16 | layer), (5, 9))
        u, v = ((word + 0.5) / 2**32 for word in words[channel % 4 // 2 * 2 :][:2])
        angle = 2 * np.pi * v
        expected = np.sqrt(-2 * np.log(u)) * (np.sin(angle) if channel % 2 else np.cos(angle))
        assert abs(float(found[channel]) - expected) < 1e-13


@pytest.mark.parametrize("rows", [1, 3, 700])
@pytest.mark.parametrize("width", [1, 6, 192])
def test_chunks_and_neighbours_change_nothing(rows, width):
    """Each row is the same bits alone as among others, and narrower vectors are the front of wider ones."""
    ids = np.random.default_rng(1).integers(0, 2**32, rows)
    positions = np.random.default_rng(2).integers(0, 4096, rows)
    together = draw(3, ids, 2, positions, width)
    order = np.random.default_rng(3).permutation(rows)
    assert torch.equal(draw(3, ids[order], 2, positions[order], width), together[torch.from_numpy(order)])
    for row in (0, rows // 2, rows - 1):
        assert torch.equal(draw(3, ids[[row]], 2, positions[[row]], width + 5)[0, :width], together[row])


def test_normals_follow_the_normal_distribution():
    """Moments, the Kolmogorov–Smirnov distance and the frequency of the tails, on two million values."""
    from scipy import stats

    z = draw(1, np.arange(2000), 4, np.full(2000, 7), 1000).flatten().double().numpy()
    n = len(z)
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(z)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(z)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for threshold in (3.0, 4.0):
        expected = n * stats.norm.sf(threshold)
        for count in ((z > threshold).sum(), (z < -threshold).sum()):
            assert stats.poisson.cdf(count, expected) > 1e-4
            assert stats.poisson.sf(count - 1, expected) > 1e-4


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_extreme_words_give_finite_normals(word, monkeypatch):
    """The logarithm never meets 0 or 1, so no draw is nan or inf."""
    monkeypatch.setattr(philox, "_rounds", lambda even, odd, key: (even * 0 + word, odd * 0 + word))
    for dtype in (torch.float32, torch.float64):
        z = draw(width=4, dtype=dtype)
        assert torch.isfinite(z).all()
        assert 0 < z.norm() < 10


def neighbours(axis):
    """Blocks of normals that lie beside each other along one axis of the counter or the key."""
    rows, zero = np.arange(200), np.zeros(200, int)
    if axis == "seed":
        return [draw(seed, rows, 0, zero, 500) for seed in (0, 1, 1 << 32)]
    if axis == "sample":
        return [draw(0, rows + i, 0, zero, 500) for i in range(3)]
    if axis == "layer":
        return [draw(0, rows, layer, zero, 500) for layer in range(3)]
    if axis == "position":
        return [draw(0, rows, 0, zero + i, 500) for i in range(3)]
    if axis == "channel":
        return draw(0, rows, 0, zero, 1500).split(500, -1)
    return [draw(0, rows + 1000, 5, rows + 2000, 500), draw(0, rows + 2000, 5, rows + 1000, 500)]


@pytest.mark.parametrize("axis", ["seed", "sample", "layer", "position", "channel", "sample and position swapped"])
def test_no_correlation_across(axis):
    """Neighbours along an axis are as uncorrelated as independent draws, and so are their squares."""
    for first, second in pairwise(neighbours(axis)):
        for power in (1, 2):
            r = np.corrcoef((first**power).flatten().numpy(), (second**power).flatten().numpy())[0, 1]
            assert abs(r) < 4.5 / np.sqrt(first.numel())


def test_no_correlation_within_a_vector():
    """Channels that share words or a counter are uncorrelated, at every lag."""
    z = draw(0, np.arange(20000), 0, np.zeros(20000, int), 16)
    r = np.corrcoef(z.T.numpy())[np.triu_indices(16, 1)]
    assert np.abs(r).max() < 5 / np.sqrt(20000)


@pytest.mark.parametrize("device", DEVICES)
def test_uniforms_fill_the_open_interval(device):
    """They are strictly between 0 and 1, uniform, repeatable, and share nothing with the noise of the same place."""
    from scipy import stats

    ids, positions = torch.arange(50000, device=device), torch.full((50000,), 3, device=device)
    u = philox.uniform(7, sample_ids=ids, positions=positions)
    assert u.dtype == torch.float64
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u.cpu().numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(u[100:103], philox.uniform(7, sample_ids=ids[100:103], positions=positions[:3]))
    noise = philox.normal(7, sample_ids=ids, layer=0, positions=positions, width=4)
    for channel in range(4):
        r = np.corrcoef(u.cpu().numpy(), noise[:, channel].cpu().numpy())[0, 1]
        assert abs(r) < 4.5 / np.sqrt(50000)


def test_uniforms_have_53_bits():
    """Their words stand where the module says, and the last bit keeps 0 away."""
    found = philox.uniform(2, sample_ids=torch.tensor([11]), positions=torch.tensor([6]))
    words = reference_words((0, 6, 11, 2 << 16), (2, 0))
    assert float(found) == ((words[0] >> 5 << 26 | words[1] >> 6) | 1) / 2**53


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu():
    """The same normals on either device, up to one rounding of a float32."""
    rows = np.arange(300)
    ours, theirs = (draw(1, rows, 2, rows, 192, device=device).cpu() for device in ("cpu", "cuda"))
    assert (ours - theirs).abs().max() < 1e-6


def test_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    draw()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, None])
def test_unusable_seeds_are_refused(seed):
    with pytest.raises(ConfigError, match="whole number from 0"):
        check_seed(seed)


@pytest.mark.parametrize("ids", [[-1], [0, 2**32], [2**70], [0.5], [True], [], [[1]], 3, "a", None])
def test_unusable_sample_ids_are_refused(ids):
    """One beyond its word would wrap into another sample's numbers."""
    with pytest.raises(DataError, match="Sample ids"):
        philox.read_ids(ids)


def test_sample_ids_may_be_any_row_of_whole_numbers():
    for ids in ([3, 2**32 - 1], (3, 2**32 - 1), np.array([3, 2**32 - 1]), torch.tensor([3, 2**32 - 1])):
        assert philox.read_ids(ids).tolist() == [3, 2**32 - 1]
    assert philox.read_ids(range(3)).tolist() == [0, 1, 2]


def test_a_normal_takes_well_under_a_microsecond():
    """A guard against a slow path, not a benchmark: it measures 13 to 35 ns where this was written."""
    rows = np.arange(2000)
    draw(1, rows, 0, rows, 192)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        draw(1, rows, 0, rows, 192)
        times.append(time.perf_counter() - start)
    assert min(times) / (2000 * 192) < 500e-9


@pytest.mark.parametrize("size", [7, 512, 1300])
def test_the_cdf_of_many_ids_is_that_of_one_sum(size: int) -> None:
    """Summed by stretches, it chooses as one float64 sum over all ids does; ids of no probability are never chosen."""
    logits = 3 * torch.randn(6, size, generator=torch.Generator().manual_seed(2))
    logits[1, -3:], logits[2, :-3], logits[3, 1:] = -math.inf, -math.inf, -math.inf
    cdf = logits.softmax(-1).double().cumsum(-1)
    for uniform in (0.0, 1e-12, 0.3, 0.77, 1 - 2.0**-53):
        ids = philox.categorical(logits.softmax(-1), torch.full((6,), uniform, dtype=torch.float64))
        wanted = uniform * cdf[:, -1:]
        assert logits[range(6), ids].isfinite().all()
        low = torch.cat([torch.zeros(6, 1, dtype=torch.float64), cdf], 1).gather(1, ids[:, None])
        assert (low <= wanted + 1e-6).all() and (cdf.gather(1, ids[:, None]) >= wanted - 1e-6).all()


def test_shares_of_nan_give_an_id_that_exists() -> None:
    """Whoever decodes tells that they are damaged; until then the last id stands."""
    shares = torch.full((2, 700), torch.nan)
    assert philox.categorical(shares, torch.tensor([0.0, 0.9], dtype=torch.float64)).tolist() == [699, 699]
