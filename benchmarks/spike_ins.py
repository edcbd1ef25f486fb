"""Spike-ins on real weights: how often a planted change is found, by size and depth, and what is claimed without one.

    python benchmarks/spike_ins.py MODEL OUT.csv [--cases 1] [--sentences 300] [--dtype bfloat16]

Strengths 0, 0.1, 0.25, 0.5 and 1 (`mspgt_tl.models.spike_in`) at gaps a quarter, a half and three quarters of the way
down; each case is a draw of text, trees, half of the vocabulary and map. `size` is what every signal is at the planted
gap, `inside` its highest at any other inner gap. Boundaries are judged as `mspgt calibrate` judges them. Rows are added
to OUT.csv as they come; cases that are there are not measured again. Prints the table.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mspgt_tl.boundaries import find_boundaries
from mspgt_tl.calibration.detectors import DETECTORS
from mspgt_tl.calibration.measure import NAMES, Effort, measure_model
from mspgt_tl.calibration.score import judge
from mspgt_tl.models.pretrained import load
from mspgt_tl.models.spike_in import spiked

STRENGTHS, DEPTHS = (0.0, 1.0, 0.5, 0.25, 0.1), (0.25, 0.5, 0.75)
COLUMNS = (
    *("case", "depth", "strength", "gap", "candidates", "p", "mspgt", "found", "false", "paper", "paper_found"),
    *(f"{signal} {what}" for signal in NAMES for what in ("size", "inside")),
)


def measure_case(model: object, effort: Effort, case: int, depth: float, strength: float) -> dict[str, object]:
    """Measure one spike-in and let both rules judge it."""
    from typing import Any, cast

    hooked = cast(Any, model)
    gap = round(depth * int(hooked.cfg.n_layers))
    seed = 1000 * case + round(100 * depth)
    with spiked(hooked, gap, strength, seed=seed):
        measured = measure_model(hooked, effort, seed=seed)
    inner = np.delete(measured.curves, [0, gap - 1, measured.curves.shape[1] - 1], axis=1).max(axis=1)
    sizes = {f"{name} size": f"{size:.4f}" for name, size in zip(NAMES, measured.curves[:, gap - 1], strict=True)}
    sizes |= {f"{name} inside": f"{size:.4f}" for name, size in zip(NAMES, inner, strict=True)}
    found = find_boundaries(measured.curves, resampled=measured.resampled, names=NAMES, seed=seed)
    planted = (gap,) if strength else ()
    ours, paper = (judge(DETECTORS[name](measured, seed), planted) for name in ("mspgt", "paper"))
    return {
        "case": case,
        "depth": depth,
        "strength": strength,
        "gap": gap,
        "candidates": " ".join(map(str, found.boundaries)),
        "p": " ".join(f"{p:.3f}" for p in found.p_values),
        "mspgt": ours.claims,
        "found": int(any(error == error for error in ours.errors)),
        "false": ours.false_claims,
        "paper": paper.claims,
        "paper_found": int(any(error == error for error in paper.errors)),
        **sizes,
    }


def main() -> None:
    """Measure what is missing, then print found and false claims by strength."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--dtype", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    effort = Effort(sentences=given.sentences)
    known = pd.read_csv(given.out) if given.out.is_file() else pd.DataFrame(columns=list(COLUMNS))
    done = set(zip(known["case"], known["depth"], known["strength"], strict=True))
    wanted = [(c, d, s) for c in range(given.cases) for s in STRENGTHS for d in DEPTHS if (c, d, s) not in done]
    model = load(given.model, dtype=given.dtype) if wanted else None
    with given.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not done:
            writer.writeheader()
        for one in wanted:
            writer.writerow(measure_case(model, effort, *one))
            file.flush()
    table = pd.read_csv(given.out)
    table["case with a false claim"] = table["false"] > 0
    columns = {
        "found": "found within one gap",
        "paper_found": "published rule finds it",
        "paper": "published claims a case",
    }
    means = table.groupby("strength")[["found", "case with a false claim", "paper_found", "paper"]].mean()
    print(
        means.rename(columns=columns)
        .assign(cases=table.groupby("strength").size())
        .to_string(float_format="{:.2f}".format)
    )


if __name__ == "__main__":
    main()
