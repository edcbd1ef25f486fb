"""Noise hooks: the same noise however rows are batched, padded or decoded; its size; and measured activation units."""

from __future__ import annotations

import numpy as np
import pytest

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import TextCorpus
from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError
from mspgt_tl.interventions import Positions, activation_units, noise_hooks, philox
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.models.tokens import pad

torch = pytest.importorskip("torch")

BACKENDS = ("hooked", "bridge")
LAYERS = (2, 3, 4)
ROWS = [[5, 9, 30, 7, 44, 12, 61, 8, 90], [17, 33, 4], [5, 200, 301, 9, 77, 6]]
IDS = [40, 7, 123456]


@pytest.fixture(scope="module")
def models(tiny_folder):
    """The tiny Llama in both backends."""
    return {backend: load(tiny_folder, backend=backend) for backend in BACKENDS}


@pytest.fixture(scope="module")
def model(models):
    return models["hooked"]


def resid_posts(model, tokens, hooks=(), **options):
    """Logits and every block's output, with hooks in place; the cache sees what they leave."""
    with torch.inference_mode(), model.hooks(fwd_hooks=list(hooks)):
        logits, cache = model.run_with_cache(
            tokens, names_filter=lambda name: name.endswith("hook_resid_post"), return_cache_object=False, **options
        )
    return logits, [cache[f"blocks.{layer}.hook_resid_post"] for layer in range(model.cfg.n_layers)]


def added_noise(model, mask, ids, *, layer=2, seed=3, sigma=0.5, positions="mask"):
    """What the hook adds to a stream of zeros, `[batch, pos, d_model]`: σ times ε itself."""
    given = Positions.from_mask(mask).current if isinstance(positions, str) else positions
    ((_, add),) = noise_hooks(model, [layer], sigma, seed=seed, sample_ids=ids, positions=given, unit=1.0)
    return add(torch.zeros(*mask.shape, model.cfg.d_model), hook=None)


def expected_noise(model, ids, lengths, *, layer=2, seed=3, sigma=0.5):
    """The same by definition, row by row and unpadded."""
    return [
        sigma
        * philox.normal(
            seed,
            sample_ids=torch.full((n,), sample),
            layer=layer,
            positions=torch.arange(n),
            width=model.cfg.d_model,
        )
        for sample, n in zip(ids, lengths, strict=True)
    ]


# The noise belongs to sample, layer, position and channel, and to nothing else.


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chosen", [[0, 1, 2], [2, 0, 1], [1], [0, 2]])
def test_batch_order_and_padding_change_nothing(chosen, side, model):
    """Every row gets its own noise to the bit, and padding none."""
    _, mask = pad([ROWS[i] for i in chosen], side=side, pad_id=0)
    found = added_noise(model, mask, [IDS[i] for i in chosen])
    for row, i in enumerate(chosen):
        (expected,) = expected_noise(model, [IDS[i]], [len(ROWS[i])])
        assert torch.equal(found[row, mask[row].bool()], expected)
        assert not found[row, ~mask[row].bool()].any()


def test_steps_over_a_kv_cache_change_nothing(model):
    """One pass over a text, and the same text in pieces with positions that move on, get the same noise."""
    whole = added_noise(model, torch.ones(1, 9, dtype=torch.int64), [4])
    positions = Positions.from_mask(torch.tensor([[0, 0, 1, 1, 1]]))
    for _ in range(2):
        parts = [added_noise(model, torch.ones(1, 5), [4], positions=positions)[:, 2:]]
        for n_new in (1, 1, 3, 1):
            positions.advance(n_new)
            parts.append(added_noise(model, torch.ones(1, n_new), [4], positions=positions))
        assert torch.equal(torch.cat(parts, 1), whole)
        positions.reset()


@pytest.mark.parametrize("change", [{"layer": 3}, {"seed": 4}, {"seed": 3 + 2**32}])
def test_layer_and_seed_change_everything(change, model):
    mask = torch.ones(2, 50, dtype=torch.int64)
    first, second = added_noise(model, mask, [1, 2]), added_noise(model, mask, [1, 2], **change)
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 4.5 / np.sqrt(first.numel())


def test_rows_of_one_sample_share_their_noise(model):
    """Conditions that differ in sigma alone are paired, in whatever order they come, mixed with clean rows."""
    ids, sigma = [9, 2, 9, 2, 9], torch.tensor([0.1, 0.0, 0.4, 0.3, 0.1])
    found = added_noise(model, torch.ones(5, 4, dtype=torch.int64), ids, sigma=sigma)
    for row in range(5):
        (expected,) = expected_noise(model, [ids[row]], [4], sigma=sigma[row])
        assert torch.allclose(found[row], expected, rtol=1e-6, atol=0)


