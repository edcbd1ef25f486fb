"""From a model to signal curves with resamples, as a detection makes them, but with small corpora and cheap probes.

The same functions as in a detection read the model (`usable_text`, `observe_corpus`, `read_words`, `fit_probes`,
`resample_curves`); only files, model nulls and the report are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from mspgt_tl.config import ProbeConfig, SignalConfig, StreamConfig
from mspgt_tl.contracts import CausalModel, Signal, StreamSignal, TextCorpus, Treebank
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.corpora.shuffling import shuffle_labels
from mspgt_tl.evidence import make_signals, resample_curves
from mspgt_tl.passes.corpus import observe_corpus, usable_text
from mspgt_tl.passes.folds import assign_trees
from mspgt_tl.signals.probe import ProbeSignal
from mspgt_tl.signals.probe_fitting import ProbeData, fit_probes, read_words

STREAM = StreamConfig(max_length=64, batch_positions=4096)
NAMES = tuple(make_signals(SignalConfig()))


@dataclass(frozen=True)
class Effort:
    """How much data one model is measured on."""

    sentences: int = 200
    max_words: int = 12
    """Longest sentence: half as many tokens as without a limit."""
    train_trees: int = 150
    dev_trees: int = 150
    tasks: tuple[str, ...] = ("pos",)
    probe: ProbeConfig = field(default_factory=lambda: ProbeConfig(hidden=16, epochs=6, batch=64, repeats=2))
    resamples: int = 200
    """Bootstrap resamples."""
    null_curves: int = 500
    """Null curves of each kind for the p-values."""


@dataclass(frozen=True)
class Measured:
    """Signal curves of one model."""

    curves: Float[np.ndarray, "signal gap"]
    resampled: Float[np.ndarray, "resample signal gap"]
    null_curves: int = 500
    """Of each kind, for the p-values."""


@dataclass(frozen=True)
class Reading:
    """What was read from a model, before probes are trained."""

    effort: Effort
    sums: Mapping[str, Mapping[str, np.ndarray]]
    """Of the streamed signals."""
    trees: Treebank
    words: tuple[ProbeData, ProbeData]
    device: str

    def measured(self, *, seed: int) -> Measured:
        """Train probes and return all curves."""
        probe, _ = fit_probes(
            *self.words,
            self.effort.tasks,
            replace(self.effort.probe, seed=seed),
            kinds=("mlp",),  # the others enter no curve here
            device=self.device,
        )
        signals = make_signals(SignalConfig(tasks=self.effort.tasks))
        sums = {**self.sums, ProbeSignal.name: probe}
        curves, resampled = resample_curves(signals, sums, resamples=self.effort.resamples, seed=seed)
        return Measured(curves, resampled, self.effort.null_curves)

    def with_shuffled_labels(self, *, seed: int) -> Measured:
        """Return the curves after the labels were dealt anew."""
        dealt, (train, dev) = shuffle_labels(self.trees, seed=seed), self.words
        folds, _ = assign_trees(dealt.dev, seed=seed)
        words = replace(train, trees=dealt.train), replace(dev, trees=dealt.dev, fold=folds)
        return replace(self, words=words).measured(seed=seed)


def measure_model(model: CausalModel, effort: Effort, *, seed: int) -> Measured:
    """Return the three signals of a model with their resamples; `seed` also draws which text and trees are read."""
    return read_model(model, effort, seed=seed).measured(seed=seed)


def read_model(model: CausalModel, effort: Effort, *, seed: int) -> Reading:
    """Run a model over text and trees drawn from the generated corpus."""
    rng = np.random.default_rng([seed, 10])
    text = _text(effort.max_words)
    sentences = [text[int(i)] for i in rng.choice(len(text), effort.sentences, replace=False)]
    sums = read_sums(model, make_signals(SignalConfig(tasks=effort.tasks)), sentences, seed=seed)
    trees = _draw_trees(_trees(), effort, rng)
    words = read_words(model, trees.train, trees.dev, seed=seed, config=STREAM)
    return Reading(effort, sums, trees, words, str(model.cfg.device))


def read_sums(
    model: CausalModel, signals: Mapping[str, Signal], sentences: Sequence[str], *, seed: int
) -> dict[str, Mapping[str, np.ndarray]]:
    """Run the streamed signals over sentences."""
    streamed = {name: signal for name, signal in signals.items() if isinstance(signal, StreamSignal)}
    usable, folds = usable_text(model, TextCorpus("drawn", tuple(sentences), ""), seed=seed, config=STREAM)
    return observe_corpus(model, usable.sentences, streamed, folds=folds, seed=seed, config=STREAM)


def shuffled_depth(measured: Measured, *, seed: int) -> Measured:
    """Return a run with the gaps of every signal in a random order of its own: no two signals agree but by chance."""
    rng = np.random.default_rng([seed, 30])
    n_signals, n_gaps = measured.curves.shape
    orders = np.stack([rng.permutation(n_gaps) for _ in range(n_signals)])
    return replace(
        measured,
        curves=np.take_along_axis(measured.curves, orders, axis=1),
        resampled=np.take_along_axis(measured.resampled, orders[None], axis=2),
    )


def _draw_trees(trees: Treebank, effort: Effort, rng: np.random.Generator) -> Treebank:
    train, dev = (
        tuple(split[int(i)] for i in rng.choice(len(split), size, replace=False))
        for split, size in ((trees.train, effort.train_trees), (trees.dev, effort.dev_trees))
    )
    return replace(trees, train=train, dev=dev)


@lru_cache(maxsize=2)
def _text(max_words: int) -> tuple[str, ...]:
    return tuple(s for s in generated_corpus(seed=1, limit=3000).sentences if len(s.split()) <= max_words)


@lru_cache(maxsize=1)
def _trees() -> Treebank:
    return generate_treebank(seed=0)
