"""What a study will take, step by step, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mspgt_tl.config import DetectConfig
from mspgt_tl.errors import MspgtError
from mspgt_tl.pipeline.costs import Cost, detect_cost, intervene_cost, theory_cost, total
from mspgt_tl.pipeline.inputs import open_corpus, open_treebank
from mspgt_tl.pipeline.speed import Shape, Speed, measure_speed, shape_of
from mspgt_tl.study.plan import Step, StudyConfig, make_steps, nulls_of

POSITIONS_PER_WORD = 1.45
"""Tokens that a word of English text makes in the embedded models' vocabulary; large vocabularies make 1.2 to 1.3."""


@dataclass(frozen=True)
class Estimate:
    """A study's steps with their costs; nan with a reason where one cannot be told."""

    costs: Mapping[Step, Cost]
    reasons: Mapping[str, str]
    """By model or corpus: why it cannot be told, or not be found."""

    @property
    def total(self) -> Cost:
        """Seconds and disk of all steps together, memory and scratch space of the largest."""
        return total(list(self.costs.values()))


@dataclass(frozen=True)
class _Text:
    positions_per_sentence: float
    n_train: int
    n_dev: int
    words_per_tree: float


def estimate_study(config: StudyConfig) -> Estimate:
    """Estimate every step; models of one shape are timed once, on one or two random blocks of that shape."""
    reasons: dict[str, str] = {}
    texts: dict[str, _Text] = {}
    for name, corpus in config.corpora.items():
        try:
            texts[name] = _look_at(corpus.text, corpus.treebank, config.detect)
        except MspgtError as error:
            reasons[name] = str(error)
    known: dict[str, tuple[Shape, Speed]] = {}
    speeds: dict[Shape, Speed] = {}
    for model in config.models:
        try:
            shape = shape_of(model)
            size = replace(shape, name="", parameters=0)  # the same for all training runs
            if size not in speeds:
                speeds[size] = measure_speed(shape, config.device or "cpu", config.dtype)
            known[model] = shape, speeds[size]
        except MspgtError as error:
            reasons[model] = str(error)
    costs = {}
    for step in make_steps(config):
        if why := " ".join(reasons[name] for name in (step.corpus, step.model) if name in reasons):
            costs[step] = Cost(*[float("nan")] * 4, reason=why)
        else:
            costs[step] = _cost(config, step, *known[step.model], texts[step.corpus])
    return Estimate(costs, reasons)


def _look_at(text: str | None, treebank: str | None, config: DetectConfig) -> _Text:
    sentences = open_corpus(text, config.sentences).sentences
    words = sum(len(sentence.split()) for sentence in sentences) / max(1, len(sentences))
    trees = open_treebank(treebank, config, skip_bad=False)
    per_tree = sum(len(tree.words) for tree in trees.train) / max(1, len(trees.train))
    return _Text(POSITIONS_PER_WORD * words, len(trees.train), len(trees.dev), per_tree)


def _cost(config: StudyConfig, step: Step, shape: Shape, speed: Speed, text: _Text) -> Cost:
    length = min(text.positions_per_sentence, config.detect.stream.max_length)
    if step.stage == "detect":
        return detect_cost(
            shape,
            speed,
            config.detect,
            positions_per_sentence=length,
            n_trees_train=text.n_train,
            n_trees_dev=text.n_dev,
            words_per_tree=text.words_per_tree,
            nulls=nulls_of(config, step),
            rivals=config.rivals,
            reuse_probes=step.after is not None,
        )
    if step.stage == "intervene":
        return intervene_cost(shape, speed, config.intervene, positions_per_sentence=length)
    return theory_cost(shape, speed, config.theory, positions_per_sentence=length)
