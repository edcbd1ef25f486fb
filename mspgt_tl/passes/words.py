"""The residual stream at every word of a treebank.

Vectors are kept as bfloat16 differences from a point in their midst, one for every layer: half the room of float32, at
0.2 % of how far an entry lies from there. 0.2 % of the entries themselves would drown what a massive channel says:
its mean is many times its deviation. They lie layer by layer: probes of a few layers read one stretch of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt16

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel, Progress, Tree
from mspgt_tl.corpora.treebank import align_words
from mspgt_tl.errors import CorpusError
from mspgt_tl.files import scratch_array
from mspgt_tl.models.pretrained import encode
from mspgt_tl.passes.corpus import stream

if TYPE_CHECKING:
    from torch import Tensor


def bytes_of_word_vectors(n_words: int, n_layers: int, d_model: int) -> int:
    """Return how much room the vectors of so many words take, in memory or on disk.

    >>> bytes_of_word_vectors(90_000, 30, 576) / 1e9  # SmolLM2-135M, the English Web Treebank
    3.1104
    """
    return 2 * n_words * n_layers * d_model


@dataclass(frozen=True)
class Vectors:
    """Vectors of words at every layer."""

    codes: UInt16[np.ndarray, "layer word d_model"]
    """The bits of bfloat16 differences from `midst`; in memory or in a file."""
    midst: Float[np.ndarray, "layer d_model"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Words, layers, d_model."""
        n_layers, n_words, d_model = self.codes.shape
        return n_words, n_layers, d_model

    def __len__(self) -> int:
        return self.codes.shape[1]

    def at(self, layer: int, words: slice | Int[np.ndarray, "word"] = slice(None)) -> Float[Tensor, "word d_model"]:
        """Return float32 vectors at one layer."""
        import torch

        bits = torch.from_numpy(np.array(self.codes[layer, words]).view(np.int16))
        return bits.view(torch.bfloat16).float().add_(torch.from_numpy(self.midst[layer]))

    def fill(self, layer: int, words: Int[np.ndarray, "word"], vectors: Float[Tensor, "word d_model"]) -> None:
        """Keep these words' vectors at one layer."""
        import torch

        difference = vectors.float().cpu() - torch.from_numpy(self.midst[layer])
        self.codes[layer, words] = difference.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


@dataclass(frozen=True)
class WordVectors:
    """The residual stream at the last sub-token of every word of a list of trees.

    Not as blocks read it (`as_read`): probes standardise every channel, and dividing by the length of a row only adds
    its noise to small channels. Planted boundaries are found less with it, 78 % instead of 93 % (strength 1).
    """

    features: Vectors
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
    shape = (int(model.cfg.n_layers), int(starts[-1]), int(model.cfg.d_model))
    features = Vectors(scratch_array(store, shape, np.uint16), np.zeros((shape[0], shape[2]), dtype=np.float32))
    rows = []
    for tree, found in enumerate(positions):
        number = iter(range(starts[tree], starts[tree + 1]))
        rows.append(np.array([-1 if p is None else next(number) for p in found], dtype=np.int64))
    done, no_data, started = 0, 0, False
    for batch in stream(model, texts, seed=0, config=config):
        where = [(i, p) for i, tree in enumerate(batch.sentence) for p in positions[tree] if p is not None]
        into = np.concatenate([rows[tree][rows[tree] >= 0] for tree in batch.sentence])
        if len(into):
            at = tuple(np.array(where).T)
            for layer, resid in enumerate(batch.resid):
                vectors = resid[at]
                if not started:
                    features.midst[layer] = vectors.float().mean(0).cpu().numpy()
                features.fill(layer, into, vectors)
            started = True
            left_out = into[~batch.is_data.cpu().numpy()[at]]
            no_data += len(left_out)
            for tree in batch.sentence:
                rows[tree] = np.where(np.isin(rows[tree], left_out), -1, rows[tree])
        done += len(batch.sentence)
        del batch
        if progress:
            progress(stage, done, len(trees))
    return WordVectors(features, tuple(rows), no_data)
