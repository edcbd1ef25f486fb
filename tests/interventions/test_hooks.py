"""Hook lists as they are: nothing but a model, blocks and σ, in every loop that there is, among hooks of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mspgt_tl
from mspgt_tl.corpora.grammar import sample_sentences
from mspgt_tl.errors import ConfigError, DataError
from mspgt_tl.interventions import Positions, disturbance_hooks, generate, measure_activations, noise_hooks
from mspgt_tl.interventions.alternatives import KINDS
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.models.tokens import pad

BACKENDS = ("hooked", "bridge")
LAYERS = (2, 3, 4)
ROWS = [[5, 9, 30, 7, 44, 12, 61, 8, 90], [17, 33, 4], [5, 200, 301, 9, 77, 6]]
SENTENCES = sample_sentences(3, seed=4)


@pytest.fixture(scope="module")
def models(tiny_folder: Path) -> dict[str, Any]:
    """The tiny Llama in both backends."""
    return {backend: load(tiny_folder, backend=backend) for backend in BACKENDS}


@pytest.fixture(scope="module")
def model(models: dict[str, Any]) -> Any:
    """The one that `mspgt_tl.generate` decodes with."""
    return models["hooked"]


def last_logits(model: Any, row: list[int], sample: int) -> torch.Tensor:
    """Logits after one unpadded row whose noise is told where it lies."""
    where = Positions(torch.arange(len(row))[None])
    hooks = noise_hooks(model, LAYERS, 0.3, sample_ids=[sample], positions=where)
    return model.run_with_hooks(torch.tensor([row]), fwd_hooks=hooks)[0, -1]


def greedy(model: Any, prompt: list[int], sample: int, n_new: int) -> list[int]:
    """Likeliest tokens under noise, by one unpadded full forward pass for each."""
    row = list(prompt)
    for _ in range(n_new):
        row.append(int(last_logits(model, row, sample).argmax()))
    return row[len(prompt) :]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_is_found(backend: str, side: Any, models: dict[str, Any]) -> None:
    """A padded batch with its mask gives every row what it gets alone; nothing else was said."""
    model = models[backend]
    tokens, mask = pad(ROWS, side=side, pad_id=0)
    found = model.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=noise_hooks(model, LAYERS, 0.3))
    for i, row in enumerate(ROWS):
        last = found[i, mask[i].bool()][-1]
        assert (last - last_logits(model, row, i)).abs().max() < 1e-3


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_transformerlens_decodes_with_it(backend: str, cached: bool, models: dict[str, Any]) -> None:
    """Its own `generate`, with and without a KV cache, draws the tokens that full passes give; twice alike."""
    model = models[backend]
    hooks = noise_hooks(model, LAYERS, 0.3)
    for _ in range(2):
        with model.hooks(fwd_hooks=hooks):
            found = model.generate(
                torch.tensor(ROWS[:1]),
                max_new_tokens=6,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=cached,
                verbose=False,
            )
        assert found[0, len(ROWS[0]) :].tolist() == greedy(model, ROWS[0], 0, 6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformerlens_decodes_padded_texts(backend: str, models: dict[str, Any]) -> None:
    """Texts of unequal lengths, which it pads on the left itself, one row each as if alone."""
    model, seen = models[backend], []
    hooks = noise_hooks(model, LAYERS, 0.3)

    def watch(resid: Any, hook: Any) -> None:
        seen.append(resid)

    options = {"max_new_tokens": 4, "do_sample": False, "stop_at_eos": False, "verbose": False}
    with model.hooks(fwd_hooks=[*hooks, ("blocks.4.hook_resid_post", watch)]):
        model.generate(list(SENTENCES), **options)
    together, seen[:] = list(seen), []
    for i, sentence in enumerate(SENTENCES):
        alone = noise_hooks(model, LAYERS, 0.3, sample_ids=[i])
        with model.hooks(fwd_hooks=[*alone, ("blocks.4.hook_resid_post", watch)]):
            model.generate([sentence], **options)
        for batch, row in zip(together, seen, strict=True):
            assert (batch[i, -1] - row[0, -1]).abs().max() < 1e-3
        seen.clear()


def test_our_own_decoding_takes_it(model: Any) -> None:
    """`generate` with the list, prompts of unequal lengths in one batch, is the same as full passes row by row."""
    found = generate(model, ROWS, max_new_tokens=6, temperature=0, hooks=noise_hooks(model, LAYERS, 0.3))
    assert found == [greedy(model, row, i, 6) for i, row in enumerate(ROWS)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_decodes_as_when_told(kind: Any, model: Any) -> None:
    """The bare list and one made from `Rows` by the loop write the same ids, in chance draws, too."""
    bank = measure_activations(model, SENTENCES, seed=0)

    def told(rows: Any) -> Any:
        where = {"sample_ids": rows.sample_ids, "positions": rows.positions}
        return disturbance_hooks(model, LAYERS, 0.4, kind=kind, bank=bank, **where)

    bare = disturbance_hooks(model, LAYERS, 0.4, kind=kind, bank=bank)
    found = generate(model, ROWS, max_new_tokens=6, hooks=bare)
    assert found == generate(model, ROWS, max_new_tokens=6, hooks=told)
    assert found != generate(model, ROWS, max_new_tokens=6)


def test_one_list_serves_batches_of_any_size(model: Any) -> None:
    """Three rows, one row, three rows again: a list without sample ids belongs to no batch."""
    hooks = noise_hooks(model, LAYERS, 0.3)
    first = generate(model, ROWS, max_new_tokens=4, temperature=0, hooks=hooks)
    assert generate(model, ROWS[:1], max_new_tokens=4, temperature=0, hooks=hooks) == first[:1]
    assert generate(model, ROWS, max_new_tokens=4, temperature=0, hooks=hooks) == first


@pytest.mark.parametrize("where", ["before", "after", "around"])
def test_ones_own_hooks_may_stand_anywhere(where: str, models: dict[str, Any]) -> None:
    """Watching hooks on the same and on other points change nothing, wherever they stand."""
    for model in models.values():
        tokens, seen = torch.tensor(ROWS[:1]), []

        def watch(x: Any, hook: Any, seen: Any = seen) -> None:
            seen.append(x)

        own = [(f"blocks.2.{name}", watch) for name in ("hook_resid_post", "attn.hook_attn_scores", "hook_resid_pre")]
        noise = noise_hooks(model, LAYERS, 0.3)
        mixed = {"before": own + noise, "after": noise + own, "around": own + noise + own}[where]
        alone = model.run_with_hooks(tokens, fwd_hooks=noise)
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=mixed), alone)
        assert len(seen) == 3 * (1 + (where == "around"))


def test_going_on_after_a_prompt_without_hooks(model: Any) -> None:
    """Hooks that join at the first new token know how many came before, padding left out."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    tokens, mask = pad(ROWS, side="left", pad_id=0)
    streams = []
    for given in (None, Positions(torch.tensor([[len(row)] for row in ROWS]))):
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", len(ROWS))
        model(tokens, attention_mask=mask, past_kv_cache=cache)
        with model.hooks(fwd_hooks=noise_hooks(model, LAYERS, 0.3, positions=given)):
            new = torch.tensor([[8]] * len(ROWS))
            streams.append(model(new, attention_mask=torch.ones_like(new), past_kv_cache=cache))
    torch.testing.assert_close(*streams)


