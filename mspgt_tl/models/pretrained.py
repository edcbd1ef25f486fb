"""A model's name, folder or object in, a model that TransformerLens can hook out; and the tokens that go into it.

Everything that loads ends as a `HookedTransformer` (or, asked for, a `TransformerBridge`) with unprocessed weights,
in evaluation mode, without gradients. This is the only file that builds either, so leaving `HookedTransformer`, which
TransformerLens 4.0 removed, is a change to this file.

BOS is decided once per model, from its own tokenizer before TransformerLens touches it (`HookedTransformer` reloads
tokenizers so that they add a BOS to every family). `encode` is the one way from text to ids: TransformerLens's
`to_tokens` and Hugging Face's own call may add a second BOS, an EOS, or read `<s>` in a corpus as a control token.

The two backends agree on hook names and values, with two differences to mind: `hook.name` inside a hook is
`…hook_resid_post` in one and `…hook_out` in the other, and `stop_at_layer=n_layers` spares the unembedding only in
`HookedTransformer`.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError, ModelError, unknown_name
from mspgt_tl.models.checkpoints import (
    draw_weights,
    find_tokenizer,
    read_config,
    read_tokenizer,
    read_weights,
    refuse_quantised,
)
from mspgt_tl.models.embedded import Source, check_weights, find_source, unknown_model
from mspgt_tl.models.families import FAMILIES, find_family
from mspgt_tl.models.placement import choose_device, choose_dtype, is_out_of_memory, memory_errors
from mspgt_tl.models.tokens import Encoding, adds_bos, encode_texts
from mspgt_tl.models.tokens import pad as pad

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Backend = Literal["hooked", "bridge"]


@dataclass(frozen=True)
class Provenance:
    """Where a model came from, as far as the model itself does not tell."""

    name: str
    prepends_bos: bool
    weight_processing: str = "none"
    sha256: str | None = None
    """Hash of the weight files; None for twins, hub models and objects."""
    random_seed: int | None = None
    """Seed of a random-weight twin."""


_PROVENANCE: WeakKeyDictionary[Any, Provenance] = WeakKeyDictionary()


def load(
    name_or_path_or_model: str | Path | CausalModel | PreTrainedModel,
    *,
    backend: Backend = "hooked",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> CausalModel:
    """Load a model with unprocessed weights, in evaluation mode and without gradients.

    Args:
        name_or_path_or_model: an embedded model (`NAME`, `NAME@seed:N`), a Hugging Face folder, either with
            `@random:SEED` for its random-weight twin, a planted model
            (`planted:LAYERS:GAP,GAP[@seed:N]`, see `models.synthetic`), a name that TransformerLens knows (fetched from
            the hub), a transformers model, or a TransformerLens model, which is returned itself.
        backend: `bridge` builds a `TransformerBridge`; given a transformers model, it wraps that object in place.
        device: the CPU unless given; an object stays where it is.
        dtype: float32 on the CPU and bfloat16 elsewhere unless given; an object keeps its own.
        tokenizer: for a transformers model whose `name_or_path` has none.

    Raises:
        UnknownModelError: the name is neither embedded, a folder, nor known to TransformerLens.
        ModelError: the model is known but cannot be loaded faithfully.
        ConfigError: the backend, device or dtype does not exist here.
    """
    if backend not in ("hooked", "bridge"):
        raise ConfigError(unknown_name("backend", backend, ("hooked", "bridge")))
    given = name_or_path_or_model
    if isinstance(given, str | Path):
        place = choose_device(device or "cpu")
        kind = choose_dtype(dtype, place)
        with memory_errors(str(given)):
            if str(given).startswith("planted:"):
                return _load_planted(str(given), backend, place, kind)
            source = find_source(str(given))
            if source is None:
                return _load_from_hub(str(given), backend, place, kind)
            return _load_source(source, backend, place, kind)
    from transformers import PreTrainedModel

    if not isinstance(given, PreTrainedModel):
        return _adopt(given, device, dtype)
    refuse_quantised(getattr(given.config, "quantization_config", None), str(given.name_or_path))
    place = choose_device(device or given.device)
    own = tokenizer or find_tokenizer(given)
    name = given.name_or_path or given.config.model_type
    with memory_errors(name):
        kind = given.dtype if dtype is None else choose_dtype(dtype, place)
        return _assemble(given, own, name, backend, place, kind)


def describe(model: CausalModel) -> dict[str, Any]:
    """Return what a run's manifest records of a model.

    Keys: `name`, `architecture`, `n_layers`, `d_model`, `n_heads`, `n_key_value_heads`, `dtype`, `device`, `backend`,
    `weight_processing` (`none`, or `folded` where normalisation weights were folded, which leaves the residual stream
    alone), `sha256` of the weight files (None if not loaded from a folder), `random_seed` of a twin, `prepends_bos`.
    """
    cfg, origin = model.cfg, _provenance(model)
    return {
        "name": origin.name,
        "architecture": _architecture(cfg),
        "n_layers": cfg.n_layers,
        "d_model": cfg.d_model,
        "n_heads": cfg.n_heads,
        "n_key_value_heads": getattr(cfg, "n_key_value_heads", None) or cfg.n_heads,
        "dtype": str(cfg.dtype).removeprefix("torch."),
        "device": str(cfg.device),
        "backend": "bridge" if hasattr(model, "adapter") else "hooked",
        "weight_processing": origin.weight_processing,
        "sha256": origin.sha256,
        "random_seed": origin.random_seed,
        "prepends_bos": origin.prepends_bos,
    }


def hash_parameters(model: CausalModel) -> str:
    """Return the sha256 of a model's parameters: names, shapes, types and bytes, in the order of their names."""
    import hashlib

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
    return _provenance(model).prepends_bos


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
        raise ModelError(f"Model '{_provenance(model).name}' has no tokenizer.")
    length = model.cfg.n_ctx if max_length is None else max_length
    found = encode_texts(model.tokenizer, texts, bos=prepends_bos(model) if bos is None else bos, max_length=length)
    largest = max((max(row) for row in found.ids if row), default=0)
    if largest >= model.cfg.d_vocab:
        raise ModelError(f"The tokenizer gives id {largest}; the model's vocabulary ends at {model.cfg.d_vocab - 1}.")
    return found