def test_rows_of_one_sample_at_other_places_do_not(model):
    """Equal ids with unequal positions, such as two prompts under one id, each get what belongs to their positions."""
    _, mask = pad([ROWS[0], ROWS[1]], side="left", pad_id=0)
    found = added_noise(model, mask, [5, 5])
    for row, expected in enumerate(expected_noise(model, [5, 5], [9, 3])):
        assert torch.equal(found[row, mask[row].bool()], expected)


def test_noise_is_normal(model):
    """A whole batch of noise, over samples, positions and channels."""
    from scipy import stats

    z = added_noise(model, torch.ones(60, 50, dtype=torch.int64), list(range(60)), sigma=1.0).flatten().double().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * len(z))


# Inside a model.


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_enters_at_the_chosen_blocks(backend, models):
    """Up to the first chosen block nothing moves; there, the difference is σ·‖h‖/√d·ε."""
    model, tokens = models[backend], torch.tensor([ROWS[0], ROWS[0][::-1]])
    _, clean = resid_posts(model, tokens)
    _, noised = resid_posts(model, tokens, noise_hooks(model, LAYERS, 0.2, seed=3, sample_ids=[1, 2]))
    for layer in range(LAYERS[0]):
        assert torch.equal(noised[layer], clean[layer])
    epsilon = torch.stack(expected_noise(model, [1, 2], [9, 9], sigma=1.0))
    here = clean[LAYERS[0]]
    expected = 0.2 * here.norm(dim=-1, keepdim=True) / model.cfg.d_model**0.5 * epsilon
    assert torch.allclose(noised[LAYERS[0]] - here, expected, atol=1e-5 * float(here.abs().max()))
    assert (noised[-1] - clean[-1]).abs().max() > 1e-3


