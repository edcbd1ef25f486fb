"""What a run looks at: a model, a text and a treebank, opened from what the user gave, and their shuffled nulls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mspgt_tl.config import DetectConfig, hash_plain
from mspgt_tl.contracts import CausalModel, TextCorpus, Tree, Treebank
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.corpora.lines import expand, find_kind
from mspgt_tl.corpora.shuffling import shuffle_labels, shuffle_words
from mspgt_tl.corpora.text import read_text_corpus
from mspgt_tl.corpora.treebank import read_treebank
from mspgt_tl.errors import CorpusError
from mspgt_tl.models.names import twin_name
from mspgt_tl.models.pretrained import Backend, describe, hash_parameters, load, require_blocks


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; see `load`."""

    backend: Backend = "hooked"
    device: str | None = None
    dtype: str | None = None
    parity: bool = True
    trust_remote_code: bool = False

    def load(self, model: Any, *, least: int, purpose: str) -> CausalModel:
        """Load a model, or the model of a detection at the same commit, and refuse one of too few blocks."""
        hooked = load(model, **vars(self))
        require_blocks(hooked, least, purpose)
        return hooked


@dataclass(frozen=True)
class Inputs:
    """What one detection looks at."""

    model: CausalModel
    corpus: TextCorpus
    treebank: Treebank

    def prefixes_of(self, other: Inputs, prefix: str) -> Prefixes:
        """Return stage prefixes for `other`, under which it shares the stages that see the same inputs as these."""
        same = other.model is self.model
        return Prefixes(
            text="" if same and other.corpus is self.corpus else prefix,
            trees="" if same and other.treebank is self.treebank else prefix,
        )


@dataclass(frozen=True)
class Prefixes:
    """What the names of a detection's stages begin with: those over the text, and those over the trees."""

    text: str = ""
    trees: str = ""


def identify(model: CausalModel) -> dict[str, Any]:
    """Describe a model so that two models with other weights never share a run."""
    described = describe(model)
    if described["sha256"] is None:
        described["parameters_sha256"] = hash_parameters(model)
    return described


def open_corpus(corpus: Any, limit: int) -> TextCorpus:
    """Return the first `limit` sentences of a file, an `hf:` dataset, a list or a `TextCorpus`; None generates them.

    Raises:
        CorpusError: it cannot be read, or a list holds something other than strings.
    """
    if corpus is None:
        return generated_corpus(seed=1, limit=limit)
    if isinstance(corpus, TextCorpus):
        return corpus.select(range(min(limit, len(corpus.sentences))))
    if isinstance(corpus, str | Path):
        return read_text_corpus(corpus, limit=limit)
    sentences: tuple[Any, ...] = (
        tuple(corpus)[:limit] if isinstance(corpus, Iterable) and not isinstance(corpus, bytes | Mapping) else (corpus,)
    )
    if not all(isinstance(s, str) for s in sentences):
        raise CorpusError(
            "A corpus is a path, hf:NAME, or a list of strings, one sentence each, but "
            f"{next(type(s).__name__ for s in sentences if not isinstance(s, str))} came."
        )
    return TextCorpus("given sentences", sentences, hash_plain(sentences))


def open_treebank(treebank: Any, config: DetectConfig, *, skip_bad: bool, dev: int | None = None) -> Treebank:
    """Return a treebank with at most `config.train_trees` training trees; None is the generated one.

    Args:
        dev: at most so many trees to measure on; None keeps all.

    Raises:
        CorpusError: it cannot be read, or lacks the labels of a task asked for.
    """
    if treebank is None:
        trees = generate_treebank(seed=0)
    elif isinstance(treebank, Treebank):
        trees = treebank
    else:
        trees = read_treebank(*find_splits(treebank), skip_bad=skip_bad)
        if isinstance(treebank, str | Path):
            trees = replace(trees, name=Path(treebank).name)
    missing = [task for task in config.signals.tasks if task not in trees.tasks]
    if missing:
        have = ", ".join(trees.tasks) or "none"
        raise CorpusError(
            f"Treebank {trees.name} lacks the labels of {', '.join(missing)}; it has {have}. "
            f"Choose with --tasks {have.replace(' ', '')}."
        )
    measured = trees.dev if dev is None else _sample(trees.dev, dev, config.seed)
    return replace(trees, train=_sample(trees.train, config.train_trees, config.seed), dev=measured)


def reading_notes(
    corpus: TextCorpus, treebank: Treebank | None = None, cut: Mapping[str, int] = MappingProxyType({})
) -> dict[str, Any]:
    """Return what a manifest says about how its inputs were read: what was joined, dropped or mended, with counts.

    Args:
        cut: of the text's sentences, as the model reads them; see `count_cut`.
    """
    parts = {"corpus": {**corpus.notes, **cut}, "treebank": treebank.notes if treebank is not None else {}}
    return {f"reading_{name}": dict(notes) for name, notes in parts.items() if notes}


def find_splits(source: str | Path | Sequence[str | Path]) -> tuple[Path, Path]:
    """Return the train and dev file of a treebank given as a folder, as `"TRAIN,DEV"` or as a pair of paths.

    Raises:
        CorpusError: the folder does not hold exactly one file of each, or there are not two paths.
    """
    folder = expand(source) if isinstance(source, str | Path) else None
    if folder is None or ("," in str(source) and find_kind(folder) != "folder"):
        given = str(source).split(",") if folder is not None else list(source)  # pyright: ignore[reportArgumentType]
        if len(given) != 2 or not all(isinstance(path, str | Path) for path in given):
            raise CorpusError(f"A train and a dev file needed, but {given} came.")
        return expand(given[0]), expand(given[1])
    if find_kind(folder) != "folder":
        one = " One file is there: give a second to measure on, as 'TRAIN,DEV'." if folder.is_file() else ""
        raise CorpusError(
            f"A treebank is a folder with a train and a dev file, or 'TRAIN,DEV'; {source} is neither.{one}"
        )
    found = {split: sorted(p for p in folder.glob(f"*{split}*") if ".conllu" in p.name) for split in ("train", "dev")}
    for split, files in found.items():
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise CorpusError(f"{folder} must hold one *{split}*.conllu or .conllup file, found {names}.")
    return found["train"][0], found["dev"][0]


def _sample(trees: Sequence[Tree], wanted: int, seed: int) -> tuple[Tree, ...]:
    if len(trees) <= wanted:
        return tuple(trees)
    chosen = np.random.default_rng([seed, 2]).choice(len(trees), wanted, replace=False)
    return tuple(trees[i] for i in np.sort(chosen))


def null_inputs(name: str, inputs: Inputs, model: Any, loading: Loading, seed: int) -> Callable[[], Inputs]:
    """Return a function making the inputs of a null run; `check_nulls` has looked at its name."""
    if name == "labels":
        return lambda: replace(inputs, treebank=shuffle_labels(inputs.treebank, seed=seed))
    if name == "tokens":
        return lambda: replace(inputs, corpus=shuffle_words(inputs.corpus, seed=seed))
    twin = twin_name(str(model), int(name.partition(":")[2]))
    return lambda: replace(inputs, model=load(twin, **vars(loading)))
