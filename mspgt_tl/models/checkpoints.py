"""Reads a Hugging Face folder, and nothing but that folder.

transformers draws missing weights at random and says so in a log; here every gap between the files and the architecture
is an error. No code from the folder is run unless that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mspgt_tl.errors import ModelError
from mspgt_tl.models.placement import is_out_of_memory
from mspgt_tl.models.weight_files import WHOLE, check_folder, find_weights, refuse_pointer

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def read_config(folder: Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Read a folder's architecture.

    Raises:
        ModelError: there is no usable `config.json`, the checkpoint is quantised, or it needs code of its own.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    try:
        refuse_pointer(path)
        raw = json.loads(path.read_text(encoding="utf-8"))
        quantised = raw.get("quantization_config")
        kind = raw["model_type"]
    except OSError as error:
        raise ModelError(f"{folder} is not a Hugging Face model folder: it holds no config.json.") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is not a model's configuration: {error!r}.") from error
    refuse_quantised(quantised, str(folder))
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # configs validate themselves with exceptions of their own making
        if "auto_map" in raw and not trust_remote_code:
            raise ModelError(
                f"{folder} (model type '{kind}') comes with code of its own, which is not run. Read that code; "
                "trust_remote_code=True, or --trust-remote-code, then runs it, and every manifest says so."
            ) from error
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


def read_weights(
    folder: Path, config: PretrainedConfig, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Read a folder's weights into its architecture, on the CPU.

    Raises:
        ModelError: weights are absent, damaged, missing, left over or misshapen, or an adapter lies beside them.
    """
    from transformers import AutoModelForCausalLM

    check_folder(folder)
    if not find_weights(folder):
        raise ModelError(f"{folder} holds no weights: {' or '.join(WHOLE)} is needed.")
    # Asked for so that misshapen tensors are reported like the others; they are refused below.
    reporting: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    place: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        with no_chatter():
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, **place, **reporting)
    except Exception as error:  # safetensors and pickle fail in many ways on damaged files
        if is_out_of_memory(error):
            raise
        raise ModelError(f"The weights in {folder} cannot be read: {error!r}.") from error
    model, report = loaded
    judge_report(report, f"{folder} do not fit its config.json")
    return model


def judge_report(report: Mapping[str, Any], where: str) -> None:
    """Raise a `ModelError` if transformers' loading report names a tensor that did not find its place."""
    kinds = {"missing_keys": "missing", "unexpected_keys": "not of this architecture", "mismatched_keys": "misshapen"}
    problems = [*_count({kind: report[key] for key, kind in kinds.items()}), *report["error_msgs"]]
    if problems:
        raise ModelError(f"The weights in {where}. Tensors: {'; '.join(problems)}.")


def _count(kinds: Mapping[str, Collection[Any]]) -> list[str]:
    """Return, for every kind of which there are any, how many names there are and the first of them."""
    return [f"{len(names)} {kind} (such as {min(map(str, names))})" for kind, names in kinds.items() if names]


def draw_weights(config: PretrainedConfig, *, seed: int, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the architecture with weights drawn by transformers' own initialisation, in float32 on the CPU.

    Drawn in float32 whatever the dtype asked for, so a twin is the same model on every device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    # torch.manual_seed would also reseed CUDA, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)


def refuse_changed(model: PreTrainedModel, name: str) -> None:
    """Refuse a model object whose parameters are not those that its configuration describes.

    Adapters, added heads and layers cut without a word to the configuration all show in the names or shapes of the
    parameters; what is built from the configuration would be another model.

    Raises:
        ModelError: parameters are added, missing or of another shape, and which.
    """
    import torch

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        described = {key: value.shape for key, value in type(model)(model.config).state_dict().items()}
    found = {key: value.shape for key, value in model.state_dict().items()}
    added, missing = sorted(found.keys() - described.keys()), sorted(described.keys() - found.keys())
    if any("lora_" in key or "adapter" in key or "modules_to_save" in key for key in added):
        raise ModelError(
            f"'{name}' carries an adapter ({added[0]}), and the bare base is another model. Merge it first "
            "(merge_and_unload())."
        )
    reshaped = [key for key in found.keys() & described if found[key] != described[key]]
    if problems := _count({"too many": added, "missing": missing, "of another shape": reshaped}):
        raise ModelError(
            f"The parameters of '{name}' are not those of its configuration: {'; '.join(problems)}. Where layers or "
            "tokens were cut or added, say so in its config (num_hidden_layers, layer_types, vocab_size)."
        )


@contextmanager
def no_chatter() -> Iterator[None]:
    """Keep transformers' progress bars and warnings from the output: what matters of them is said in our words."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
