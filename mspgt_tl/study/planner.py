"""What runs will take, before they start: time, memory and disk, without loading the weights of the model.

The commands themselves are rehearsed: on the first sentences and trees of the data at hand, with few conditions, on a
random model of the same make with five blocks. Each stage's seconds are then scaled by the ratio of the work that it
does there and in the run (`work`); what multiplies a whole stage cancels, so nothing is fitted. A block too wide to be
rehearsed is rehearsed at two smaller widths, which tells matrix products from what grows with the width alone.

Right to a factor of about two on a machine as busy as during the rehearsal. Not counted: downloads, LanguageTool, the
search for prompts in long texts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from mspgt_tl.config import DetectConfig, InterveneConfig, make_config
from mspgt_tl.contracts import CausalModel, TextCorpus, Treebank
from mspgt_tl.errors import MspgtError
from mspgt_tl.interventions.generation import CPU_MEMORY
from mspgt_tl.interventions.sweep import plan_conditions
from mspgt_tl.models.placement import choose_device, choose_dtype
from mspgt_tl.models.shape import Shape, random_model, shape_of
from mspgt_tl.passes.batches import LENGTH, POSITIONS
from mspgt_tl.passes.words import bytes_of_word_vectors
from mspgt_tl.pipeline.detection import detect
from mspgt_tl.pipeline.inputs import open_corpus, open_treebank
from mspgt_tl.pipeline.intervention import choose_metrics, intervene
from mspgt_tl.pipeline.theory import run_theory
from mspgt_tl.study.plan import Stage, Step, StudyConfig, make_steps, nulls_of

NAN = float("nan")
BLOCKS, BLOCK_PARAMETERS = 5, 1.2e6
"""Of the rehearsed model, on the CPU; an accelerator rehearses blocks of up to a hundred times as many weights."""
SENTENCES, TREES = 210, 60
"""A detection takes at least 200 sentences."""
START, READING = 8.0, 0.5e9
"""Seconds for imports and the report; bytes of weights that are read a second."""
BASE, PAGE = 0.6e9, 5.3e6
"""Bytes of a process with the libraries imported (measured: benchmarks/README.md), and of a report."""
LOADING = 2.1
"""Peak bytes while a model loads, over those of its weights (measured, 188 M weights)."""
TOKENS_A_WORD = 1.45
"""Of English text in the embedded models' vocabulary; large vocabularies make 1.2 to 1.3."""
EMBEDDED = 0.009
"""Seconds a text under one measure of coherence (measured, one thread): loading its model would drown them."""
WEIGHT_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
PROMPT_SEARCH = 6
"""Tokens of a rehearsed prompt, so that few sentences suffice."""

Work = dict[str, tuple[float, float]]
"""By stage: multiply-adds of matrix products, and numbers that pass through everything else."""


@dataclass(frozen=True)
class Cost:
    """What one run takes; nan for what is unknown, with the reason."""

    seconds: float
    memory_bytes: float
    """Peak of the process on the host."""
    disk_bytes: float
    """Kept in the run's folder."""
    scratch_bytes: float
    """On disk only meanwhile."""
    device_bytes: float = 0.0
    """Peak on the accelerator; 0 on the CPU."""
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""


@dataclass(frozen=True)
class Estimate:
    """Steps with their costs; nan with a reason where one cannot be told."""

    costs: Mapping[Step, Cost]
    reasons: Mapping[str, str]
    """By model or corpus: why it cannot be told, or not be found."""

    @property
    def total(self) -> Cost:
        """Seconds and disk of all steps together, memory and scratch space of the largest."""
        costs = list(self.costs.values())
        largest: dict[str, Any] = {
            name: float(np.max([getattr(cost, name) for cost in costs], initial=0))  # nan stays nan
            for name in ("memory_bytes", "scratch_bytes", "device_bytes")
        }
        why = " ".join(dict.fromkeys(cost.reason for cost in costs if cost.reason))
        return Cost(sum(c.seconds for c in costs), disk_bytes=sum(c.disk_bytes for c in costs), reason=why, **largest)


