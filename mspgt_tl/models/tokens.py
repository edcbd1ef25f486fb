"""From text to token ids and padded batches, with nothing added but a BOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mspgt_tl.errors import ConfigError, DataError, ModelError, unknown_name

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoding:
    """Texts as token ids, one list per text, unpadded."""

    ids: list[list[int]]
    offsets: list[list[tuple[int, int]]]
    """Character span of every id in its text, end exclusive; (0, 0) for the BOS."""
    has_bos: bool
    """Whether the first id of every text is a BOS."""


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer's own post-processor puts a BOS before a text."""
    first = tokenizer("a")["input_ids"][:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, bos: bool, max_length: int) -> Encoding:
    """Turn texts into ids, each cut to `max_length` with its BOS; see `pretrained.encode`."""
    if not tokenizer.is_fast:
        raise ModelError("Character offsets need a fast tokenizer, and this one is slow. Convert it to tokenizer.json.")
    if bos and tokenizer.bos_token_id is None:
        raise ConfigError("A BOS is asked for, but the tokenizer has none. Use bos=False.")
    if isinstance(texts, str):
        raise DataError("A sequence of texts is needed, not one string.")
    for i, text in enumerate(texts):
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise DataError(f"Text {i} is no Unicode text ({error}): {text!r:.60}.") from error
    room = max_length - bos
    if room < 1:
        raise ConfigError(f"max_length={max_length} leaves no room for text.")
    if not texts:
        return Encoding([], [], bos)
    # split_special_tokens: a corpus that spells out "<s>" means the characters.
    plain = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    front_ids, front_offsets = ([tokenizer.bos_token_id], [(0, 0)]) if bos else ([], [])
    ids = [front_ids + row[:room] for row in plain["input_ids"]]
    offsets = [front_offsets + [tuple(span) for span in row[:room]] for row in plain["offset_mapping"]]
    return Encoding(ids, offsets, bos)


def pad(
    ids: Sequence[Sequence[int]], *, side: Literal["right", "left"], pad_id: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return ids as one tensor and the attention mask that belongs to it, 1 on ids and 0 on padding.

    Right padding is for analysis, left padding for generation; both need the mask passed along.

    Raises:
        DataError: there is no row, or an empty one.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    if not ids or not all(len(row) for row in ids):
        raise DataError("Rows of at least one id are needed to pad.")
    if side not in ("right", "left"):
        raise ConfigError(unknown_name("padding side", side, ("left", "right")))
    rows = [torch.as_tensor(row, dtype=torch.long) for row in ids]
    tokens = pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return tokens, mask


def continuation_text(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], new: Sequence[int]) -> tuple[str, str]:
    """Return prompt and continuation as text; the space between them belongs to the continuation."""

    def decode(ids: Sequence[int]) -> str:
        text: Any = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    before, whole = decode(prompt), decode([*prompt, *new])
    # Where a character is split between the two, the prompt's text ends in a replacement character.
    return before, whole[len(before) :] if whole.startswith(before) else decode(new)
