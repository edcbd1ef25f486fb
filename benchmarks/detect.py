"""Times the parts of a detection, each against the plain way of doing the same.

    python benchmarks/detect.py [signals] [plain] [memory] [bootstrap] [probes] [--json] [--quick]

Models have random weights and are built by transformers, then loaded as a user would; texts are random words.
Everything runs on one thread. Both sides of a ratio run in one process in turn, `--repeats` times, and the figure is
the ratio of the medians of their processor times, system time included: a busy machine distorts those less than the
clock. Memory (Linux only) is the growth of the peak resident set over what loading left, in a process of its own.
Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy and torch read them
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402
from models import random_llama  # noqa: E402

N_LAYERS, VOCABULARY, POSITIONS = 12, 4096, 64
WIDTHS_AND_HEADS = {128: 4, 512: 8}
PARTS = ("signals", "plain", "memory", "bootstrap", "probes")


def random_model(d_model: int) -> Any:
    """Return a random-weight Llama whose words are numbers, loaded from a folder."""
    return random_llama(d_model=d_model, n_layers=N_LAYERS, n_heads=WIDTHS_AND_HEADS[d_model], vocabulary=VOCABULARY)[1]


def random_sentences(n: int, *, shortest: int, longest: int) -> list[str]:
    """Return sentences of as many random words."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest + 1, n)
    return [" ".join(map(str, rng.integers(3, VOCABULARY, length))) for length in lengths]