@dataclass(frozen=True)
class Text:
    """What a run reads."""

    sentences: int
    words: float
    """Mean words of a sentence; tokens are counted in words throughout, for their ratio cancels."""
    train: int
    dev: int
    words_per_tree: float

    @classmethod
    def of(cls, corpus: TextCorpus, trees: Treebank) -> Text:
        """Measure a corpus and a treebank."""
        words = sum(len(sentence.split()) for sentence in corpus.sentences)
        both = [*trees.train, *trees.dev]
        per_tree = sum(len(tree.words) for tree in both) / max(1, len(both))
        n = len(corpus.sentences)
        return cls(n, words / max(1, n), len(trees.train), len(trees.dev), per_tree)


def work(
    shape: Shape, config: Any, text: Text, *, scales: int = 3, nulls: Sequence[str] = (), reuse: bool = False
) -> Work:
    """Return what every stage of a detection, a sweep or a theory run does; the type of `config` tells which.

    Args:
        scales: that a sweep disturbs, of about equal depth.
        nulls: of a detection.
        reuse: a detection's probes lie finished in another folder.
    """
    layers, width = shape.n_layers, shape.d_model
    passed = np.array([layers * shape.block_parameters, layers * width], dtype=float)
    logits = np.array([width * shape.d_vocab, shape.d_vocab], dtype=float)
    read = min(text.sentences, getattr(config, "sentences", text.sentences)) * text.words
    if isinstance(config, DetectConfig):
        kinds = [name.partition(":")[0] for name in nulls]
        trainings = 0 if reuse else 1 + sum(kind != "tokens" for kind in kinds)
        items = min(text.train, config.train_trees) * text.words_per_tree
        trees = items + text.dev * text.words_per_tree
        learnt = min(items, config.probe.max_items)
        steps = learnt * config.probe.passes(learnt) * (config.probe.repeats + 1)
        probe = np.array([width * config.probe.hidden, width], dtype=float)
        told = np.array([shape.block_parameters, width], dtype=float)
        found: dict[str, Any] = {
            "signals": (1 + sum(kind != "labels" for kind in kinds)) * read * passed,
            "probes": trainings * (trees * passed + 3 * layers * steps * len(config.signals.tasks) * probe),
            "result": (1 + len(kinds)) * layers * told * config.boundaries.resamples,
        }
    elif isinstance(config, InterveneConfig):
        equal = {f"scale {i}": blocks for i, blocks in enumerate(_cut(layers, scales))}
        conditions = plan_conditions(equal, layers, config)
        disturbed = [c for c in conditions if c.blocks]
        searched = [c for c in disturbed if c.dose in ("exit_norm", "kl")]
        levels = len(config.levels) * (1 + 4 * (config.dose in ("exit_norm", "kl")))
        targets = len(equal) + len({c.blocks for c in disturbed if c.is_control}) + layers
        prompt, new = config.decode.prompt_tokens, config.decode.new_tokens
        written = config.samples * len(conditions)
        texts, whole, one = written * (prompt + new), passed + logits, text.words
        found = {
            "activations": config.unit_sentences * one * passed,
            "conditions": config.dose_sentences * one * (len(searched) + 1) * whole,
            "ledger": config.dose_sentences * one * len(disturbed) * passed,
            "effects": config.effect_sentences * one * targets * levels * whole,
            "texts": texts * whole,
            "tokens": min(config.samples, 12) * len(conditions) * (prompt + new) * whole,
            "perplexity": texts * whole,
            "metrics": np.array([written, written], dtype=float),
        }
    else:
        whole, sets = passed + logits, layers + 3
        noised = sets * (passed / 2 + logits)
        closed = config.closure_texts * text.words
        cube = layers * np.array([width**3, width**2], dtype=float)
        batch = config.hvib.steps * config.hvib.batch * len(config.hvib.betas)
        found = {
            "scales": read * passed,
            "fisher": read * whole * (1 + 2 * config.label_samples),
            "closure": closed * (noised * len(config.closure_sigmas) * config.noise_draws + whole),
            "closure-float64": (config.exact_draws > 0)
            * closed
            * (noised * config.exact_draws + 2 * whole * config.closure_samples),
            "information": read * (passed + layers * logits) + cube,
            "rates": config.rate_texts * text.words * noised * len(config.rate_sigmas) + cube,
            "bottleneck": batch * logits,
        }
    return {stage: (float(amount[0]), float(amount[1])) for stage, amount in found.items()}


