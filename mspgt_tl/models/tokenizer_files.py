"""Reads a folder's tokenizer, and holds it to the folder's own `tokenizer.json`.

transformers picks a class by the model's type, and several classes build their own normaliser, number splitting or
post-processor whatever `tokenizer.json` says (Qwen's and Llama's do). So what was loaded is compared with the
`tokenizers` library's own reading of the file on a probe text; where it differs, the general class, which takes the
file literally, is used instead, and what still differs is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mspgt_tl.errors import ModelError
from mspgt_tl.models.weight_files import refuse_pointer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PROBE = "The quick  brown fox\tjumps over 1234567890 lazy dogs, doesn't it?\n\n" + (
    "▱▁ naïve nai\u0308ve ﬁne STRAßE 中文字 한국어 नमस्ते 😀👩\u200d🚀 “quoted” — 3.14e-5 $9.99 50% a_b.c/d\\e  "
    "{x: [1, 2]} <tag> #42 @me\r\n    def f():  "
)
"""What tokenizers are known to disagree on: blanks, digits, composed letters, scripts, emoji, signs."""
GENERAL = ("TokenizersBackend", "PreTrainedTokenizerFast")


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Read a folder's tokenizer.

    Raises:
        ModelError: there is none, it cannot be read, or it gives other ids than its `tokenizer.json`.
    """
    from tokenizers import Tokenizer

    present = [name for name in FILES if (folder / name).is_file()]
    if not present:
        raise ModelError(f"{folder} holds no tokenizer: one of {', '.join(FILES)} is needed.")
    for name in present:
        refuse_pointer(folder / name)
    file = folder / "tokenizer.json"
    if not file.is_file():
        return next(_readings(folder, trust_remote_code))
    try:
        literal = Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"The tokenizer in {folder} cannot be read: {error!r}.") from error
    literal.no_truncation()
    literal.no_padding()
    # Twice: some classes add a blank only before a text that begins without one.
    probes = [PROBE, f" {PROBE}"]
    expected = [found.ids for found in literal.encode_batch(probes, add_special_tokens=False)]
    found: list[list[int]] = []
    for tokenizer in _readings(folder, trust_remote_code):
        try:
            found = cast(Any, tokenizer(probes, add_special_tokens=False, verbose=False))["input_ids"]
        except Exception:  # the tokenizers library raises bare Exception
            continue
        if found == expected:
            return tokenizer
    if not found:
        raise ModelError(f"No class of transformers can read {file}. Correct tokenizer_class in tokenizer_config.json.")
    ours, theirs = next(pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1])
    at = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), 0)
    raise ModelError(
        f"transformers reads {file} otherwise than the file says: a probe text of {len(theirs)} tokens becomes "
        f"{len(ours)}, and differs from token {at} on ({ours[at : at + 3]} instead of {theirs[at : at + 3]}). "
        "Correct tokenizer_class in its tokenizer_config.json."
    )


def _readings(folder: Path, trust_remote_code: bool) -> Iterator[PreTrainedTokenizerBase]:
    """Yield the tokenizer as transformers' choice of class reads it, then as the general class does."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    settings = folder / "tokenizer_config.json"
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        declared = json.loads(settings.read_text("utf-8")).get("tokenizer_class") if settings.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{settings} is no tokenizer's configuration: {error!r}.") from error
    readable, problem = False, None
    for loader in (PreTrainedTokenizerFast,) if declared in GENERAL else (AutoTokenizer, PreTrainedTokenizerFast):
        if loader is PreTrainedTokenizerFast and not (folder / "tokenizer.json").is_file():
            continue
        try:
            tokenizer = loader.from_pretrained(folder, **options)
        except Exception as error:  # the tokenizers library raises bare Exception
            problem = problem or error
            continue
        readable = True
        yield tokenizer
    if not readable:
        raise ModelError(f"The tokenizer in {folder} cannot be read: {problem!r}.") from problem


def refuse_foreign(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, name: str) -> None:
    """Raise a `ModelError` if a tokenizer knows more words than the model has embeddings for; added tokens may.

    A tokenizer of another model of the same size cannot be told: loss and probes then show what random text would.
    """
    known, embedded = tokenizer.vocab_size, config.get_text_config().vocab_size
    if known > embedded:
        raise ModelError(
            f"The tokenizer of '{name}' has a vocabulary of {known:,}, its model of {embedded:,}: they do not belong "
            "together. Put the model's own tokenizer files in the folder."
        )


def settle_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Name the token that a tokenizer's own post-processor puts before a text as its BOS, in place.

    `bos_token` is only a name in a configuration, which may be absent or wrong; what the post-processor does is what
    the model was trained with.

    Raises:
        ModelError: more than one token is put before a text.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    starts = [i for i in range(len(framed) - len(bare) + 1) if framed[i : i + len(bare)] == bare]
    front = framed[: starts[0]] if starts else []
    if len(front) > 1:
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(front)))
        raise ModelError(f"The tokenizer puts {len(front)} tokens before a text ({names}); one BOS is supported.")
    if front and front[0] != tokenizer.bos_token_id:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(front[0])
