"""How large a model is and how fast a machine is with it, without loading its weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.config import ProbeConfig
from mspgt_tl.interventions.generation import Sampling, generate
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.models.checkpoints import draw_weights
from mspgt_tl.models.embedded import ZOO
from mspgt_tl.models.families import find_family
from mspgt_tl.models.hub import fetch
from mspgt_tl.models.names import Source, find_hub, find_source, unknown_model
from mspgt_tl.models.placement import choose_device, choose_dtype
from mspgt_tl.models.pretrained import load, read_supported
from mspgt_tl.models.tokenizer_files import read_tokenizer
from mspgt_tl.signals.probe_training import Inputs, Labelled, start_weights, train_probes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAN = float("nan")
LOADING = 2.1
"""Peak bytes while a model loads, over those of its weights (measured, 188 M weights)."""


@dataclass(frozen=True)
class Shape:
    """The size of a model."""

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    gated_mlp: bool
    parameters: int
    """As the checkpoint counts them: shared embeddings once."""
    tied: bool = False
    """Whether embedding and unembedding are one matrix, which is loaded twice."""

    @property
    def weights(self) -> int:
        """Numbers that are held once the model is loaded."""
        return self.parameters + self.tied * self.d_model * self.d_vocab

    @property
    def block_parameters(self) -> int:
        """Weights of the matrices in one block."""
        attention = 2 * (self.n_heads + self.n_key_value_heads) * self.d_head
        return self.d_model * (attention + (3 if self.gated_mlp else 2) * self.d_mlp)


@dataclass(frozen=True)
class Speed:
    """Unit costs of one shape on one device, in seconds; nan, with the reason, where they could not be measured."""

    forward: float = NAN
    """A position through all blocks, in a batch of sentences."""
    logits: float = NAN
    """A position through the unembedding, with float64 log-probabilities."""
    noise: float = NAN
    """Noise on a position after one block."""
    decode: float = NAN
    """A token decoded in a batch of typical width: all blocks, unembedding, draw."""
    probe: float = NAN
    """An item at one layer in one epoch of an MLP probe of 128 hidden units, d_model wide."""
    product: float = NAN
    """A multiply-add in a large float32 matrix product."""
    device: str = "cpu"
    weight_bytes: int = 4
    reason: str = ""


def shape_of(name: str) -> Shape:
    """Return the size of anything that `load` takes by name, from its configuration.

    Raises:
        UnknownModelError: nothing stands behind the name.
        ModelError: the configuration cannot be had, or is of a type that cannot be loaded.
    """
    if name.startswith("planted:"):
        # Set by formula within the package: there is nothing to read but the small model itself.
        model: Any = load(name)
        return _shape(name, vars(model.cfg), sum(p.numel() for p in model.parameters()), tied=False)
    source = find_source(name) or _hub_source(name)
    config = read_supported(source)
    settings = find_family(config).settings(config)
    files = [] if source.revision else [file for file in source.weights if file.suffix == ".safetensors"]
    numbers = sum(_count_stored(file) for file in files) or _count_parameters(config)
    return _shape(name, settings, numbers, tied=bool(getattr(config, "tie_word_embeddings", False)))


def _shape(name: str, settings: Mapping[str, Any], parameters: int, *, tied: bool) -> Shape:
    keys = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "d_vocab", "n_ctx")
    sizes = {key: int(settings[key]) for key in keys}
    sizes["n_key_value_heads"] = settings.get("n_key_value_heads") or sizes["n_heads"]
    return Shape(name, **sizes, gated_mlp=bool(settings.get("gated_mlp")), parameters=parameters, tied=tied)


def _hub_source(name: str) -> Source:
    wanted = find_hub(name)
    if wanted is None:
        raise unknown_model(name)
    return fetch(wanted, weights=False)


def _count_stored(file: Any) -> int:
    """Return how many parameters a safetensors file holds, from its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    # Old checkpoints hold masks and frequencies beside the weights.
    buffers = ("__metadata__", "inv_freq", ".attn.bias", ".attention.bias", "masked_bias")
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if not name.endswith(buffers))


def _count_parameters(config: PretrainedConfig) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config, trust_remote_code=False).parameters())


