"""Reads a Hugging Face folder, and nothing but that folder.

transformers draws missing weights at random and says so in a log; here every gap between the files and the architecture
is an error. No code from the folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mspgt_tl.errors import ConfigError, ModelError
from mspgt_tl.models.embedded import find_weights
from mspgt_tl.models.placement import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def read_config(folder: Path) -> PretrainedConfig:
    """Read a folder's architecture.

    Raises:
        ModelError: there is no usable `config.json`, or the checkpoint is quantised.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        quantised = raw.get("quantization_config")
        kind = raw["model_type"]
    except OSError as error:
        raise ModelError(f"{folder} is not a Hugging Face model folder: it holds no config.json.") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is not a model's configuration: {error!r}.") from error
    refuse_quantised(quantised, str(folder))
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # configs validate themselves with exceptions of their own making
        raise ModelError(f"transformers cannot read {path} (model type '{kind}'): {error}") from error


def refuse_quantised(quantisation: Any, name: str) -> None:
    """Raise a `ModelError` if a configuration declares quantised weights."""
    if quantisation:
        method = getattr(quantisation, "quant_method", quantisation)
        method = method.get("quant_method", "unnamed") if isinstance(method, dict) else getattr(method, "value", method)
        raise ModelError(
            f"{name} is quantised ({method}), and activations of quantised weights are not those of the model. Use the "
            "checkpoint in bfloat16, float16 or float32."
        )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a folder's tokenizer.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder} holds no tokenizer: one of {', '.join(_TOKENIZER_FILES)} is needed.")
    try:
        # AutoTokenizer goes by the model's type first, and Qwen's class splits numbers its own way whatever
        # tokenizer.json says; a folder that declares the general class means its tokenizer.json.
        settings = folder / "tokenizer_config.json"
        declared = json.loads(settings.read_text("utf-8")).get("tokenizer_class") if settings.is_file() else None
        general = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
        loader = PreTrainedTokenizerFast if general else AutoTokenizer
        return loader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"The tokenizer in {folder} cannot be read: {error!r}.") from error


def find_tokenizer(hf_model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer from where a model object came from, a folder or the hub."""
    from transformers import AutoTokenizer

    name = hf_model.name_or_path
    if not name:
        raise ConfigError(f"This {type(hf_model).__name__} has no name_or_path; pass its tokenizer=.")
    if Path(name).is_dir():
        return read_tokenizer(Path(name))
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the hub's clients fail in many ways
        raise ModelError(f"No tokenizer found for '{name}' ({type(error).__name__}); pass tokenizer=.") from error


def read_weights(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Read a folder's weights into its architecture, on the CPU.

    Raises:
        ModelError: weights are absent, damaged, missing, left over or misshapen.
    """
    from transformers import AutoModelForCausalLM

    if not find_weights(folder):
        raise ModelError(f"{folder} holds no weights: model.safetensors or pytorch_model.bin is needed.")
    try:
        with no_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                # Asked for so that misshapen tensors are reported like the others; they are refused below.
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # safetensors and pickle fail in many ways on damaged files
        if is_out_of_memory(error):
            raise
        raise ModelError(f"The weights in {folder} cannot be read: {error!r}.") from error
    model, report = loaded
    problems = [
        f"{len(names)} {kind} (such as {min(str(name) for name in names)})"
        for kind, names in (
            ("missing", report["missing_keys"]),
            ("not of this architecture", report["unexpected_keys"]),
            ("misshapen", report["mismatched_keys"]),
        )
        if names
    ]
    if problems or report["error_msgs"]:
        raise ModelError(
            f"The weights in {folder} do not fit its config.json. Tensors: "
            f"{'; '.join([*problems, *report['error_msgs']])}."
        )
    return model


def draw_weights(config: PretrainedConfig, *, seed: int) -> PreTrainedModel:
    """Return the architecture with weights drawn by transformers' own initialisation, in float32 on the CPU.

    Drawn in float32 whatever the dtype asked for, so a twin is the same model on every device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    # torch.manual_seed would also reseed CUDA, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
