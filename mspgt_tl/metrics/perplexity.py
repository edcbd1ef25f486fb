"""How likely a continuation is under a clean model, given its prompt.

Prompt and continuation are tokenised together and told apart by characters: every token that reaches beyond the prompt
counts as continuation. Tokenised apart, many tokenizers would put a space before the continuation that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.config import MetricConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError
from mspgt_tl.metrics.base import METRICS, NAN, Better, MetricResult, Sample, TextMetric, missing_result, summarise
from mspgt_tl.models.pretrained import describe, encode
from mspgt_tl.passes.batches import POSITIONS, Padded, padded_batches


def continuation_losses(
    model: CausalModel, samples: Sequence[Sample], *, batch_positions: int = POSITIONS
) -> tuple[Float[np.ndarray, "sample"], Int[np.ndarray, "sample"]]:
    """Return the nats of every continuation under the model, summed, and the number of its tokens.

    A text's first token has no context unless a BOS precedes it, and then is not counted. What lies beyond the model's
    context is not counted either.

    Args:
        batch_positions: tokens of a padded batch; logits take 4 bytes × vocabulary each.

    Raises:
        ModelError: the model has no usable tokenizer, or a text does not fit into memory.
    """
    encoding = encode(model, [sample.prompt + sample.text for sample in samples])
    nats, counts = np.zeros(len(samples)), np.zeros(len(samples), dtype=np.int64)
    starts = []
    for index, sample in enumerate(samples):
        ends = [end for _, end in encoding.offsets[index]]
        start = next((i for i, end in enumerate(ends) if end > len(sample.prompt)), len(ends))
        starts.append(max(start, 1))
        counts[index] = max(len(ends) - starts[index], 0)
    # By length and then by ids: padding is little, and the order of the samples changes no batch.
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (len(encoding.ids[i]), encoding.ids[i]))
    batches = padded_batches(model, [encoding.ids[i] for i in order], "losses", positions=batch_positions)
    for batch in batches:
        with batches.fitting():
            rows = [order[i] for i in batch.rows]
            nats[rows] = _sum_losses(model, batch, [(starts[i], len(encoding.ids[i])) for i in rows])
    return nats, counts


def _sum_losses(model: CausalModel, batch: Padded, spans: Sequence[tuple[int, int]]) -> list[float]:
    import torch

    found = []
    with torch.inference_mode():
        logits = model.forward(batch.tokens, return_type="logits")
        for row, (start, end) in enumerate(spans):
            given, following = logits[row, start - 1 : end - 1].float(), batch.tokens[row, start:end]
            losses = torch.nn.functional.cross_entropy(given, following, reduction="none")
            found.append(float(losses.double().sum()))
    return found


@METRICS.register
@dataclass(frozen=True)
class ReferencePerplexity(TextMetric):
    """Mean nats per token of a continuation under a clean model, given its prompt: the log of its perplexity.

    `details` holds the perplexity of every sample and that of all tokens together (`pooled`).
    """

    model: CausalModel | None = None
    """The reference; without one the metric has no value."""
    batch_positions: int = POSITIONS
    """Tokens of a padded batch."""

    name: ClassVar[str] = "perplexity"
    title: ClassVar[str] = "Log-perplexity under the clean model"
    unit: ClassVar[str] = "nats per token"
    better: ClassVar[Better] = "none"
    meaning: ClassVar[str] = "Higher: less likely to the clean model; loops are very likely, so low is no praise."
    bounds: ClassVar[tuple[float, float]] = (0, float("inf"))
    source: ClassVar[str] = "reference perplexity (N)"

    def __post_init__(self) -> None:
        if self.batch_positions < 1:
            raise ConfigError(f"batch_positions must be 1 or more, got {self.batch_positions}.")

    @classmethod
    def from_config(cls, config: MetricConfig, model: CausalModel) -> Self:
        return cls(model=model)

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        if self.model is None:
            return missing_result(samples, "There is no reference model.")
        nats, counts = continuation_losses(self.model, samples, batch_positions=self.batch_positions)
        per_sample = np.where(counts > 0, nats / np.maximum(counts, 1), NAN)
        finite = np.isfinite(per_sample)
        total = int(counts[finite].sum())
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            perplexity = np.exp(per_sample)
            pooled = np.exp(np.float64(math.fsum(nats[finite])) / total)
        details: dict[str, Any] = {
            "model": describe(self.model)["name"],
            "perplexity": perplexity,
            "tokens": counts,
            "pooled": float(pooled),
        }
        undefined = "have no token with a context and a finite loss"
        return summarise(np.where(finite, per_sample, NAN), undefined=undefined, details=details)
