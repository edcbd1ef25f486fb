"""A model's name, folder or object in, a model that TransformerLens can hook out; and the tokens that go into it.

Everything that loads ends as a `HookedTransformer` (or, asked for, a `TransformerBridge`) with unprocessed weights,
in evaluation mode, without gradients, and has been compared with the Hugging Face model it came from
(`models.parity`). No code that comes with a model is run unless that is asked for.

`encode` is the one way from text to ids: TransformerLens's `to_tokens` and Hugging Face's own call may add a second
BOS, an EOS, or read `<s>` in a corpus as a control token.

The two backends agree on hook names and values, with two differences to mind: `hook.name` inside a hook is
`…hook_resid_post` in one and `…hook_out` in the other, and `stop_at_layer=n_layers` spares the unembedding only in
`HookedTransformer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError, ModelError, unknown_name
from mspgt_tl.models.building import Backend, adopt, architecture, assemble, is_bridge, provenance
from mspgt_tl.models.checkpoints import draw_weights, read_config, read_weights, refuse_changed, refuse_quantised
from mspgt_tl.models.families import find_family
from mspgt_tl.models.gguf_files import read_gguf_config, read_gguf_tokenizer, read_gguf_weights
from mspgt_tl.models.hub import fetch
from mspgt_tl.models.names import Source, check_weights, find_hub, find_source, unknown_model
from mspgt_tl.models.placement import choose_device, choose_dtype, memory_errors
from mspgt_tl.models.synthetic import PlantedModel
from mspgt_tl.models.tokenizer_files import read_tokenizer, refuse_foreign
from mspgt_tl.models.tokens import Encoding, encode_texts

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load(
    name_or_path_or_model: str | Path | CausalModel | PreTrainedModel,
    *,
    backend: Backend = "hooked",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    parity: bool = True,
    trust_remote_code: bool = False,
) -> CausalModel:
    """Load a model with unprocessed weights, in evaluation mode and without gradients.

    Args:
        name_or_path_or_model: an embedded model (`NAME`, `NAME@seed:N`), a Hugging Face folder, a GGUF file, a hub name
            (`OWNER/NAME`, or one that TransformerLens has; `@revision:COMMIT` pins it), any of them with `@random:SEED`
            for its random-weight twin, a planted model (`planted:LAYERS:GAP,GAP[@seed:N]`, see `models.synthetic`), a
            transformers model, or a TransformerLens model, which is returned itself.
        backend: `bridge` builds a `TransformerBridge`; given a transformers model, it wraps that object in place.
        device: the CPU unless given; an object stays where it is.
        dtype: float32 on the CPU and bfloat16 elsewhere unless given; an object keeps its own.
        tokenizer: for a transformers model whose `name_or_path` has none.
        parity: compare residuals and logits of a few short rows with the Hugging Face model's (`models.parity`).
        trust_remote_code: run code that comes with the model (`auto_map`); recorded in every manifest.

    Raises:
        UnknownModelError: the name is neither embedded, a file or folder, nor on the hub.
        ModelError: the model is known but cannot be loaded faithfully.
        ConfigError: the backend, device or dtype does not exist here.

    See Also:
        list_embedded: the models that ship with the package.
        mspgt_tl.measure, mspgt_tl.detect: what to do with one.

    Example:
        >>> import mspgt_tl
        >>> mspgt_tl.load("planted:8:3,6").cfg.n_layers
        8
    """
    if backend not in ("hooked", "bridge"):
        raise ConfigError(unknown_name("backend", backend, ("hooked", "bridge")))
    given = name_or_path_or_model
    if isinstance(given, str | Path):
        name, place = str(given), choose_device(device or "cpu")
        kind = choose_dtype(dtype, place)
        with memory_errors(name):
            if name.startswith("planted:"):
                return _load_planted(name, backend, place, kind)
            check = partial(read_supported, backend=backend, trust_remote_code=trust_remote_code)
            source = find_files(name, check=check, code=trust_remote_code)
            return _load_source(source, backend, place, kind, parity=parity, trust_remote_code=trust_remote_code)
    from transformers import PreTrainedModel

    if not isinstance(given, PreTrainedModel):
        return adopt(given, device, dtype)
    name = str(given.name_or_path or given.config.model_type)
    refuse_quantised(getattr(given.config, "quantization_config", None), name)
    refuse_changed(given, name)
    place = choose_device(device or given.device)
    own = tokenizer or _find_tokenizer(given)
    with memory_errors(name):
        kind = given.dtype if dtype is None else choose_dtype(dtype, place)
        return assemble(given, own, name, backend, place, kind, parity=parity)


def find_files(name: str, **fetching: Any) -> Source:
    """Return the files behind a name, fetched from the hub as `fetch` is told to where they are not here.

    Raises:
        UnknownModelError: nothing stands behind the name.
        ModelError: the hub does not give it, and why.
    """
    if source := find_source(name):
        return source
    if wanted := find_hub(name):
        return fetch(wanted, **fetching)
    raise unknown_model(name)


def require_blocks(model: CausalModel, least: int, purpose: str) -> None:
    """Refuse a model of too few blocks before any work is done.

    Args:
        purpose: what needs them, such as `"A detection"`.

    Raises:
        ModelError: the model has fewer than `least` blocks.
    """
    if model.cfg.n_layers < least:
        name = provenance(model).name
        raise ModelError(f"{purpose} needs a model of at least {least} blocks; '{name}' has {model.cfg.n_layers}.")


def describe(model: CausalModel) -> dict[str, Any]:
    """Return what a run's manifest records of a model.

    Keys: `name`, `architecture`, `n_layers`, `d_model`, `n_heads`, `n_key_value_heads`, `dtype`, `device`, `backend`,
    `weight_processing` (`none`, or `folded` where normalisation weights were folded, which leaves the residual stream
    alone), `sha256` of the weight files (None if not loaded from files), `random_seed` of a twin, `prepends_bos`,
    `revision` (commit on the hub), `trust_remote_code`.
    """
    cfg, origin = model.cfg, asdict(provenance(model))
    del origin["deviation"]
    shape = {
        "name": origin.pop("name"),
        "architecture": architecture(cfg),
        "n_layers": cfg.n_layers,
        "d_model": cfg.d_model,
        "n_heads": cfg.n_heads,
        "n_key_value_heads": getattr(cfg, "n_key_value_heads", None) or cfg.n_heads,
        "dtype": str(cfg.dtype).removeprefix("torch."),
        "device": str(cfg.device),
        "backend": "bridge" if is_bridge(model) else "hooked",
    }
    return shape | origin


def hash_parameters(model: CausalModel) -> str:
    """Return the sha256 of a model's parameters: names, shapes, types and bytes, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def prepends_bos(model: CausalModel) -> bool:
    """Return whether texts for this model start with a BOS.

    True if the model's own tokenizer adds one, and for GPT-2, by TransformerLens's convention; Qwen and Pythia have
    none.
    """
    return provenance(model).prepends_bos


