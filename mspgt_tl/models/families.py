"""Which Hugging Face architectures become a `HookedTransformer`, and with which settings.

One entry per `model_type`; a new family is a new entry. Every entry is checked against Hugging Face's own residual
stream in `tests/models/test_pretrained.py`. Whatever TransformerLens 3.9 would compute differently is refused by
name: a model that loads is the model that was asked for.

Sliding windows are computed, not capped: TransformerLens's local attention masks the same keys as Hugging Face's.
Biases of the attention projections, which TransformerLens's Llama, Mistral, Qwen3 and Gemma conversions drop, are put
back. Scalings of the rotary embedding other than Llama 3's are refused; TransformerLens has some of them, but their
length-dependent forms differ.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mspgt_tl.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

Settings = dict[str, Any]
"""Keyword arguments of `HookedTransformerConfig`."""

_ACTIVATIONS = {"swish": "silu"} | {
    name: name for name in ("silu", "relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
}


@dataclass(frozen=True)
class Family:
    """How one `model_type` is turned into a `HookedTransformer`."""

    architecture: str
    """Class name in transformers; TransformerLens's `original_architecture`."""
    settings: Callable[[PretrainedConfig], Settings]
    conversion: str
    """The weight conversion in `transformer_lens.pretrained.weight_conversions`."""
    trained_with_bos: bool = False
    """True where a BOS is prepended by convention although the tokenizer does not add it."""

    def convert(self, hf_model: PreTrainedModel, cfg: Any) -> dict[str, Tensor]:
        """Return the weights under TransformerLens's names, nothing folded and nothing centred."""
        conversions = importlib.import_module("transformer_lens.pretrained.weight_conversions")
        state = getattr(conversions, self.conversion)(hf_model, cfg)
        if cfg.gated_mlp and hasattr(hf_model.model.layers[0].self_attn, "q_proj"):
            _restore_attention_biases(state, hf_model, cfg)
        return state


def find_family(config: PretrainedConfig) -> Family:
    """Return the family of a configuration.

    Raises:
        ModelError: the `model_type` is not one of `FAMILIES`.
    """
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"Models of type '{config.model_type}' cannot be loaded as a HookedTransformer. Supported: "
            f"{', '.join(sorted(FAMILIES))}. TransformerLens's bridge knows more types: try backend='bridge'."
        )
    return FAMILIES[config.model_type]


def _refuse(config: PretrainedConfig, what: str) -> ModelError:
    return ModelError(f"{what} in a model of type '{config.model_type}' cannot be reproduced by TransformerLens 3.9.")


def _activation(config: PretrainedConfig, name: str) -> str:
    if name not in _ACTIVATIONS:
        raise _refuse(config, f"The activation '{name}'")
    return _ACTIVATIONS[name]


def _rope_type(parameters: dict[str, Any]) -> str:
    return parameters.get("rope_type") or parameters.get("type") or "default"


def _with_rotary(config: PretrainedConfig, settings: Settings, *, partial: bool = False) -> Settings:
    """Return settings with those of the rotary embedding; a `partial` family rotates only a share of each head."""
    rope = config.rope_parameters
    kind, share = _rope_type(rope), rope.get("partial_rotary_factor") or 1.0
    if kind not in ("default", "llama3"):
        raise _refuse(config, f"Rotary scaling '{kind}'")
    if share != 1.0 and (not partial or kind != "default"):
        raise _refuse(config, f"A partial rotary embedding ({share} of each head)")
    settings = settings | {
        "positional_embedding_type": "rotary",
        "rotary_base": rope["rope_theta"],
        "rotary_dim": int(settings["d_head"] * share),
        "rotary_adjacent_pairs": False,
    }
    if kind == "llama3":
        settings |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    return settings


def _windows(config: PretrainedConfig, layer_types: list[str] | None) -> Settings:
    """Return the local-attention settings; without `layer_types` a window holds in every layer."""
    window = config.sliding_window
    types = layer_types or ["sliding_attention"] * config.num_hidden_layers
    if unknown := set(types) - {"sliding_attention", "full_attention"}:
        raise _refuse(config, f"The attention type '{min(unknown)}'")
    if not window or "sliding_attention" not in types:
        return {}
    return {
        "use_local_attn": True,
        "window_size": window,
        "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in types],
    }


def _sizes(config: PretrainedConfig, activation: str) -> Settings:
    """Return what all families share."""
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "d_head": config.hidden_size // config.num_attention_heads,
        "d_vocab": config.vocab_size,
        "n_ctx": config.max_position_embeddings,
        "act_fn": _activation(config, activation),
    }


def _rms_gated(config: PretrainedConfig, activation: str) -> Settings:
    """Return what Llama and its descendants share."""
    sizes = _sizes(config, activation) | {"n_key_value_heads": config.num_key_value_heads}
    norm = {"eps": config.rms_norm_eps, "normalization_type": "RMS", "final_rms": True, "gated_mlp": True}
    d_head = getattr(config, "head_dim", None) or sizes["d_head"]
    return sizes | norm | {"d_head": d_head, "d_mlp": config.intermediate_size}


def _llama(config: PretrainedConfig) -> Settings:
    if getattr(config, "mlp_bias", False):
        # TransformerLens adds the gated MLP's bias after the product, Llama before it.
        raise _refuse(config, "A bias in the gated MLP")
    return _with_rotary(config, _rms_gated(config, config.hidden_act))


