"""Curves of signals without a detection: one pass over sentences, no treebank, no boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from mspgt_tl.config import Rule, SignalConfig, StreamConfig
from mspgt_tl.contracts import GAP, SIGNAL, CausalModel, Progress, StreamSignal, TextCorpus, check_seed
from mspgt_tl.errors import ConfigError, unknown_name
from mspgt_tl.evidence import make_signals
from mspgt_tl.models.pretrained import load
from mspgt_tl.passes.corpus import observe_corpus, usable_text
from mspgt_tl.passes.folds import assign_folds
from mspgt_tl.pipeline.inputs import open_corpus
from mspgt_tl.progress import telling

if TYPE_CHECKING:
    import xarray as xr


def measure(
    model: str | Path | CausalModel,
    sentences: str | Path | TextCorpus | Sequence[str],
    signals: Sequence[str] | None = None,
    *,
    seed: int = 0,
    rule: Rule = "mspgt",
    config: SignalConfig | None = None,
    stream: StreamConfig | None = None,
    progress: Progress | bool | None = None,
) -> xr.DataArray:
    """Return the curves of signals over a text as a detection on it would have them.

    Args:
        model: anything `load` takes.
        sentences: a list of sentences, a `TextCorpus`, or anything else that `detect` takes as a corpus.
        signals: fused signals that read the text alone; by default all of them: `cka`, `attention_jsd`.
        seed: of the bootstrap folds and of the token drawn from each sentence.
        rule: `"paper"` takes raw rows of the stream.
        config: the forms of the signals.
        stream: how sentences pass through the model; `StreamConfig(tokens="all")` brings back first tokens and sinks.

    Returns:
        `[signal, gap]`, each signal in its own unit (coordinate `unit`); gap b lies between blocks b − 1 and b. `nan`
        where a value cannot be computed.

    Raises:
        ConfigError: an unknown signal, one that needs a treebank, or an unusable seed.
        CorpusError: fewer than 200 usable sentences.
        MspgtError: bad input of another kind, with what was needed, what came and what to do.

    See Also:
        detect: intervals, tests and verdicts, too.
        find_boundaries: boundaries of curves alone.

    Example:
        >>> import mspgt_tl
        >>> curves = measure("planted:8:3,6", mspgt_tl.sample_sentences(200))
        >>> [str(name) for name in curves.signal.values], curves.sizes["gap"]
        (['cka', 'attention_jsd'], 7)
        >>> sorted(int(gap) for gap in curves.to_pandas().loc["cka"].nlargest(2).index)
        [3, 6]
    """
    import xarray as xr

    check_seed(seed)
    settings, made = stream or StreamConfig(), make_signals(config or SignalConfig(), rule)
    if rule not in get_args(Rule):
        raise ConfigError(unknown_name("rule", str(rule), get_args(Rule)))
    streamed: dict[str, Any] = {name: part for name, part in made.items() if isinstance(part, StreamSignal)}
    names = [signals] if isinstance(signals, str) else list(streamed if signals is None else signals)
    for name in names:
        if name in made and name not in streamed:
            raise ConfigError(f"Signal '{name}' needs a treebank: use `detect`. Without one: {', '.join(streamed)}.")
        if name not in streamed:
            raise ConfigError(unknown_name("signal", str(name), streamed))
    if not names:
        raise ConfigError(f"At least one signal is needed, of {', '.join(streamed)}.")
    text = sentences if isinstance(sentences, TextCorpus) else open_corpus(sentences, 10_000)
    assign_folds(len(text.sentences), seed=seed)  # refuses too short a text before the model is loaded
    hooked = load(model)
    usable, folds = usable_text(hooked, text, seed=seed, config=settings)
    chosen = {name: streamed[name] for name in names}
    with telling(progress) as told:
        sums = observe_corpus(hooked, usable.sentences, chosen, folds=folds, seed=seed, config=settings, progress=told)
    once = np.ones((1, folds.count))
    curves = np.stack([part.curves(sums[name], once)[0] for name, part in chosen.items()])
    return xr.DataArray(
        curves,
        dims=(SIGNAL, GAP),
        coords={
            SIGNAL: list(chosen),
            GAP: np.arange(1, curves.shape[1] + 1),
            "unit": (SIGNAL, [part.unit for part in chosen.values()]),
        },
        attrs={"seed": seed, "rule": rule, "sentences": len(folds.order), "corpus": text.name},
        name="curve",
    )
