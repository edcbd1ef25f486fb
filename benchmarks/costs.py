"""Compares what `mspgt_tl.pipeline.costs` expects with what small runs take.

    python benchmarks/costs.py [detect] [intervene] [theory] [--model NAME] [--device DEVICE] [--json]

One run of each command on an embedded model and generated sentences, on one thread, estimated from a speed measured
right before it. A ratio is estimated over actual seconds, of the run and of the stages that its manifest times; the
start (imports and loading, here done before) counts on neither side. Both sides are processor time, which a busy
machine distorts less than the clock that the package itself reads. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy and torch read them
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DETECT: dict[str, Any] = {"sentences": 1500, "train_trees": 400}
INTERVENE: dict[str, Any] = {
    "samples": 25,
    "sigmas": (0.05, 0.1),
    "controls": 2,
    "effect_sentences": 100,
    "scale_sentences": 500,
    "decode": {"new_tokens": 40, "prompt_tokens": 8},
    "metrics": {"names": ("self_bleu", "mattr", "repetition_rate", "perplexity")},
}
THEORY: dict[str, Any] = {
    "sentences": 300,
    "closure_texts": 8,
    "closure_samples": 16,
    "exact_draws": 8,
    "rate_texts": 20,
    "rate_sigmas": (0.1, 1.0),
    "hvib": {"betas": (0.1, 1.0), "steps": 50},
}
PARTS = {
    "cka": "signals",
    "attention_jsd": "signals",
    "audit-cka": "signals",
    "audit-attention": "signals",
    **{f"probe-{task}": "probes" for task in ("pos", "deprel", "ner", "srl")},
    "metric-perplexity": "perplexity",
    **{f"metric-{name}": "metrics" for name in ("self_bleu", "mattr", "repetition_rate")},
}
"""Stages whose seconds are a part's of another name."""


def compare(cost: Any, run: Callable[[Path], Any]) -> dict[str, dict[str, float]]:
    """Run and return estimated and actual seconds, of all and by part."""
    with tempfile.TemporaryDirectory() as folder:
        start = process_time()
        run(Path(folder) / "run")
        whole = process_time() - start
        stages = json.loads((Path(folder) / "run" / "manifest.json").read_text())["stages"]
    actual: dict[str, float] = {}
    for name, entry in stages.items():
        part = PARTS.get(name, name)
        actual[part] = actual.get(part, 0.0) + entry["seconds"]
    expected = {name: seconds for name, seconds in cost.parts.items() if name != "start"}
    if "texts" in expected:
        actual["texts"] = whole - sum(actual.values())  # the stage that writes files of its own
    rows = {"all": {"estimated": sum(expected.values()), "actual": whole}}
    for name, seconds in expected.items():
        if name in actual:
            rows[name] = {"estimated": seconds, "actual": actual[name]}
    return rows


def main() -> None:
    """Measure, estimate, run and print both."""
    parser = argparse.ArgumentParser(description="Compare estimated with actual costs.")
    parser.add_argument("what", nargs="*", default=["detect", "intervene", "theory"])
    parser.add_argument("--model", default="qwen2.5-mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import torch

    import mspgt_tl
    from mspgt_tl.config import DetectConfig, InterveneConfig, TheoryConfig, make_config
    from mspgt_tl.corpora.grammar import generated_corpus
    from mspgt_tl.models.pretrained import encode
    from mspgt_tl.pipeline.costs import detect_cost, intervene_cost, theory_cost
    from mspgt_tl.pipeline.speed import measure_speed, shape_of
    from mspgt_tl.pipeline.theory import run_theory

    torch.set_num_threads(1)
    patch("time.perf_counter", process_time).start()
    shape = shape_of(options.model)
    model = mspgt_tl.load(options.model, device=options.device)
    ids = encode(model, generated_corpus(seed=1, limit=500).sentences).ids
    length = sum(map(len, ids)) / len(ids)
    found: dict[str, Any] = {}
    for what in options.what:
        start = process_time()
        speed = measure_speed(shape, options.device)
        measuring = process_time() - start
        if what == "detect":
            settings: Any = make_config(DETECT, DetectConfig)
            cost = detect_cost(
                shape,
                speed,
                settings,
                positions_per_sentence=length,
                n_trees_train=settings.train_trees,
                n_trees_dev=500,
                words_per_tree=12,
            )
            command: Any = mspgt_tl.detect
        elif what == "intervene":
            settings = make_config(INTERVENE, InterveneConfig)
            cost = intervene_cost(shape, speed, settings, positions_per_sentence=length)
            third = shape.n_layers // 3
            scales = f"0-{third - 1},{third}-{2 * third - 1},{2 * third}-{shape.n_layers - 1}"

            def command(given: Any, scales: str = scales, **rest: Any) -> Any:
                return mspgt_tl.intervene(given, scales=scales, **rest)

        else:
            settings = make_config(THEORY, TheoryConfig)
            cost = theory_cost(shape, speed, settings, positions_per_sentence=length)
            command = run_theory

        def run(folder: Path, command: Any = command, settings: Any = settings) -> None:
            command(model, config=settings, out=folder)

        found[what] = {"measuring": measuring} | compare(cost, run)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for what, rows in found.items():
        print(f"{what} (speed measured in {rows.pop('measuring'):.1f} s)")
        for name, row in rows.items():
            ratio = row["estimated"] / row["actual"] if row["actual"] else float("nan")
            print(
                f"  {name:<16} estimated {row['estimated']:7.1f} s, actual {row['actual']:7.1f} s, ratio {ratio:5.2f}"
            )


if __name__ == "__main__":
    main()
