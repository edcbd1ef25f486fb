"""Streams `run_with_cache` over sentences, batch by batch, keeping only the hooks asked for.

Sentences are shuffled into bootstrap folds and read a few folds at a time; within those they are sorted by length, so
that little is padded, and cut into batches of a fixed number of positions. Memory depends on those two numbers and
hardly on the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import Batch, CausalModel, Progress, StreamSignal, TextCorpus
from mspgt_tl.models.pretrained import encode
from mspgt_tl.passes.batches import padded_batches
from mspgt_tl.passes.capture import capture
from mspgt_tl.passes.data import data_tokens, reads_centred
from mspgt_tl.passes.folds import Folds, assign_folds

if TYPE_CHECKING:
    from torch import Tensor

MIN_TOKENS = 2
"""A sentence of fewer data tokens shows no attention between words."""


def stream(
    model: CausalModel,
    sentences: Sequence[str],
    *,
    needs: frozenset[str] = frozenset({"resid"}),
    folds: Folds | None = None,
    seed: int,
    config: StreamConfig,
) -> Iterator[Batch]:
    """Yield what the model's hooks show, for every sentence in `folds` once.

    Args:
        folds: None takes every sentence, each a fold of its own.
        needs: `"resid"` (`resid_post` of every block) and/or `"pattern"` (attention patterns).
        seed: of the token drawn from each sentence, among its data tokens.

    Raises:
        ActivationError: activations are not finite, or a sentence does not fit into memory.
    """
    folds = folds or Folds(np.arange(len(sentences)), 1)
    draw = np.random.default_rng([seed, 1]).random(len(sentences))
    length = min(config.max_length, int(model.cfg.n_ctx))
    fold_of = np.repeat(np.arange(folds.count), folds.sizes)
    for chunk in folds.chunks(config.chunk_sentences):
        chosen = folds.order[chunk]
        encoding = encode(model, [sentences[int(i)] for i in chosen], bos=config.bos, max_length=length)
        use = "reading with patterns" if "pattern" in needs else "reading"
        batches = padded_batches(model, encoding.ids, use, positions=config.batch_positions)
        for batch in batches:
            with batches.fitting():
                found = capture(model, batch, pattern="pattern" in needs)
                # What is data is told from norms, whether or not the stream is asked for.
                is_data = batch.is_token if config.tokens == "all" else data_tokens(found.resid, batch.is_token)
                yield Batch(
                    sentence=chosen[batch.rows],
                    fold=fold_of[chunk][batch.rows],
                    drawn=nth_data_token(is_data, draw[chosen[batch.rows]]),
                    tokens=batch.tokens,
                    is_data=is_data,
                    is_token=batch.is_token,
                    resid=found.resid if "resid" in needs else [],
                    centred=reads_centred(model),
                    pattern=found.pattern,
                )
                del found  # or its activations would stay while the next forward pass makes its own
        del encoding  # before the next chunk's is made


def nth_data_token(is_data: Bool[Tensor, "batch pos"], draw: Float[np.ndarray, "batch"]) -> Int[Tensor, "batch"]:
    """Return the position of one data token of each sentence, at the share `draw` in [0, 1) of them."""
    import torch

    wanted = (torch.from_numpy(draw).to(is_data.device) * is_data.sum(dim=1)).floor()
    return ((is_data.cumsum(dim=1) - 1 == wanted[:, None]) & is_data).int().argmax(dim=1)


def count_cut(model: CausalModel, sentences: Sequence[str], config: StreamConfig) -> dict[str, int]:
    """Return how many sentences are longer than the model reads, for the notes on how a text was read."""
    length = min(config.max_length, int(model.cfg.n_ctx))
    encoding = encode(model, sentences, bos=config.bos, max_length=length + 1)
    cut = sum(len(ids) > length for ids in encoding.ids)
    return {f"sentences cut at {length} tokens": cut} if cut else {}


def usable_sentences(model: CausalModel, sentences: Sequence[str], config: StreamConfig) -> list[str]:
    """Return the sentences that hold at least two tokens after the first."""
    return [sentences[i] for i in which_usable(model, sentences, config)]


def which_usable(model: CausalModel, sentences: Sequence[str], config: StreamConfig) -> list[int]:
    """Return the indices of the sentences that hold at least two tokens after the first."""
    encoding = encode(model, sentences, bos=config.bos, max_length=MIN_TOKENS + 1)
    return [i for i, ids in enumerate(encoding.ids) if len(ids) > MIN_TOKENS]


def usable_text(model: CausalModel, text: TextCorpus, *, seed: int, config: StreamConfig) -> tuple[TextCorpus, Folds]:
    """Return the sentences of a text that signals read, and how they are dealt into folds.

    Raises:
        CorpusError: too few of them.
    """
    usable = text.select(which_usable(model, text.sentences, config))
    return usable, assign_folds(len(usable.sentences), seed=seed, documents=usable.documents)


def observe_corpus(
    model: CausalModel,
    sentences: Sequence[str],
    signals: Mapping[str, StreamSignal],
    *,
    folds: Folds,
    seed: int,
    config: StreamConfig,
    progress: Progress | None = None,
) -> dict[str, Mapping[str, np.ndarray]]:
    """Run every signal over the corpus in one pass and return each one's sums per fold."""
    parts = {
        name: signal.start(n_layers=int(model.cfg.n_layers), fold_sizes=folds.sizes) for name, signal in signals.items()
    }
    needs = frozenset[str]().union(*(signal.needs for signal in signals.values()))
    done, total = 0, len(folds.order)
    for batch in stream(model, sentences, needs=needs, folds=folds, seed=seed, config=config):
        for part in parts.values():
            part.observe(batch)
        done += len(batch.fold)
        del batch  # or its activations would stay while the next forward pass makes its own
        if progress:
            progress("signals", done, total)
    return {name: part.sums() for name, part in parts.items()}
