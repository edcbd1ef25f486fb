"""Decodes many rows together over a KV cache, with random numbers that belong to the text and not to the run.

TransformerLens 3.9's own `generate` drops the attention mask and draws from global state, so the loop is ours: prompts
padded on the left with their mask, then one token at a time. A token is drawn from the distribution's inverse CDF at
one uniform for each (seed, sample id, absolute position): the same prompt under two conditions meets the same random
numbers, and differences between conditions are paired. The CDF runs in the order of ids, which no condition changes.

The layout of a sweep is flat: a row is one sample under one condition, and all rows decode together, so that weights
and Python's overhead are paid once. The rows of a sample share its id, and noise hooks take one σ for each row:

    sigmas = torch.tensor([0, 0.1, 0.2])
    generate(
        model,
        [prompt for prompt in prompts for _ in sigmas],
        sample_ids=[i for i in range(len(prompts)) for _ in sigmas],
        hooks=lambda rows: noise_hooks(
            model, layers, sigmas[rows.index % 3], seed=1, sample_ids=rows.sample_ids, positions=rows.positions
        ),
        …
    )

Rows of one prompt are the same up to the first block that a hook touches. Told so (`untouched`), the prompt is run once
up to there, and each row goes on from what it shares with the others.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mspgt_tl.config import Count, NotNegative, Share, checked_dataclass
from mspgt_tl.contracts import CausalModel, check_seed
from mspgt_tl.errors import ActivationError, ConfigError, DataError
from mspgt_tl.interventions import philox
from mspgt_tl.interventions.hooks import Hook, Positions
from mspgt_tl.interventions.kv_cache import KvCache
from mspgt_tl.interventions.noise import check_hooked
from mspgt_tl.models.pretrained import encode
from mspgt_tl.models.tokens import continuation_text, pad
from mspgt_tl.passes.batches import Batches
from mspgt_tl.passes.readout import unembed

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Prompts: TypeAlias = "str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Int[Tensor, '... pos']"

CPU_MEMORY = 2 * 1024**3
"""Bytes that a batch may take on a CPU, weights not counted; on a GPU it is half of what is free."""


@dataclass(frozen=True)
class Rows:
    """The rows of one batch, told to the function that makes its hooks."""

    index: Int[Tensor, "batch"]
    """Where each row stands in the prompts given to `generate`."""
    sample_ids: Int[Tensor, "batch"]
    positions: Positions
    """Kept up to date by the decoding loop."""


@checked_dataclass
class Sampling:
    """How a token is chosen from logits; the filters follow Hugging Face's definitions, in its order."""

    temperature: NotNegative = 1.0
    """0 takes the likeliest token."""
    top_k: Count | None = None
    """Keep the k likeliest tokens, and any that tie with the last of them."""
    top_p: Share | None = None
    """Then keep the fewest likeliest tokens whose probabilities sum to at least this."""

    def choose(self, logits: Float[Tensor, "batch vocab"], uniforms: Float[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        """Return one id for each row, by the inverse CDF at its uniform."""
        import torch

        if self.temperature == 0:
            return logits.argmax(-1)
        scaled = logits.float()
        if self.temperature != 1:
            scaled = scaled / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = scaled.topk(self.top_k).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, ids = scaled.sort(descending=True, stable=True)
            share = ordered.softmax(-1, dtype=torch.float64)
            beyond = share.cumsum(-1) - share >= self.top_p
            scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, ids, beyond), -math.inf)
        return philox.categorical(scaled.softmax(-1), uniforms)


