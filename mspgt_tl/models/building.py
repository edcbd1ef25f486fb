"""Builds what TransformerLens hooks out of a transformers model, and remembers where it came from.

This is the only file that builds a `HookedTransformer` or a `TransformerBridge`, so leaving `HookedTransformer`, which
TransformerLens 4.0 removed, is a change to this file.

BOS is decided once per model, from its own tokenizer before TransformerLens touches it (`HookedTransformer` reloads
tokenizers so that they add a BOS to every family).
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError, ModelError
from mspgt_tl.models.families import FAMILIES, find_family
from mspgt_tl.models.parity import check_parity, observe
from mspgt_tl.models.placement import choose_dtype, is_out_of_memory
from mspgt_tl.models.tokenizer_files import settle_bos
from mspgt_tl.models.tokens import adds_bos

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
    revision: str | None = None
    """Commit of a model from the hub."""
    trust_remote_code: bool = False
    """Whether code that came with the model was allowed to run."""
    deviation: float | None = None
    """Largest relative deviation from the Hugging Face model in the parity check; None where it was not made."""


PROVENANCE: WeakKeyDictionary[Any, Provenance] = WeakKeyDictionary()


def assemble(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
    *,
    parity: bool = True,
    **origin: Any,
) -> CausalModel:
    """Return a transformers model as one of TransformerLens's, checked against the original unless `parity` is off.

    Raises:
        ModelError: TransformerLens cannot take it over, or computes something else.
    """
    build = _build_bridge if backend == "bridge" else _build_hooked
    deviation = None
    try:
        # Before the build: a bridge takes the original apart.
        reference = observe(hf_model) if parity else None
        model = build(hf_model, tokenizer, name, device, dtype)
        model.eval().requires_grad_(False)
        if reference:
            deviation = check_parity(model, reference, name, backend)
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError, TypeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"TransformerLens cannot take over '{name}': {error}") from error
    return finish(model, tokenizer, name, deviation=deviation, **origin)


def hooked_types() -> tuple[Any, Any]:
    """Return `HookedTransformer` and its config type.

    Raises:
        ConfigError: this TransformerLens has none.
    """
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError as error:
        raise ConfigError(
            "This TransformerLens has no HookedTransformer, which 4.0 removed: use backend='bridge', or install "
            "'transformer-lens<4'."
        ) from error
    return HookedTransformer, HookedTransformerConfig


def _build_hooked(
    hf_model: PreTrainedModel, _tokenizer: Any, name: str, device: torch.device, dtype: torch.dtype
) -> Any:
    family = find_family(hf_model.config)
    settings = family.settings(hf_model.config) | {"original_architecture": family.architecture}
    model = _without_weights(settings, model_name=name, device=str(device), dtype=dtype)
    state = family.convert(hf_model, model.cfg)
    # TransformerLens leaves what a conversion forgot at its initial value; that is right for biases only (zero).
    forgotten = [key for key, _ in model.named_parameters() if key not in state and ".b_" not in key]
    if forgotten:
        raise ModelError(f"TransformerLens's conversion of '{name}' gives no {', '.join(forgotten[:3])}.")
    # TransformerLens's own loading, without any of its processing, gives the same but walks all modules once a key.
    model.load_state_dict(state, strict=False)
    return lay_out(model)


def _without_weights(settings: Mapping[str, Any], **more: Any) -> Any:
    """Return a `HookedTransformer`, silent on what TransformerLens 3.9 says of every one: that 4.0 is without it."""
    HookedTransformer, HookedTransformerConfig = hooked_types()
    cfg = HookedTransformerConfig(**settings, **more, init_weights=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"HookedTransformer", category=DeprecationWarning)
        # Without a tokenizer: TransformerLens would reload it with a BOS that the model was not trained with.
        return HookedTransformer(cfg)


def lay_out(model: Any) -> Any:
    """Store the matrices of a `HookedTransformer` in the order its forward pass reads them, and return the model.

    TransformerLens transposes most of them at every pass: a copy of all weights, and longer than the pass itself
    where it is over a few tokens, as in decoding (measured on SmolLM2-135M: 2.1 times). Transposed storage makes those
    copies views; values, names and shapes stay, and every product is the same to the bit.
    """
    gated = bool(getattr(model.cfg, "gated_mlp", False))
    transposed = ("W_Q", "W_K", "W_V", "W_U", *(("W_gate", "W_in", "W_out") if gated else ()))
    for name, weight in model.named_parameters():
        kind = name.rpartition(".")[2].lstrip("_")
        if kind in transposed:
            weight.data = weight.data.transpose(-1, -2).contiguous().transpose(-1, -2)
        elif kind == "W_O":
            weight.data = weight.data.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    return model


def from_state(
    settings: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, name: str
) -> CausalModel:
    """Return a `HookedTransformer` with these weights, on the CPU in float32.

    Raises:
        ModelError: weights are missing, or there are too many.
    """
    model = _without_weights(settings, model_name=name, device="cpu")
    missing = model.load_state_dict(dict(state), strict=False)
    if missing.unexpected_keys:
        raise ModelError(f"'{name}' has no weights {', '.join(missing.unexpected_keys[:3])}.")
    forgotten = sorted(set(missing.missing_keys) & {key for key, _ in model.named_parameters()})
    if forgotten:
        raise ModelError(f"'{name}' needs weights {', '.join(forgotten[:3])}.")
    return finish(lay_out(model), tokenizer, name)


def _build_bridge(hf_model: Any, tokenizer: Any, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    hf_model.set_attn_implementation("eager")  # the only one that shows attention patterns
    boot: Any = TransformerBridge.boot_transformers
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    model = boot(name, hf_model=hf_model.to(**place), tokenizer=_stand_in(tokenizer, name), **place)
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


def is_bridge(model: Any) -> bool:
    """Whether a model is a `TransformerBridge`, and not a `HookedTransformer`."""
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(model, TransformerBridge)


def finish(model: Any, tokenizer: PreTrainedTokenizerBase, name: str, **origin: Any) -> CausalModel:
    """Give a freshly built model its own tokenizer and record where it came from."""
    tokenizer = copy.deepcopy(tokenizer)
    # On "left", TransformerLens would guess a mask from pad ids, which are often also BOS or EOS.
    tokenizer.padding_side = "right"
    settle_bos(tokenizer)
    own = adds_bos(tokenizer)
    family = next((f for f in FAMILIES.values() if f.architecture == architecture(model.cfg)), None)
    by_convention = family is not None and family.trained_with_bos and tokenizer.bos_token_id is not None
    if is_bridge(model):
        # The bridge's own setter would reload the tokenizer with a BOS and resize d_vocab to it.
        model._tokenizer = tokenizer
    else:
        model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = own
    model.cfg.default_prepend_bos = own or by_convention
    PROVENANCE[model] = Provenance(name, prepends_bos=own or by_convention, **origin)
    model.eval().requires_grad_(False)
    return model


def guess_bos(model: Any) -> bool:
    """Decide on a BOS where the original tokenizer is not known any more.

    TransformerLens may have made the tokenizer add one, so the known families go before the tokenizer.
    """
    kind, tokenizer = architecture(model.cfg), model.tokenizer
    if tokenizer is None or kind in ("GPTNeoXForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        return False
    return kind == FAMILIES["gpt2"].architecture or adds_bos(tokenizer)


def adopt(given: Any, device: Any, dtype: Any) -> CausalModel:
    """Take over a TransformerLens model as it is.

    A LayerNorm model whose embedding is centred is refused, since centring moves the residual stream; folding alone
    does not, and RMSNorm models are never centred.
    """
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    known: tuple[type, ...] = (TransformerBridge,)
    with contextlib.suppress(ConfigError):
        known = (TransformerBridge, hooked_types()[0])
    if hasattr(given, "peft_config"):
        raise ModelError("A peft model is a base with an adapter. Merge it first: load(model.merge_and_unload()).")
    if not isinstance(given, known):
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
    if model not in PROVENANCE:
        PROVENANCE[model] = Provenance(name, guess_bos(model), weight_processing="folded" if folded else "none")
    model.eval().requires_grad_(False)
    return model


def _is_centred(embedding: Tensor) -> bool:
    """Return whether every row has mean zero up to rounding; trained rows are off by orders of magnitude more."""
    rows = embedding.detach().float()
    return bool(rows.mean(-1).abs().max() < 1e-2 * rows.std() / rows.shape[-1] ** 0.5)


def architecture(cfg: Any) -> str:
    """Return the class name in transformers of what a TransformerLens config describes."""
    return getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", None) or "custom"


def provenance(model: CausalModel) -> Provenance:
    """Return where a model came from; a guess for TransformerLens objects that were not loaded here."""
    if model not in PROVENANCE:
        PROVENANCE[model] = Provenance(str(model.cfg.model_name), guess_bos(model), weight_processing="unknown")
    return PROVENANCE[model]
