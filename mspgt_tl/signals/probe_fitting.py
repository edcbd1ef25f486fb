"""Trains the probes of every task on one split of a treebank and counts their hits and misses on the other.

Decisions:

- Early stopping holds out a tenth of the *training* trees. Stopping on the dev split would choose, layer by
  layer, the epoch that suits the very items F1 is measured on, and the bootstrap over those items would not
  see that choice. Whole trees are held out because words of one sentence are alike.
- Held-out cross-entropy, not macro-F1, stops a layer: a tenth of the trees has too few rare labels for a
  stable F1.
- A test label never seen in training is counted: probes have no output for it, so its items are false
  negatives.
- The control's labels are other than the task's in number of items, so it has its own 20-item filter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mspgt_tl.config import ProbeConfig, StreamConfig
from mspgt_tl.contracts import SEEDS, TASKS, CausalModel, Progress, Tree
from mspgt_tl.errors import DataError
from mspgt_tl.models.placement import memory_budget
from mspgt_tl.passes.folds import assign_trees
from mspgt_tl.passes.words import Vectors, word_vectors
from mspgt_tl.signals.probe import KINDS, count_labels
from mspgt_tl.signals.probe_tasks import NO_LABEL, TaskItems, control_items, label_ids, make_items
from mspgt_tl.signals.probe_training import (
    Inputs,
    Labelled,
    Trained,
    feature_moments,
    predict,
    product_dtype,
    start_weights,
    train_probes,
)

REPEAT_STEP = 1_000_003
"""Seeds of repeated trainings lie this far apart, out of reach of the seeds of whole runs."""
TRAINED = 6
"""Copies of a probe's weights while it trains: itself, its best, its gradient, Adam's two sums, and one in between."""
HELD_OUT = 10
"""One training tree in so many decides when to stop."""


@dataclass(frozen=True)
class ProbeData:
    """The words of one split: their activations and their labelled trees."""

    features: Float[np.ndarray, "word layer d_model"] | Vectors
    """Activations at each word's last sub-token; an array may be a memory map, of float16 or float32."""
    trees: Sequence[Tree]
    word_row: Sequence[Int[np.ndarray, "word"]]
    """Per tree, the row of `features` of each word; -1 where it was truncated or could not be aligned."""
    fold: Int[np.ndarray, "tree"] | None = None
    """Bootstrap fold of each tree; only the test split needs it."""

    def __post_init__(self) -> None:
        if len(self.features.shape) != 3 or not len(self.features):
            raise DataError(f"features must be [word, layer, d_model] with words, got {self.features.shape}.")
        if self.fold is not None and len(self.fold) != len(self.trees):
            raise DataError(f"fold needs one entry a tree: {len(self.trees)} trees, got {len(self.fold)}.")
        if max((int(row.max()) for row in self.word_row if len(row)), default=-1) >= len(self.features):
            raise DataError(f"word_row points beyond the {len(self.features)} rows of features.")

    @cached_property
    def moments(self) -> tuple[Float[np.ndarray, "layer d_model"], Float[np.ndarray, "layer d_model"]]:
        """Mean and standard deviation of every channel; `ActivationError` if a value is not finite."""
        return feature_moments(self.features)


def read_words(
    model: CausalModel,
    train: Sequence[Tree],
    dev: Sequence[Tree],
    *,
    seed: int,
    config: StreamConfig,
    store: Path | None = None,
    progress: Progress | None = None,
) -> tuple[ProbeData, ProbeData]:
    """Run a model over the trees that probes are trained and measured on; the latter are dealt into folds by `seed`.

    Args:
        store: as for `word_vectors`.

    Raises:
        CorpusError: no word of a split could be aligned with a token.
    """

    def read(trees: Sequence[Tree], split: str, fold: Int[np.ndarray, "tree"] | None) -> ProbeData:
        words = word_vectors(model, trees, config=config, store=store, progress=progress, stage=f"words ({split})")
        return ProbeData(words.features, trees, words.rows, fold)

    return read(train, "train", None), read(dev, "dev", assign_trees(dev, seed=seed)[0])