def generate(
    model: CausalModel,
    prompts: Prompts,
    *,
    max_new_tokens: int = 32,
    sample_ids: Sequence[int] | Int[Tensor, "row"] | None = None,
    seed: int = 0,
    hooks: Sequence[Hook] | Callable[[Rows], Sequence[Hook]] = (),
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: Collection[int] = (),
    batch_rows: int | None = None,
    untouched: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """Return what follows each prompt, in the form that the prompts have: text for text, ids for ids, one for one.

    Args:
        prompts: a text or several, which get the model's BOS if it has one; or ids with their BOS, as `encode` gives
            them, of one prompt or of several.
        sample_ids: which sample each row is, its number by default; rows with equal ids draw with equal random numbers.
        hooks: TransformerLens hooks, active throughout. A list, such as `noise_hooks(model, layers, sigma)` and hooks
            of your own, sees all rows as one batch. A function is called with the `Rows` of every batch.
        stop_tokens: a row ends with the first of these, which is kept.
        batch_rows: rows decoded together; as many as fit into memory unless given.
        untouched: for each row, how many of the first blocks no hook changes; needs a function of `Rows`, which is then
            also called for parts of a batch.
        progress: called with the number of tokens decoded, at every step.

    Raises:
        ConfigError: an option is out of range, the model is not a `HookedTransformer`, or the text too long.
        DataError: prompts or sample ids are unusable.
        ActivationError: the logits are not finite.

    See Also:
        noise_hooks: hooks to decode with.

    Example:
        >>> import mspgt_tl
        >>> model = mspgt_tl.load("llama2-mini")
        >>> texts = [generate(model, "The river", max_new_tokens=4, seed=0) for _ in range(2)]
        >>> texts[0] == texts[1]
        True
    """
    import torch

    sampling = Sampling(temperature, top_k, top_p)
    check_seed(seed)
    given = _Given.read(model, prompts)
    if not given.ids:
        return []
    ids = philox.read_ids(range(len(given.ids)) if sample_ids is None else sample_ids)
    _check(model, given.ids, len(ids), max_new_tokens)
    depth = _check_untouched(untouched, hooks, len(given.ids), int(model.cfg.n_layers))
    found: list[list[int]] = [[] for _ in given.ids]
    batches = _batches(model, given.ids, max_new_tokens, hooks, batch_rows)
    for index in batches:
        with batches.fitting():
            tokens, mask = pad([given.ids[i] for i in index], side="left", pad_id=0)
            device = model.cfg.device
            rows = Rows(torch.tensor(index), ids[index].to(device), Positions.from_mask(mask.to(device)))
            active = hooks(rows) if callable(hooks) else hooks
            cache = KvCache(model, len(tokens), tokens.shape[1], max_new_tokens)
            tokens, mask, first = tokens.to(device), mask.to(device), None
            with torch.inference_mode(), cache.attached(model):
                if depth is not None and callable(hooks):
                    first = _prefill(model, tokens, mask, [depth[i] for i in index], rows, hooks, cache)
                with model.hooks(fwd_hooks=list(active)):
                    new = _decode(
                        model, tokens, mask, rows, max_new_tokens, seed, sampling, stop_tokens, cache, first, progress
                    )
            for i, row in zip(index, new, strict=True):
                found[i] = row
    return given.in_kind(model, found)


@dataclass(frozen=True)
class _Given:
    """Prompts as ids, and what they came as."""

    ids: Sequence[Sequence[int]]
    are_texts: bool
    is_one: bool

    @classmethod
    def read(cls, model: CausalModel, prompts: Any) -> _Given:
        import torch

        def plain(value: Any) -> Any:
            return value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value

        given: Any = plain(prompts)
        listed: list[Any] = (
            [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [None]
        )
        if is_one := isinstance(given, str) or (len(listed) > 0 and isinstance(listed[0], Integral)):
            listed = [given if isinstance(given, str) else listed]
        listed = [plain(prompt) for prompt in listed]
        are_texts = [isinstance(prompt, str) for prompt in listed]
        if len(set(are_texts)) > 1:
            raise DataError("Prompts are texts or lists of ids, not some of each.")
        if not any(are_texts):
            if not all(isinstance(row, Sequence) and all(isinstance(i, Integral) for i in row) for row in listed):
                raise DataError(f"Prompts are a text, a list of texts, or ids; got {prompts!r:.80}.")
            return cls(listed, False, is_one)
        # Cut nowhere: a prompt that is too long is refused, not shortened in silence.
        return cls(encode(model, listed, max_length=sys.maxsize).ids, True, is_one)

    def in_kind(self, model: Any, new: list[list[int]]) -> Any:
        out: list[Any] = new
        if self.are_texts:
            out = [continuation_text(model.tokenizer, a, b)[1] for a, b in zip(self.ids, new, strict=True)]
        return out[0] if self.is_one else out


def _decode(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    rows: Rows,
    max_new_tokens: int,
    seed: int,
    sampling: Sampling,
    stop_tokens: Collection[int],
    cache: KvCache,
    first: Float[Tensor, "batch 1 d_model"] | None,
    progress: Callable[[int], None] | None,
) -> list[list[int]]:
    """Decode one batch, from the prompts' last residuals where they are known; finished rows are cut at the end."""
    import torch

    stops = torch.tensor(sorted(stop_tokens), dtype=torch.int64, device=tokens.device)
    done, damaged = (torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device) for _ in range(2))
    chosen: list[Tensor] = []
    for step in range(max_new_tokens):
        logits = _next_logits(model, tokens, mask, cache) if step or first is None else unembed(model, first[:, 0])
        damaged |= ~logits.amax(-1).isfinite()
        uniforms = philox.uniform(seed, sample_ids=rows.sample_ids, positions=rows.positions.next)
        chosen.append(sampling.choose(logits, uniforms))
        if len(stops):
            done |= torch.isin(chosen[-1], stops)
            if done.all():
                break
        if progress:
            progress(len(logits))
        if step + 1 < max_new_tokens:
            tokens = chosen[-1][:, None]
            mask = torch.ones_like(tokens)
            rows.positions.advance()
    if damaged.any():
        raise ActivationError(
            f"The logits of {int(damaged.sum())} of {len(damaged)} rows are nan or inf. A hook may have put them "
            "into the stream, or its dtype is too narrow: try smaller noise, or dtype float32."
        )
    return [_cut(row, stop_tokens) for row in torch.stack(chosen, 1).tolist()]


def _next_logits(model: Any, tokens: Tensor, mask: Tensor, cache: KvCache) -> Float[Tensor, "batch vocab"]:
    """Return logits after the last position alone: those of a whole prompt would be the largest tensor of all."""
    resid = model(tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)
    return unembed(model, resid[:, -1])


def _prefill(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    untouched: Sequence[int],
    rows: Rows,
    hooks: Callable[[Rows], Sequence[Hook]],
    cache: KvCache,
) -> Float[Tensor, "batch 1 d_model"]:
    """Run the prompts, each once as far as its rows agree, and return the residual after the last position.

    Blocks are run in stretches between the depths at which rows part. In each, a row that has been touched runs on its
    own; all others of a prompt are led by the one that stays untouched longest, whose keys and values they copy.
    """
    import torch

    n_layers, device = int(model.cfg.n_layers), tokens.device
    depth = torch.tensor(untouched, device=device)
    _, prompt = torch.cat([tokens, mask], 1).unique(dim=0, return_inverse=True)
    leader = torch.empty_like(prompt)
    for i in depth.argsort(stable=True).tolist():  # the deepest of each prompt is written last
        leader[prompt == prompt[i]] = i
    starts = sorted({0, *(d for d in untouched if d < n_layers)})
    resid, was_at = tokens, torch.arange(len(depth), device=device)
    for start, stop in zip(starts, [*starts[1:], n_layers], strict=True):
        source = torch.where(depth > start, leader, torch.arange(len(depth), device=device))
        running, place = source.unique(return_inverse=True)
        part = Rows(rows.index.to(device)[running].cpu(), rows.sample_ids[running], Positions.from_mask(mask[running]))
        with model.hooks(fwd_hooks=list(hooks(part))), cache.of_rows(running):
            resid = model(
                resid[was_at[running]],
                attention_mask=mask[running],
                past_kv_cache=cache,
                start_at_layer=start or None,
                stop_at_layer=stop,
            )
        was_at = place
        followers = (source != torch.arange(len(depth), device=device)).nonzero()[:, 0]
        for entry in cache.entries[start:stop]:
            entry.copy_rows(source[followers], followers)
    cache.mask = mask
    return resid[was_at][:, -1:]


def _batches(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, hooks: Any, batch_rows: int | None
) -> Batches[list[int]]:
    """Return the rows of every batch: all in their order if they fit, else by length, so that little is padded."""
    if batch_rows is not None and batch_rows < 1:
        raise ConfigError(f"batch_rows is at least 1, got {batch_rows}.")
    bound_to_rows = not callable(hooks) and len(hooks) > 0
    if bound_to_rows and batch_rows is not None and batch_rows < len(prompts):
        raise ConfigError("A list of hooks belongs to all rows as one batch. Give a function of Rows with batch_rows.")
    if bound_to_rows:
        size = len(prompts)
    else:
        size = batch_rows or _rows_that_fit(model, max(map(len, prompts)), max_new_tokens)
    order = list(range(len(prompts)))
    if size < len(order):
        # Longest first: a batch that does not fit fails at once.
        order.sort(key=lambda i: -len(prompts[i]))
    parts = [order[start : start + size] for start in range(0, len(order), size)]

    def tokens(rows: Sequence[int]) -> int:
        return len(rows) * (max(len(prompts[i]) for i in rows) + max_new_tokens)

    return Batches(model, "decoding", parts, tokens, list, whole=bound_to_rows)


def _rows_that_fit(model: Any, width: int, max_new_tokens: int) -> int:
    """Estimate how many rows fit into memory: the cache, one block's work on the prompt, and the logits of one step."""
    import torch

    cfg, room = model.cfg, width + max_new_tokens
    cache = 3 * cfg.n_layers * room * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    block = width * (8 * cfg.d_model + 3 * cfg.d_mlp + 4 * cfg.n_heads * width) + 6 * room * cfg.n_heads * cfg.d_head
    needed = (cache + block) * torch.finfo(cfg.dtype).bits // 8 + 48 * cfg.d_vocab
    device = torch.device(cfg.device)
    free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_MEMORY
    return max(1, free // needed)


def _check_untouched(untouched: Sequence[int] | None, hooks: Any, n_rows: int, n_layers: int) -> list[int] | None:
    if untouched is None:
        return None
    depth = [int(d) for d in untouched]
    if not callable(hooks):
        raise ConfigError("untouched needs hooks as a function of Rows, for parts of a batch.")
    if len(depth) != n_rows or not all(0 <= d <= n_layers for d in depth):
        raise DataError(f"untouched is one number from 0 to {n_layers} for each of {n_rows} rows.")
    return depth


def _cut(ids: list[int], stop_tokens: Collection[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stop_tokens), len(ids))
    return ids[: end + 1]


def _check(model: Any, prompts: Sequence[Sequence[int]], n_ids: int, max_new_tokens: int) -> None:
    check_hooked(model, "Decoding")
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is at least 1, got {max_new_tokens}.")
    if n_ids != len(prompts):
        raise DataError(f"{len(prompts)} prompts came with {n_ids} sample ids; give one each.")
    if any(len(row) == 0 or not 0 <= min(row) <= max(row) < model.cfg.d_vocab for row in prompts):
        raise DataError(f"Every prompt is a list of at least one id from 0 to {model.cfg.d_vocab - 1}.")
    length = max(map(len, prompts)) + max_new_tokens - 1
    if length > model.cfg.n_ctx:
        raise ConfigError(
            f"A prompt and its new tokens take {length} positions, the model has {model.cfg.n_ctx}. "
            "Shorten the prompts or lower max_new_tokens."
        )
