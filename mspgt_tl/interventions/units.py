"""The unit of noise at every layer: how large activations are there, measured on a corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel, TextCorpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError, unknown_name
from mspgt_tl.passes.corpus import stream, usable_sentences

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MANTISSA_BITS = 10
"""Of a norm's float32 pattern, as many decide its bin: bins are at most 0.1 % wide."""


def activation_units(
    model: CausalModel,
    corpus: TextCorpus | Sequence[str],
    kind: Literal["robust", "std"] = "robust",
    *,
    config: StreamConfig | None = None,
) -> dict[int, float]:
    """Measure the activation unit s of every layer on a corpus, for `noise_hooks(unit=…)`.

    Args:
        kind: `robust` (N): the median over tokens, BOS left out, of ‖h‖/√d_model. It is read off a histogram whose bins
            are 0.1 % wide at most, so memory does not grow with the corpus, and it is within 0.1 % of the exact one.
            `std` (P): the standard deviation over all entries of the same tokens; a single outlier dimension sets it.

    Raises:
        ConfigError: unknown kind.
        CorpusError: no sentence has two tokens.

    See Also:
        noise_hooks: takes them as `unit`.

    Example:
        >>> import mspgt_tl
        >>> units = activation_units(mspgt_tl.load("planted:8:3,6"), mspgt_tl.sample_sentences(20))
        >>> list(units) == list(range(8)), min(units.values()) > 0
        (True, True)
    """
    if kind not in ("robust", "std"):
        raise ConfigError(unknown_name("activation unit", str(kind), ("robust", "std")))
    settings = config or StreamConfig()
    given = corpus.sentences if isinstance(corpus, TextCorpus) else corpus
    if isinstance(given, str):
        raise DataError("A sequence of sentences is needed, not one string.")
    sentences = usable_sentences(model, list(given), settings)
    if not sentences:
        raise CorpusError("No sentence of the corpus has two tokens, so there is no activation to measure.")
    n_layers = int(model.cfg.n_layers)
    state = _NormHistogram(n_layers) if kind == "robust" else _Moments(n_layers)
    for batch in stream(model, sentences, seed=0, config=settings):
        for layer, resid in enumerate(batch.resid):
            state.observe(layer, resid[batch.is_data])
    return dict(enumerate(state.finish()))


class _NormHistogram:
    """Counts of ‖h‖/√d_model in bins of its leading float32 bits, which order positive numbers as their values do."""

    SHIFT = 23 - MANTISSA_BITS

    def __init__(self, n_layers: int) -> None:
        self.counts = np.zeros((n_layers, 1 << (31 - self.SHIFT)), np.int64)

    def observe(self, layer: int, vectors: Float[Tensor, "token d_model"]) -> None:
        norms = vectors.float().norm(dim=-1) / math.sqrt(vectors.shape[-1])
        bins, counts = np.unique(norms.cpu().numpy().view(np.int32) >> self.SHIFT, return_counts=True)
        self.counts[layer, bins] += counts

    def finish(self) -> list[float]:
        return [self._median(row) for row in self.counts]

    def _median(self, counts: np.ndarray) -> float:
        """Return the value at half of the count, bins taken as evenly filled."""
        total = counts.cumsum()
        half = int(total[-1]) / 2
        where = int(np.searchsorted(total, half))
        low, high = (np.array([where, where + 1], np.int32) << self.SHIFT).view(np.float32).tolist()
        return low + (high - low) * (half - int(total[where] - counts[where])) / int(counts[where])


class _Moments:
    """Sums of entries and of their squares."""

    def __init__(self, n_layers: int) -> None:
        self.sums = [(0, 0.0, 0.0)] * n_layers

    def observe(self, layer: int, vectors: Float[Tensor, "token d_model"]) -> None:
        exact = vectors.double()
        n, first, second = self.sums[layer]
        self.sums[layer] = n + exact.numel(), first + float(exact.sum()), second + float(exact.square().sum())

    def finish(self) -> list[float]:
        return [math.sqrt(max(0.0, second / n - (first / n) ** 2)) for n, first, second in self.sums]
