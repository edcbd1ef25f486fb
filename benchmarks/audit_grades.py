"""How often the artefact audit's grade is right, on planted and massive-onset models.

    python benchmarks/audit_grades.py [SEEDS]

Whole detections of 12 blocks with little data. `massive`: nothing planted, massive activations from a random block on.
`planted`: two boundaries of strength 1. `both`: two boundaries, massive activations from the first of them on.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import torch

from mspgt_tl import detect
from mspgt_tl.calibration.grid import Cell, draw_plan
from mspgt_tl.config import override
from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.models.synthetic import Nuisances, PlantedModel

SETTINGS = override(
    {"sentences": 400, "probe": {"epochs": 6, "hidden": 16, "batch": 64, "repeats": 1}},
    {"signals.tasks": ["pos"], "boundaries.resamples": 200, "boundaries.null_curves": 500},
)


def plans(seed: int) -> dict[str, tuple[PlantedModel, tuple[int, ...]]]:
    """Return one model of each kind, with the gaps at which its grade is asked for."""
    gaps = draw_plan(Cell("pair", "planted", 1), seed=seed).boundaries
    onset = 1 + seed % 11
    return {
        "massive": (PlantedModel(12, (), nuisances=Nuisances(massive_onset=onset)), (onset,)),
        "planted": (PlantedModel(12, gaps), gaps),
        "both": (PlantedModel(12, gaps, nuisances=Nuisances(massive_onset=gaps[0])), gaps),
    }


def main() -> None:
    torch.set_num_threads(1)
    trees = generate_treebank(seed=0, train=150, dev=150)
    counts: Counter[tuple[str, str, str]] = Counter()
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 40):
        for kind, (plan, gaps) in plans(seed).items():
            result = detect(plan.build(seed=1000 + seed), None, trees, config=SETTINGS)
            for gap, grade in zip(result.boundaries, result.data["grade"].values, strict=True):
                near = np.abs(np.array(gaps) - gap).min() <= 1
                counts[kind, "within one layer" if near else "elsewhere", str(grade)] += 1
        print(f"after {seed + 1}:", dict(sorted(counts.items())), flush=True)


if __name__ == "__main__":
    main()