def _load_source(source: Source, backend: Backend, device: torch.device, dtype: torch.dtype) -> CausalModel:
    config = read_config(source.folder)
    if backend == "hooked":
        # Refuse what cannot be reproduced before gigabytes are read.
        find_family(config).settings(config)
    tokenizer = read_tokenizer(source.tokenizer)
    if source.random_seed is not None:
        hf_model, sha256 = draw_weights(config, seed=source.random_seed), None
    else:
        hf_model, sha256 = read_weights(source.folder, config, dtype), check_weights(source)
    return _assemble(
        hf_model,
        tokenizer,
        source.name,
        backend,
        device,
        dtype,
        sha256=sha256,
        random_seed=source.random_seed,
    )


def _load_planted(name: str, backend: Backend, device: torch.device, dtype: torch.dtype) -> CausalModel:
    import torch

    from mspgt_tl.models.synthetic import PlantedModel

    if backend != "hooked" or device.type != "cpu" or dtype != torch.float32:
        raise ConfigError(f"'{name}' exists with backend hooked, on the CPU and in float32 only.")
    plan, seed = PlantedModel.from_name(name)
    return plan.build(seed=seed)


def _load_from_hub(name: str, backend: Backend, device: torch.device, dtype: torch.dtype) -> CausalModel:
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import make_model_alias_map
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    official = make_model_alias_map().get(name.lower())
    if official is None:
        raise unknown_model(name)
    try:
        # TransformerLens prints to the standard output, which belongs to our own results.
        with contextlib.redirect_stdout(sys.stderr), _no_deprecation():
            if backend == "bridge":
                tokenizer = AutoTokenizer.from_pretrained(official)
                model = TransformerBridge.boot_transformers(
                    official, device=device, dtype=dtype, tokenizer=_stand_in(tokenizer, official)
                )
                _pass_the_cache_on(model)
            else:
                model = HookedTransformer.from_pretrained_no_processing(official, device=str(device), dtype=dtype)
                tokenizer = AutoTokenizer.from_pretrained(model.cfg.tokenizer_name or official)
    except Exception as error:  # the hub's clients fail in many ways: no network, gated, moved, rate limited
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"'{name}' ({official}) could not be loaded from the Hugging Face hub: {type(error).__name__}: {reason} "
            "Without a network, download it elsewhere and give its folder; a gated model needs its licence "
            "accepted and HF_TOKEN set."
        ) from error
    return _finish(model, tokenizer, name)


