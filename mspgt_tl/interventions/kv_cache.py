"""A KV cache that lies as attention reads it, with room for the whole text from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mspgt_tl.passes.readout import soft_cap

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class KvCache:
    """Stands in for TransformerLens's KV cache, with room for the whole text from the start.

    Its own grows by concatenation, lies so that every product copies it, is repeated for every query head, and has all
    keys rotated anew at every step: together more than half of the time of a wide batch (measured).
    """

    def __init__(self, model: Any, n_rows: int, width: int, max_new_tokens: int) -> None:
        import torch
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        empty = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, n_rows)
        rotary = model.cfg.positional_embedding_type == "rotary"
        # With a dynamic base, the rotation of old keys changes as the text grows.
        self.rotates_once = rotary and not getattr(model.cfg, "use_dynamic_ntk_rope", False)
        self.entries = [Entry(entry.past_keys, width + max_new_tokens, self.rotates_once) for entry in empty.entries]
        self.mask = torch.empty(n_rows, 0, dtype=torch.int64, device=model.cfg.device)

    @contextmanager
    def of_rows(self, rows: Int[Tensor, "part"]) -> Iterator[None]:
        """Let a prompt pass over some of the rows write to their places."""
        kept = self.mask
        self.mask = kept[rows]
        for entry in self.entries:
            entry.rows = rows
        try:
            yield
        finally:
            self.mask = kept
            for entry in self.entries:
                entry.rows = None

    def append_attention_mask(self, mask: Tensor) -> Tensor:
        import torch

        self.mask = torch.cat([self.mask, mask], -1)
        return self.mask

    def __getitem__(self, layer: int) -> Entry:
        return self.entries[layer]

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Let the model's attention work on the cache as it lies; hooks see what they always see."""
        from transformer_lens.components.grouped_query_attention import GroupedQueryAttention

        changed: list[tuple[Any, str]] = []
        for block, entry in zip(model.blocks, self.entries, strict=True):
            own: dict[str, Any] = {}
            if self.rotates_once:
                own["apply_rotary"] = partial(entry.rotate, block.attn.apply_rotary)
            if isinstance(block.attn, GroupedQueryAttention) and not model.cfg.ungroup_grouped_query_attention:
                own["calculate_attention_scores"] = partial(_grouped_scores, block.attn)
                own["calculate_z_scores"] = partial(_grouped_values, block.attn)
            for name, method in own.items():
                setattr(block.attn, name, method)
                changed.append((block.attn, name))
        try:
            yield
        finally:
            for attention, name in changed:
                delattr(attention, name)


class Entry:
    """Keys and values of one layer, `[batch, head, pos, d_head]` in memory, where products need no copy."""

    def __init__(self, empty: Float[Tensor, "batch 0 head d_head"], room: int, rotates_once: bool) -> None:
        n_rows, _, n_heads, d_head = empty.shape
        buffers = [empty.new_empty(n_rows, n_heads, room, d_head).transpose(1, 2) for _ in range(2 + rotates_once)]
        self.keys, self.values, self.rotated = *buffers[:2], buffers[-1]
        self.filled, self.given = 0, None
        self.rows: Tensor | None = None
        """The rows that a prompt pass runs over; None for all."""

    @property
    def past_keys(self) -> Tensor:
        return self.keys[: None if self.rows is None else len(self.rows), : self.filled]

    @property
    def past_values(self) -> Tensor:
        return self.values[: None if self.rows is None else len(self.rows), : self.filled]

    def copy_rows(self, source: Int[Tensor, "row"], into: Int[Tensor, "row"]) -> None:
        """Let rows begin with the keys and values of others."""
        for buffer in {id(b): b for b in (self.keys, self.values, self.rotated)}.values():
            buffer[into, : self.filled] = buffer[source, : self.filled]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.rows is not None:
            self.start, self.filled, self.given = 0, keys.shape[1], keys
            self.keys[self.rows, : self.filled] = keys
            self.values[self.rows, : self.filled] = values
            return keys, values
        self.start, self.filled = self.filled, self.filled + keys.shape[1]
        self.keys[:, self.start : self.filled] = keys
        self.values[:, self.start : self.filled] = values
        self.given = self.past_keys
        return self.given, self.past_values

    def rotate(self, rotary: Callable[..., Tensor], x: Tensor, offset: int = 0, mask: Tensor | None = None) -> Tensor:
        """Rotate queries as ever, and of the keys given out by `append` those that are new."""
        if x is not self.given:
            return rotary(x, offset, mask)
        if self.rows is not None:
            rotated = rotary(x, 0, mask)
            self.rotated[self.rows, : self.filled] = rotated
            return rotated
        new = slice(self.start, self.filled)
        self.rotated[:, new] = rotary(x[:, new], self.start, mask)
        return self.rotated[:, : self.filled]


def _grouped_scores(attention: Any, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
    """Return attention scores with the queries of a group as rows of one product, so that no key is repeated."""
    groups, heads = k.shape[2], q.shape[2]
    rows = q.transpose(1, 2).unflatten(1, (groups, heads // groups)).flatten(2, 3)
    scores = rows @ k.permute(0, 2, 3, 1) / attention.attn_scale
    return soft_cap(scores.view(len(q), heads, q.shape[1], -1), attention.cfg.attn_scores_soft_cap)


def _grouped_values(attention: Any, v: Tensor, pattern: Tensor) -> Float[Tensor, "batch query head d_head"]:
    """Return the values that a pattern mixes, in the same manner."""
    n_rows, heads, queries, _ = pattern.shape
    mixed = pattern.unflatten(1, (v.shape[2], heads // v.shape[2])).flatten(2, 3) @ v.transpose(1, 2)
    return attention.hook_z(mixed.view(n_rows, heads, queries, -1).transpose(1, 2))