def _cut(n_layers: int, n_scales: int) -> list[range]:
    edges = [round(i * n_layers / n_scales) for i in range(n_scales + 1)]
    return [range(first, last) for first, last in pairwise(edges) if last > first]


def rehearsal(config: Any, shape: Shape) -> Any:
    """Return the same settings for as little work as shows what each unit of it takes."""
    if isinstance(config, DetectConfig):
        probe = replace(config.probe, min_items=1, epochs=min(2, config.probe.epochs), repeats=1)
        fusion = replace(config.boundaries, resamples=100, null_curves=min(100, config.boundaries.null_curves))
        return replace(config, sentences=SENTENCES, train_trees=TREES, probe=probe, boundaries=fusion)
    if isinstance(config, InterveneConfig):
        one = config.compared_level
        decode = replace(config.decode, prompt_tokens=PROMPT_SEARCH, new_tokens=min(8, config.decode.new_tokens))
        names = [name for name in choose_metrics(config) if "coherence" not in name and name != "languagetool"]
        # Whole batches: what a step of a narrow one takes is mostly Python.
        few: dict[str, Any] = {"samples": 25, "unit_sentences": 60, "effect_sentences": 60, "dose_sentences": 60}
        metrics = replace(config.metrics, names=tuple(names))
        return replace(
            config, levels=(one,), level=None, controls=1, resamples=100, decode=decode, metrics=metrics, **few
        )
    return replace(
        config,
        # A regression of every layer on the one below needs ten tokens a dimension.
        sentences=max(120, 2 * shape.d_model),
        label_samples=1,
        closure_texts=2,
        closure_sigmas=config.closure_sigmas[:1],
        closure_samples=2,
        noise_draws=2,
        exact_draws=min(2, config.exact_draws),
        rate_texts=20,
        rate_sigmas=config.rate_sigmas[:2],
        channel_sigmas=config.channel_sigmas[:1],
        resamples=100,
        hvib=replace(config.hvib, steps=min(30, config.hvib.steps), betas=config.hvib.betas[:2]),
    )


class Rehearsals:
    """Rehearsed runs on one device, each done once."""

    def __init__(self, device: str | None, dtype: str | None) -> None:
        place = choose_device(device or "cpu")
        self.device, self.on_cpu = str(place), place.type == "cpu"
        self.dtype = str(choose_dtype(dtype, place)).removeprefix("torch.")
        self.models: dict[Shape, CausalModel] = {}

    def shapes(self, shape: Shape) -> list[Shape]:
        """Return what is rehearsed in place of a shape: one of its own width, or two that are narrower."""
        most = BLOCK_PARAMETERS * (1 if self.on_cpu else 100)
        size = replace(shape, name="", parameters=0)  # the same for all training runs
        if size.block_parameters <= 2 * most:
            return [size.shrunk(n_layers=BLOCKS, block_parameters=size.block_parameters)]
        return [size.shrunk(n_layers=BLOCKS, block_parameters=part) for part in (most, most / 4)]

    def seconds(
        self, shape: Shape, config: Any, corpus: TextCorpus, trees: Treebank, *, rivals: bool, wanted: Work
    ) -> dict[str, float]:
        """Return seconds by stage of the run whose work this is."""
        timed = [self._time(small, config, corpus, trees, rivals) for small in self.shapes(shape)]
        found = {}
        for stage, amount in wanted.items():
            rows = np.array([done[stage] for done, _ in timed])
            took = np.array([seconds.get(stage, 0.0) for _, seconds in timed])
            found[stage] = _extrapolate(rows, took, np.array(amount))
        return found

    def _time(
        self, shape: Shape, config: Any, corpus: TextCorpus, trees: Treebank, rivals: bool
    ) -> tuple[Work, dict[str, float]]:
        small = rehearsal(config, shape)
        if shape not in self.models:
            self.models[shape] = random_model(shape, device=self.device, dtype=self.dtype)
        model = self.models[shape]
        long = [i for i, sentence in enumerate(corpus.sentences) if len(sentence.split()) > PROMPT_SEARCH]
        first = corpus.select(long[: max(SENTENCES, getattr(small, "sentences", 0))])
        few = replace(trees, train=trees.train[:TREES], dev=trees.dev[:TREES])
        started = time.perf_counter()
        if isinstance(small, DetectConfig):
            run: Any = detect(model, first, few, config=small, rivals=rivals)
        elif isinstance(small, InterveneConfig):
            blocks = {f"scale {i}": part for i, part in enumerate(_cut(shape.n_layers, 3))}
            run = intervene(model, first, config=small, scales=blocks)
        else:
            run = run_theory(model, first, config=small)
        return work(shape, small, Text.of(first, few)), _by_part(run.manifest, time.perf_counter() - started)


