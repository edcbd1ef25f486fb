"""Streams `run_with_cache` over sentences, batch by batch, keeping only the hooks asked for.

Sentences are shuffled into bootstrap blocks and read a few blocks at a time; within those they are sorted by length, so
that little is padded, and cut into batches of a fixed number of positions. Memory depends on those two numbers and
hardly on the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import Batch, CausalModel, Progress, StreamSignal, Tree
from mspgt_tl.corpora.treebank import align_words
from mspgt_tl.errors import ActivationError, CorpusError
from mspgt_tl.models.placement import is_out_of_memory
from mspgt_tl.models.pretrained import encode
from mspgt_tl.models.tokens import pad
from mspgt_tl.stats import cut_documents, fold_documents

if TYPE_CHECKING:
    from torch import Tensor

MIN_BLOCK, MAX_BLOCK, WANTED_BLOCKS = 25, 125, 80
"""Blocks are as large as the corpus allows between these sizes while there are at least `WANTED_BLOCKS` of them."""
MIN_BLOCKS = 8
"""Fewer blocks give no bootstrap worth the name."""
MAX_DOCUMENT = 500
"""Sentences of a document that stay together at most: a block compares all of its rows with each other."""
MIN_ROWS = 8
"""Fewest sentences of a block of documents: the debiased HSIC of fewer is mostly noise."""
MIN_TOKENS = 2
"""A sentence of fewer data tokens shows no attention between words."""
SINK_NORM = 4.0
"""A token is a sink where its norm exceeds so many times the median of its sentence at any layer. Norms of pretrained
models fall apart there: of 74,000 tokens of two models 94 % stay under 2.5, 0.6 % lie between 2.5 and 4, the rest is
spread up to 180 (docs/calibration.md)."""


@dataclass(frozen=True)
class Blocks:
    """Sentences assigned to bootstrap blocks."""

    order: Int[np.ndarray, "kept"]
    """Sentence indices, block after block."""
    size: int
    """Sentences of a block; their mean where blocks are uneven."""
    uneven: Int[np.ndarray, "block"] | None = None
    """Sentences of each block where these hold whole documents; None where all are equal."""
    rule: str = "sentences"
    """What was dealt out to blocks, for the manifest."""

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def sizes(self) -> Int[np.ndarray, "block"]:
        return np.full(len(self.order) // self.size, self.size) if self.uneven is None else self.uneven

    def chunks(self, sentences: int) -> Iterator[slice]:
        """Yield stretches of `order` that hold whole blocks and about so many sentences."""
        start, stop = 0, 0
        for size in self.sizes.tolist():
            if stop > start and stop + size - start > sentences:
                yield slice(start, stop)
                start = stop
            stop += size
        if stop > start:
            yield slice(start, stop)


def assign_blocks(n_sentences: int, *, seed: int, documents: Sequence[int] | None = None) -> Blocks:
    """Assign sentences to blocks at random: whole documents where these are known, else single sentences.

    Sentences of one article are alike, so blocks that share one are not independent and intervals come out too narrow.
    Blocks of documents hold all of their sentences and are uneven. HSIC compares the rows of one block, so a block
    holds two documents or more: rows of one alone would not show how documents differ. Where fewer than
    2 × `MIN_BLOCKS` documents are known, and for any that is longer than `MAX_DOCUMENT`, contiguous pieces of them are
    dealt out instead. Where every sentence is a document, or nothing is known of them, blocks are equal, and the few
    sentences that fill none are left out.

    Raises:
        CorpusError: too few sentences for `MIN_BLOCKS` blocks of `MIN_BLOCK`.
    """
    if n_sentences < MIN_BLOCKS * MIN_BLOCK:
        raise CorpusError(
            f"At least {MIN_BLOCKS * MIN_BLOCK} usable sentences are needed for a bootstrap, got {n_sentences}. "
            "Give a longer text."
        )
    size = max(MIN_BLOCK, min(MAX_BLOCK, n_sentences // WANTED_BLOCKS))
    if documents is not None and len(set(documents)) < n_sentences:
        return _deal_documents(np.asarray(documents), n_sentences // size, seed=seed)
    order = np.random.default_rng(seed).permutation(n_sentences)
    return Blocks(order[: n_sentences // size * size], size)


def _deal_documents(documents: Int[np.ndarray, "sentence"], wanted: int, *, seed: int) -> Blocks:
    """Deal whole documents, or pieces of them, into at most `wanted` blocks of two of them or more."""
    names, lengths = np.unique(documents, return_counts=True)
    block, rule = None, ""
    if len(names) >= 2 * MIN_BLOCKS:
        rule = f"{len(names)} documents"
        if cut := int((lengths > MAX_DOCUMENT).sum()):
            rule += f", {cut} of them in contiguous pieces of at most {MAX_DOCUMENT} sentences"
        block = _fill(cut_documents(documents, MAX_DOCUMENT), wanted, seed=seed)
    if block is None:
        longest = max(1, len(documents) // (2 * wanted))
        rule = f"contiguous pieces of at most {longest} sentences of {len(names)} documents, too few to deal out whole"
        block = _fill(cut_documents(documents, longest), wanted, seed=seed)
    assert block is not None, "pieces are short enough to fill every block"
    sizes = np.bincount(block)
    shuffled = np.random.default_rng([seed, 6]).permutation(len(documents))
    order = shuffled[np.argsort(block[shuffled], kind="stable")]
    return Blocks(order, len(documents) // len(sizes), sizes, rule)


def _fill(units: Int[np.ndarray, "sentence"], wanted: int, *, seed: int) -> Int[np.ndarray, "sentence"] | None:
    """Return every sentence's block, as many as get two units and `MIN_ROWS` sentences; None below `MIN_BLOCKS`."""
    for count in range(min(wanted, len(np.unique(units)) // 2), MIN_BLOCKS - 1, -1):
        block = fold_documents(units, count, seed=seed)
        if np.bincount(block).min() >= MIN_ROWS:
            return block
    return None


def data_tokens(
    resid: Sequence[Float[Tensor, "batch pos d_model"]], is_token: Bool[Tensor, "batch pos"]
) -> Bool[Tensor, "batch pos"]:
    """Return which tokens are data: neither the first of a sentence nor a sink. The one place that says so.

    Attention puts what it has no use for on the first token, BOS or not, and on some delimiters; those carry massive
    activations (Sun et al. 2024) and tell nothing about language. A sink is a token whose norm exceeds `SINK_NORM`
    times the median of its sentence, first token left out, at *any* layer, so that all layers and gaps look at the
    same tokens. A sentence that would lose all of its tokens to the rule keeps those after the first.
    """
    import torch

    others = is_token.clone()
    others[:, 0] = False
    is_sink = torch.zeros_like(others)
    for layer in resid:
        norms = layer.float().norm(dim=-1)
        # The lower median: of two tokens, one is then the measure and the other can be a sink.
        median = norms.masked_fill(~others, float("nan")).nanmedian(dim=1, keepdim=True).values
        is_sink |= norms > SINK_NORM * median
    kept = others & ~is_sink
    return torch.where(kept.any(dim=1, keepdim=True), kept, others)


def as_read(resid: Float[Tensor, "*any d_model"], *, centred: bool) -> Float[Tensor, "*any d_model"]:
    """Return vectors as the next block reads them: divided by their root mean square, centred before for LayerNorm.

    The norm's own weights are left out, so rotations of the stream still change nothing (without centring). A zero
    vector stays zero.
    """
    import torch

    x = resid.float() if resid.dtype in (torch.float16, torch.bfloat16) else resid
    if centred:
        x = x - x.mean(dim=-1, keepdim=True)
    return x / x.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=torch.finfo(x.dtype).tiny)


def reads_centred(model: CausalModel) -> bool:
    """Return whether a model's blocks subtract the mean of what they read (LayerNorm)."""
    return str(getattr(model.cfg, "normalization_type", None)) in ("LN", "LNPre")


def stream(
    model: CausalModel,
    sentences: Sequence[str],
    *,
    needs: frozenset[str],
    blocks: Blocks,
    seed: int,
    config: StreamConfig,
) -> Iterator[Batch]:
    """Yield what the model's hooks show, for every sentence in `blocks` once.

    Args:
        needs: `"resid"` (`resid_post` of every block) and/or `"pattern"` (attention patterns).
        seed: of the token drawn from each sentence, among its data tokens.

    Raises:
        ActivationError: activations are not finite, or a batch does not fit into memory.
    """
    draw = np.random.default_rng([seed, 1]).random(len(sentences))
    length = min(config.max_length, int(model.cfg.n_ctx))
    block_of = np.repeat(np.arange(blocks.count), blocks.sizes)
    for chunk in blocks.chunks(config.chunk_sentences):
        chosen = blocks.order[chunk]
        encoding = encode(model, [sentences[int(i)] for i in chosen], bos=config.bos, max_length=length)
        for rows in batch_by_length([len(ids) for ids in encoding.ids], config.batch_positions):
            yield _forward(
                model,
                [encoding.ids[r] for r in rows],
                needs=needs,
                every_token=config.tokens == "all",
                sentence=chosen[rows],
                block=block_of[chunk][rows],
                draw=draw[chosen[rows]],
            )
        del encoding  # before the next chunk's is made


def batch_by_length(lengths: Sequence[int], positions: int) -> Iterator[Int[np.ndarray, "row"]]:
    """Yield row indices of similar length whose padded batch has at most `positions` positions."""
    rows: list[int] = []
    # Longest first: a batch that does not fit into memory fails at once, not after an hour.
    for row in np.argsort(lengths, kind="stable")[::-1]:
        if rows and lengths[rows[0]] * (len(rows) + 1) > positions:
            yield np.array(rows)
            rows = []
        rows.append(int(row))
    if rows:
        yield np.array(rows)


def _forward(
    model: CausalModel,
    ids: list[list[int]],
    *,
    needs: frozenset[str],
    every_token: bool,
    sentence: Int[np.ndarray, "batch"],
    block: Int[np.ndarray, "batch"],
    draw: Float[np.ndarray, "batch"],
) -> Batch:
    import torch

    n_layers, device = int(model.cfg.n_layers), model.cfg.device
    # Right padding: causal attention never looks at it, so no mask is needed; pads are masked out of every statistic.
    tokens, is_token = pad(ids, side="right", pad_id=model.tokenizer.pad_token_id or 0)
    tokens, is_token = tokens.to(device), is_token.bool().to(device)
    wanted = _hooks(needs | {"resid"})  # what is data is told from norms
    names = {f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in wanted}
    with torch.inference_mode(), _memory_errors(tokens):
        _, cache = model.run_with_cache(
            tokens, names_filter=lambda name: name in names, stop_at_layer=n_layers, return_cache_object=False
        )
    resid = [cache[f"blocks.{layer}.hook_resid_post"] for layer in range(n_layers)]
    _check_finite(resid, is_token)
    _check_degenerate(resid, tokens, is_token)
    is_data = is_token if every_token else data_tokens(resid, is_token)
    return Batch(
        sentence=sentence,
        block=block,
        drawn=_nth_data_token(is_data, draw),
        tokens=tokens,
        is_data=is_data,
        is_token=is_token,
        resid=resid if "resid" in needs else [],
        centred=reads_centred(model),
        pattern=[cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(n_layers)] if "pattern" in needs else [],
    )


def _nth_data_token(is_data: Bool[Tensor, "batch pos"], draw: Float[np.ndarray, "batch"]) -> Int[Tensor, "batch"]:
    """Return the position of one data token of each sentence, at the share `draw` in [0, 1) of them."""
    import torch

    wanted = (torch.from_numpy(draw).to(is_data.device) * is_data.sum(dim=1)).floor()
    return ((is_data.cumsum(dim=1) - 1 == wanted[:, None]) & is_data).int().argmax(dim=1)


def _hooks(needs: frozenset[str]) -> list[str]:
    return [hook for need, hook in (("resid", "hook_resid_post"), ("pattern", "attn.hook_pattern")) if need in needs]


@contextmanager
def _memory_errors(tokens: Tensor) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ActivationError(
            f"Out of memory on a batch of {tokens.shape[0]} × {tokens.shape[1]} tokens. "
            f"Lower --batch-positions (now at least {tokens.numel()}) or --max-length."
        ) from error


def _check_finite(resid: Sequence[Tensor], is_token: Tensor) -> None:
    """Raise if a token's activation is nan or inf; the last layer is looked at first, since both spread downstream."""
    import torch

    if not resid or torch.isfinite(resid[-1][is_token]).all():
        return
    layer = next(i for i, r in enumerate(resid) if not torch.isfinite(r[is_token]).all())
    raise ActivationError(
        f"Activations are nan or inf from block {layer} on. The weights may be damaged, "
        f"or {resid[0].dtype} too narrow: try dtype float32."
    )


def _check_degenerate(resid: Sequence[Tensor], tokens: Tensor, is_token: Tensor) -> None:
    """Raise if a block gives every token the same vector; rounding then tells tokens apart again in blocks above."""
    import torch

    def is_constant(rows: Tensor) -> bool:
        low, high = rows.amin(0), rows.amax(0)
        rounding = 4 * torch.finfo(rows.dtype).eps * torch.maximum(high.abs(), low.abs())
        # Channel by channel: beside a massive one, any other looks constant.
        return bool((high - low <= rounding).all())

    places = is_token.nonzero()
    few = places[:: max(1, len(places) // 8)].T.unbind()
    # A text of one word repeated is constant by right. A few tokens spare reading all of them at every block.
    suspects = [i for i, layer in enumerate(resid) if is_constant(layer[few])]
    if not suspects or len(tokens[is_token].unique()) < 2:
        return
    layer = next((i for i in suspects if is_constant(resid[i][is_token])), None)
    if layer is None:
        return
    kind = "zero" if not resid[layer][is_token].any() else "the same for every token"
    raise ActivationError(
        f"Activations are {kind} from block {layer} on: nothing can be measured there. The weights may be damaged, "
        f"or overflow within a normalisation in {resid[0].dtype}: try dtype float32."
    )


def usable_sentences(model: CausalModel, sentences: Sequence[str], config: StreamConfig) -> list[str]:
    """Return the sentences that hold at least two tokens after the first."""
    return [sentences[i] for i in which_usable(model, sentences, config)]


def which_usable(model: CausalModel, sentences: Sequence[str], config: StreamConfig) -> list[int]:
    """Return the indices of the sentences that hold at least two tokens after the first."""
    encoding = encode(model, sentences, bos=config.bos, max_length=MIN_TOKENS + 1)
    return [i for i, ids in enumerate(encoding.ids) if len(ids) > MIN_TOKENS]


def observe_corpus(
    model: CausalModel,
    sentences: Sequence[str],
    signals: Mapping[str, StreamSignal],
    *,
    blocks: Blocks,
    seed: int,
    config: StreamConfig,
    progress: Progress | None = None,
) -> dict[str, Mapping[str, np.ndarray]]:
    """Run every signal over the corpus in one pass and return each one's sums per block."""
    parts = {
        name: signal.start(n_layers=int(model.cfg.n_layers), block_sizes=blocks.sizes)
        for name, signal in signals.items()
    }
    needs = frozenset[str]().union(*(signal.needs for signal in signals.values()))
    done, total = 0, len(blocks.order)
    for batch in stream(model, sentences, needs=needs, blocks=blocks, seed=seed, config=config):
        for part in parts.values():
            part.observe(batch)
        done += len(batch.block)
        del batch  # or its activations would stay while the next forward pass makes its own
        if progress:
            progress("signals", done, total)
    return {name: part.sums() for name, part in parts.items()}


@dataclass(frozen=True)
class WordVectors:
    """The residual stream at the last sub-token of every word of a list of trees.

    Not as blocks read it (`as_read`): probes standardise every channel, and dividing by the length of a row only adds
    its noise to small channels. Planted boundaries are found less with it, 78 % instead of 93 % (strength 1).
    """

    features: Float[np.ndarray, "word layer d_model"]
    rows: tuple[Int[np.ndarray, "words"], ...]
    """For each tree, the row of each of its words; -1 for words beyond the length limit and on no data token."""
    no_data: int
    """Words left out because their token is the first of its sentence or a sink."""


def word_vectors(
    model: CausalModel,
    trees: Sequence[Tree],
    *,
    config: StreamConfig,
    store: Path | None = None,
    progress: Progress | None = None,
    stage: str = "words",
) -> WordVectors:
    """Run the model over trees and keep every word's vector at every layer.

    Args:
        store: a file to keep the vectors in, for more of them than fit into memory; None keeps them in memory.

    Raises:
        CorpusError: no word of any tree could be aligned with a token.
        ActivationError: as `stream`.
    """
    texts = [tree.text for tree in trees]
    length = min(config.max_length, int(model.cfg.n_ctx))
    encoding = encode(model, texts, bos=config.bos, max_length=length)
    positions = [align_words(tree, offsets) for tree, offsets in zip(trees, encoding.offsets, strict=True)]
    counts = [sum(p is not None for p in found) for found in positions]
    if not sum(counts):
        raise CorpusError("No word of the treebank could be aligned with a token of this tokenizer.")
    starts = np.concatenate([[0], np.cumsum(counts)])
    shape = (int(starts[-1]), int(model.cfg.n_layers), int(model.cfg.d_model))
    features = (
        np.empty(shape, np.float32) if store is None else np.lib.format.open_memmap(store, "w+", np.float32, shape)
    )
    rows = []
    for tree, found in enumerate(positions):
        number = iter(range(starts[tree], starts[tree + 1]))
        rows.append(np.array([-1 if p is None else next(number) for p in found], dtype=np.int64))
    order = Blocks(np.arange(len(trees)), 1)
    done = no_data = 0
    for batch in stream(model, texts, needs=frozenset({"resid"}), blocks=order, seed=0, config=config):
        where = [(i, p) for i, tree in enumerate(batch.sentence) for p in positions[tree] if p is not None]
        into = np.concatenate([rows[tree][rows[tree] >= 0] for tree in batch.sentence])
        if len(into):
            at = tuple(np.array(where).T)
            for layer, resid in enumerate(batch.resid):
                features[into, layer] = resid[at].float().cpu().numpy()
            left_out = into[~batch.is_data.cpu().numpy()[at]]
            no_data += len(left_out)
            for tree in batch.sentence:
                rows[tree] = np.where(np.isin(rows[tree], left_out), -1, rows[tree])
        done += len(batch.sentence)
        del batch
        if progress:
            progress(stage, done, len(trees))
    return WordVectors(features, tuple(rows), no_data)
