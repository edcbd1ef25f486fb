"""Two boundaries in every model? Both rules on trained weights, shuffled words, random weights and a spike-in.

    python benchmarks/columns.py MODEL TEXT OUT.csv [--sentences 300] [--twins 2] [--dtype bfloat16]

Without a treebank, so on two signals, 1 − CKA and attention drift. Three readings of each column: the published rule on
all tokens (first tokens and sinks among rows and keys, rows as long as they are), the published rule on the curves of
this package, and this package's verdict. Beside each: how many boundaries lie within one gap of the onset or end of a
massive activation or sink in that column, and how many gaps do. Columns in OUT.csv are not measured again. Sentences
are drawn evenly from the documents.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.config import SignalConfig, StreamConfig
from mspgt_tl.contracts import WITHIN, StreamSignal, TextCorpus
from mspgt_tl.corpora.shuffling import shuffle_words
from mspgt_tl.corpora.text import read_text_corpus
from mspgt_tl.evidence import make_signals, resample_curves
from mspgt_tl.models.names import twin_name
from mspgt_tl.models.pretrained import load
from mspgt_tl.models.spike_in import spiked
from mspgt_tl.passes.corpus import observe_corpus, which_usable
from mspgt_tl.passes.folds import assign_folds
from mspgt_tl.profile import StreamProfile, label_profile

RESAMPLES, SEED = 300, 0


def spread(corpus: TextCorpus, wanted: int) -> TextCorpus:
    """Take equally many sentences from the start of every document."""
    documents = corpus.documents or tuple(range(len(corpus.sentences)))
    each, seen, kept = -(-wanted // len(set(documents))), dict[int, int](), []
    for i, document in enumerate(documents):
        seen[document] = seen.get(document, 0) + 1
        if seen[document] <= each:
            kept.append(i)
    return corpus.select(kept[:wanted] if len(set(documents)) == len(documents) else kept)


def read(model: Any, corpus: TextCorpus, *, everything: bool) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return curves and resamples of the two signals over text, and the profile's sums."""
    stream = StreamConfig(tokens="all" if everything else "data", max_length=64)
    config = SignalConfig(attention_sinks=everything, rows="raw" if everything else "read")
    made = make_signals(config, "paper" if everything else "mspgt")
    signals: dict[str, Any] = {name: one for name, one in made.items() if isinstance(one, StreamSignal)}
    usable = corpus.select(which_usable(model, corpus.sentences, stream))
    folds = assign_folds(len(usable.sentences), seed=SEED, documents=usable.documents)
    watched = signals if everything else {**signals, "profile": StreamProfile()}
    sums = observe_corpus(model, usable.sentences, watched, folds=folds, seed=SEED, config=stream)
    curves, resampled = resample_curves(signals, sums, resamples=RESAMPLES, seed=SEED)
    return curves, resampled, sums.get("profile")


def rows_of(column: str, model: Any, corpus: TextCorpus) -> Iterator[dict[str, Any]]:
    """Yield one row a reading."""
    curves, resampled, profile = read(model, corpus, everything=False)
    onset = label_profile(profile, np.empty(0, dtype=int)).assign_coords(gap=np.arange(1, curves.shape[1] + 1))
    near_gaps = [int(g) for g in onset["gap"].values if _near(onset, int(g))]
    whole, whole_resampled, _ = read(model, corpus, everything=True)
    readings = {
        "published rule, all tokens": find_boundaries(whole, resampled=whole_resampled, rule="paper", seed=SEED),
        "published rule, our curves": find_boundaries(curves, resampled=resampled, rule="paper", seed=SEED),
        "this package": find_boundaries(curves, resampled=resampled, seed=SEED),
    }
    for name, found in readings.items():
        good = [g for g, v in zip(found.boundaries, found.verdicts, strict=True) if v in ("accepted", "supported")]
        yield {
            "column": column,
            "reading": name,
            "boundaries": " ".join(map(str, good)),
            "near": sum(gap in near_gaps for gap in good),
            "chance": len(near_gaps) / curves.shape[1],
            "candidates": " ".join(map(str, found.boundaries)),
            "p": " ".join(f"{p:.3f}" for p in found.p_values),
            "onsets": " ".join(str(int(g)) for g in onset["gap"].values[onset["onset"].values != 0]),
            "cka": " ".join(f"{x:.4f}" for x in (whole if "all tokens" in name else curves)[0]),
            "attention": " ".join(f"{x:.4f}" for x in (whole if "all tokens" in name else curves)[1]),
        }


def _near(onset: Any, gap: int) -> bool:
    return bool((onset["onset"].values[np.abs(onset["gap"].values - gap) <= WITHIN] != 0).any())


def main() -> None:
    """Measure the columns that are missing and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--twins", type=int, default=2)
    parser.add_argument("--dtype", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    corpus = spread(read_text_corpus(given.text), given.sentences)
    table = pd.read_csv(given.out) if given.out.is_file() else pd.DataFrame()
    done = {str(name).partition(",")[0] for name in table["column"]} if len(table) else set()
    columns = ["trained", "words shuffled", *(f"random weights {i}" for i in range(given.twins)), "spike-in"]
    hooked: Any = None
    for column in (c for c in columns if c not in done):
        if column.startswith("random"):
            hooked = load(twin_name(given.model, int(column.split()[-1])), dtype=given.dtype)
        elif hooked is None or column == "spike-in":
            hooked = load(given.model, dtype=given.dtype)
        text = shuffle_words(corpus, seed=SEED) if column == "words shuffled" else corpus
        planted = round(hooked.cfg.n_layers / 3)
        change: AbstractContextManager[Any] = (
            spiked(hooked, planted, 1.0, seed=SEED) if column == "spike-in" else nullcontext(hooked)
        )
        name = f"{column}, gap {planted}" if column == "spike-in" else column
        with change:
            table = pd.concat([table, pd.DataFrame(rows_of(name, hooked, text))], ignore_index=True)
        table.to_csv(given.out, index=False)
    shown = table[["column", "reading", "boundaries", "near", "chance", "candidates", "p", "onsets"]]
    print(shown.fillna("none").to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
