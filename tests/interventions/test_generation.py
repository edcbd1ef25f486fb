"""Decoding: Hugging Face's tokens, rows that do not depend on their batch, the distribution drawn from, and pairing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspgt_tl.errors import ActivationError, ConfigError, DataError
from mspgt_tl.interventions import Positions, generate, generation, noise_hooks, philox
from mspgt_tl.interventions.generation import Rows, Sampling
from mspgt_tl.interventions.kv_cache import KvCache
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.models.tokens import pad

torch = pytest.importorskip("torch")

PILOT = Path(__file__).parents[2].parent / "shared/models/pilot"
PROMPTS = [[0, 9, 30, 7, 44, 12, 61, 8, 90], [0, 33, 4], [0, 200, 301, 9, 77, 6], [0]]
IDS = [40, 7, 123456, 2]


def hugging_face(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def hf_greedy(model, prompt, n, eos=None):
    """Hugging Face's own greedy decoding of one unpadded prompt; a stop token is kept, as ours is."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        generation_config=None,
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


def noisy(model, sigmas, layers=(2, 3, 4), seed=1):
    """A function from rows to hooks, with one sigma for each row of the call."""
    table = torch.as_tensor(sigmas, dtype=torch.float64)
    return lambda rows: noise_hooks(
        model, layers, table[rows.index], seed=seed, sample_ids=rows.sample_ids, positions=rows.positions
    )


def test_greedy_equals_hugging_face(tiny_folder, model):
    """Token for token, in one padded batch against Hugging Face's single prompts."""
    ours = generate(model, PROMPTS, max_new_tokens=30, sample_ids=IDS, seed=0, temperature=0)
    reference = hugging_face(tiny_folder)
    assert ours == [hf_greedy(reference, prompt, 30) for prompt in PROMPTS]


@pytest.mark.skipif(not PILOT.is_dir(), reason="the pilot model is not beside this checkout")
def test_pilot_greedy_equals_hugging_face():
    """A trained model, with and without its end-of-text token as a stop."""
    model, reference = load(PILOT), hugging_face(PILOT)
    prompts = encode(
        model, ["The river flows through the old town", "In 1944", "A species of beetle in the family"]
    ).ids
    ours = generate(model, prompts, max_new_tokens=24, sample_ids=[0, 1, 2], seed=0, temperature=0)
    theirs = [hf_greedy(reference, prompt, 24) for prompt in prompts]
    assert ours == theirs
    stop = theirs[0][5]
    ours = generate(model, prompts, max_new_tokens=24, sample_ids=[0, 1, 2], seed=0, temperature=0, stop_tokens=[stop])
    assert ours == [hf_greedy(reference, prompt, 24, eos=stop) for prompt in prompts]


SAMPLINGS = [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}]


@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_the_rest_of_the_batch_changes_nothing(sigma, options, model):
    """The same tokens alone, in a padded batch, in small batches, and in another order; with noise and without."""
    sigmas, common = [sigma, 0.5 * sigma, sigma, sigma], {"max_new_tokens": 12, "seed": 5, **options}
    together = generate(model, PROMPTS, sample_ids=IDS, hooks=noisy(model, sigmas), **common)
    assert len({tuple(row) for row in together}) == 4
    for row, prompt in enumerate(PROMPTS):
        hooks = noisy(model, sigmas[row : row + 1])
        assert generate(model, [prompt], sample_ids=IDS[row : row + 1], hooks=hooks, **common) == [together[row]]
    assert generate(model, PROMPTS, sample_ids=IDS, hooks=noisy(model, sigmas), batch_rows=3, **common) == together
    order = [2, 0, 3, 1]
    shuffled = generate(
        model,
        [PROMPTS[i] for i in order],
        sample_ids=torch.tensor(IDS)[order],
        hooks=noisy(model, [sigmas[i] for i in order]),
        **common,
    )
    assert shuffled == [together[i] for i in order]


def test_decoding_equals_full_forwards(model):
    """Every greedy token under noise is the argmax of a plain forward pass over the text with that noise."""
    new = generate(
        model, PROMPTS, max_new_tokens=8, sample_ids=IDS, seed=0, temperature=0, hooks=noisy(model, [0.3] * 4)
    )
    for prompt, sample, row in zip(PROMPTS, IDS, new, strict=True):
        text = torch.tensor([prompt + row])
        logits = model.run_with_hooks(text, fwd_hooks=noise_hooks(model, (2, 3, 4), 0.3, seed=1, sample_ids=[sample]))
        assert logits[0, len(prompt) - 1 : -1].argmax(-1).tolist() == row