def encode(
    model: CausalModel, texts: Sequence[str], *, bos: bool | None = None, max_length: int | None = None
) -> Encoding:
    """Turn texts into ids with at most one special token: a leading BOS.

    Args:
        bos: whether to prepend a BOS; None follows `prepends_bos`.
        max_length: ids to keep per text, the BOS included; `n_ctx` unless given.

    Raises:
        ModelError: the model has no fast tokenizer, or it gives ids beyond the vocabulary.
        ConfigError: a BOS is asked for and the tokenizer has none, or `max_length` leaves no room.
    """
    if model.tokenizer is None:
        raise ModelError(f"Model '{provenance(model).name}' has no tokenizer.")
    length = model.cfg.n_ctx if max_length is None else max_length
    found = encode_texts(model.tokenizer, texts, bos=prepends_bos(model) if bos is None else bos, max_length=length)
    largest = max((max(row) for row in found.ids if row), default=0)
    if largest >= model.cfg.d_vocab:
        raise ModelError(f"The tokenizer gives id {largest}; the model's vocabulary ends at {model.cfg.d_vocab - 1}.")
    return found


def _load_source(
    source: Source, backend: Backend, device: torch.device, dtype: torch.dtype, *, parity: bool, trust_remote_code: bool
) -> CausalModel:
    config = read_supported(source, backend=backend, trust_remote_code=trust_remote_code)
    trusted: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    tokenizer = read_gguf_tokenizer(source.weights[0]) if source.gguf else read_tokenizer(source.tokenizer, **trusted)
    refuse_foreign(tokenizer, config, source.name)
    sha256 = None
    if source.random_seed is not None:
        hf_model = draw_weights(config, seed=source.random_seed, **trusted)
    elif source.gguf:
        hf_model, sha256 = read_gguf_weights(source.weights[0], config, dtype), check_weights(source)
    else:
        hf_model, sha256 = read_weights(source.folder, config, dtype, **trusted), check_weights(source)
    origin = {"sha256": sha256, "random_seed": source.random_seed, "revision": source.revision, **trusted}
    return assemble(hf_model, tokenizer, source.name, backend, device, dtype, parity=parity, **origin)


def read_supported(source: Source, *, backend: Backend = "hooked", trust_remote_code: bool = False) -> PretrainedConfig:
    """Read a configuration and refuse what cannot be reproduced, before gigabytes of weights are read.

    Raises:
        ModelError: it cannot be read, or TransformerLens would compute something else.
    """
    if source.gguf:
        config = read_gguf_config(source.weights[0])
    else:
        config = read_config(source.folder, trust_remote_code=trust_remote_code)
    if backend == "hooked":
        find_family(config).settings(config)
    return config


def _load_planted(name: str, backend: Backend, device: torch.device, dtype: torch.dtype) -> CausalModel:
    import torch

    if backend != "hooked" or device.type != "cpu" or dtype != torch.float32:
        raise ConfigError(f"'{name}' exists with backend hooked, on the CPU and in float32 only.")
    plan, seed = PlantedModel.from_name(name)
    return plan.build(seed=seed)


def _find_tokenizer(hf_model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer from where a model object came from, a folder or the hub."""
    name = hf_model.name_or_path
    if not name:
        raise ConfigError(f"This {type(hf_model).__name__} has no name_or_path; pass its tokenizer=.")
    if Path(name).is_dir():
        return read_tokenizer(Path(name))
    wanted = find_hub(name)
    if wanted is None:
        raise ModelError(f"No tokenizer found for '{name}', which is neither a folder nor a hub name; pass tokenizer=.")
    return read_tokenizer(fetch(wanted, weights=False).folder)
