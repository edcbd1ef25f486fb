"""Times the theory's estimators in forward passes of the same batches.

    python benchmarks/theory.py [fisher] [rest] [--json] [--quick]

Models are Llamas with random weights and a vocabulary of 4,096; texts are random tokens, batches 32 × 64. One thread.
Both sides of a ratio run in one process in turn, and the figure is the ratio of the medians of their processor times,
system time included. A forward pass is a full one, logits included, without gradients. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from time import process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy and torch read them

import numpy as np  # noqa: E402
from models import random_llama  # noqa: E402

VOCABULARY, POSITIONS, ROWS = 4096, 64, 32
PARTS = ("fisher", "rest")


def random_model(n_layers: int, d_model: int) -> Any:
    """Return a random-weight Llama as a `HookedTransformer`."""
    return random_llama(d_model=d_model, n_layers=n_layers, n_heads=d_model // 32, vocabulary=VOCABULARY)[1]


def ratio(call: Callable[[], Any], forward: Callable[[], Any], repeats: int) -> float:
    """Return the median processor time of one over the other's, called in turn; the first round is not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for side, run in zip(seconds, (call, forward), strict=True):
            start = process_time()
            run()
            if repeat:
                side.append(process_time() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def random_tokens() -> Any:
    """Return one batch of token ids."""
    import torch

    return torch.randint(1, VOCABULARY, (ROWS, POSITIONS), generator=torch.Generator().manual_seed(0))


def bare_forward(model: Any, tokens: Any) -> Callable[[], Any]:
    """Return a full forward pass without gradients."""
    import torch

    def run() -> None:
        with torch.inference_mode():
            model(tokens)

    return run


def time_fisher(repeats: int, quick: bool) -> dict[str, float]:
    """Time all layers' traces for models of several depths and widths, one draw of the labels."""
    from mspgt_tl.theory.fisher import measure_fisher

    tokens, found = random_tokens(), {}
    for d_model, depths in {128: (4,) if quick else (4, 12, 24), 512: () if quick else (4, 12)}.items():
        for n_layers in depths:
            model = random_model(n_layers, d_model)
            run = lambda model=model: measure_fisher(model, tokens, seed=0)  # noqa: E731
            found[f"Fisher, {n_layers} layers, d_model {d_model}"] = ratio(run, bare_forward(model, tokens), repeats)
    return found


def time_rest(repeats: int, quick: bool) -> dict[str, float]:
    """Time the other estimators on 12 layers of d_model 128, each for one batch of tokens."""
    from mspgt_tl.config import HVibConfig
    from mspgt_tl.passes.readout import unembed
    from mspgt_tl.theory.bottleneck import fit_bottleneck
    from mspgt_tl.theory.mutual_information import spectrum, v_information
    from mspgt_tl.theory.noise_effects import measure_noise
    from mspgt_tl.theory.streams import collect_streams

    n_layers = 4 if quick else 12
    model, tokens = random_model(n_layers, 128), random_tokens()
    scales = dict.fromkeys(range(n_layers), 1.0)
    streams = collect_streams(model, tokens)
    given = (streams.vectors, streams.following, streams.row)
    sets = {str(layer): (layer,) for layer in range(n_layers)}
    steps = 10
    config = HVibConfig(betas=(0.5, 1.0), steps=steps // 2, batch=512)
    vectors = {"local": streams.vectors[1], "intermediate": streams.vectors[2], "global": streams.vectors[3]}

    def decode(h: Any) -> Any:
        return unembed(model, h.float())

    def readout(name: Any, epochs: int) -> None:
        v_information(*given, n_classes=VOCABULARY, seed=0, readout=name, decode=decode, epochs=epochs, resamples=100)

    def bottleneck() -> None:
        fit_bottleneck(vectors, streams.vectors[-1], *given[1:], decode, config, seed=0, resamples=100)

    calls: dict[str, tuple[Callable[[], Any], float]] = {
        "noise in one layer, one sigma and draw (mean over layers)": (
            lambda: measure_noise(model, tokens, sets, [0.1], scales, seed=0),
            n_layers,
        ),
        "streams of every layer": (lambda: collect_streams(model, tokens), 1),
        "spectrum of one layer": (lambda: spectrum(streams.vectors[0]), 1),
        "ridge readout of every layer": (lambda: readout("ridge", 1), 1),
        "softmax readout of every layer, one epoch": (lambda: readout("softmax", 1), 1),
        "H-VIB, one step of 512 tokens": (bottleneck, steps),
    }
    forward = bare_forward(model, tokens)
    return {name: ratio(call, forward, repeats) / share for name, (call, share) in calls.items()}


def main() -> None:
    """Run the parts asked for and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, float] = {}
    for part in options.parts or PARTS:
        found |= {"fisher": time_fisher, "rest": time_rest}[part](options.repeats, options.quick)
    rounded = {name: float(np.round(value, 2)) for name, value in found.items()}
    if options.json:
        print(json.dumps(rounded, indent=1))
        return
    for name, value in rounded.items():
        print(f"{value:8.2f}  {name}")


if __name__ == "__main__":
    main()