def test_both_backends_get_the_same_noise(models):
    tokens = torch.tensor([ROWS[0]])
    results = [
        resid_posts(model, tokens, noise_hooks(model, LAYERS, 0.2, seed=3, sample_ids=[1]))[1]
        for model in models.values()
    ]
    for hooked, bridged in zip(*results, strict=True):
        assert torch.allclose(hooked, bridged, atol=1e-4 * float(hooked.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", ["token", 2.0])
def test_sigma_zero_is_the_clean_run_bit_for_bit(scale, backend, models):
    """For a whole batch, and for one row among noised ones."""
    model, tokens = models[backend], torch.tensor([ROWS[0], ROWS[0]])
    clean, _ = resid_posts(model, tokens)
    hooks = noise_hooks(model, LAYERS, 0, seed=3, sample_ids=[1, 2], unit=scale)
    assert torch.equal(resid_posts(model, tokens, hooks)[0], clean)
    hooks = noise_hooks(model, LAYERS, [0.3, 0.0], seed=3, sample_ids=[1, 2], unit=scale)
    mixed, _ = resid_posts(model, tokens, hooks)
    assert torch.equal(mixed[1], clean[1])
    assert not torch.equal(mixed[0], clean[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_single_rows(side, model):
    """Through the whole model: logits of a noised row do not depend on what else is in the batch."""
    tokens, mask = pad(ROWS, side=side, pad_id=0)
    hooks = noise_hooks(model, LAYERS, 0.2, seed=3, sample_ids=IDS, positions=Positions.from_mask(mask))
    together, _ = resid_posts(model, tokens, hooks, attention_mask=mask)
    for row, ids in enumerate(ROWS):
        alone, _ = resid_posts(
            model, torch.tensor([ids]), noise_hooks(model, LAYERS, 0.2, seed=3, sample_ids=[IDS[row]])
        )
        assert (together[row, mask[row].bool()] - alone[0]).abs().max() < 1e-4


def test_cached_decoding_equals_full_forward(model):
    """A left-padded prompt and then steps over the KV cache, positions following by their own hook."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    tokens, mask = pad([row[:-2] for row in ROWS], side="left", pad_id=0)
    positions = Positions.from_mask(mask)
    noise = noise_hooks(model, LAYERS, 0.2, seed=3, sample_ids=IDS, positions=positions)
    full = [
        resid_posts(model, torch.tensor([row]), noise_hooks(model, LAYERS, 0.2, seed=3, sample_ids=[sample]))[0][0]
        for row, sample in zip(ROWS, IDS, strict=True)
    ]
    for _ in range(2):  # a second text with the same hooks, after a reset
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 3)
        with torch.inference_mode(), model.hooks(fwd_hooks=[positions.hook(), *noise]):
            last = [model(tokens, attention_mask=mask, past_kv_cache=cache)[:, -1]]
            for step in (-2, -1):
                new = torch.tensor([[row[step]] for row in ROWS])
                last.append(model(new, attention_mask=torch.ones_like(new), past_kv_cache=cache)[:, -1])
        for step, logits in zip((-3, -2, -1), last, strict=True):
            for row in range(3):
                assert (logits[row] - full[row][step]).abs().max() < 1e-4
        positions.reset()


def test_hooks_mix_with_ones_own(models):
    """In `run_with_hooks`, before and after a hook of the user's on the same point; nothing stays behind."""
    for model in models.values():
        tokens, seen = torch.tensor([ROWS[0]]), []
        clean = model(tokens)

        def watch(resid, hook, seen=seen):
            seen.append(resid.clone())

        *_, noise = hooks = noise_hooks(model, [2], 0.2, seed=3, sample_ids=[1])
        noised = model.run_with_hooks(tokens, fwd_hooks=[(noise[0], watch), *hooks, (noise[0], watch)])
        assert len(seen) == 2
        assert not torch.equal(seen[0], seen[1])
        assert not torch.equal(noised, clean)
        assert torch.equal(model(tokens), clean)


@pytest.mark.parametrize("scale", [1.5, {2: 1.5}])
def test_given_scales_set_the_size(scale, model):
    """The same for all tokens, whatever their norms."""
    ((_, add),) = noise_hooks(model, [2], 0.1, seed=3, sample_ids=[1], unit=scale, positions=torch.arange(5)[None])
    resid = torch.randn(1, 5, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    (epsilon,) = expected_noise(model, [1], [5], sigma=1.0)
    assert torch.allclose(add(resid, hook=None) - resid, 0.15 * epsilon, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype, model):
    """Narrow streams are added to in float32 and rounded once."""
    ((_, add),) = noise_hooks(model, [2], 0.1, seed=3, sample_ids=[1], unit=1.0, positions=torch.arange(5)[None])
    resid = torch.randn(1, 5, model.cfg.d_model, generator=torch.Generator().manual_seed(0)).to(dtype)
    before, found = resid.clone(), add(resid, hook=None)
    (epsilon,) = expected_noise(model, [1], [5], sigma=1.0)
    assert found.dtype == dtype
    assert torch.equal(resid, before)
    wanted = resid.double() + 0.1 * epsilon
    assert (found.double() - wanted).abs().max() < (1e-7 if dtype == torch.float64 else 0.02)


def test_padding_may_hold_nan(model):
    """Left-padded rows can be nan where nothing was attended; noise leaves them alone and does not spread them."""
    ((_, add),) = noise_hooks(model, [2], 0.1, seed=3, sample_ids=[1], positions=torch.tensor([[-1, 0, 1]]))
    resid = torch.ones(1, 3, model.cfg.d_model)
    resid[0, 0] = torch.nan
    found = add(resid, hook=None)
    assert found[0, 0].isnan().all()
    assert found[0, 1:].isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu(model):
    resid, found = torch.randn(2, 5, model.cfg.d_model), []
    for device in ("cpu", "cuda"):
        ((_, add),) = noise_hooks(model, [2], 0.1, seed=3, sample_ids=[1, 2], positions=torch.arange(5).expand(2, -1))
        found.append(add(resid.to(device), hook=None).cpu())
    assert torch.allclose(*found, atol=1e-5)


def test_gradients_pass_through(model):
    """The noise is a constant; hooks that have run in inference mode serve a pass with gradients."""
    where = torch.arange(5).expand(2, -1)
    ((_, add),) = noise_hooks(model, [2], 0.1, seed=3, sample_ids=[1, 1], unit=1.0, positions=where)
    resid = torch.randn(2, 5, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        add(resid, hook=None)
    resid.requires_grad_()
    add(resid, hook=None).sum().backward()
    assert torch.equal(resid.grad, torch.ones_like(resid))


# What cannot be right.


@pytest.mark.parametrize("layers", [[], [8], [-1], [1, 1], [1.0], 8, [True]])
def test_layers_that_do_not_exist_are_refused(layers, model):
    with pytest.raises(ConfigError, match=r"Layers are|Each layer"):
        noise_hooks(model, layers, 0.1, seed=0, sample_ids=[0])


def test_layers_may_come_from_an_array(model):
    names = [name for name, _ in noise_hooks(model, np.array([5, 2]), 0.1, sample_ids=np.array([3]))]
    assert names[1:] == ["blocks.5.hook_resid_post", "blocks.2.hook_resid_post"]


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf"), [0.1], [0.1, -1.0], "large", None])
def test_unusable_sigmas_are_refused(sigma, model):
    with pytest.raises(ConfigError, match="sigma is"):
        noise_hooks(model, [1], sigma, seed=0, sample_ids=[0, 1])


@pytest.mark.parametrize("unit", ["tokens", {2: 1.0}, 0.0, -1, float("nan"), None, [1.0]])
def test_unusable_units_are_refused(unit, model):
    with pytest.raises(ConfigError, match=r"[Uu]nit"):
        noise_hooks(model, [1], 0.1, seed=0, sample_ids=[0], unit=unit)


@pytest.mark.parametrize("ids", [[], [-1], [2**32], [0.5], [[0]], 3])
def test_unusable_sample_ids_are_refused(ids, model):
    with pytest.raises(DataError, match=r"[Ss]ample"):
        noise_hooks(model, [1], 0.1, seed=0, sample_ids=ids)


def test_seeds_are_checked(model):
    with pytest.raises(ConfigError, match="seed"):
        noise_hooks(model, [1], 0.1, seed=-1, sample_ids=[0])


def test_batches_of_another_size_are_refused(model):
    hooks = noise_hooks(model, [1], 0.1, seed=0, sample_ids=[0, 1])
    with pytest.raises(DataError, match="2 rows met a batch of 3"):
        model.run_with_hooks(torch.zeros(3, 4, dtype=torch.long), fwd_hooks=hooks)


@pytest.mark.parametrize("positions", [[0, 1], [[0.0]], [[-2]], [[0], [0]]])
def test_unusable_positions_are_refused(positions, model):
    with pytest.raises(DataError, match="ositions"):
        noise_hooks(model, [1], 0.1, seed=0, sample_ids=[0], positions=torch.tensor(positions))


def test_positions_of_another_pass_are_refused(model):
    """A tensor of positions is for one forward pass; decoding on would repeat its noise."""
    ((_, add),) = noise_hooks(model, [1], 0.1, seed=0, sample_ids=[0], positions=torch.arange(4)[None])
    add(torch.zeros(1, 4, 32), hook=None)
    with pytest.raises(DataError, match=r"\[1, 4\].*\[1, 1\]"):
        add(torch.zeros(1, 1, 32), hook=None)


# Activation scales.


SENTENCES = generated_corpus(seed=8, limit=60).sentences


def token_vectors(model, sentences=SENTENCES):
    """The stream after every block at every token but BOS, one sentence at a time."""
    rows = [resid_posts(model, torch.tensor([ids]))[1] for ids in encode(model, sentences).ids]
    return [torch.cat([row[layer][0, 1:] for row in rows]).double() for layer in range(model.cfg.n_layers)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_scales_equal_their_definitions(backend, models):
    """`robust` to the width of its bins, `std` to rounding; batches change nothing."""
    model = models[backend]
    vectors = token_vectors(model)
    robust = activation_units(model, TextCorpus("toy", SENTENCES, ""))
    std = activation_units(model, list(SENTENCES), kind="std")
    assert list(robust) == list(std) == list(range(8))
    assert {type(value) for value in (*robust.values(), *std.values())} == {float}
    for layer, h in enumerate(vectors):
        assert robust[layer] == pytest.approx(float(h.norm(dim=-1).median()) / model.cfg.d_model**0.5, rel=2e-3)
        assert std[layer] == pytest.approx(float(h.std(correction=0)), rel=1e-5)
    small = StreamConfig(batch_positions=64, chunk_sentences=7)
    assert activation_units(model, SENTENCES, config=small) == pytest.approx(robust, rel=1e-4)


def test_median_is_read_off_the_histogram():
    """Against numpy, on norms over ten orders of magnitude, in several pieces."""
    from mspgt_tl.interventions.units import _NormHistogram

    values = np.random.default_rng(0).lognormal(0, 4, 5001).astype(np.float32)
    histogram = _NormHistogram(1)
    for part in np.array_split(values, 7):
        histogram.observe(0, torch.from_numpy(part)[:, None])
    assert histogram.finish()[0] == pytest.approx(float(np.median(values)), rel=1e-3)


def test_one_outlier_dimension_moves_std_but_not_the_noise_of_robust(model):
    """Why `robust` is the default: one token at 1000 × sets the standard deviation and hardly the median."""
    from mspgt_tl.interventions.units import _Moments, _NormHistogram

    h = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    h[0, 0] = 1000
    for state, low, high in ((_NormHistogram(1), 0.95, 1.05), (_Moments(1), 5.0, 20.0)):
        state.observe(0, h)
        assert low < state.finish()[0] < high


def test_scales_serve_the_hooks(model):
    scales = activation_units(model, SENTENCES)
    ((_, add),) = noise_hooks(model, [4], 0.1, seed=3, sample_ids=[1], unit=scales, positions=torch.arange(100)[None])
    delta = add(torch.zeros(1, 100, 32), hook=None)
    assert float(delta.std()) == pytest.approx(0.1 * scales[4], rel=0.1)


def test_unusable_corpora_and_kinds_are_refused(model):
    with pytest.raises(ConfigError, match="Did you mean 'robust'"):
        activation_units(model, SENTENCES, kind="robuts")
    with pytest.raises(CorpusError, match="two tokens"):
        activation_units(model, [])
    with pytest.raises(DataError, match="not one string"):
        activation_units(model, "the cat")
