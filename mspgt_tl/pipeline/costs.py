"""What a run will take, before it starts: time, memory and disk, without loading the weights of the model.

Work is counted as the stages do it (passes, conditions, draws, fits) and multiplied by unit costs that `measure_speed`
takes on one or two random blocks of the model's width on the device at hand. What the counts leave out stands in the
factors below, fitted to small runs of an embedded model (12 blocks, d_model 128, one thread, CPU; benchmarks/costs.py).

Aim: within a factor of 2 on a machine as busy as while its speed was measured. Measured, estimated over actual time:
1.1 (detect), 0.8 (intervene), 0.9 (theory) on the runs that the factors were fitted to, their larger parts within 0.7
and 1.3. Runs of other sizes, timed by the clock on a machine with other work: 1.2 and 1.0 for detections on 3,000
sentences and 2,000 trees, 1.4 for one on 7,600 and 4,000 with three nulls, 0.6 for a sweep of 43 conditions × 1,000
samples while the machine was overloaded. Kept disk came out within 5 %. Not checked: the time of wider models, GPUs,
memory at work (loading alone was measured), what rivals add, and theory at other sizes.

Not counted: downloads, LanguageTool, the search for prompts in long texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mspgt_tl.config import DetectConfig, InterveneConfig, TheoryConfig
from mspgt_tl.errors import ConfigError
from mspgt_tl.interventions.generation import CPU_MEMORY
from mspgt_tl.interventions.next_token import KEPT_NUMBERS, LOGIT_POSITIONS
from mspgt_tl.interventions.sweep import Condition, plan_conditions
from mspgt_tl.pipeline.speed import LOADING, NAN, Shape, Speed

START = 8.0
"""Seconds for imports, loading and the report of a small model."""
BASE = 600e6
"""Bytes of a process with the libraries imported (measured: benchmarks/README.md)."""
PAGE = 5.3e6
"""Bytes of a report with its figures."""
SIGNALS, RIVALS = 1.4, 0.5
"""A pass with the fused signals and those of the audit, and what rivals add, over a bare forward pass."""
WORDS, SCALES = 1.2, 1.3
"""A pass that keeps word vectors or streams, and one that measures activation scales, over a bare forward pass."""
LABELS = {"pos": (1.0, 1, 17), "deprel": (0.94, 2, 42), "ner": (1.0, 1, 6), "srl": (0.84, 2, 25)}
"""By task: items a word, vectors an item, labels that are scored (English Web Treebank)."""
LINEAR = 0.33
"""A linear probe over an MLP."""
COMPARED, NOISED = 5.0, 3.5
"""Comparing predictions with the undisturbed ones, over logits with their log-probabilities: effects, theory."""
LEDGER = 1.2
"""What a condition is measured to amount to at every layer, over a forward pass."""
EVALUATIONS = 4
"""Disturbed passes until a dose is solved."""
BACKWARD = 2.1
"""One draw of labels with its backward pass, over a forward pass with logits (benchmarks/README.md)."""
WIDE = 2.0
"""float64 over float32."""
SOFTMAX_EPOCHS, RIDGE_MIXES = 5, 7
"""As `theory.mutual_information` does unless told otherwise."""
SBERT, TEXT = 11e6, 1e-3
"""Multiply-adds a token of the default embedding model; seconds a text for all metrics without a model."""


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
    """Seconds by what takes them."""


def total(costs: Sequence[Cost]) -> Cost:
    """Return what runs take one after the other: sums of time and disk, the largest memory and scratch.

    >>> both = total([Cost(10, 5, 1, 0), Cost(20, 3, 1, 2)])
    >>> both.seconds, both.memory_bytes, both.disk_bytes, both.scratch_bytes
    (30, 5, 2, 2)
    """

    def largest(name: str) -> float:
        values = [getattr(cost, name) for cost in costs]
        return NAN if any(math.isnan(value) for value in values) else max(values, default=0)

    return Cost(
        seconds=sum(cost.seconds for cost in costs),
        memory_bytes=largest("memory_bytes"),
        disk_bytes=sum(cost.disk_bytes for cost in costs),
        scratch_bytes=largest("scratch_bytes"),
        device_bytes=largest("device_bytes"),
        reason=" ".join(dict.fromkeys(cost.reason for cost in costs if cost.reason)),
        parts={name: sum(c.parts.get(name, 0.0) for c in costs) for cost in costs for name in cost.parts},
    )


def detect_cost(
    shape: Shape,
    speed: Speed,
    config: DetectConfig,
    *,
    positions_per_sentence: float,
    n_trees_train: int,
    n_trees_dev: int,
    words_per_tree: float = 16.0,
    nulls: Sequence[str] = (),
    rivals: bool = False,
    reuse_probes: bool = False,
) -> Cost:
    """Estimate a detection.

    Args:
        positions_per_sentence: mean number of tokens, BOS included, of the corpus and of the trees.
        words_per_tree: 16 in the English Web Treebank, 12 in the generated one.
        nulls: as for `detect`.
        reuse_probes: the probes of this model, its nulls' included, lie finished in the folder.

    Raises:
        ConfigError: an unknown null.
    """
    kinds = [name.partition(":")[0] for name in nulls]
    if unknown := set(kinds) - {"random", "labels", "tokens"}:
        raise ConfigError(f"Unknown null '{min(unknown)}'. Known: random:SEED, labels, tokens.")
    length = min(positions_per_sentence, config.stream.max_length)
    text = config.sentences * length * speed.forward
    texts = 1 + sum(kind != "labels" for kind in kinds)
    trainings = 0 if reuse_probes else 1 + sum(kind != "tokens" for kind in kinds)
    n_train = min(n_trees_train, config.train_trees)
    trees = (n_train + n_trees_dev) * length * speed.forward * WORDS
    training = sum(_probe_items(config, task, n_train, n_trees_dev, words_per_tree) for task in config.signals.tasks)
    probes = trees + training * shape.n_layers * speed.probe * config.probe.hidden / 128
    parts = {
        "start": START * (1 + 0.5 * len(nulls)),
        "signals": text * (texts * SIGNALS + rivals * RIVALS),
        "probes": trainings * probes,
    }
    twin = "random" in kinds
    labels = sum(LABELS[task][2] for task in config.signals.tasks)
    sums = 80 * (config.probe.repeats + 2) * shape.n_layers * labels * 2 * 8
    words = 4 * (n_train + n_trees_dev) * words_per_tree * shape.n_layers * shape.d_model
    kept = config.stream.batch_positions * shape.n_layers * (2 * shape.d_model + 2 * shape.n_heads * length)
    trained = 5 * 4 * shape.n_layers * 2 * shape.d_model * config.probe.hidden
    memory = _memory(shape, speed, kept * speed.weight_bytes, 0.0 if reuse_probes else trained + 0.2e9, twin=twin)
    return Cost(
        seconds=sum(parts.values()),
        parts=parts,
        disk_bytes=PAGE + (1 + len(nulls)) * 0.4e6 + (1 + sum(k != "tokens" for k in kinds)) * sums,
        scratch_bytes=words if trainings else 0.0,
        reason=speed.reason,
        **memory,
    )


def _probe_items(config: DetectConfig, task: str, n_train: int, n_dev: int, words_per_tree: float) -> float:
    """Return items times epochs over all trainings of a task, in steps of an MLP on one vector."""
    share, parts, _ = LABELS[task]
    items = min(n_train * words_per_tree * share, config.probe.max_items)
    # A step is three products, measuring on the held-out tenth or on the test items one.
    once = config.probe.epochs * items * (0.9 + 0.1 / 3) + n_dev * words_per_tree * share / 3
    return once * (1 + 0.8 * (parts - 1)) * (config.probe.repeats + 1 + LINEAR)


def intervene_cost(
    shape: Shape,
    speed: Speed,
    config: InterveneConfig,
    *,
    n_scales: int = 3,
    positions_per_sentence: float = 40.0,
) -> Cost:
    """Estimate a sweep over so many scales of about equal depth."""
    from mspgt_tl import metrics
    from mspgt_tl.metrics.base import METRICS

    assert metrics  # importing the package fills the registry
    scales = {f"scale {i}": blocks for i, blocks in enumerate(_cut(shape.n_layers, n_scales))}
    conditions = plan_conditions(scales, shape.n_layers, config)
    disturbed = [condition for condition in conditions if condition.blocks]
    length = min(positions_per_sentence, 128)
    names = list(METRICS if config.metrics.names is None else config.metrics.names)
    embeddings = sum(name.endswith("coherence") for name in names)
    texts, new = config.samples * len(conditions), config.decode.new_tokens

    def passes(some: Sequence[Condition]) -> float:
        """Seconds a position under each of these conditions, without logits."""
        return sum(_disturbed(shape, speed, condition.blocks) for condition in some)

    banks = 2 * (config.scale != "token") + (config.kind in ("covariance", "resample"))
    parts = {"start": START, "activations": banks * config.scale_sentences * length * speed.forward * SCALES}
    ledger = LEDGER * speed.forward
    searched = [condition for condition in disturbed if condition.dose in ("exit_norm", "kl")]
    doses = EVALUATIONS * (passes(searched) + sum(_measured(c, speed) for c in searched))
    parts["conditions"] = config.dose_sentences * length * doses
    parts["ledger"] = config.dose_sentences * length * (passes(disturbed) + len(disturbed) * ledger)
    controls = {c.blocks for c in disturbed if c.is_control}
    targets = [*(tuple(blocks) for blocks in scales.values()), *controls, *((i,) for i in range(shape.n_layers))]
    one = sum(_disturbed(shape, speed, blocks) + COMPARED * speed.logits for blocks in targets)
    parts["effects"] = config.effect_sentences * length * len(config.sigmas) * one
    if config.dose in ("exit_norm", "kl"):
        effort = one if config.dose == "kl" else one + len(targets) * (ledger - COMPARED * speed.logits)
        parts["effects"] += EVALUATIONS * config.dose_sentences * length * len(config.sigmas) * effort
    noise = speed.noise * sum(len(condition.blocks) for condition in disturbed)
    prompt = config.decode.prompt_tokens
    writing = new * (len(conditions) * speed.decode + noise)
    parts["texts"] = config.samples * (prompt * passes(disturbed) + writing)
    parts["perplexity"] = ("perplexity" in names) * texts * (prompt + new) * (speed.forward + speed.logits)
    parts["metrics"] = texts * (embeddings * SBERT * min(new, 256) * speed.product + TEXT)
    logits = 8 * shape.d_vocab * (5 * LOGIT_POSITIONS + min(KEPT_NUMBERS / shape.d_vocab, 2048))
    streams = (config.dose_sentences * length + 2048) * (shape.n_layers + 1) * shape.d_model * speed.weight_bytes
    row = 3 * shape.n_layers * (prompt + new) * shape.n_key_value_heads * shape.d_head
    rows = config.decode.chunk_samples * len(conditions)
    decoding = min(CPU_MEMORY, rows * (row * speed.weight_bytes + 48 * shape.d_vocab))
    return Cost(
        seconds=sum(parts.values()),
        parts=parts,
        disk_bytes=PAGE + texts * (4 * new + 8.4 * len(names)),
        scratch_bytes=0.0,
        reason=speed.reason,
        **_memory(shape, speed, max(decoding, logits + streams), 0.3e9),
    )


def _measured(condition: Condition, speed: Speed) -> float:
    """Return seconds a position for what a dose is solved by, beside the disturbed pass."""
    return COMPARED * speed.logits if condition.dose == "kl" else LEDGER * speed.forward


def _cut(n_layers: int, n_scales: int) -> list[range]:
    edges = [round(i * n_layers / n_scales) for i in range(n_scales + 1)]
    return [range(first, last) for first, last in pairwise(edges) if last > first]


def _disturbed(shape: Shape, speed: Speed, blocks: Sequence[int]) -> float:
    """Return seconds a position from the first disturbed block on."""
    return speed.forward * (1 - min(blocks) / shape.n_layers) + speed.noise * len(blocks)


def theory_cost(shape: Shape, speed: Speed, config: TheoryConfig, *, positions_per_sentence: float) -> Cost:
    """Estimate a theory run on three scales."""
    length = min(positions_per_sentence, config.stream.max_length)
    width, n_layers, vocabulary = shape.d_model, shape.n_layers, shape.d_vocab
    everywhere, tokens = config.sentences * length, config.sentences * max(length - 1, 1)
    sets = [(i,) for i in range(n_layers)] + [tuple(blocks) for blocks in _cut(n_layers, 3)]
    noised = sum(_disturbed(shape, speed, blocks) + (1 + NOISED) * speed.logits for blocks in sets)
    whole = speed.forward + speed.logits
    parts = {"start": START, "scales": everywhere * speed.forward * SCALES}
    parts["fisher"] = everywhere * whole * (1 + BACKWARD * config.label_samples)
    fisher = whole * (1 + BACKWARD * config.closure_samples)
    closed = config.closure_texts * length
    parts["closure"] = closed * (noised * len(config.closure_sigmas) * config.noise_draws + fisher)
    parts["closure-float64"] = WIDE * closed * (noised * config.exact_draws + fisher)
    fitted = 0.6 * tokens
    steps = SOFTMAX_EPOCHS * math.ceil(fitted / 256)
    logits = n_layers * vocabulary * speed.product
    # A step is three products, its softmax and Adam's passes over the weights; then a look at the tokens held out.
    softmax = steps * logits * (3 * width * 256 + 250 * 256 + 60 * width)
    softmax += SOFTMAX_EPOCHS * 0.1 * tokens * logits * (width + 30)
    ridge = tokens * (0.1 * (1 + RIDGE_MIXES) + 0.3 * 2) * speed.logits
    squares = WIDE * speed.product * (tokens * width**2 * 6 + 15 * width**3)
    parts["information"] = everywhere * speed.forward * WORDS + softmax + n_layers * (ridge + squares)
    parts["rates"] = config.rate_texts * length * noised * len(config.rate_sigmas) + n_layers * squares
    hvib = config.hvib
    parts["bottleneck"] = len(hvib.betas) * (3 * hvib.steps * min(hvib.batch, fitted) + 4 * 0.3 * tokens) * speed.logits
    streams = 4 * tokens * n_layers * width
    readouts = 2.6 * streams + 6 * 4 * n_layers * width * vocabulary + 3 * 4 * 2**23
    batch = config.stream.batch_positions
    graph = batch * speed.weight_bytes * (n_layers * (10 * width + 3 * shape.d_mlp + 4 * shape.n_heads * length))
    graph += batch * vocabulary * 24
    wide = shape.weights * 8
    on_device = speed.device != "cpu"
    memory = _memory(
        shape, speed, max(graph, 0.0 if on_device else readouts - wide) + wide, 0.1e9 + on_device * readouts
    )
    return Cost(
        seconds=sum(parts.values()),
        parts=parts,
        disk_bytes=PAGE + 0.3e6,
        scratch_bytes=streams,
        reason=speed.reason,
        **memory,
    )


def _memory(shape: Shape, speed: Speed, working: float, host: float, *, twin: bool = False) -> dict[str, float]:
    """Return peaks: what the model works on lies on the device, the rest on the host.

    A twin is drawn in float32 while the first model stays.
    """
    weights = shape.weights * speed.weight_bytes
    loading = twin * weights + LOADING * (shape.weights * 4 if twin else weights)
    if speed.device == "cpu":
        return {"memory_bytes": BASE + max(loading, (1 + twin) * weights + working + host)}
    return {"memory_bytes": BASE + max(loading, host), "device_bytes": (1 + twin) * weights + working}
