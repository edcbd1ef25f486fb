"""Times the batched probes against a loop of scikit-learn's MLPClassifier over layers, at equal F1.

    python benchmarks/probes.py [--json] [--words 20000] [--repeats 1]

Both train one hidden layer of 128 units with Adam, the same epochs, minibatch, first step size and L2
penalty, without early stopping, on one thread and in one process; times are of the processor (a busy machine
distorts them less) and the figure is a ratio of times, its median over tasks and repeats. Ours gathers and
standardises inside the timed part; scikit-learn is given standardised arrays, a layer each. Settings are ours for
both; then each side's own, with scikit-learn's defaults (minibatch 200, step size 1e-3, alpha 1e-4) for as many
epochs. Our step size falls to 0 in any case, scikit-learn's does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from dataclasses import replace
from time import process_time
from typing import Any, cast

import numpy as np

from mspgt_tl.config import ProbeConfig
from mspgt_tl.signals.probe import count_labels, macro_f1
from mspgt_tl.signals.probe_training import (
    Inputs,
    Labelled,
    feature_moments,
    predict,
    start_weights,
    train_probes,
)

N_LAYERS, D_MODEL = 12, 128
LABELS_AND_PARTS = {"pos": (17, 1), "deprel": (40, 2), "ner": (7, 1), "srl": (25, 2)}
"""Labels, and words whose vectors are concatenated, as in the English Web Treebank."""

SETTINGS = {
    "same settings": ProbeConfig(),
    "each at its defaults": ProbeConfig(batch=200, learning_rate=1e-3, weight_decay=1e-4 / 200),
}
"""How scikit-learn trains; ours always trains at its defaults."""


def planted_task(n_words: int, n_labels: int, n_parts: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float32 features `[word, layer, d_model]`, rows and skewed labels, clearer with every layer."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, n_labels + 1)
    label = rng.choice(n_labels, size=n_words, p=share / share.sum())
    features = rng.standard_normal((n_words, N_LAYERS, D_MODEL), dtype=np.float32)
    centres = rng.standard_normal((n_labels, D_MODEL), dtype=np.float32)
    strength = np.linspace(0.1, 0.4, N_LAYERS, dtype=np.float32)
    features += strength[None, :, None] * centres[label][:, None]
    rows = np.stack([np.arange(n_words), *[rng.integers(0, n_words, n_words)] * (n_parts - 1)], axis=1)
    return features, rows, label


def ours(
    features: np.ndarray, train: Labelled, test: Labelled, n_labels: int, config: ProbeConfig
) -> tuple[float, np.ndarray]:
    """Return processor seconds of training and the predictions."""
    start = process_time()
    inputs = Inputs(features, feature_moments(features))
    widths = (D_MODEL * train.rows.shape[1], config.hidden, n_labels)
    trained = train_probes(inputs, train, start_weights(N_LAYERS, widths, seed=config.seed), config)
    seconds = process_time() - start
    return seconds, predict(inputs, test.rows, trained.weights)


def scikit_learn(
    features: np.ndarray, train: Labelled, test: Labelled, config: ProbeConfig
) -> tuple[float, np.ndarray]:
    """Return the same, training layer by layer."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    mean, scale = feature_moments(features)
    seconds, predictions = 0.0, []
    for layer in range(N_LAYERS):
        standard = ((features[:, layer] - mean[layer]) / scale[layer]).astype(np.float32)
        x, x_test = (standard[part.rows].reshape(len(part.rows), -1) for part in (train, test))
        model = MLPClassifier(
            (config.hidden,),
            alpha=config.weight_decay * config.batch,
            batch_size=cast(Any, config.batch),
            learning_rate_init=config.learning_rate,
            max_iter=config.epochs,
            n_iter_no_change=config.epochs + 1,
            random_state=config.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = process_time()
            model.fit(x, train.label)
            seconds += process_time() - start
        predictions.append(model.predict(x_test))
    return seconds, np.stack(predictions)


def mean_f1(predicted: np.ndarray, label: np.ndarray, n_labels: int) -> float:
    """Return macro-F1 over all labels, averaged over layers."""
    hits, total = count_labels(predicted, label, np.zeros_like(label), n_folds=1, n_labels=n_labels)
    return float(macro_f1(hits, total, np.ones((1, 1))).mean())


def compare(task: str, theirs: ProbeConfig, n_words: int, *, seed: int) -> dict[str, Any]:
    """Time both on one task."""
    n_labels, n_parts = LABELS_AND_PARTS[task]
    features, rows, label = planted_task(n_words + n_words // 4, n_labels, n_parts, seed=seed)
    train, test = Labelled(rows[:n_words], label[:n_words]), Labelled(rows[n_words:], label[n_words:])
    our_seconds, our_guess = ours(features, train, test, n_labels, ProbeConfig(seed=seed))
    their_seconds, their_guess = scikit_learn(features, train, test, replace(theirs, seed=seed))
    return {
        "task": task,
        "seconds": our_seconds,
        "scikit_learn_seconds": their_seconds,
        "ratio": their_seconds / our_seconds,
        "f1": mean_f1(our_guess, test.label, n_labels),
        "scikit_learn_f1": mean_f1(their_guess, test.label, n_labels),
    }


def compare_all(theirs: ProbeConfig, n_words: int, repeats: int) -> list[dict[str, Any]]:
    """Time both on every task, on one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        # Loads libraries, and lets the allocator see large arrays, before anything is timed.
        compare("deprel", theirs, min(n_words, 2000), seed=0)
        return [compare(task, theirs, n_words, seed=repeat) for repeat in range(repeats) for task in LABELS_AND_PARTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--words", type=int, default=20_000, help="training items a task")
    parser.add_argument("--repeats", type=int, default=1, help="timings a task, each on its own data")
    options = parser.parse_args()
    found = {name: compare_all(theirs, options.words, options.repeats) for name, theirs in SETTINGS.items()}
    if options.json:
        print(json.dumps({"benchmark": "probes", "runs": found}))
        return
    for name, runs in found.items():
        print(f"{name}\ntask     ours s  sklearn s  ratio   F1 ours  sklearn")
        for run in runs:
            print(
                f"{run['task']:<8}{run['seconds']:7.1f}{run['scikit_learn_seconds']:11.1f}{run['ratio']:7.2f}"
                f"{run['f1']:10.3f}{run['scikit_learn_f1']:9.3f}"
            )
        print(f"median ratio {statistics.median(run['ratio'] for run in runs):.2f}")


if __name__ == "__main__":
    main()