def _by_part(manifest: Mapping[str, Any], whole: float) -> dict[str, float]:
    """Return seconds under the names that `work` counts by; writing texts is no stage, and takes what is left."""
    command, found = manifest["identity"]["command"], dict[str, float]()
    for stage, entry in (manifest.get("shared", {}) | manifest["stages"]).items():
        part = "information" if stage == "pass over the text" else stage
        if command == "detect" and stage != "result":
            part = "probes" if stage.startswith("probe-") or stage == "pass over the trees" else "signals"
        if stage.startswith("metric-"):
            part = "perplexity" if stage == "metric-perplexity" else "metrics"
        found[part] = found.get(part, 0.0) + entry["seconds"]
    return {"texts": max(0.0, whole - sum(found.values())), **found}


def _extrapolate(done: np.ndarray, seconds: np.ndarray, wanted: np.ndarray) -> float:
    """Return seconds of the wanted work: in proportion to matrix products, or from two widths told apart."""
    from scipy.optimize import nnls

    if len(done) == 1:
        return float(seconds[0] * wanted[0] / done[0, 0]) if done[0, 0] else 0.0
    scale, weights = np.maximum(done.max(axis=0), 1), 1 / np.maximum(seconds, 1e-6)  # relative errors count
    rates, _ = nnls(done / scale * weights[:, None], seconds * weights)
    return float((wanted / scale) @ rates)


def estimate_study(config: StudyConfig) -> Estimate:
    """Estimate every step of a study; models of one shape are rehearsed once."""
    reasons: dict[str, str] = {}
    texts: dict[str, tuple[TextCorpus, Treebank]] = {}
    for name, corpus in config.corpora.items():
        try:
            trees = open_treebank(corpus.treebank, config.detect, skip_bad=False)
            texts[name] = open_corpus(corpus.text, config.detect.sentences), trees
        except MspgtError as error:
            reasons[name] = str(error)
    shapes: dict[str, Shape] = {}
    for model in config.models:
        try:
            shapes[model] = shape_of(model)
        except MspgtError as error:
            reasons[model] = str(error)
    rehearsals = Rehearsals(config.device, config.dtype)
    costs = {}
    for step in make_steps(config):
        if why := " ".join(reasons[name] for name in (step.corpus, step.model) if name in reasons):
            costs[step] = Cost(*[NAN] * 4, reason=why)
        else:
            costs[step] = _cost(config, step, shapes[step.model], *texts[step.corpus], rehearsals)
    return Estimate(costs, reasons)