def observe(model: Any, sentences: list[str], fold_size: int) -> dict[str, Any]:
    """Run both signals over sentences, as a detection does."""
    from mspgt_tl.config import StreamConfig
    from mspgt_tl.passes.corpus import observe_corpus
    from mspgt_tl.passes.folds import Folds
    from mspgt_tl.signals.attention_jsd import AttentionDrift
    from mspgt_tl.signals.cka import CkaChange

    folds = Folds(np.arange(len(sentences) // fold_size * fold_size), fold_size)
    signals = {"cka": CkaChange(), "attention_jsd": AttentionDrift()}
    config = StreamConfig(bos=True, batch_positions=32 * POSITIONS)
    return observe_corpus(model, sentences, signals, folds=folds, seed=0, config=config)


def compare(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return processor seconds of each side, called in turn; the first round is not counted."""
    seconds = {name: list[float]() for name in sides}
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            start = process_time()
            call()
            if repeat:
                seconds[name].append(process_time() - start)
    return seconds


def encode_batches(model: Any, sentences: list[str]) -> list[Any]:
    """Return sentences of one length as token ids, 32 a batch."""
    import torch

    from mspgt_tl.models.pretrained import encode

    ids = torch.tensor(encode(model, sentences, bos=True, max_length=128).ids)
    return list(ids.split(32))


def time_signals(options: argparse.Namespace) -> list[dict[str, Any]]:
    """CKA and JSD of all gaps, tokenizing included, over a bare forward pass to the last block."""
    import torch

    found = []
    for d_model in WIDTHS_AND_HEADS:
        model = random_model(d_model)
        sentences = random_sentences(64 if options.quick else 128, shortest=POSITIONS - 1, longest=POSITIONS - 1)
        batches = encode_batches(model, sentences)

        def forward(model: Any = model, batches: list[Any] = batches) -> None:
            with torch.inference_mode():
                for tokens in batches:
                    model(tokens, stop_at_layer=N_LAYERS)

        def signals(model: Any = model, sentences: list[str] = sentences) -> None:
            observe(model, sentences, 32)

        seconds = compare({"forward": forward, "signals": signals}, options.repeats)
        found.append(_ratio(f"signals over forward, d_model {d_model}", seconds, "signals", "forward", "at most 1.15"))
    return found


def plain_signals(model: Any, batches: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Cache everything, put the batches together, and compute CKA and JSD at the end, in straightforward code.

    Rows of the CKA are all tokens, as in scripts that keep a cache; so the numbers are near ours and not the same.
    """
    import torch

    with torch.inference_mode():
        caches = [model.run_with_cache(tokens)[1] for tokens in batches]
        resid, pattern = (
            [torch.cat([cache[f"blocks.{layer}.{hook}"] for cache in caches]) for layer in range(N_LAYERS)]
            for hook in ("hook_resid_post", "attn.hook_pattern")
        )
        rows = [part[:, 1:].flatten(0, 1) for part in resid]
        rows = [part - part.mean(0) for part in rows]
        cka = np.eye(N_LAYERS)
        for i in range(N_LAYERS):
            for j in range(i):
                shared = (rows[i].T @ rows[j]).norm() ** 2
                cka[i, j] = cka[j, i] = shared / ((rows[i].T @ rows[i]).norm() * (rows[j].T @ rows[j]).norm())
        drift = []
        for first, second in pairwise(pattern):
            p, q = (part.mean(1)[:, 4:, 1:] for part in (first, second))
            p, q = (part / part.sum(-1, keepdim=True) for part in (p, q))
            middle = (p + q) / 2
            kl = [torch.where(part > 0, part * (part / middle).log(), 0).sum(-1) for part in (p, q)]
            drift.append(float((kl[0] + kl[1]).mean() / 2))
    return cka, np.array(drift)


def time_plain(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours against caching everything, on the same sentences."""
    found = []
    for d_model in WIDTHS_AND_HEADS:
        model = random_model(d_model)
        sentences = random_sentences(
            64 if options.quick else options.sentences, shortest=POSITIONS - 1, longest=POSITIONS - 1
        )
        batches = encode_batches(model, sentences)
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda model=model, sentences=sentences: observe(model, sentences, 32),
            "plain": lambda model=model, batches=batches: plain_signals(model, batches),
        }
        seconds = compare(sides, options.repeats)
        name = f"caching everything over ours, d_model {d_model}, {len(sentences)} sentences"
        found.append(_ratio(name, seconds, "plain", "ours", "at least 3"))
    return found


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak resident set at 1,000 and 10,000 sentences and its growth over loading, each in its own process."""
    sizes = (1000, 3000) if options.quick else (1000, 10_000)
    runs = [("ours", n) for n in sizes] + [("plain", 250), ("plain", 500)]
    growth, peak = {}, {}
    for side, n in runs:
        command = [sys.executable, __file__, "--grow", side, str(n)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        growth[side, n], peak[side, n] = map(float, printed[-2:])
    found = [
        {"figure": f"{what}, {side}, {n:,} sentences, MB", "value": mb}
        for what, values in (("peak memory", peak), ("its growth over loading", growth))
        for (side, n), mb in values.items()
    ]
    large, small = ("ours", sizes[1]), ("ours", sizes[0])
    name = f"{sizes[1]:,} over {sizes[0]:,} sentences"
    return [
        *found,
        {"figure": f"peak memory, {name}", "value": peak[large] / peak[small], "target": "at most 1.10"},
        {"figure": f"its growth over loading, {name}", "value": growth[large] / growth[small]},
    ]


def grow(side: str, n: int) -> None:
    """Print by how many MB the peak resident set grows over what loading left, and the peak itself."""
    import ctypes
    import gc

    import torch

    from mspgt_tl.models.pretrained import encode

    model = random_model(128)
    sentences = random_sentences(n, shortest=8, longest=30)
    observe(model, sentences[:64], 32)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    before = _peak_mb()
    if side == "ours":
        observe(model, sentences, 25)
    else:
        ids = encode(model, sentences, bos=True, max_length=128).ids
        padded = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        for row, values in zip(padded, ids, strict=True):
            row[: len(values)] = torch.tensor(values)
        plain_signals(model, list(padded.split(32)))
    print(_peak_mb() - before, _peak_mb())


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def synthetic_sums(n_layers: int, n_folds: int) -> dict[str, dict[str, np.ndarray]]:
    """Return sums as of a model with two boundaries, 130 labels in four tasks, three trainings of each MLP."""
    rng = np.random.default_rng(0)
    step = np.isin(np.arange(n_layers), (n_layers * 3 // 8, n_layers * 11 // 16))
    depth = np.cumsum(0.05 + 0.3 * step)
    noise = 0.01 * rng.standard_normal((n_folds, n_layers, n_layers))
    hsic = np.exp(-abs(depth[:, None] - depth)) * (1 + 0.1 * rng.standard_normal((n_folds, 1, 1)))
    drift = (0.02 + 0.1 * step[1:]) * (1 + 0.1 * rng.standard_normal((n_folds, n_layers - 1))) * 2000
    level = 0.5 + 0.15 * np.cumsum(step)
    probe = {}
    for task, n_labels in {"pos": 17, "deprel": 48, "ner": 25, "srl": 40}.items():
        for kind, repeats in (("mlp", 3), ("linear", 1), ("control", 1)):
            total = np.broadcast_to(
                rng.integers(10, 60, (n_folds, 1, 1, n_labels)), (n_folds, repeats, n_layers, n_labels)
            )
            probe[f"{task}.{kind}.total"] = total.astype(np.float64)
            probe[f"{task}.{kind}.hits"] = rng.binomial(total // 2, level[:, None]).astype(np.float64)
    return {
        "cka": {"hsic": hsic + noise + noise.transpose(0, 2, 1)},
        "probe": probe,
        "attention_jsd": {"divergence": drift[:, :, None, None], "rows": np.full(n_folds, 2000.0)},
    }


def time_bootstrap(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All that follows the sums: 1,000 resamples, 32 layers, 80 folds, with null curves and weight map."""
    from threadpoolctl import threadpool_limits

    from mspgt_tl.config import BoundaryConfig, SignalConfig
    from mspgt_tl.evidence import make_signals, weigh_evidence

    sums, signals = synthetic_sums(32, 80), make_signals(SignalConfig())
    spent, clock = list[float](), list[float]()
    with threadpool_limits(1):
        for _ in range(max(3, options.repeats) + 1):
            start = process_time(), perf_counter()
            weigh_evidence(signals, sums, BoundaryConfig(), seed=0)
            spent.append(process_time() - start[0])
            clock.append(perf_counter() - start[1])
    name = "1,000 resamples, 32 layers, 80 folds"
    return [
        {"figure": f"{name}, processor s", "value": statistics.median(spent[1:]), "target": "under 0.5"},
        {"figure": f"{name}, clock s", "value": statistics.median(clock[1:]), "target": "under 0.5"},
    ]


def time_probes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """scikit-learn's loop over layers against the batched probes; see probes.py."""
    import probes

    found = []
    for name, theirs in probes.SETTINGS.items():
        runs = probes.compare_all(theirs, 2000 if options.quick else 20_000, options.probe_repeats)
        found += [
            {
                "figure": f"scikit-learn over batched probes, {name}, {run['task']}",
                "value": run["ratio"],
                "f1": [run["scikit_learn_f1"], run["f1"]],
            }
            for run in runs
        ]
        ratio = statistics.median(run["ratio"] for run in runs)
        found.append(
            {"figure": f"scikit-learn over batched probes, {name}, median", "value": ratio, "target": "at least 2"}
        )
    return found


def _ratio(figure: str, seconds: dict[str, list[float]], above: str, below: str, target: str) -> dict[str, Any]:
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {"figure": figure, "value": middle[above] / middle[below], "target": target, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved timings of each side")
    parser.add_argument("--sentences", type=int, default=256, help="cached by the plain way; 256 take 12 GB")
    parser.add_argument("--probe-repeats", type=int, default=1, help="timings a probe task, each on its own data")
    parser.add_argument("--grow", nargs=2, metavar=("SIDE", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grow:
        grow(options.grow[0], int(options.grow[1]))
        return
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    run = dict(zip(PARTS, (time_signals, time_plain, measure_memory, time_bootstrap, time_probes), strict=True))
    figures = []
    for part in options.parts or PARTS:
        for figure in run[part](options):
            figures.append(figure | {"part": part})
            if not options.json:
                f1 = "  F1 {:.3f} and {:.3f}".format(*figure["f1"]) if "f1" in figure else ""
                print(f"{figure['value']:9.2f}  {figure['figure']}  {figure.get('target', '')}{f1}", flush=True)
    if options.json:
        print(json.dumps({"benchmark": "detect", "figures": figures}))


if __name__ == "__main__":
    main()