def test_a_pass_that_skips_the_first_block_is_refused(model: Any) -> None:
    """Positions of the pass before it would be noise of other tokens."""
    hooks = noise_hooks(model, LAYERS, 0.3)
    tokens = torch.tensor(ROWS[:1])
    resid = model(tokens, stop_at_layer=3)
    with model.hooks(fwd_hooks=hooks):
        model(tokens)
        with pytest.raises(DataError, match="read off block 2's attention scores"):
            model(resid, start_at_layer=3)


# Sliding windows, which hide early tokens.


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Any]:
    """A random Gemma 3 whose first blocks see four tokens, in both backends."""
    from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("models") / "tiny-gemma"
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_folder)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Gemma3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {backend: load(folder, backend=backend) for backend in BACKENDS}


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_outside_the_window_are_counted(backend: str, windowed: dict[str, Any]) -> None:
    """Decoding over a KV cache goes on at the right place where the block no longer sees the beginning."""
    model = windowed[backend]
    row = list(ROWS[0])
    for _ in range(4):
        where = Positions(torch.arange(len(row))[None])
        hooks = noise_hooks(model, [0, 1], 0.3, positions=where)
        row.append(int(model.run_with_hooks(torch.tensor([row]), fwd_hooks=hooks)[0, -1].argmax()))
    with model.hooks(fwd_hooks=noise_hooks(model, [0, 1], 0.3)):
        found = model.generate(
            torch.tensor(ROWS[:1]), max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False
        )
    assert found[0].tolist() == row