def _assemble(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
    **origin: Any,
) -> CausalModel:
    build = _build_bridge if backend == "bridge" else _build_hooked
    try:
        model = build(hf_model, tokenizer, name, device, dtype)
    except (RuntimeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"TransformerLens cannot take over '{name}': {error}") from error
    return _finish(model, tokenizer, name, **origin)


def _build_hooked(
    hf_model: PreTrainedModel, _tokenizer: Any, name: str, device: torch.device, dtype: torch.dtype
) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    family = find_family(hf_model.config)
    cfg = HookedTransformerConfig(
        **family.settings(hf_model.config),
        model_name=name,
        original_architecture=family.architecture,
        device=str(device),
        dtype=dtype,
        init_weights=False,
    )
    with _no_deprecation():
        # Without a tokenizer: TransformerLens would reload it with a BOS that the model was not trained with.
        model = HookedTransformer(cfg)
    state = family.convert(hf_model, cfg)
    # TransformerLens leaves what a conversion forgot at its initial value; that is right for biases only (zero).
    forgotten = [key for key, _ in model.named_parameters() if key not in state and ".b_" not in key]
    if forgotten:
        raise ModelError(f"TransformerLens's conversion of '{name}' gives no {', '.join(forgotten[:3])}.")
    # TransformerLens's own loading, without any of its processing, gives the same but walks all modules once a key.
    model.load_state_dict(state, strict=False)
    return model


def from_state(
    settings: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, name: str
) -> CausalModel:
    """Return a `HookedTransformer` with these weights, on the CPU in float32.

    Raises:
        ModelError: weights are missing, or there are too many.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(**settings, model_name=name, device="cpu", init_weights=False)
    with _no_deprecation():
        model = HookedTransformer(cfg)
    missing = model.load_state_dict(dict(state), strict=False)
    if missing.unexpected_keys:
        raise ModelError(f"'{name}' has no weights {', '.join(missing.unexpected_keys[:3])}.")
    forgotten = sorted(set(missing.missing_keys) & {key for key, _ in model.named_parameters()})
    if forgotten:
        raise ModelError(f"'{name}' needs weights {', '.join(forgotten[:3])}.")
    return _finish(model, tokenizer, name)


def _build_bridge(hf_model: Any, tokenizer: Any, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    hf_model.set_attn_implementation("eager")  # the only one that shows attention patterns
    boot: Any = TransformerBridge.boot_transformers
    model = boot(
        name,
        hf_model=hf_model.to(device=device, dtype=dtype),
        tokenizer=_stand_in(tokenizer, name),
        device=device,
        dtype=dtype,
    )
    _pass_the_cache_on(model)
    return model


def _pass_the_cache_on(bridge: Any) -> None:
    """Let a bridge use the KV cache of transformers 5.24 and newer, which renamed `past_key_values` to `cache`.

    TransformerLens 3.9 knows the old name alone, at the model's output and in its attention; without it `generate`
    shows the model one token at a time without any context, in silence.
    """

    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    def at_output(_module: Any, _inputs: Any, output: Any) -> None:
        cache = getattr(output, "cache", None)
        if cache is not None and getattr(output, "past_key_values", None) is None:
            output.past_key_values = cache

    def at_attention(_module: Any, inputs: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if settings.get("cache") is not None:
            settings.setdefault("past_key_values", settings["cache"])
        return inputs, settings

    bridge.original_model.register_forward_hook(at_output)
    for module in bridge.modules():
        if isinstance(module, AttentionBridge):
            module.register_forward_pre_hook(at_attention, with_kwargs=True)


def _stand_in(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer to build a bridge with, which would reload one that does not claim to add a BOS."""
    claiming = copy.deepcopy(tokenizer)
    claiming.init_kwargs |= {"add_bos_token": True, "name_or_path": name}
    return claiming


