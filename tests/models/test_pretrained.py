"""Loading: every family against Hugging Face's own numbers, both backends, twins, tokens, and inputs that must fail."""

from __future__ import annotations

import gc
import hashlib
import json
import random
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mspgt_tl.errors import ConfigError, DataError, ModelError, UnknownModelError
from mspgt_tl.models import building, embedded
from mspgt_tl.models.embedded import list_embedded
from mspgt_tl.models.families import FAMILIES
from mspgt_tl.models.pretrained import describe, encode, load, prepends_bos, require_blocks
from mspgt_tl.models.tokens import pad
from mspgt_tl.models.training import train_tokenizer

torch = pytest.importorskip("torch")

PILOT = Path(__file__).parents[2].parent / "shared/models/pilot"
TOLERANCE = 1e-4
TEXTS = ["the cat sat on the mat", "dogs bark", "a longer line of text about nothing at all, with commas"]
BASE = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
GQA = BASE | {"num_key_value_heads": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA = GQA | {"head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 24}
CHECKPOINTS = {
    "llama": ("llama", GQA),
    "llama-mha-tied-biased": ("llama", BASE | {"tie_word_embeddings": True, "attention_bias": True}),
    "llama-rope3-head-dim": ("llama", GQA | {"head_dim": 16, "rope_parameters": LLAMA3_ROPE}),
    "mistral": ("mistral", GQA | {"head_dim": 16, "sliding_window": None}),
    "mistral-window": ("mistral", GQA | {"sliding_window": 5}),
    "qwen2": ("qwen2", GQA),
    "qwen2-window": (
        "qwen2",
        GQA | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", GQA | {"head_dim": 16}),
    "qwen3-biased": ("qwen3", GQA | {"head_dim": 16, "attention_bias": True}),
    "gemma": ("gemma", BASE | {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": (
        "gemma3_text",
        GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "phi3-window": ("phi3", GQA | {"sliding_window": 5}),
    "phi3-partial": ("phi3", GQA | {"partial_rotary_factor": 0.5}),
    "phi": ("phi", BASE | {"partial_rotary_factor": 0.5}),
    "neox-parallel": ("gpt_neox", BASE | {"rotary_pct": 0.5}),
    "neox-sequential": ("gpt_neox", BASE | {"rotary_pct": 1.0, "use_parallel_residual": False}),
    "gpt2": ("gpt2", {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "gpt2-scaled": (
        "gpt2",
        {
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "scale_attn_by_inverse_layer_idx": True,
            "activation_function": "gelu",
        },
    ),
}
HAS_HOOKED = find_spec("transformer_lens.HookedTransformer") is not None
BACKENDS = ("hooked", "bridge") if HAS_HOOKED else ("bridge",)
"""TransformerLens 4 has no `HookedTransformer`; `make test-tl4` runs the tests of the bridge on it."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small only lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A byte-level tokenizer of 300 tokens that prepends `<s>`."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(TEXTS * 20), 300).save_pretrained(folder)
    return folder


def write_checkpoint(folder, kind, settings, tokenizer_folder, vocab_size=300):
    """Save a random model in which no bias is zero and no norm is one, so that a dropped one shows."""
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **special, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_((0.3 if parameter.ndim == 1 else 0.1) * torch.randn_like(parameter))
    model.save_pretrained(folder)
    shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)
    return model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tokenizer_folder):
    """Return a function from a name in `CHECKPOINTS` to its folder, each written once."""
    written = {}

    def get(name):
        if name not in written:
            folder = tmp_path_factory.mktemp(name)
            write_checkpoint(folder, *CHECKPOINTS[name], tokenizer_folder)
            written[name] = folder
        return written[name]

    return get


@pytest.fixture(scope="session")
def hooked(checkpoint):
    """Return a function from a name in `CHECKPOINTS` to its model, each loaded once; tests must not change it."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = load(checkpoint(name))
        return loaded[name]

    return get


@pytest.fixture
def damaged(checkpoint, tmp_path):
    """A copy of the Llama checkpoint to break."""
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))


def hf_reference(folder, tokens):
    """Return Hugging Face's logits and the residual stream after every block."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    base = model.base_model
    blocks, resid = base.h if hasattr(base, "h") else base.layers, {}
    for layer, block in enumerate(blocks):
        block.register_forward_hook(
            lambda _module, _input, out, layer=layer: resid.__setitem__(
                layer, out[0] if isinstance(out, tuple) else out
            )
        )
    with torch.inference_mode():
        return model(tokens).logits, [resid[layer] for layer in range(len(blocks))]


def resid_posts(model, tokens, **options):
    """Return logits and `hook_resid_post` of every block."""
    with torch.inference_mode():
        logits, cache = model.run_with_cache(
            tokens, names_filter=lambda name: name.endswith("hook_resid_post"), **options
        )
    return logits, [cache[f"blocks.{layer}.hook_resid_post"] for layer in range(model.cfg.n_layers)]


def random_tokens(shape=(2, 20)):
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_and_residuals_equal_hugging_face(name, backend, checkpoint, hooked):
    """Logits and every block's output agree with transformers."""
    tokens = random_tokens()
    expected_logits, expected_resid = hf_reference(checkpoint(name), tokens)
    model = hooked(name) if backend == "hooked" else load(checkpoint(name), backend="bridge")
    logits, resid = resid_posts(model, tokens)
    deviations = [(ours - theirs).abs().max().item() for ours, theirs in zip(resid, expected_resid, strict=True)]
    assert (logits - expected_logits).abs().max() < TOLERANCE
    assert max(deviations) < TOLERANCE


def test_every_family_is_tested():
    """No family is offered without a comparison above."""
    assert {kind for kind, _ in CHECKPOINTS.values()} == set(FAMILIES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_padded_batch_equals_single_sequences(name, backend, checkpoint, hooked):
    """With the mask that `pad` returns, padding on either side changes nothing at real positions."""
    model = hooked(name) if backend == "hooked" else load(checkpoint(name), backend="bridge")
    rows = [random_tokens((1, n))[0].tolist() for n in (17, 9)]
    alone = [resid_posts(model, torch.tensor([row])) for row in rows]
    for side in ("right", "left"):
        tokens, mask = pad(rows, side=side, pad_id=1)
        logits, resid = resid_posts(model, tokens, attention_mask=mask)
        for index, (alone_logits, alone_resid) in enumerate(alone):
            real = mask[index].bool()
            assert (logits[index, real] - alone_logits[0]).abs().max() < TOLERANCE
            for ours, theirs in zip(resid, alone_resid, strict=True):
                assert (ours[index, real] - theirs[0]).abs().max() < TOLERANCE


def test_right_padding_without_mask_equals_single_sequences(hooked):
    """A causal model never looks right, so analysis may leave the mask out."""
    model = hooked("qwen2")
    rows = [random_tokens((1, n))[0].tolist() for n in (11, 4)]
    tokens, mask = pad(rows, side="right", pad_id=1)
    assert (model(tokens)[1, mask[1].bool()] - model(torch.tensor([rows[1]]))[0]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "neox-parallel"])
def test_cached_decoding_equals_full_forward(name, hooked):
    """Left-padded prompt, then token by token over the KV cache, equals unpadded forwards."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    model = hooked(name)
    rows = [random_tokens((1, n))[0].tolist() for n in (9, 14)]
    tokens, mask = pad([row[:-3] for row in rows], side="left", pad_id=1)
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 2)
    last = model(tokens, attention_mask=mask, past_kv_cache=cache)[:, -1]
    for step in range(-3, 0):
        for index, row in enumerate(rows):
            assert (last[index] - model(torch.tensor([row[:step]]))[0, -1]).abs().max() < TOLERANCE
        new = torch.tensor([[row[step]] for row in rows])
        last = model(new, attention_mask=torch.ones_like(new), past_kv_cache=cache)[:, -1]


# The contract that signals and interventions rely on.


@pytest.fixture(scope="module", params=BACKENDS)
def contract_model(request, checkpoint):
    return load(checkpoint("llama"), backend=request.param)


def test_cache_holds_resid_post_and_pattern_of_every_layer(contract_model):
    """Names and shapes; heads are expanded under grouped queries; rows of a pattern are causal and sum to one."""
    wanted = ("hook_resid_post", "attn.hook_pattern")
    _, cache = contract_model.run_with_cache(random_tokens(), names_filter=lambda name: name.endswith(wanted))
    names = {f"blocks.{layer}.{name}" for layer in range(3) for name in wanted}
    assert names <= set(cache.keys())
    assert cache["blocks.2.hook_resid_post"].shape == (2, 20, 48)
    pattern = cache["blocks.2.attn.hook_pattern"]
    assert pattern.shape == (2, 4, 20, 20)
    assert torch.allclose(pattern.sum(-1), torch.ones(2, 4, 20), atol=1e-5)
    assert pattern.triu(1).abs().max() == 0


def test_stop_at_layer_before_the_last_gives_the_same_residuals(contract_model):
    """Stopping early changes nothing below."""
    _, resid = resid_posts(contract_model, random_tokens())
    _, cache = contract_model.run_with_cache(
        random_tokens(), names_filter=lambda name: name == "blocks.1.hook_resid_post", stop_at_layer=2
    )
    assert torch.equal(cache["blocks.1.hook_resid_post"], resid[1])


def test_hooks_change_the_stream_and_leave_no_trace(contract_model):
    """A hook on `resid_post` sees and replaces the value, and is gone after the context."""
    seen, tokens = {}, random_tokens()
    before = contract_model(tokens)

    def shift(value, hook, *, layer):
        seen[layer] = value.clone()
        return value + 1.0

    hooks = [("blocks.1.hook_resid_post", partial(shift, layer=1))]
    _, resid = resid_posts(contract_model, tokens)
    with contract_model.hooks(fwd_hooks=hooks):
        during = contract_model(tokens)
    assert torch.allclose(seen[1], resid[1], atol=1e-6)
    assert (during - before).abs().max() > 1e-2
    assert torch.equal(contract_model(tokens), before)


def test_hooks_are_removed_after_an_error(contract_model):
    """A hook that raises does not stay behind."""
    before = contract_model(random_tokens())

    def fail(value, hook):
        raise ZeroDivisionError

    hooks = [("blocks.0.hook_resid_post", fail)]
    with pytest.raises(ZeroDivisionError), contract_model.hooks(fwd_hooks=hooks):
        contract_model(random_tokens())
    assert torch.equal(contract_model(random_tokens()), before)


def test_loaded_models_are_in_evaluation_mode_without_gradients(contract_model):
    assert not contract_model.training
    assert not any(parameter.requires_grad for parameter in contract_model.parameters())


def test_backends_agree(checkpoint):
    """Residuals and patterns of the two backends are the same up to rounding."""
    caches = [
        load(checkpoint("qwen3"), backend=backend).run_with_cache(
            random_tokens(), names_filter=lambda name: name.endswith(("hook_resid_post", "hook_pattern"))
        )[1]
        for backend in BACKENDS
    ]
    for layer in range(3):
        for name in ("hook_resid_post", "attn.hook_pattern"):
            first, second = (cache[f"blocks.{layer}.{name}"] for cache in caches)
            assert (first - second).abs().max() < TOLERANCE


# Refusals.


def test_rotary_scaling_is_refused_by_name(damaged):
    """A scaling that TransformerLens computes otherwise does not load."""
    for kind, extra in (("linear", {}), ("dynamic", {}), ("yarn", {"original_max_position_embeddings": 32})):
        edit_config(damaged, rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, **extra})
        with pytest.raises(ModelError, match=f"Rotary scaling '{kind}'"):
            load(damaged)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", {"mlp_bias": True}, "bias in the gated MLP"),
        ("llama", {"hidden_act": "mish"}, "activation 'mish'"),
        ("llama", {"model_type": "stablelm"}, "type 'stablelm'.*Supported: .*llama"),
        ("llama", {"model_type": "made_up"}, "transformers cannot read.*'made_up'"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\)"),
        ("gemma", {"use_bidirectional_attention": True}, "Bidirectional attention"),
        ("phi", {"qk_layernorm": True}, "Normalised queries"),
        ("phi", {"num_key_value_heads": 2}, "Grouped-query"),
        ("neox-parallel", {"attention_bias": False}, "without biases"),
        ("gpt2", {"add_cross_attention": True}, "Cross-attention"),
        (
            "qwen2",
            {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
            "chunked_attention",
        ),
    ],
)
def test_unfaithful_architectures_are_refused_by_name(name, change, message, checkpoint, tmp_path):
    """What would be computed differently does not load, and the error says what it is."""
    folder = Path(shutil.copytree(checkpoint(name), tmp_path / "model"))
    edit_config(folder, **change)
    with pytest.raises(ModelError, match=message):
        load(folder)


def edit_config(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def edit_weights(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


GATE = "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(GATE), "1 missing .*gate_proj"),
        (lambda state: state.update(bogus=torch.zeros(2)), "not of this architecture .*bogus"),
        (lambda state: state.update({GATE: torch.zeros(3, 3)}), "misshapen .*gate_proj"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message, damaged):
    """transformers would draw the missing ones at random and only log it."""
    edit_weights(damaged, change)
    with pytest.raises(ModelError, match=message):
        load(damaged)


@pytest.mark.parametrize("keep", [0, 10, 5000, 60_000])
def test_truncated_weights_are_refused(keep, damaged):
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"weights in .* cannot be read"):
        load(damaged)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "holds no tokenizer"),
        ("config.json", "holds no config.json"),
    ],
)
def test_folder_lacking_a_part_is_refused(file, message, damaged):
    (damaged / file).unlink()
    with pytest.raises(ModelError, match=message):
        load(damaged)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{}", "tokenizer in .* cannot be read"),
        ("tokenizer.json", "not json", "tokenizer in .* cannot be read"),
        ("config.json", "not json", "not a model's configuration"),
        ("config.json", "[]", "not a model's configuration"),
        ("config.json", "{}", "not a model's configuration.*model_type"),
        ("config.json", '{"model_type": "llama", "hidden_size": "wide"}', "transformers cannot read"),
    ],
)
def test_damaged_text_files_are_refused(file, content, message, damaged):
    (damaged / file).write_text(content)
    with pytest.raises(ModelError, match=message):
        load(damaged)


def test_weights_of_another_architecture_are_refused(checkpoint, damaged):
    """A config that asks for wider layers than the weights have."""
    edit_config(damaged, intermediate_size=96)
    with pytest.raises(ModelError, match="misshapen"):
        load(damaged)


# Names and the hub.


def test_unknown_name_lists_close_ones():
    with pytest.raises(UnknownModelError, match=r"Unknown model 'gpt2-meduim'. Did you mean 'gpt2-medium'\?") as error:
        load("gpt2-meduim")
    assert len(str(error.value)) < 600


ODD = ("", "/no/such/folder", "nothing@random:1", "a/b/c", "user@example.org/model", "llama@seed:x", "../..")


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_unknown(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError):
        load(name)


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(UnknownModelError, match=r"holds no config.json"):
        load(tmp_path)


def test_wrong_options_are_config_errors(checkpoint):
    with pytest.raises(ConfigError, match=r"backend 'hook'. Did you mean 'hooked'"):
        load(checkpoint("llama"), backend="hook")
    with pytest.raises(ConfigError, match="dtype 'int8'"):
        load(checkpoint("llama"), dtype="int8")
    with pytest.raises(ConfigError, match="Unknown device 'gpu'"):
        load(checkpoint("llama"), device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_cuda_is_a_config_error(checkpoint):
    with pytest.raises(ConfigError, match="torch sees 0 CUDA devices"):
        load(checkpoint("llama"), device="cuda")


def test_out_of_memory_is_a_model_error(checkpoint, monkeypatch):
    def full(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 byte")

    monkeypatch.setattr(building, "_build_hooked", full)
    with pytest.raises(ModelError, match="does not fit into memory"):
        load(checkpoint("llama"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_loads_and_stays_close(backend, checkpoint):
    """Same weights in bfloat16: logits within a few roundings."""
    exact = load(checkpoint("gemma"), backend=backend)(random_tokens())
    model = load(checkpoint("gemma"), backend=backend, dtype="bfloat16")
    logits = model(random_tokens())
    assert logits.dtype == torch.bfloat16
    assert describe(model)["dtype"] == "bfloat16"
    assert (logits.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


# Objects.


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformers_model_loads_with_its_tokenizer(backend, checkpoint):
    """The folder it came from gives the tokenizer; the numbers are its own."""
    from transformers import AutoModelForCausalLM

    hf_model = AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float32)
    expected = hf_model.eval()(random_tokens()).logits.detach()
    model = load(hf_model, backend=backend)
    assert (model(random_tokens()) - expected).abs().max() < TOLERANCE
    assert encode(model, ["the cat"]).has_bos


def test_transformers_model_without_tokenizer_needs_one(tokenizer_folder):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    hf_model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=300, **BASE))
    with pytest.raises(ConfigError, match="pass its tokenizer="):
        load(hf_model)
    own = AutoTokenizer.from_pretrained(tokenizer_folder)
    model = load(hf_model, tokenizer=own)
    assert model.tokenizer is not own
    assert describe(model)["name"] == "llama"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_loaded_model_is_returned_itself(backend, name, checkpoint):
    """Nor does what is known of it change."""
    model = load(checkpoint(name), backend=backend)
    facts = describe(model)
    assert load(model) is model
    assert describe(model) == facts


def test_loaded_model_elsewhere_than_asked_is_refused(checkpoint):
    model = load(checkpoint("llama"))
    with pytest.raises(ConfigError, match="already loaded as"):
        load(model, dtype="bfloat16")
    with pytest.raises(ConfigError, match="already loaded on cpu"):
        load(model, device="meta")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_centred_weights_are_refused_and_folded_ones_recorded(checkpoint):
    """Centring moves a LayerNorm model's residual stream; folding an RMSNorm moves nothing."""
    for name, centred in (("gpt2", True), ("llama", False)):
        model = load(checkpoint(name))
        building.PROVENANCE.pop(model)
        model.process_weights_()
        if centred:
            with pytest.raises(ModelError, match="centred"):
                load(model)
        else:
            assert describe(load(model))["weight_processing"] == "folded"


def test_objects_that_their_config_does_not_describe_are_refused(checkpoint):
    """Layers cut, a head added or an adapter injected without a word to the configuration."""
    from transformers import AutoModelForCausalLM

    def fresh():
        return AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float32)

    cut, adapted, widened = fresh(), fresh(), fresh()
    cut.model.layers = cut.model.layers[:2]
    adapted.model.layers[1].self_attn.q_proj.lora_A = torch.nn.Linear(48, 2)
    widened.lm_head = torch.nn.Linear(48, 310, bias=False)
    for model, message in ((cut, "missing.*num_hidden_layers"), (adapted, "merge_and_unload"), (widened, "shape")):
        with pytest.raises(ModelError, match=message):
            load(model)
    cut.config.num_hidden_layers = 2
    assert describe(load(cut))["n_layers"] == 2


def test_least_number_of_blocks(hooked):
    require_blocks(hooked("llama"), 3, "A detection")
    with pytest.raises(ModelError, match=r"A detection needs a model of at least 4 blocks; .* has 3\."):
        require_blocks(hooked("llama"), 4, "A detection")


def test_other_objects_are_refused():
    with pytest.raises(ConfigError, match="not int"):
        load(3)


# Provenance.


def test_description_of_a_folder(checkpoint):
    """Everything the manifest wants, with the hash of the weight file."""
    folder = checkpoint("llama")
    facts = describe(load(folder))
    assert facts == {
        "name": str(folder),
        "architecture": "LlamaForCausalLM",
        "n_layers": 3,
        "d_model": 48,
        "n_heads": 4,
        "n_key_value_heads": 2,
        "dtype": "float32",
        "device": "cpu",
        "backend": "hooked",
        "weight_processing": "none",
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "random_seed": None,
        "prepends_bos": True,
        "revision": None,
        "trust_remote_code": False,
    }
    bridge = describe(load(folder, backend="bridge"))
    assert bridge == facts | {"backend": "bridge"}


def test_provenance_goes_with_its_model(checkpoint):
    model = load(checkpoint("llama"))
    known = len(building.PROVENANCE)
    del model
    gc.collect()
    assert len(building.PROVENANCE) < known


@pytest.mark.parametrize("backend", BACKENDS)
def test_sharded_weights_load(backend, checkpoint, tmp_path):
    """As one file does; a shard that is missing is named."""
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "sharded"))
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    model, expected = load(folder, backend=backend), load(checkpoint("llama"), backend=backend)
    assert torch.equal(model(random_tokens()), expected(random_tokens()))
    assert describe(model)["sha256"] not in (None, describe(expected)["sha256"])
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of {len(shards)} shards, {shards[1].name} first"):
        load(folder, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_embeddings_padded_beyond_the_tokenizer_load(name, backend, tokenizer_folder, tmp_path):
    """Rows that no token has: the ids stay the tokenizer's, the logits Hugging Face's over all rows."""
    kind, settings = CHECKPOINTS[name]
    write_checkpoint(tmp_path, kind, settings, tokenizer_folder, vocab_size=320)
    model = load(tmp_path, backend=backend)
    assert model.cfg.d_vocab == 320
    assert max(max(row) for row in encode(model, TEXTS).ids) < 300
    expected, _ = hf_reference(tmp_path, random_tokens())
    assert expected.shape[-1] == 320
    assert (model(random_tokens()) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_checkpoints_load_in_float32(backend, checkpoint, tmp_path):
    """The weights are the rounded ones, the computation is exact."""
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "bf16"))
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    model = load(folder, backend=backend)
    expected, _ = hf_reference(folder, random_tokens())
    assert describe(model)["dtype"] == "float32"
    assert (model(random_tokens()) - expected).abs().max() < TOLERANCE


# Twins and embedded models.


@pytest.fixture
def zoo(checkpoint, tokenizer_folder, tmp_path, monkeypatch):
    """A zoo of one model in two seeds, with the shared tokenizer."""
    root = tmp_path / "zoo"
    shutil.copytree(tokenizer_folder, root / "tokenizer")
    (root / "recipes").mkdir()
    for seed, folder in ((0, root / "tiny"), (1, root / "tiny@seed-1")):
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            shutil.copy(checkpoint("llama") / file, folder / file)
        sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        card = {"name": "tiny", "namesake": "Llama", "seed": seed, "parameters": 7, "sha256": sha256}
        (folder / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(embedded, "ZOO", root)
    return root


def test_embedded_models_load_by_name(zoo, checkpoint):
    model = load("tiny")
    assert torch.equal(model(random_tokens()), load(checkpoint("llama"))(random_tokens()))
    assert describe(model)["name"] == "tiny"
    assert describe(model)["sha256"]
    assert describe(load("tiny@seed:1"))["name"] == "tiny@seed:1"
    with pytest.raises(UnknownModelError, match="Did you mean 'tiny"):
        load("tiny@seed:2")


def test_embedded_models_are_listed_from_their_cards(zoo):
    rows = list_embedded()
    assert [(row["name"], row["seed"], row["namesake"]) for row in rows] == [
        ("tiny", 0, "Llama"),
        ("tiny@seed:1", 1, "Llama"),
    ]
    assert rows[0]["bytes"] == (zoo / "tiny/model.safetensors").stat().st_size
    assert rows[0]["validation_loss"] is None


def test_damaged_embedded_weights_are_refused(zoo):
    edit_weights(zoo / "tiny", lambda state: state[GATE].add_(1))
    with pytest.raises(ModelError, match="damaged: sha256"):
        load("tiny")


def test_embedded_model_may_bring_its_tokenizer(zoo, tokenizer_folder):
    shutil.copytree(tokenizer_folder, zoo / "tiny", dirs_exist_ok=True)
    shutil.rmtree(zoo / "tokenizer")
    assert encode(load("tiny"), ["the cat"]).has_bos
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load("tiny@seed:1")


def test_unreadable_card_is_refused(zoo):
    (zoo / "tiny/card.json").write_text("{")
    with pytest.raises(ModelError, match="card"):
        load("tiny")


@pytest.mark.parametrize("backend", BACKENDS)
def test_twins_repeat_by_seed_and_differ_across_seeds(backend, zoo):
    """Same architecture and tokenizer, other weights."""
    first, again, other = (load(f"tiny@random:{seed}", backend=backend)(random_tokens()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3
    assert (first - load("tiny", backend=backend)(random_tokens())).abs().max() > 1e-3


def test_twin_of_a_folder(checkpoint):
    facts = describe(load(f"{checkpoint('gpt2')}@random:5"))
    assert facts["random_seed"] == 5
    assert facts["sha256"] is None
    assert facts["architecture"] == "GPT2LMHeadModel"


@pytest.mark.parametrize("suffix", ["", "@random:3"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_loading_leaves_global_random_state_alone(backend, suffix, checkpoint):
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    load(f"{checkpoint('llama')}{suffix}", backend=backend)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert random.getstate() == state[2]


# Tokens.


def test_bos_follows_the_tokenizer_and_gpt2s_convention(checkpoint, tmp_path):
    """A tokenizer that adds none: Qwen and Pythia go without, GPT-2 gets one all the same."""
    expected = {"qwen2": False, "neox-parallel": False, "llama": False, "gpt2": True}
    for name, bos in expected.items():
        folder = Path(shutil.copytree(checkpoint(name), tmp_path / name))
        strip_post_processor(folder)
        for backend in BACKENDS:
            model = load(folder, backend=backend)
            assert prepends_bos(model) == bos
            assert encode(model, ["the cat"]).ids[0][0] == 0 if bos else encode(model, ["a"]).ids[0][0] != 0
            assert model.to_tokens("the cat").tolist() == encode(model, ["the cat"]).ids


def strip_post_processor(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))


def test_a_declared_tokenizer_json_is_taken_literally(checkpoint, hooked):
    """Left to the model's type, transformers would give Qwen its own normaliser and number splitting."""
    text = "1234 e\u0301"
    assert encode(hooked("qwen2"), [text]) == encode(hooked("llama"), [text])
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(checkpoint("qwen2"))(text).input_ids != encode(hooked("llama"), [text]).ids[0]


def test_encode_gives_one_bos_and_offsets_into_the_text(hooked):
    model = hooked("llama")
    texts = ["the cat sat", "", "naïve — 😀 dogs"]
    found = encode(model, texts)
    assert found.has_bos
    for text, ids, offsets in zip(texts, found.ids, found.offsets, strict=True):
        assert ids[0] == 0
        assert offsets[0] == (0, 0)
        assert not {0, 1} & set(ids[1:])
        assert model.tokenizer.decode(ids[1:]) == text
        assert all(0 <= start < end <= len(text) for start, end in offsets[1:])
    bare = encode(model, texts, bos=False)
    assert bare.ids == [row[1:] for row in found.ids]
    assert not bare.has_bos


def test_spelled_out_control_tokens_stay_text(hooked):
    """A corpus that contains `</s>` does not smuggle in an EOS, and the tokenizer is left as it was."""
    model = hooked("llama")
    ids = encode(model, ["a </s> b <s>"]).ids[0]
    assert not {0, 1} & set(ids[1:])
    assert model.tokenizer("</s>", add_special_tokens=False)["input_ids"] == [1]


def test_encode_never_appends_eos(checkpoint, tmp_path):
    """Nor does a tokenizer that frames texts with both get a second BOS."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "framed"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save_pretrained(folder)
    ids = encode(load(folder), ["the cat"]).ids[0]
    assert ids == encode(load(checkpoint("llama")), ["the cat"]).ids[0]
    assert ids.count(0) == 1
    assert 1 not in ids


def test_encode_cuts_to_max_length_with_the_bos(hooked):
    model = hooked("llama")
    found = encode(model, [TEXTS[2], "a"], max_length=5)
    assert [len(row) for row in found.ids] == [5, 2]
    assert found.offsets[0] == encode(model, [TEXTS[2]]).offsets[0][:5]
    assert len(encode(model, ["dogs bark and " * 200]).ids[0]) == 64
    with pytest.raises(ConfigError, match="no room"):
        encode(model, ["a"], max_length=1)


def test_encode_refuses_what_it_cannot_do(checkpoint, tmp_path):
    model = load(checkpoint("llama"))
    assert encode(model, []).ids == []
    with pytest.raises(DataError, match="not one string"):
        encode(model, "the cat")
    model.tokenizer.bos_token = None
    with pytest.raises(ConfigError, match=r"no BOS|has none"):
        encode(model, ["a"], bos=True)
    model.cfg.d_vocab = 10
    with pytest.raises(ModelError, match="vocabulary ends at 9"):
        encode(model, ["the cat"], bos=False)


def test_pad_places_ids_and_mask():
    tokens, mask = pad([[5, 6, 7], [8]], side="right", pad_id=9)
    assert tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    tokens, mask = pad([[5, 6, 7], [8]], side="left", pad_id=9)
    assert tokens.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_pad_refuses_empty_rows(rows):
    with pytest.raises(DataError):
        pad(rows, side="right", pad_id=0)


@pytest.mark.skipif(not PILOT.is_dir(), reason="the pilot model is not beside this checkout")
def test_pilot_equals_hugging_face():
    """A trained model: its outlier activations are of another size than random ones, so the bound is relative."""
    model = load(PILOT)
    ids = encode(model, ["The river flows through the old town and into the sea."]).ids
    expected_logits, expected_resid = hf_reference(PILOT, torch.tensor(ids))
    logits, resid = resid_posts(model, torch.tensor(ids))
    assert (logits - expected_logits).abs().max() < TOLERANCE
    for ours, theirs in zip(resid, expected_resid, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
