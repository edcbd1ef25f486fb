"""How large a model is, told without its weights, and a small random model of the same make to time things on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ModelError
from mspgt_tl.models.checkpoints import draw_weights
from mspgt_tl.models.embedded import ZOO
from mspgt_tl.models.families import find_family
from mspgt_tl.models.names import find_source
from mspgt_tl.models.pretrained import find_files, load, read_supported
from mspgt_tl.models.tokenizer_files import read_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

VOCABULARY = 4096
"""Entries of the embedded tokenizer, which models made to be timed read text with."""


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
        """Weights of the matrices in one block; also the multiply-adds of a position there, attention left out."""
        attention = 2 * (self.n_heads + self.n_key_value_heads) * self.d_head
        return self.d_model * (attention + (3 if self.gated_mlp else 2) * self.d_mlp)

    def shrunk(self, *, n_layers: int, block_parameters: float) -> Shape:
        """Return a shape of the same make with at most so many blocks of about so many weights, and fewer words."""
        by = max(1, round(math.sqrt(self.block_parameters / block_parameters)))
        heads, groups = max(1, self.n_heads // by), max(1, self.n_key_value_heads // by)
        width = max(1, self.d_model // by)
        return replace(
            self,
            n_layers=min(n_layers, self.n_layers),
            # Widths that heads do not divide (planted models) are rounded up.
            d_model=-(-width // heads) * heads,
            n_heads=heads,
            n_key_value_heads=groups if heads % groups == 0 else 1,
            d_mlp=max(1, self.d_mlp // by),
            d_vocab=max(VOCABULARY, min(self.d_vocab, int(2e7 / width))),
        )


def shape_of(name: str) -> Shape:
    """Return the size of anything that `load` takes by name, or of a `config.json`, from its configuration.

    Raises:
        UnknownModelError: nothing stands behind the name.
        ModelError: the configuration cannot be had, or is of a type that cannot be loaded.
    """
    if name.startswith("planted:"):
        # Set by formula within the package: there is nothing to read but the small model itself.
        model: Any = load(name)
        return _shape(name, vars(model.cfg), sum(p.numel() for p in model.parameters()), tied=False)
    path = Path(name).expanduser()
    described = find_source(str(path.parent)) if path.name == "config.json" else None
    source = described or find_files(name, weights=False)
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


def _count_stored(file: Any) -> int:
    """Return how many parameters a safetensors file holds, from its header."""
    from safetensors import SafetensorError, safe_open

    # Old checkpoints hold masks and frequencies beside the weights.
    buffers = ("inv_freq", ".attn.bias", ".attention.bias", "masked_bias")
    try:
        with safe_open(file, framework="numpy") as stored:
            names = [name for name in stored.keys() if not name.endswith(buffers)]  # noqa: SIM118
            return sum(math.prod(stored.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ModelError(f"{file} holds no weights that can be read: {error}. Fetch the model again.") from error


def _count_parameters(config: PretrainedConfig) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config, trust_remote_code=False).parameters())


def random_model(shape: Shape, *, device: str = "cpu", dtype: str | None = None) -> CausalModel:
    """Return a model of a shape with random weights: a Llama, or a NeoX without the gate. Its values mean nothing.

    It reads text with the embedded tokenizer, so the shape's vocabulary holds at least `VOCABULARY` words.
    """
    from transformers import GPTNeoXConfig, LlamaConfig

    settings: dict[str, Any] = {
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_mlp,
        "vocab_size": shape.d_vocab,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "max_position_embeddings": min(shape.n_ctx, 512),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
        # With the usual 0.02 narrow models of few blocks would read every token alike.
        "initializer_range": 0.5 / math.sqrt(shape.d_model),
    }
    heads: dict[str, Any] = {"num_key_value_heads": shape.n_key_value_heads, "head_dim": shape.d_head}
    # A quarter of a head, NeoX's own share, can be an odd number of channels.
    whole = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    config = LlamaConfig(**settings, **heads) if shape.gated_mlp else GPTNeoXConfig(**settings, rope_parameters=whole)
    tokenizer = read_tokenizer(ZOO / "tokenizer")
    return load(draw_weights(config, seed=0), device=device, dtype=dtype, tokenizer=tokenizer, parity=False)