def test_sigma_zero_rows_are_the_clean_run_bit_for_bit(model):
    """Among noised rows, the logits of clean ones equal those of a clean batch of that shape, at every step."""
    prompts, ids = [PROMPTS[i] for i in (0, 0, 1, 1)], [1, 1, 2, 2]

    def decode(sigmas):
        logits = []
        hooks = noisy(model, sigmas)
        tokens = generate(
            model,
            prompts,
            max_new_tokens=6,
            sample_ids=ids,
            seed=0,
            hooks=lambda rows: [*hooks(rows), ("unembed.hook_out", lambda out, hook: logits.append(out.clone()))],
        )
        return tokens, torch.stack(logits)

    clean_tokens, clean = decode([0, 0, 0, 0])
    mixed_tokens, mixed = decode([0, 0.3, 0, 0.3])
    assert torch.equal(mixed[:, [0, 2]], clean[:, [0, 2]])
    assert not torch.equal(mixed[0, [1, 3]], clean[0, [1, 3]])
    assert [mixed_tokens[i] for i in (0, 2)] == [clean_tokens[i] for i in (0, 2)]
    assert clean_tokens[0] == clean_tokens[1]
    assert clean_tokens == generate(model, prompts, max_new_tokens=6, sample_ids=ids, seed=0)


def test_conditions_share_their_random_numbers(model):
    """Rows of one sample draw alike: under tiny noise they choose the same tokens; other samples and seeds do not."""
    options = {"max_new_tokens": 10, "hooks": noisy(model, [0, 1e-6])}
    first, second = generate(model, [PROMPTS[0]] * 2, sample_ids=[3, 3], seed=0, **options)
    assert first == second
    first, second = generate(model, [PROMPTS[0]] * 2, sample_ids=[3, 4], seed=0, **options)
    assert first != second
    (other,) = generate(model, [PROMPTS[0]], sample_ids=[3], seed=1, max_new_tokens=10)
    assert first != other


def test_stop_tokens_end_a_row_and_are_kept(model):
    """Rows are those of the free run, cut after their first stop token; the others go on."""
    free = generate(model, PROMPTS, max_new_tokens=15, sample_ids=IDS, seed=0)
    stops = {free[0][4], free[1][9]}
    stopped = generate(model, PROMPTS, max_new_tokens=15, sample_ids=IDS, seed=0, stop_tokens=stops)
    for row, whole in zip(stopped, free, strict=True):
        end = next((i for i, token in enumerate(whole) if token in stops), 14)
        assert row == whole[: end + 1]
    assert len(stopped[0]) <= 5


def test_hooks_of_ones_own_run_and_are_removed(model):
    """A plain list works too; it sees the prompt once and then one token a step."""
    shapes = []
    watch = ("blocks.3.hook_resid_post", lambda resid, hook: shapes.append(tuple(resid.shape[:2])))
    generate(model, PROMPTS, max_new_tokens=4, sample_ids=IDS, seed=0, hooks=[watch])
    assert shapes == [(4, 9), (4, 1), (4, 1), (4, 1)]
    model(torch.tensor([PROMPTS[0]]))
    assert len(shapes) == 4