def _cost(
    config: StudyConfig, step: Step, shape: Shape, corpus: TextCorpus, trees: Treebank, rehearsals: Rehearsals
) -> Cost:
    settings: Any = getattr(config, step.stage)
    text, nulls = Text.of(corpus, trees), nulls_of(config, step)
    random = [name for name in nulls if name.startswith("random")]
    wanted = work(shape, settings, text, nulls=nulls, reuse=step.after is not None)
    sizes = _sizes(shape, settings, text, rehearsals, twin=bool(random), trains=step.after is None)
    try:
        parts = rehearsals.seconds(shape, settings, corpus, trees, rivals=config.rivals, wanted=wanted)
    except MspgtError as error:
        return Cost(NAN, **sizes, reason=f"The time of '{shape.name}' is unknown: {error}")
    if step.stage == "intervene":
        coherence = sum("coherence" in name for name in choose_metrics(settings))
        parts["metrics"] += coherence * EMBEDDED * wanted["metrics"][0]
    parts = {"start": START + shape.weights * WEIGHT_BYTES[rehearsals.dtype] / READING, **parts}
    return Cost(sum(parts.values()), **sizes, parts=parts)


def _sizes(shape: Shape, config: Any, text: Text, place: Rehearsals, *, twin: bool, trains: bool) -> dict[str, Any]:
    """Return bytes in memory, kept and only meanwhile; what the model works on lies on its device."""
    layers, width, number = shape.n_layers, shape.d_model, WEIGHT_BYTES[place.dtype]
    weights, stream = shape.weights * number, getattr(config, "stream", None)
    length = min(TOKENS_A_WORD * text.words, stream.max_length if stream else LENGTH)
    trees = (min(text.train, getattr(config, "train_trees", 0)) + text.dev) * text.words_per_tree
    scratch = host = 0.0
    if isinstance(config, DetectConfig):
        working = config.stream.batch_positions * layers * 2 * (width + shape.n_heads * length) * number
        scratch = trains * bytes_of_word_vectors(int(trees), layers, width)
        host = trains * (0.2e9 + 40 * layers * width * config.probe.hidden)
        disk = 1e6 + 16e3 * (config.probe.repeats + 2) * layers * len(config.signals.tasks)
    elif isinstance(config, InterveneConfig):
        conditions = len(plan_conditions({"all": range(layers)}, layers, config)) * 3
        rows, tokens = config.decode.chunk_samples * conditions, config.decode.prompt_tokens + config.decode.new_tokens
        row = 3 * layers * tokens * shape.n_key_value_heads * shape.d_head * number + 48 * shape.d_vocab
        compared = 8 * shape.d_vocab * POSITIONS + config.dose_sentences * length * (layers + 1) * width * number
        working, host = max(min(CPU_MEMORY, rows * row), compared), 0.3e9
        disk = config.samples * conditions * (4.0 * config.decode.new_tokens + 100)
    else:
        scratch = 4 * config.sentences * length * layers * width
        # A copy in float64 beside the model; the softmax readouts of all layers.
        working = shape.weights * 8 + 24 * layers * width * shape.d_vocab
        working, host, disk = working + 2.6 * scratch, 0.1e9, 0.3e6
    # A twin is drawn in float32 while the first model stays.
    loading = LOADING * (shape.weights * 4 if twin else weights) + twin * weights * place.on_cpu
    held = (1 + twin) * weights + working
    memory = {"memory_bytes": BASE + (max(loading, held + host) if place.on_cpu else max(loading, host))}
    return {
        **memory,
        "device_bytes": 0.0 if place.on_cpu else held,
        "disk_bytes": PAGE + disk,
        "scratch_bytes": scratch,
    }


def plan_model(
    model: str,
    *,
    text: str | None = None,
    treebank: str | None = None,
    stages: Sequence[Stage] | None = None,
    **settings: Any,
) -> Estimate:
    """Estimate a detection, a sweep and a theory run of one model, as `estimate_study` does.

    Args:
        model: anything that `load` takes by name, or the path of a `config.json` alone.
        settings: by the names of a `StudyConfig`, such as `device`, `dtype`, or `detect={"sentences": 2000}`.

    Raises:
        ConfigError: an unusable setting.
    """
    chosen = {"stages": tuple(stages)} if stages else {}
    plain = {"title": model, "models": {model: chosen}, "corpora": {"text": {"text": text, "treebank": treebank}}}
    return estimate_study(make_config({"rivals": False, **settings, **plain}, StudyConfig))