def measure_speed(shape: Shape, device: str = "cpu", dtype: str | None = None) -> Speed:
    """Time random blocks of a shape, an unembedding, a probe and a matrix product, each as the best of a few.

    One second of processor time for the embedded models; 17 s and 2 GB for a model of 7 B parameters (measured).
    """
    import torch

    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    width, vocabulary = shape.d_model, min(shape.d_vocab, 8192)
    n_blocks = 2 if shape.block_parameters < 1e7 else 1
    known = {"device": str(place), "weight_bytes": torch.finfo(kind).bits // 8}
    needed = LOADING * 4 * (n_blocks * shape.block_parameters + 2 * width * vocabulary) + 0.3e9
    free = _free_memory()
    if needed > free:
        why = f"One block of '{shape.name}' needs {needed / 1e9:.1f} GB to be timed, {free / 1e9:.1f} GB are free."
        return Speed(**known, reason=why)
    model = _random_blocks(shape, n_blocks, str(place), str(kind))
    n_layers = shape.n_layers / n_blocks
    rows = max(2, min(64, int(1e10 / (32 * n_blocks * shape.block_parameters))))
    tokens = torch.zeros(rows, 32, dtype=torch.int64, device=place)
    hooks = noise_hooks(model, range(n_blocks), 0.1, seed=0, sample_ids=range(rows))

    wide = min(4 * rows, 256)
    prompts = [list(range(1, 17))] * wide

    def passes() -> Any:
        return model(tokens, stop_at_layer=n_blocks)

    def noised() -> None:
        with model.hooks(fwd_hooks=hooks):
            passes()

    def decoded() -> Any:
        return generate(model, prompts, max_new_tokens=5, sample_ids=range(wide), seed=0)

    with torch.inference_mode():
        forward = _best(passes) / tokens.numel() / n_blocks
        noise = max(_best(noised) / tokens.numel() / n_blocks - forward, 0.05 * forward)
        weight = torch.randn(width, vocabulary, device=place, dtype=kind)
        hidden = torch.randn(256, width, device=place, dtype=kind)
        share = shape.d_vocab / vocabulary / len(hidden)
        logits = _best(lambda: (hidden @ weight).double().log_softmax(-1)) * share
        uniforms = torch.rand(256, dtype=torch.float64, device=place)
        draw = _best(lambda: Sampling().choose(hidden @ weight, uniforms)) * share
        prompt = forward * n_blocks * 16 * wide
        whole = _best(decoded)
        # The first token comes with the prompt.
        decode = max(whole - prompt, whole / 3) / (4 * wide) * n_layers + draw
        left, right = torch.randn(1024, 384, device=place), torch.randn(384, 1536, device=place)
        product = _best(lambda: left @ right) / (1024 * 384 * 1536)
    probe = _best(_probe_job(width, str(place))) / 2048
    return Speed(forward * shape.n_layers, logits, noise, decode, probe, product, **known)


def _random_blocks(shape: Shape, n_blocks: int, device: str, dtype: str) -> Any:
    """Return blocks of a shape's widths as a Llama, or a NeoX without the gate, with next to no vocabulary."""
    from transformers import GPTNeoXConfig, LlamaConfig

    # Widths that heads do not divide (planted models) are rounded up.
    width = -(-shape.d_model // shape.n_heads) * shape.n_heads
    settings: dict[str, Any] = {"hidden_size": width, "intermediate_size": shape.d_mlp, "vocab_size": 64}
    settings |= {"num_hidden_layers": n_blocks, "num_attention_heads": shape.n_heads, "max_position_embeddings": 64}
    settings |= {"bos_token_id": 0, "eos_token_id": 1}
    heads: dict[str, Any] = {"num_key_value_heads": shape.n_key_value_heads, "head_dim": shape.d_head}
    # A quarter of a head, NeoX's own share, can be an odd number of channels.
    whole = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    config = LlamaConfig(**settings, **heads) if shape.gated_mlp else GPTNeoXConfig(**settings, rope_parameters=whole)
    tokenizer = read_tokenizer(ZOO / "tokenizer")
    return load(draw_weights(config, seed=0), device=device, dtype=dtype, tokenizer=tokenizer, parity=False)


def _probe_job(width: int, device: str) -> Callable[[], Any]:
    features = np.random.default_rng(0).standard_normal((1024, 2, width), dtype=np.float32)
    inputs = Inputs(features, (np.zeros((2, width)), np.ones((2, width))), device)
    items = Labelled(np.arange(1024)[:, None], np.arange(1024) % 17)
    start = start_weights(2, (width, 128, 17), seed=0)
    return lambda: train_probes(inputs, items, start, ProbeConfig(epochs=1))


def _best(call: Callable[[], Any]) -> float:
    """Return the least of a few timings, after a call that warms up."""
    import torch

    def once() -> float:
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    first = once()
    # What takes long needs no warming up, and is disturbed less.
    return min([first] if first > 1 else [once() for _ in range(5 if first < 0.1 else 2)])


def _free_memory() -> float:
    import psutil  # comes with accelerate

    return float(psutil.virtual_memory().available)
