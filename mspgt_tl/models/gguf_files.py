"""Reads a GGUF file: architecture, dequantised weights and tokenizer, by way of transformers.

Only architectures whose round trip is tested (`tests/models/test_gguf_files.py`) are read; the others are refused by
name, as is everything in a file that transformers would leave out: scaled rotary embeddings, tensors without a place,
and pre-tokenizers that it does not tell apart. A `tokenizer.json` beside the file goes before the file's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mspgt_tl.errors import ConfigError, ModelError
from mspgt_tl.models.checkpoints import judge_report, no_chatter
from mspgt_tl.models.placement import is_out_of_memory
from mspgt_tl.models.tokenizer_files import read_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "llama-bpe": _CONTRACTIONS + r"\p{N}{1,3}" + _REST,
    "llama3": _CONTRACTIONS + r"\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + r"\p{N}" + _REST,
}
"""Patterns of byte-level tokenizers by the name that llama.cpp gives them."""
_PRE_TOKENIZERS = ("default", "gpt-2", "smollm", *_SPLITS)

T = TypeVar("T")


def read_gguf_config(path: Path) -> PretrainedConfig:
    """Read a GGUF file's architecture.

    Raises:
        ModelError: the file is damaged or one part of several, or holds what cannot be read faithfully.
        ConfigError: the `gguf` package is not installed.
    """
    from transformers import AutoConfig

    _inspect(path)
    return _read(AutoConfig, path)


def read_gguf_weights(path: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Dequantise a GGUF file's weights into its architecture, on the CPU.

    Raises:
        ModelError: weights are damaged, missing, left over or misshapen, or quantised in an unknown way.
    """
    from transformers import AutoModelForCausalLM

    options = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    # Its bar over the tensors is no progress bar of transformers, which `no_chatter` keeps quiet.
    with no_chatter(), redirect_stderr(StringIO()):
        model, report = _read(AutoModelForCausalLM, path, **options)
    judge_report(report, f"{path} do not fit its description")
    held, placed = len(_inspect(path).tensors), len(model.state_dict()) - config.tie_word_embeddings
    if held != placed:
        raise ModelError(f"{path} holds {held} tensors, of which transformers has a place for {placed}.")
    return model


def read_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer.json beside a GGUF file, or else the file's own tokenizer.

    Raises:
        ModelError: the file names a pre-tokenizer that is not known here.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers import AutoTokenizer

    if (path.parent / "tokenizer.json").is_file():
        return read_tokenizer(path.parent)
    reader = _inspect(path)
    kind, pre = _field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre") or "default"
    if kind is None or (kind == "gpt2" and pre not in _PRE_TOKENIZERS):
        raise ModelError(
            f"{path} splits text by '{pre}', which is not known here ({', '.join(_PRE_TOKENIZERS)}). Put the model's "
            "tokenizer.json and tokenizer_config.json beside the file."
        )
    tokenizer = _read(AutoTokenizer, path)
    if kind == "gpt2":
        # transformers gives every byte-level tokenizer GPT-2's pattern.
        bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _SPLITS)
        before = {"smollm": pre_tokenizers.Digits(individual_digits=True)}
        before |= {name: pre_tokenizers.Split(Regex(pattern), "isolated") for name, pattern in _SPLITS.items()}
        steps = [before[pre], bytewise] if pre in before else [bytewise]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def _inspect(path: Path) -> Any:
    """Return a reader of the file's fields and tensors, once nothing in it speaks against reading it."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ConfigError("GGUF files need the gguf package: pip install 'mspgt-tl[gguf]'.") from error
    reader = _try(path, lambda: GGUFReader(str(path)))
    architecture = _field(reader, "general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path} is of the architecture '{architecture}'. GGUF files are read of {', '.join(ARCHITECTURES)}; "
            "give the original checkpoint instead."
        )
    if (parts := _field(reader, "split.count")) and parts > 1:
        raise ModelError(f"{path} is one of {parts} parts: join them first (llama-gguf-split --merge).")
    scaling = _field(reader, f"{architecture}.rope.scaling.type")
    if scaling not in (None, "none") or any(tensor.name.startswith("rope_") for tensor in reader.tensors):
        raise ModelError(
            f"{path} scales its rotary embedding ({scaling or 'by factors'}), which transformers does not read from "
            "GGUF files. Give the original checkpoint instead."
        )
    return reader


def _field(reader: Any, name: str) -> Any:
    return reader.fields[name].contents() if name in reader.fields else None


def _read(kind: Any, path: Path, **options: Any) -> Any:
    """Let a class of transformers read the file, and nothing beside it."""
    local = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    return _try(path, lambda: kind.from_pretrained(path.parent, **local, **options))


def _try(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except Exception as error:  # the gguf package and transformers fail in many ways on damaged files
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} cannot be read; it may be truncated, or quantised in a way that gguf does not know "
            f"({type(error).__name__}: {reason})."
        ) from error