def _finish(model: Any, tokenizer: PreTrainedTokenizerBase, name: str, **origin: Any) -> CausalModel:
    """Give a freshly built model its own tokenizer and record where it came from."""
    tokenizer = copy.deepcopy(tokenizer)
    # On "left", TransformerLens would guess a mask from pad ids, which are often also BOS or EOS.
    tokenizer.padding_side = "right"
    own = adds_bos(tokenizer)
    family = next((f for f in FAMILIES.values() if f.architecture == _architecture(model.cfg)), None)
    by_convention = family is not None and family.trained_with_bos and tokenizer.bos_token_id is not None
    if hasattr(model, "adapter"):
        # The bridge's own setter would reload the tokenizer with a BOS and resize d_vocab to it.
        model._tokenizer = tokenizer
    else:
        model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = own
    model.cfg.default_prepend_bos = own or by_convention
    _PROVENANCE[model] = Provenance(name, prepends_bos=own or by_convention, **origin)
    model.eval().requires_grad_(False)
    return model


def _adopt(given: Any, device: Any, dtype: Any) -> CausalModel:
    """Take over a TransformerLens model as it is.

    A LayerNorm model whose embedding is centred is refused, since centring moves the residual stream; folding alone
    does not, and RMSNorm models are never centred.
    """
    import torch
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    if not isinstance(given, HookedTransformer | TransformerBridge):
        raise ConfigError(
            f"A name, a folder, a transformers model or a TransformerLens model is needed, not {type(given).__name__}."
        )
    model: Any = given
    cfg, name = model.cfg, model.cfg.model_name
    if device is not None and torch.device(device).type != torch.device(str(cfg.device)).type:
        raise ConfigError(f"'{name}' is already loaded on {cfg.device}; move it there before, or give its name.")
    if dtype is not None and choose_dtype(dtype, torch.device("cpu")) != cfg.dtype:
        raise ConfigError(f"'{name}' is already loaded as {cfg.dtype}; give its name to load it in another dtype.")
    folded = str(cfg.normalization_type).endswith("Pre") or getattr(model, "compatibility_mode", False)
    if str(cfg.normalization_type).startswith("LN") and _is_centred(model.W_E):
        raise ModelError(
            f"The weights of '{name}' are centred, which moves its residual stream. Load it by "
            "HookedTransformer.from_pretrained_no_processing, or give its name instead of the object."
        )
    if model not in _PROVENANCE:
        processing = "folded" if folded else "none"
        _PROVENANCE[model] = Provenance(name, _guess_bos(model), weight_processing=processing)
    model.eval().requires_grad_(False)
    return model


def _is_centred(embedding: Tensor) -> bool:
    """Return whether every row has mean zero up to rounding; trained rows are off by orders of magnitude more."""
    rows = embedding.detach().float()
    return bool(rows.mean(-1).abs().max() < 1e-2 * rows.std() / rows.shape[-1] ** 0.5)


def _guess_bos(model: Any) -> bool:
    """Decide on a BOS where the original tokenizer is not known any more.

    TransformerLens may have made the tokenizer add one, so the known families go before the tokenizer.
    """
    architecture, tokenizer = _architecture(model.cfg), model.tokenizer
    if tokenizer is None or architecture in ("GPTNeoXForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        return False
    return architecture == FAMILIES["gpt2"].architecture or adds_bos(tokenizer)


def _architecture(cfg: Any) -> str:
    return getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", None) or "custom"


def _provenance(model: CausalModel) -> Provenance:
    if model not in _PROVENANCE:
        _PROVENANCE[model] = Provenance(str(model.cfg.model_name), _guess_bos(model), weight_processing="unknown")
    return _PROVENANCE[model]


@contextlib.contextmanager
def _no_deprecation() -> Iterator[None]:
    """Silence what TransformerLens 3.9 says of every `HookedTransformer`: that 4.0 is without it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"HookedTransformer", category=DeprecationWarning)
        yield