def _mistral(config: PretrainedConfig) -> Settings:
    return _llama(config) | _windows(config, None)


def _qwen2(config: PretrainedConfig) -> Settings:
    return _llama(config) | _windows(config, config.layer_types)


def _qwen3(config: PretrainedConfig) -> Settings:
    return _qwen2(config) | {"use_qk_norm": True}


def _phi3(config: PretrainedConfig) -> Settings:
    return _with_rotary(config, _rms_gated(config, config.hidden_act), partial=True) | _windows(config, None)


def _one_way(config: PretrainedConfig, activation: str) -> Settings:
    """Return what the Gemmas share, which may also be built to look both ways."""
    if getattr(config, "use_bidirectional_attention", None):
        raise _refuse(config, "Bidirectional attention")
    return _rms_gated(config, activation)


def _gemma(config: PretrainedConfig) -> Settings:
    return _with_rotary(config, _one_way(config, config.hidden_act))


def _gemma_2_and_3(config: PretrainedConfig) -> Settings:
    settings = _one_way(config, config.hidden_activation) | {
        "use_normalization_before_and_after": True,
        "attn_scale": config.query_pre_attn_scalar**0.5,
        # TransformerLens's mark for "no cap" is -1.
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
    }
    return settings | _windows(config, config.layer_types)


def _gemma2(config: PretrainedConfig) -> Settings:
    return _with_rotary(config, _gemma_2_and_3(config))


def _gemma3(config: PretrainedConfig) -> Settings:
    for rope in config.rope_parameters.values():
        if _rope_type(rope) != "default":
            raise _refuse(config, f"Rotary scaling '{_rope_type(rope)}'")
    settings = _gemma_2_and_3(config)
    return settings | {
        "use_qk_norm": True,
        "positional_embedding_type": "rotary",
        "rotary_base": config.rope_parameters["full_attention"]["rope_theta"],
        "rotary_base_local": config.rope_parameters["sliding_attention"]["rope_theta"],
        "rotary_dim": settings["d_head"],
        "rotary_adjacent_pairs": False,
    }


def _layer_norm(config: PretrainedConfig, activation: str, eps: float, d_mlp: int | None) -> Settings:
    """Return what GPT-2 and its descendants share."""
    own = {"d_mlp": d_mlp or 4 * config.hidden_size, "eps": eps, "normalization_type": "LN"}
    return _sizes(config, activation) | own


def _gpt2(config: PretrainedConfig) -> Settings:
    if config.add_cross_attention:
        raise _refuse(config, "Cross-attention")
    return _layer_norm(config, config.activation_function, config.layer_norm_epsilon, config.n_inner) | {
        "positional_embedding_type": "standard",
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }


def _neox(config: PretrainedConfig) -> Settings:
    if not config.attention_bias:
        raise _refuse(config, "Attention without biases")
    settings = _layer_norm(config, config.hidden_act, config.layer_norm_eps, config.intermediate_size)
    return _with_rotary(config, settings, partial=True) | {"parallel_attn_mlp": config.use_parallel_residual}


def _phi(config: PretrainedConfig) -> Settings:
    if config.qk_layernorm:
        raise _refuse(config, "Normalised queries and keys")
    if config.num_key_value_heads != config.num_attention_heads:
        raise _refuse(config, "Grouped-query attention")
    settings = _layer_norm(config, config.hidden_act, config.layer_norm_eps, config.intermediate_size)
    return _with_rotary(config, settings, partial=True) | {"parallel_attn_mlp": True}


def _restore_attention_biases(state: dict[str, Tensor], hf_model: PreTrainedModel, cfg: Any) -> None:
    """Put back the attention biases that TransformerLens's conversions of Llama-like models replace by zeros."""
    for layer, block in enumerate(hf_model.model.layers):
        attention, prefix = block.self_attn, f"blocks.{layer}.attn"
        for projection, name in ((attention.q_proj, "b_Q"), (attention.k_proj, "_b_K"), (attention.v_proj, "_b_V")):
            if projection.bias is not None:
                state[f"{prefix}.{name}"] = projection.bias.unflatten(0, (-1, cfg.d_head))
        if attention.o_proj.bias is not None:
            state[f"{prefix}.b_O"] = attention.o_proj.bias


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", _llama, "convert_llama_weights"),
    "mistral": Family("MistralForCausalLM", _mistral, "convert_mistral_weights"),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, "convert_qwen2_weights"),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, "convert_qwen3_weights"),
    "gemma": Family("GemmaForCausalLM", _gemma, "convert_gemma_weights"),
    "gemma2": Family("Gemma2ForCausalLM", _gemma2, "convert_gemma_weights"),
    "gemma3_text": Family("Gemma3ForCausalLM", _gemma3, "convert_gemma_weights"),
    "phi3": Family("Phi3ForCausalLM", _phi3, "convert_phi3_weights"),
    "phi": Family("PhiForCausalLM", _phi, "convert_phi_weights"),
    "gpt_neox": Family("GPTNeoXForCausalLM", _neox, "convert_neox_weights"),
    "gpt2": Family("GPT2LMHeadModel", _gpt2, "convert_gpt2_weights", trained_with_bos=True),
}