def test_logits_equal_those_over_transformerlens_own_cache(tiny_folder, model):
    """Grouped heads, rotated keys kept: every step is what the ordinary cache gives, and hooks see the same tensors."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    names = [f"blocks.3.attn.{name}" for name in ("hook_rot_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z")]
    seen = []

    def decode(cache):
        tokens, mask = pad(PROMPTS, side="left", pad_id=0)
        for step in range(5):
            with torch.inference_mode():
                seen[-1].append(generation._next_logits(model, tokens, mask, cache))
            tokens = torch.tensor([[row + step] for row in (5, 6, 7, 8)])
            mask = torch.ones_like(tokens)

    for make in ("ours", "theirs"):
        seen.append([])
        hooks = [(name, lambda x, hook, into=seen[-1]: into.append(x.clone())) for name in names]
        with model.hooks(fwd_hooks=hooks):
            if make == "ours":
                cache = KvCache(model, 4, 9, 5)
                with cache.attached(model):
                    decode(cache)
            else:
                decode(TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 4))
    assert len(seen[0]) == 5 * (len(names) + 1)
    for ours, theirs in zip(*seen, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    """Of four equal tokens two reach a half exactly, and the third is not drawn however high the number."""
    drawn = Sampling(top_p=0.5).choose(torch.zeros(1, 4), torch.tensor([0.9999]))
    assert drawn.tolist() == [1]
    assert Sampling(top_p=0.51).choose(torch.zeros(1, 4), torch.tensor([0.9999])).tolist() == [2]


def test_the_model_is_left_as_it_was(model):
    """Nothing of the cache stays attached, whether decoding ends well or breaks off in a hook."""
    before = [dict(block.attn.__dict__) for block in model.blocks]

    def fail(resid, hook):
        raise RuntimeError("stop here")

    generate(model, PROMPTS, max_new_tokens=2, sample_ids=IDS, seed=0)
    with pytest.raises(RuntimeError, match="stop here"):
        generate(model, PROMPTS, max_new_tokens=2, sample_ids=IDS, seed=0, hooks=[("blocks.3.hook_resid_post", fail)])
    assert [dict(block.attn.__dict__) for block in model.blocks] == before
    assert not model.hook_dict["blocks.3.hook_resid_post"].fwd_hooks


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_transformerlens_own_loop_gets_the_same_noise(backend, tiny_folder, model):
    """With positions that follow by their own hook, greedy tokens equal those of our loop."""
    other = load(tiny_folder, backend=backend)
    prompts = [PROMPTS[0], PROMPTS[0][::-1]]
    ours = generate(
        model, prompts, max_new_tokens=8, sample_ids=[1, 2], seed=0, temperature=0, hooks=noisy(model, [0.3] * 2)
    )
    positions = Positions.from_mask(torch.ones(2, 9, dtype=torch.long))
    hooks = noise_hooks(other, (2, 3, 4), 0.3, seed=1, sample_ids=[1, 2], positions=positions)
    with other.hooks(fwd_hooks=[positions.hook(), *hooks]):
        theirs = other.generate(
            torch.tensor(prompts), max_new_tokens=8, do_sample=False, stop_at_eos=False, verbose=False
        )
    assert theirs[:, 9:].tolist() == ours


def test_rows_are_fitted_to_memory(model, monkeypatch):
    """Less memory gives smaller batches, at least one row each, and the same text."""
    roomy = generation._rows_that_fit(model, 20, 30)
    monkeypatch.setattr(generation, "CPU_MEMORY", generation.CPU_MEMORY // 10)
    assert roomy / 10 - 1 <= generation._rows_that_fit(model, 20, 30) <= roomy / 10
    whole = generate(model, PROMPTS, max_new_tokens=5, sample_ids=IDS, seed=0)
    monkeypatch.setattr(generation, "CPU_MEMORY", 1)
    assert generation._rows_that_fit(model, 20, 30) == 1
    assert generate(model, PROMPTS, max_new_tokens=5, sample_ids=IDS, seed=0) == whole


def test_the_sweep_layout_in_the_docstring_works(model):
    """Samples × conditions in one flat list."""
    sigmas = torch.tensor([0, 0.1, 0.4])
    new = generate(
        model,
        [prompt for prompt in PROMPTS for _ in sigmas],
        sample_ids=[i for i in range(4) for _ in sigmas],
        max_new_tokens=8,
        seed=0,
        batch_rows=5,
        hooks=lambda rows: noise_hooks(
            model, [4, 5], sigmas[rows.index % 3], seed=1, sample_ids=rows.sample_ids, positions=rows.positions
        ),
    )
    assert new[::3] == generate(model, PROMPTS, sample_ids=range(4), max_new_tokens=8, seed=0)
    assert any(clean != noised for clean, noised in zip(new[::3], new[2::3], strict=True))


def test_other_families_decode_too(tmp_path):
    """Learned positions, a soft cap on logits: every step equals a forward pass over the whole text."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "gemma2": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "sliding_window": 4,
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": 0.5,
        },
    }
    for kind, options in settings.items():
        config = AutoConfig.for_model(kind, vocab_size=100, bos_token_id=0, eos_token_id=1, pad_token_id=1, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            reference = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
            with torch.no_grad():
                for parameter in reference.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model = load(reference, tokenizer=toy_tokenizer())
        prompts, widths = [[0, 9, 30, 7, 44], [0, 33]], []
        watch = ("ln_final.hook_normalized", lambda out, hook, seen=widths: seen.append(out.shape[1]))
        new = generate(model, prompts, max_new_tokens=10, sample_ids=[0, 1], seed=0, temperature=0, hooks=[watch])
        assert set(widths) == {1}
        for prompt, row in zip(prompts, new, strict=True):
            with torch.inference_mode():
                whole = reference(torch.tensor([prompt + row])).logits[0]
            assert whole[len(prompt) - 1 : -1].argmax(-1).tolist() == row
        tokens, mask = torch.tensor([prompts[0]]), torch.ones(1, 5, dtype=torch.long)
        with torch.inference_mode():
            ours = generation._next_logits(model, tokens, mask, KvCache(model, 1, 5, 1))
            assert torch.allclose(ours, reference(tokens).logits[:, -1], atol=1e-4)


def toy_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, 100)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="</s>")), bos_token="<s>", eos_token="</s>"
    )


