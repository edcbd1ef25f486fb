"""The residual stream at every word of a treebank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel, Progress, Tree
from mspgt_tl.corpora.treebank import align_words
from mspgt_tl.errors import CorpusError
from mspgt_tl.files import scratch_array
from mspgt_tl.models.pretrained import encode
from mspgt_tl.passes.corpus import stream
from mspgt_tl.passes.folds import Folds


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
        store: a folder whose disk holds the vectors, for more of them than fit into memory; None keeps them in memory.

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
    features = scratch_array(store, shape)
    rows = []
    for tree, found in enumerate(positions):
        number = iter(range(starts[tree], starts[tree + 1]))
        rows.append(np.array([-1 if p is None else next(number) for p in found], dtype=np.int64))
    order = Folds(np.arange(len(trees)), 1)
    done = no_data = 0
    for batch in stream(model, texts, needs=frozenset({"resid"}), folds=order, seed=0, config=config):
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
