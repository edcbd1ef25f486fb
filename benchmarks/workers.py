"""Two workers against one, on processes of this machine and on Ray: whole calibration cases, all else equal.

    python benchmarks/workers.py            # 24 planted models of 12 blocks a row, a few minutes
    python benchmarks/workers.py --items 8

Prints the wall time of all items, and the rate after every worker has returned its first one, for until then workers
start and import torch. Ray starts a cluster of its own for each row. The ratio means something on two quiet cores only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from mspgt_tl.calibration.grid import Cell, Effort
from mspgt_tl.pipeline.calibration import measure_chunk
from mspgt_tl.workers import Workers


def measure(workers: Workers, items: int) -> tuple[float, float]:
    """Return the seconds that all items take, and the items a second once all workers are at work."""
    cell = Cell("planted", "planted", items, n_layers=12)
    work = [(cell, range(i, i + 1), Effort(), 0) for i in range(items)]
    begun, ended = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in workers.run(measure_chunk, work, folder=Path(folder)):
            ended.append(time.perf_counter() - begun)
    warm = workers.count
    return ended[-1], (items - warm) / (ended[-1] - ended[warm - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=24)
    items = parser.parse_args().items
    print(f"{'backend':8} {'workers':>7} {'seconds':>8} {'items/s':>8} {'ratio of rates':>15}")
    for backend in ("joblib", "ray"):
        one = float("nan")
        for jobs in (1, 2):
            seconds, rate = measure(Workers(jobs, backend if jobs > 1 or backend == "ray" else "serial"), items)
            one = rate if jobs == 1 else one
            print(f"{backend:8} {jobs:7d} {seconds:8.1f} {rate:8.3f} {rate / one:15.2f}", flush=True)


if __name__ == "__main__":
    main()
