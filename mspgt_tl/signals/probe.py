"""Signal 2: how far what a probe can read changes from one layer to the next (eq. 4, P).

For every task, three kinds of probe are trained on the frozen activations of all layers: `mlp` (one hidden
layer, 128 units, P), `linear` (no hidden layer, N) and `control` (the MLP on a random label per word type, N:
Hewitt & Liang 2019). F1(l) is the mean over tasks of macro-F1 over labels with at least 20 test items, and
S2(b) = |F1(b) - F1(b-1)|.

Decisions:

- Labels with fewer than 20 test items are dropped once, from the full test data, and 'O' and 'none' always;
  the sums hold only the labels that count. A resample that drew no item of a label, and predicted none,
  scores 0 for it (as scikit-learn's `zero_division=0`): the same labels count at every layer, so no jump
  comes from a change of labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from mspgt_tl.config import ProbeCurve
from mspgt_tl.contracts import SIGNALS, TASKS, Resampled, Role, Signal
from mspgt_tl.errors import ConfigError, DataError, unknown_name

KINDS = ("mlp", "linear", "control")
"""Kinds of probe trained for every task."""

EXACT_FLOAT32 = 2**24
"""Sums of counts below this are exact in float32."""

CHUNK_VALUES = 2**22
"""Values of one product at once (16 MB). Smaller chunks fit the cache but cost up to 1 s in handing threads
over on a busy machine (measured)."""


@SIGNALS.register
@dataclass(frozen=True)
class ProbeSignal(Signal):
    """Change of decodability from block to block.

    Unit: F1 points as a fraction, in [0, 1] (selectivity: in [0, 2]); 0 means that probes read both layers
    equally well.
    """

    name: ClassVar[str] = "probe"
    title: ClassVar[str] = "Probe jumps"
    unit: ClassVar[str] = "macro-F1 (fraction)"
    source: ClassVar[str] = "eq. 4, P; linear baseline, control tasks and selectivity N (Hewitt & Liang 2019)"
    role: ClassVar[Role] = "fused"
    place: ClassVar[int] = 2
    definition: ClassVar[str] = "S₂(b) = |F1(b) − F1(b−1)|: change of the probes' mean macro-F1. Eq. 4, P."
    resampled_with: ClassVar[Resampled] = "trees"

    curve: ProbeCurve = "f1"
    """Whose jumps are taken: the MLP's F1 (P), or F1 less the control task's (N)."""

    @classmethod
    def from_config(cls, config: Any, rule: str) -> ProbeSignal:
        return cls(curve=config.probe_curve)

    def __post_init__(self) -> None:
        if self.curve not in get_args(ProbeCurve):
            raise ConfigError(unknown_name("probe curve", self.curve, get_args(ProbeCurve)))

    def curves(
        self, sums: Mapping[str, np.ndarray], weights: Float[np.ndarray, "resample fold"]
    ) -> Float[np.ndarray, "resample gap"]:
        """Return |F1(b) - F1(b-1)| per row of fold weights; tasks that could not be scored are left out."""
        wanted = ("mlp",) if self.curve == "f1" else ("mlp", "control")
        tasks = [task for task in TASKS if all(f"{task}.{kind}.hits" in sums for kind in wanted)]
        if not tasks:
            raise DataError(f"The sums hold no task with {' and '.join(wanted)} counts: {sorted(sums)}.")
        levels = 0.0
        for task in tasks:
            levels = levels + _macro_f1(sums, task, "mlp", weights)
            if self.curve == "selectivity":
                levels = levels - _macro_f1(sums, task, "control", weights)
        return np.abs(np.diff(levels / len(tasks), axis=1))


def f1_table(sums: Mapping[str, np.ndarray]) -> Float[np.ndarray, "task kind layer"]:
    """Return macro-F1 for every task of `TASKS`, kind of `KINDS` and layer; nan where it was not computed."""
    n_folds, _, n_layers, _ = next(iter(sums.values())).shape
    table = np.full((len(TASKS), len(KINDS), n_layers), np.nan)
    for row, task in enumerate(TASKS):
        for column, kind in enumerate(KINDS):
            if f"{task}.{kind}.hits" in sums:
                table[row, column] = _macro_f1(sums, task, kind, np.ones((1, n_folds)))[0]
    return table


def _macro_f1(
    sums: Mapping[str, np.ndarray], task: str, kind: str, weights: np.ndarray
) -> Float[np.ndarray, "resample layer"]:
    """Return macro-F1 averaged over repeated trainings, which a resample draws anew with replacement."""
    hits, total = (sums[f"{task}.{kind}.{part}"] for part in ("hits", "total"))
    repeats = hits.shape[1]
    pattern = "fold repeat layer label -> fold (repeat layer) label"
    scores = macro_f1(rearrange(hits, pattern), rearrange(total, pattern), weights)
    scores = rearrange(scores, "resample (repeat layer) -> resample repeat layer", repeat=repeats)
    drawn = np.random.default_rng(TASKS.index(task)).integers(0, repeats, (len(weights), repeats))
    drawn[(weights == 1).all(axis=1)] = np.arange(repeats)
    return np.take_along_axis(scores, drawn[:, :, None], axis=1).mean(axis=1)


def macro_f1(
    hits: Float[np.ndarray, "fold layer label"],
    total: Float[np.ndarray, "fold layer label"],
    weights: Float[np.ndarray, "resample fold"],
) -> Float[np.ndarray, "resample layer"]:
    """Return macro-F1 per row of fold weights from true positives and 2 TP + FP + FN.

    A row of zeros gives nan. Products run in float32 where every sum is an integer that float32 holds
    exactly, which leaves only the rounding of the quotients and their mean, below 1e-6.

    >>> macro_f1(np.array([[[3.0]]]), np.array([[[8.0]]]), np.ones((1, 1)))
    array([[0.75]])
    """
    n_folds, n_layers, n_labels = hits.shape
    small = (weights.max(initial=0) * total.sum(0)).max(initial=0) < EXACT_FLOAT32
    exact = small and all((part == np.rint(part)).all() for part in (weights, hits, total))
    dtype = np.float32 if exact else np.float64
    w, h, t = (np.asarray(part, dtype=dtype) for part in (weights, hits, total))
    h, t = 2 * h.reshape(n_folds, -1), t.reshape(n_folds, -1)
    mean = np.full(n_labels, 1 / n_labels, dtype=dtype)
    scores = np.empty((len(w), n_layers))
    size = max(1, CHUNK_VALUES // (n_layers * n_labels))
    for start in range(0, len(w), size):
        rows = slice(start, start + size)
        below = w[rows] @ t
        ratio = np.divide(w[rows] @ h, np.maximum(below, np.finfo(dtype).tiny, out=below), out=below)
        scores[rows] = (ratio.reshape(-1, n_labels) @ mean).reshape(-1, n_layers)
    scores[~w.any(axis=1)] = np.nan
    return scores


def count_labels(
    predicted: Int[np.ndarray, "layer item"],
    label: Int[np.ndarray, "item"],
    fold: Int[np.ndarray, "item"],
    *,
    n_folds: int,
    n_labels: int,
) -> tuple[Float[np.ndarray, "fold layer label"], Float[np.ndarray, "fold layer label"]]:
    """Return true positives and 2 TP + FP + FN of every label: they add over folds, F1 does not."""
    shape = (n_folds, len(predicted), n_labels)
    hits, total = np.zeros(shape), np.zeros(shape)
    given = np.bincount(fold * n_labels + label, minlength=n_folds * n_labels).reshape(n_folds, n_labels)
    for layer, guess in enumerate(predicted):
        cell = fold * n_labels + guess
        guessed = np.bincount(cell, minlength=n_folds * n_labels).reshape(n_folds, n_labels)
        right = np.bincount(cell[guess == label], minlength=n_folds * n_labels)
        hits[:, layer] = right.reshape(n_folds, n_labels)
        total[:, layer] = guessed + given
    return hits, total