def test_unseen_tokens_outside_the_window_are_refused(windowed: dict[str, Any]) -> None:
    """Hooks that join after a prompt cannot know its padding."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    model = windowed["hooked"]
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    model(torch.tensor(ROWS[:1]), past_kv_cache=cache)
    with (
        model.hooks(fwd_hooks=noise_hooks(model, [0, 1], 0.3)),
        pytest.raises(DataError, match="from the prompt on"),
    ):
        model(torch.tensor([[8]]), past_kv_cache=cache)


# Blocks by name, prompts as they come, and what a list says of itself.


class Result:
    """Stands for a detection with two boundaries."""

    def scales(self) -> dict[str, range]:
        return {"local": range(3), "intermediate": range(3, 5), "global": range(5, 8)}


@pytest.mark.parametrize("scales", [Result(), Result().scales()])
@pytest.mark.parametrize("name", ["global", "Global"])
def test_a_scale_goes_by_its_name(name: str, scales: Any, model: Any) -> None:
    named = noise_hooks(model, name, 0.3, scales=scales)
    assert [point for point, _ in named[1:]] == [f"blocks.{layer}.hook_resid_post" for layer in (5, 6, 7)]
    assert [point for point, _ in noise_hooks(model, "5-7", 0.3)] == [point for point, _ in named]


def test_a_name_without_a_detection_says_what_to_give(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"result\.scales\(\)\['global'\]"):
        noise_hooks(model, "global", 0.3)
    with pytest.raises(ConfigError, match="Did you mean 'global'"):
        noise_hooks(model, "globel", 0.3, scales=Result())


def test_prompts_come_back_as_what_they_were(model: Any) -> None:
    """A text, texts, ids, lists of ids and tensors; the same tokens in all of them."""
    ids = encode(model, SENTENCES).ids
    options: dict[str, Any] = {"max_new_tokens": 5, "hooks": noise_hooks(model, LAYERS, 0.3)}
    many = generate(model, ids, **options)
    assert generate(model, ids[0], **options) == many[0] == generate(model, torch.tensor(ids[0]), **options)
    assert generate(model, torch.tensor(ids[:1]), **options) == many[:1]
    texts = generate(model, SENTENCES, **options)
    assert generate(model, SENTENCES[0], **options) == texts[0]
    assert [len(text) > 0 for text in texts] == [True] * 3
    decoded = [model.tokenizer.decode([*a, *b], skip_special_tokens=True) for a, b in zip(ids, many, strict=True)]
    assert [text[-len(end) :] for text, end in zip(decoded, texts, strict=True)] == texts


def test_prompts_of_two_kinds_are_refused(model: Any) -> None:
    with pytest.raises(DataError, match="not some of each"):
        generate(model, [SENTENCES[0], [0, 1]])


def test_a_text_that_is_too_long_is_refused_not_cut(model: Any) -> None:
    with pytest.raises(ConfigError, match="the model has 128"):
        generate(model, " ".join(sample_sentences(40, seed=1)))


def test_lists_say_what_they_do(model: Any) -> None:
    """In few words, mixed with others, too; the same in a notebook."""
    noise = noise_hooks(model, (2, 3, 4), 0.3, seed=7)
    skip = disturbance_hooks(model, [6, 1], [0.1, 0.5], kind="skip")
    own = [("blocks.0.hook_resid_pre", print)]
    mixed = own + noise + skip
    told = repr(mixed)
    assert len(told) < 600
    assert "noise of σ = 0.3 after blocks 2-4, seed 7" in told
    assert "skip with σ = 0.1 … 0.5 by row after blocks 1, 6, seed 0" in told
    assert "one's own at blocks.0.hook_resid_pre" in told
    html = mixed._repr_html_()
    assert all(line in html for line in ("noise of σ = 0.3", "one&#x27;s own"))
    assert isinstance(noise, list)


def test_the_public_names_are_the_same(model: Any) -> None:
    """What README writes: nothing but a model, blocks and σ."""
    hooks = mspgt_tl.noise_hooks(model, range(4, 8), 0.1)
    assert isinstance(mspgt_tl.generate(model, "The river flows", hooks=hooks, max_new_tokens=3), str)