def fit_probes(
    train: ProbeData,
    dev: ProbeData,
    tasks: Sequence[str] = TASKS,
    config: ProbeConfig | None = None,
    *,
    kinds: Sequence[str] = KINDS,
    device: str = "cpu",
    memory: float | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train all probes on `train` and count their hits and misses on `dev`, per bootstrap fold.

    Args:
        kinds: which of `KINDS` to train; no kind's numbers depend on the others.
        memory: bytes that standardised rows and weights may take, for as many layers at once as they suffice for; None
            takes `MEMORY_SHARE` of the machine's. On a GPU it is always half of what is free there.

    Returns:
        sums: `<task>.<kind>.hits` (true positives) and `<task>.<kind>.total` (2 TP + FP + FN), float64 of shape
            `[fold, repeat, layer, label]`, for the labels that count. A task that cannot be scored has no entry.
        metadata: plain values: the settings, the dtype of the products, label names and numbers of items per task
            and kind, held-out losses, and under `skipped` the reason for every task or control left out.

    Raises:
        ActivationError: an activation is nan or infinite.
        DataError: the two splits, or the folds, do not fit together.
    """
    config = config or ProbeConfig()
    fold = _checked_folds(train, dev)
    moments = train.moments
    _ = dev.moments  # refuses what is not finite
    held_out = _held_out_trees(len(train.trees), config.seed)
    jobs, skipped = list[_Job](), dict[str, str]()
    for task in tasks:
        items = _thin(make_items(train.trees, task, train.word_row, seed=config.seed), config)
        test_items = make_items(dev.trees, task, dev.word_row, seed=config.seed)
        for kind, kind_items, kind_tests in _kinds(items, test_items, config.seed, kinds):
            job = _Job(task, kind, kind_items, kind_tests, held_out[items.tree], config)
            reason = job.unscorable()
            if reason is not None:
                skipped[task if kind == "mlp" else f"{task}.{kind}"] = reason
                break
            jobs.append(job)
    words, n_layers, d_model = len(train.features) + len(dev.features), *train.features.shape[1:]
    rows = words * d_model * product_dtype(device).itemsize
    groups = layer_groups(n_layers, rows + TRAINED * 4 * 2 * d_model * config.hidden, memory, device)
    parts: dict[tuple[str, str], list[_Counted]] = {(job.task, job.kind): [] for job in jobs}
    for index, layers in enumerate(groups):
        inputs, tests = (Inputs(part.features, moments, device, layers=layers) for part in (train, dev))
        for job in jobs:
            on_share = _on_share(progress, job, index * len(kinds) + kinds.index(job.kind), len(groups) * len(kinds))
            parts[job.task, job.kind].append(job.run(inputs, tests, fold, on_share))
            on_share(1.0)  # layers may all have stopped early
    sums, described = dict[str, np.ndarray](), {task: dict[str, Any]() for task in tasks}
    for job in jobs:
        found = parts[job.task, job.kind]
        sums[f"{job.task}.{job.kind}.hits"] = np.concatenate([part.hits for part in found], axis=2)
        sums[f"{job.task}.{job.kind}.total"] = np.concatenate([part.total for part in found], axis=2)
        described[job.task][job.kind] = {
            **job.describe(),
            "best_epoch": np.concatenate([part.best_epoch for part in found], axis=1).tolist(),
            "held_out_loss": np.concatenate([part.held_out_loss for part in found], axis=1).tolist(),
        }
    return sums, {
        "config": asdict(config),
        "initialisation": "Glorot uniform, biases 0, the same draw at every layer, from config.seed",
        "products": str(product_dtype(device)).removeprefix("torch."),
        "held_out_trees": int(held_out.sum()),
        "tasks": described,
        "skipped": skipped,
    }


@dataclass(frozen=True)
class _Counted:
    """What a group of layers counted, and how its trainings went."""

    hits: Float[np.ndarray, "fold repeat layer label"]
    total: Float[np.ndarray, "fold repeat layer label"]
    best_epoch: Int[np.ndarray, "repeat layer"]
    held_out_loss: Float[np.ndarray, "repeat layer"]


@dataclass(frozen=True)
class _Job:
    """One kind of probe of one task, at all layers."""

    task: str
    kind: str
    items: TaskItems
    tests: TaskItems
    held_out: np.ndarray
    config: ProbeConfig

    def scored_labels(self) -> dict[str, int]:
        """Return the labels that count, with their numbers of test items, in alphabetical order."""
        names, counts = np.unique(self.tests.labels, return_counts=True)
        return {
            name: int(count)
            for name, count in zip(names.tolist(), counts, strict=True)
            if count >= self.config.min_items and name != NO_LABEL.get(self.task)
        }

    def unscorable(self) -> str | None:
        """Return why this probe cannot be trained or scored, if so."""
        n_held_out = int(self.held_out.sum())
        if n_held_out == 0 or n_held_out == len(self.items):
            return f"{self.task}: {len(self.items)} training items, too few to hold some out."
        if not self.scored_labels():
            return f"{self.task} ({self.kind}): no label has {self.config.min_items} test items."
        return None

    def run(
        self,
        inputs: Inputs,
        tests: Inputs,
        fold_of_tree: np.ndarray,
        on_share: Callable[[float], None],
    ) -> _Counted:
        """Train the probe `repeats` times (only the MLP more than once) and count its hits and misses."""
        repeats = self.config.repeats if self.kind == "mlp" else 1
        names, n_trained, train_ids, test_ids = label_ids(self.items.labels, self.tests.labels)
        columns = [names.index(name) for name in self.scored_labels()]
        n_folds, fold, counts, trainings = 1 + int(fold_of_tree.max()), fold_of_tree[self.tests.tree], [], []
        for repeat in range(repeats):
            trained = self._train(
                inputs, train_ids, n_trained, repeat, lambda share, r=repeat: on_share((r + share) / repeats)
            )
            predicted = predict(tests, self.tests.rows, trained.weights)
            counts.append(count_labels(predicted, test_ids, fold, n_folds=n_folds, n_labels=len(names)))
            trainings.append(trained)
        hits, total = (np.stack(part, axis=1)[..., columns] for part in zip(*counts, strict=True))
        best, loss = ([getattr(one, name) for one in trainings] for name in ("best_epoch", "held_out_loss"))
        return _Counted(hits, total, np.stack(best), np.stack(loss))

    def describe(self) -> dict[str, Any]:
        """Return label names and numbers of items."""
        names, n_trained, *_ = label_ids(self.items.labels, self.tests.labels)
        support = self.scored_labels()
        return {
            "labels": list(support),
            "test_items": list(support.values()),
            "left_out": sorted(set(names) - set(support)),
            "unseen_in_training": names[n_trained:],
            "n_train": int((~self.held_out).sum()),
            "n_held_out": int(self.held_out.sum()),
            "n_test": len(self.tests),
        }

    def _train(
        self, inputs: Inputs, train_ids: np.ndarray, n_labels: int, repeat: int, on_epoch: Callable[[float], None]
    ) -> Trained:
        config = replace(self.config, seed=(self.config.seed + REPEAT_STEP * repeat) % SEEDS)
        d_in = inputs.d_model * self.items.rows.shape[1]
        widths = (d_in, n_labels) if self.kind == "linear" else (d_in, config.hidden, n_labels)
        return train_probes(
            inputs,
            Labelled(self.items.rows[~self.held_out], train_ids[~self.held_out]),
            start_weights(inputs.n_layers, widths, seed=config.seed),
            config,
            held_out=Labelled(self.items.rows[self.held_out], train_ids[self.held_out]),
            on_epoch=on_epoch,
        )


def _kinds(
    items: TaskItems, tests: TaskItems, seed: int, wanted: Sequence[str]
) -> Iterator[tuple[str, TaskItems, TaskItems]]:
    for kind in KINDS:
        if kind not in wanted:
            continue
        if kind == "control":
            own, held = (control_items(part, items.labels, seed=seed) for part in (items, tests))
            yield kind, own, held
        else:
            yield kind, items, tests


def _thin(items: TaskItems, config: ProbeConfig) -> TaskItems:
    if len(items) <= config.max_items:
        return items
    rng = np.random.default_rng(config.seed)
    return items.take(np.sort(rng.choice(len(items), size=config.max_items, replace=False)))


def _held_out_trees(n_trees: int, seed: int) -> np.ndarray:
    """Return which trees choose the time to stop: one in `HELD_OUT`, at least one; a single tree trains nothing."""
    from sklearn.model_selection import ShuffleSplit

    mask = np.ones(n_trees, dtype=bool)
    if n_trees > 1:
        kept, _ = next(ShuffleSplit(1, test_size=1 / HELD_OUT, random_state=seed % 2**32).split(mask))
        mask[kept] = False
    return mask


def _on_share(progress: Progress | None, job: _Job, step: int, steps: int) -> Callable[[float], None]:
    """Return a function that reports a kind's finished share as per cent of its task."""

    def report(share: float) -> None:
        if progress is not None:
            progress(f"probes: {job.task}", 100 * (step + share) / steps, 100)

    return report


def layer_groups(n_layers: int, layer_bytes: int, memory: float | None, device: str) -> list[slice]:
    """Cut the layers into groups that fit into the memory, one layer at least; layers never mix, so any cut does."""
    import torch

    if torch.device(device).type == "cuda":
        memory = 0.5 * torch.cuda.mem_get_info(device)[0]
    size = max(1, int(memory_budget(memory)) // layer_bytes)
    n_groups = -(-n_layers // size)
    edges = [round(index * n_layers / n_groups) for index in range(n_groups + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def _checked_folds(train: ProbeData, dev: ProbeData) -> Int[np.ndarray, "tree"]:
    """Return the test split's folds, if both splits and the folds fit together."""
    if train.features.shape[1:] != dev.features.shape[1:]:
        raise DataError(
            f"Both splits need the same layers and d_model, got {train.features.shape[1:]} and "
            f"{dev.features.shape[1:]}."
        )
    if dev.fold is None:
        raise DataError("The test split needs `fold`, the bootstrap fold of each tree.")
    if len(dev.fold) and dev.fold.min() < 0:
        raise DataError(f"Folds are counted from 0, got {dev.fold.min()}.")
    return dev.fold
