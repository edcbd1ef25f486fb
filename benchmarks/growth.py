"""How time and memory of every stage grow: exponents against layers, width, sentences, conditions and resamples.

    python benchmarks/growth.py [--json]      # about five minutes of one core

Random Llamas; one size at a time grows twice, and an exponent is the slope of the logarithms of what
all three took. Times are of the processor, one thread; memory is what a process grows by, each size in a process of its
own. A part that does not grow lowers an exponent, memory's above all: it is bounded by batches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

BASE = {"layers": 6, "width": 128, "sentences": 120, "conditions": 4, "resamples": 1000}
"""Sizes while another one grows."""
GROWN = {
    "layers": (6, 12, 24),
    "width": (128, 256, 512),
    "sentences": (120, 240, 480),
    "conditions": (4, 8, 16),
    "resamples": (1000, 4000, 16_000),
}
AXES = {
    "signals": ("layers", "width", "sentences"),
    "probes": ("layers", "width", "sentences"),
    "bootstrap and tests": ("layers", "resamples"),
    "next-token effects": ("layers", "width", "sentences", "conditions"),
    "texts": ("layers", "width", "sentences", "conditions"),
}
"""What each stage's work depends on; of sentences, the probes' are trees and the texts' are samples."""


def make_model(size: dict[str, int]) -> Any:
    """Return a random Llama of so many blocks of so much width."""
    from mspgt_tl.models.shape import Shape, random_model

    width = size["width"]
    shape = Shape("grown", size["layers"], width, width // 32, width // 32, 32, 3 * width, 4096, 512, True, 0)
    return random_model(shape, device="cpu", dtype="float32")


def signals(model: Any, size: dict[str, int]) -> Callable[[], Any]:
    """The pass over a text with all that a detection watches."""
    from mspgt_tl.audit import audit_signals
    from mspgt_tl.config import SignalConfig, StreamConfig
    from mspgt_tl.contracts import StreamSignal
    from mspgt_tl.evidence import make_signals
    from mspgt_tl.passes.corpus import observe_corpus
    from mspgt_tl.passes.folds import Folds

    made = {name: one for name, one in make_signals(SignalConfig()).items() if isinstance(one, StreamSignal)}
    watched = {**made, **audit_signals(SignalConfig())}
    folds = Folds(np.arange(size["sentences"]), 20)
    return partial(observe_corpus, model, texts(size), watched, folds=folds, seed=0, config=StreamConfig())


def probes(model: Any, size: dict[str, int]) -> Callable[[], Any]:
    """Words' vectors and the probes of parts of speech on them."""
    from mspgt_tl.config import ProbeConfig, StreamConfig
    from mspgt_tl.corpora.grammar import generate_treebank
    from mspgt_tl.passes.words import word_vectors
    from mspgt_tl.signals.probe_fitting import ProbeData, fit_probes

    trees = generate_treebank(seed=0, train=size["sentences"], dev=60)

    def run() -> None:
        read = [word_vectors(model, part, config=StreamConfig()) for part in (trees.train, trees.dev)]
        data = [
            ProbeData(words.features, part, words.rows, np.zeros(len(part), dtype=int))
            for words, part in zip(read, (trees.train, trees.dev), strict=True)
        ]
        # As many epochs at every size: when layers stop early depends on the data.
        fit_probes(*data, ("pos",), ProbeConfig(epochs=4, patience=4, repeats=1, min_items=1))

    return run


def bootstrap(model: Any, size: dict[str, int]) -> Callable[[], Any]:
    """All that follows the sums."""
    from detect import synthetic_sums

    from mspgt_tl.config import BoundaryConfig, SignalConfig
    from mspgt_tl.evidence import make_signals, weigh_evidence

    settings = BoundaryConfig(resamples=size["resamples"], null_curves=2 * size["resamples"])
    return partial(weigh_evidence, make_signals(SignalConfig()), synthetic_sums(size["layers"], 80), settings, seed=0)


def effects(model: Any, size: dict[str, int]) -> Callable[[], Any]:
    """Noise in the upper half of the blocks at so many levels, against the undisturbed predictions."""
    from mspgt_tl.interventions.next_token import next_token_effects
    from mspgt_tl.interventions.noise import noise_hooks

    def hooks(layers: Any, sigma: Any, ids: Any, at: Any) -> Any:
        return noise_hooks(model, layers, sigma, seed=0, sample_ids=ids, positions=at, unit=1.0)

    levels = np.linspace(0.05, 0.5, size["conditions"]).tolist()
    upper = {"upper": range(size["layers"] // 2, size["layers"])}
    return partial(next_token_effects, model, texts(size), upper, levels, hooks, seed=0, resamples=100)


def written(model: Any, size: dict[str, int]) -> Callable[[], Any]:
    """Texts under so many conditions, a quarter as many samples as sentences, 16 tokens each."""
    from mspgt_tl.interventions.generation import generate
    from mspgt_tl.interventions.noise import noise_hooks
    from mspgt_tl.models.pretrained import encode

    count, n_samples = size["conditions"], size["sentences"] // 4
    prompts = [ids[:6] for ids in encode(model, texts(size)[:n_samples]).ids for _ in range(count)]
    blocks = range(size["layers"] // 2, size["layers"])
    return partial(
        generate,
        model,
        prompts,
        sample_ids=[i for i in range(n_samples) for _ in range(count)],
        max_new_tokens=16,
        hooks=lambda rows: noise_hooks(
            model, blocks, 0.1, seed=0, sample_ids=rows.sample_ids, positions=rows.positions, unit=1.0
        ),
    )


def texts(size: dict[str, int]) -> list[str]:
    """Return so many generated sentences."""
    from mspgt_tl.corpora.grammar import generated_corpus

    return list(generated_corpus(seed=1, limit=size["sentences"]).sentences)


STAGES = {
    "signals": signals,
    "probes": probes,
    "bootstrap and tests": bootstrap,
    "next-token effects": effects,
    "texts": written,
}


def measure(stage: str, size: dict[str, int]) -> tuple[float, float]:
    """Return processor seconds and bytes by which the process grows."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        model = None if stage == "bootstrap and tests" else make_model(size)
        small = {**size, "sentences": 40, "conditions": 1, "resamples": 100}
        STAGES[stage](model, small)()  # what comes up once
        run = STAGES[stage](model, size)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
        before, started = _status("VmRSS"), process_time()
        run()
        return process_time() - started, _status("VmHWM") - before


def measure_apart(stage: str, size: dict[str, int]) -> tuple[float, float]:
    """Measure in a copy of this process."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sending.send(measure(stage, size)))
    process.start()
    sending.close()
    found = receiving.recv()
    process.join()
    return found


def _status(name: str) -> float:
    return float(Path("/proc/self/status").read_text(encoding="ascii").split(f"{name}:")[1].split()[0]) * 1024


def exponent(sizes: Any, amounts: Any) -> float:
    """Return the slope of log amounts over log sizes.

    >>> exponent([1, 2, 4], [3, 12, 48])
    2.0
    """
    return round(float(np.polyfit(np.log(sizes), np.log(np.maximum(amounts, 1e-9)), 1)[0]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"of {', '.join(STAGES)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; known: {', '.join(STAGES)}")
    rows, _ = [], make_model(BASE)  # imports once what every process needs
    if not options.json:
        print("| stage | grows | seconds | exponent | MB | exponent |\n| --- | --- | --- | --- | --- | --- |")
    for stage in options.stages or STAGES:
        for axis in AXES[stage]:
            took = [measure_apart(stage, {**BASE, axis: value}) for value in GROWN[axis]]
            seconds, grown = zip(*took, strict=True)
            row = {"stage": stage, "axis": axis, "sizes": GROWN[axis], "seconds": seconds, "bytes": grown}
            row["time exponent"], row["memory exponent"] = exponent(GROWN[axis], seconds), exponent(GROWN[axis], grown)
            rows.append(row)
            if not options.json:
                shown = " … ".join(map(str, GROWN[axis]))
                took_seconds = ", ".join(f"{value:.2f}" for value in seconds)
                took_bytes = ", ".join(f"{value / 1e6:.0f}" for value in grown)
                print(
                    f"| {stage} | {axis} {shown} | {took_seconds} | {row['time exponent']:.2f} | {took_bytes} | "
                    f"{row['memory exponent']:.2f} |",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"benchmark": "growth", "rows": rows}))


if __name__ == "__main__":
    main()