# The choice of one token.


LOGITS = torch.tensor([[2.0, 0.0, -1.0, 2.0, 1.0, -8.0]])
GRID = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000


def frequencies(**options):
    """Share of each id over an even grid of uniforms: the distribution that the sampler stands for."""
    ids = Sampling(**options).choose(LOGITS.expand(len(GRID), -1), GRID)
    return torch.bincount(ids, minlength=6) / len(GRID)


def test_inverse_cdf_gives_the_softmax_and_rises_with_the_uniform():
    for temperature in (0.5, 1.0, 3.0):
        expected = (LOGITS[0] / temperature).softmax(-1)
        assert (frequencies(temperature=temperature) - expected).abs().max() < 2e-4
    ids = Sampling().choose(LOGITS.expand(len(GRID), -1), GRID)
    assert (ids.diff() >= 0).all()


@pytest.mark.parametrize(("k", "kept"), [(1, [0, 3]), (2, [0, 3]), (3, [0, 3, 4]), (6, range(6)), (99, range(6))])
def test_top_k_keeps_the_likeliest_and_their_ties(k, kept):
    assert frequencies(top_k=k).nonzero()[:, 0].tolist() == [i for i in kept if i != 5]


@pytest.mark.parametrize(("options", "temperature"), itertools.product([{"top_k": 3}, {"top_p": 0.8}], [0.5, 1.0, 2.0]))
def test_filters_equal_hugging_face(options, temperature):
    """The same ids survive, with the same probabilities, on random logits."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    warper = TopKLogitsWarper(3) if "top_k" in options else TopPLogitsWarper(0.8)
    expected = warper(None, scores).softmax(-1)
    for row in range(8):
        ids = Sampling(temperature=temperature, **options).choose(logits[row].expand(len(GRID), -1), GRID)
        found = torch.bincount(ids, minlength=50) / len(GRID)
        assert (found - expected[row]).abs().max() < 2e-4


def test_extreme_uniforms_choose_possible_tokens():
    """Neither end of the interval falls on a token that a filter has removed."""
    logits = torch.tensor([[-40.0, 1.0, 0.0, -40.0]])
    for u in (1e-300, 2.0**-53, 1 - 2.0**-53):
        (token,) = Sampling(top_k=2).choose(logits, torch.tensor([u], dtype=torch.float64)).tolist()
        assert token in (1, 2)


def test_drawn_tokens_follow_the_model(model):
    """Over many samples, the first token of one prompt has the frequencies of the softmax."""
    n = 3000
    prompt = torch.tensor([PROMPTS[0]])
    probabilities = model(prompt)[0, -1].double().softmax(-1)
    uniforms = philox.uniform(0, sample_ids=torch.arange(n), positions=torch.full((n,), len(PROMPTS[0])))
    ids = Sampling().choose(model(prompt)[:, -1].expand(n, -1), uniforms)
    new = generate(model, [PROMPTS[0]] * 20, max_new_tokens=1, sample_ids=range(20), seed=0)
    assert [row[0] for row in new] == ids[:20].tolist()
    counts = np.bincount(ids, minlength=len(probabilities))
    common = probabilities.numpy() * n > 5
    expected = probabilities.numpy()[common] * n
    assert ((counts[common] - expected) ** 2 / expected).sum() < common.sum() + 5 * np.sqrt(2 * common.sum())


# What cannot be right.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 200}, "208 positions, the model has 128"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"seed": -1}, "seed"),
        ({"batch_rows": 2, "hooks": [("hook_embed", print)]}, "function of Rows"),
    ],
)
def test_unusable_options_are_refused(options, message, model):
    with pytest.raises(ConfigError, match=message):
        generate(model, PROMPTS, **{"max_new_tokens": 3, "sample_ids": IDS, "seed": 0} | options)


@pytest.mark.parametrize(
    ("prompts", "ids"),
    [
        (None, None),
        (3, None),
        ([None], None),
        ([["a"]], None),
        (["\ud800"], None),
        ([[0], []], [0, 1]),
        ([[0], [400]], [0, 1]),
        ([[0], [-1]], [0, 1]),
        ([[0]], [0, 1]),
        ([[0]], [-1]),
    ],
)
def test_unusable_prompts_are_refused(prompts, ids, model):
    with pytest.raises(DataError):
        generate(model, prompts, max_new_tokens=3, sample_ids=ids, seed=0)


def test_damaged_logits_are_an_error(model):
    """Not a quiet last id of the vocabulary."""

    def damage(resid, hook):
        resid[1] = torch.nan
        return resid

    with pytest.raises(ActivationError, match="1 of 4 rows"):
        generate(model, PROMPTS, max_new_tokens=3, sample_ids=IDS, seed=0, hooks=[("blocks.3.hook_resid_post", damage)])


def test_no_prompts_give_no_rows(model):
    assert generate(model, [], max_new_tokens=3, sample_ids=[], seed=0) == []


def test_bridges_are_refused(tiny_folder):
    with pytest.raises(ConfigError, match="backend='hooked'"):
        generate(load(tiny_folder, backend="bridge"), [[0]], max_new_tokens=3, sample_ids=[0], seed=0)


def test_global_random_state_is_left_alone(model):
    state = torch.get_rng_state()
    generate(model, PROMPTS, max_new_tokens=3, sample_ids=IDS, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_shared_prompt_passes_change_nothing(model: Any, temperature: float) -> None:
    """Rows that share a prompt up to their first touched block decode as they do on their own."""
    prompts = [PROMPTS[i] for i in (0, 1) for _ in range(5)]
    ranges = [range(0), range(0, 2), range(1, 3), range(1, 3), range(0)]
    sigmas = torch.tensor([0, 0.3, 0.3, 0.6, 0])
    untouched = [min(blocks, default=model.cfg.n_layers) for _ in range(2) for blocks in ranges]

    def hooks(rows: Rows) -> list[Any]:
        condition = rows.index % 5
        options = {"seed": 1, "sample_ids": rows.sample_ids, "positions": rows.positions}
        found = []
        for blocks in {blocks for blocks in ranges if len(blocks)}:
            mine = torch.tensor([ranges[c] == blocks for c in condition.tolist()])
            found += noise_hooks(model, blocks, torch.where(mine, sigmas[condition], 0), **options)
        return found

    options = {
        "max_new_tokens": 8,
        "sample_ids": [i for i in (0, 1) for _ in range(5)],
        "seed": 3,
        "hooks": hooks,
        "temperature": temperature,
    }
    plain = generate(model, prompts, **options)
    assert generate(model, prompts, untouched=untouched, **options) == plain
    assert generate(model, prompts, untouched=untouched, batch_rows=3, **options) == plain
    assert plain[0] == plain[4]
    assert len({tuple(row) for row in plain}) > 3


def test_sharing_runs_fewer_blocks(model: Any) -> None:
    """A prompt of rows that all part at the last block is run once below it."""
    n_layers, seen = model.cfg.n_layers, []
    untouched = [n_layers, n_layers - 1, n_layers - 1]

    def hooks(rows: Rows) -> list[Any]:
        def see(layer: int) -> Any:
            return lambda resid, hook: seen.append((layer, *resid.shape[:2]))

        return [(f"blocks.{i}.hook_resid_post", see(i)) for i in (0, n_layers - 1)]

    generate(model, [PROMPTS[0]] * 3, max_new_tokens=1, sample_ids=[0] * 3, seed=0, hooks=hooks, untouched=untouched)
    width = len(PROMPTS[0])
    assert seen == [(0, 1, width), (n_layers - 1, 3, width)]


def test_untouched_is_checked(model: Any) -> None:
    """It needs a number for each row, and hooks that can be made for parts of a batch."""
    options: dict[str, Any] = {"max_new_tokens": 1, "sample_ids": [0], "seed": 0}
    with pytest.raises(ConfigError, match="function of Rows"):
        generate(model, PROMPTS[:1], untouched=[0], **options)
    with pytest.raises(DataError, match="one number"):
        generate(model, PROMPTS[:1], untouched=[0, 1], hooks=lambda rows: [], **options)
