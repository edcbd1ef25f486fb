"""Other tests of existence, judged on the cases of a calibration: false alarms and power of each.

    python benchmarks/existence.py CALIBRATION_FOLDER [--cases 10] [--methods shifts,adopted]

    first            drawn shifts and nested p-values alone: the second peak as rare as two such peaks
    beside           the second peak also beside the first, the smaller p of both
    shifts           all shifts where they are few, turned round for two signals
    turned           all of them turned round, for three signals, too
    signed           shifts, with signed roots of contrasts
    adopted          shifts, with roots of contrasts, and 0 where they are negative
    log              contrasts of ln(1 + curve / median)
    noise            null curves get the joint bootstrap noise of all signals once more
    rough            trend removed, permuted, smoothed to the variogram of the residual, trend and joint noise added
    conjunction      gap near the peak chosen on one half, each signal tested on the other against a t distribution of
                     its other gaps; twice the second smallest p-value, twice the median over splits. Halves are the
                     curve plus and minus one joint draw of its bootstrap noise: independent where that is Gaussian
    one signal       no agreement: each signal's own peak against a t distribution of its log contrasts, times gaps

All keep peaks, intervals and the limit of 0.05. Every cell counts equally in the means.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.stats import t as student
from sklearn.isotonic import isotonic_regression

from mspgt_tl import nulls
from mspgt_tl.boundaries import ALPHA, MAX_WIDTH, find_boundaries, pick_peaks
from mspgt_tl.calibration.grid import Case, Cell, make_grid
from mspgt_tl.pipeline.calibration import read_cases
from mspgt_tl.store import Run

N_NULL, SPLITS = 400, 11
Null = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
NULLS: tuple[Null, ...] = (nulls._permuted, nulls._shifted)


@dataclass(frozen=True)
class Peaks:
    """What a test of existence is given."""

    shown: np.ndarray
    raw: np.ndarray
    noise: np.ndarray
    """Joint residuals of the resamples, in the curves' own units."""
    gain: np.ndarray
    weights: np.ndarray
    peaks: np.ndarray
    localised: np.ndarray


def peaks_of(case: Case) -> Peaks:
    """Find peaks and intervals as a detection does."""
    curves, resampled = case.measured.curves, case.measured.resampled
    found = find_boundaries(curves, resampled=resampled, n_null=2)
    used = found.weights > 0
    width = np.ptp(found.intervals, axis=1) if len(found.boundaries) else np.empty(0)
    own = resampled[:, used]
    return Peaks(
        found.normalised[used],
        curves[used],
        own - own.mean(axis=0),
        found.gain[used],
        found.weights[used],
        np.array(found.boundaries, dtype=int) - 1,
        width < MAX_WIDTH,
    )


def drawn(curves: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The curves, then circular shifts that are drawn."""
    steps = rng.integers(0, curves.shape[1], (n, len(curves), 1))
    steps[0] = 0
    return np.take_along_axis(curves[None], (np.arange(curves.shape[1]) + steps) % curves.shape[1], axis=2)


def turned(curves: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The curves, then drawn shifts of them, each turned round or not."""
    way = rng.integers(0, 2, (n, len(curves), 1))
    way[0] = 0
    both = np.where(way == 1, curves[None, :, ::-1], curves[None])
    return np.stack([curves, *(drawn(one, 2, rng)[1] for one in both[1:])])


def rough(curves: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Surrogates with a monotone trend and the variogram of what is left."""
    gaps = curves.shape[1]
    made = np.empty((n, *curves.shape))
    for row, curve in enumerate(curves):
        trends = [isotonic_regression(curve, increasing=up) for up in (True, False)]
        trend = min(trends, key=lambda line: float(((curve - line) ** 2).sum()))
        rest, best = curve - trend, (np.inf, np.zeros((n, gaps)))
        target, shuffled = _variogram(rest), rng.permuted(np.tile(rest, (n, 1)), axis=1)
        for memory in (0.0, 0.2, 0.4, 0.6):
            kernel = memory ** np.abs(np.subtract.outer(np.arange(gaps), np.arange(gaps)))
            smooth = shuffled @ (kernel / kernel.sum(axis=1, keepdims=True)).T
            level = _variogram(smooth).mean(axis=1)
            scale = max(0.0, float(level @ target / (level @ level))) if level.any() else 1.0
            error = float(((scale * level - target) ** 2).sum())
            best = min(best, (error, np.sqrt(scale) * smooth), key=lambda pair: pair[0])
        made[:, row] = trend + best[1]
    made[0] = curves
    return made


def _variogram(curves: np.ndarray) -> np.ndarray:
    return np.array([((curves[..., h:] - curves[..., :-h]) ** 2).mean(axis=-1) / 2 for h in (1, 2, 3)])


def on_log(raw: np.ndarray) -> np.ndarray:
    """ln(1 + curve / median)."""
    positive = raw.clip(min=0)
    median = np.median(positive, axis=1, keepdims=True)
    return np.log1p(positive / np.where(median > 0, median, np.abs(raw).max(axis=1, keepdims=True) + 1e-12))


def agreement(
    found: Peaks,
    seed: int,
    kinds: tuple[Null, ...],
    *,
    beside: bool = True,
    noisy: bool = False,
    log: bool = False,
    weigh: Callable[[np.ndarray], np.ndarray] = lambda contrast: contrast,
) -> np.ndarray:
    """p-values by agreement of signals; with `noisy`, surrogates of the curves and not of their contrasts."""
    rng, curves = np.random.default_rng(seed), found.shown
    if log:
        logs = on_log(found.raw)
        curves = logs / np.ptp(logs, axis=1, keepdims=True) * found.gain[:, None]
    contrast, peaks = weigh(nulls.local_contrast(curves)), found.peaks
    fused = found.weights @ contrast
    order = np.argsort(-fused[peaks], kind="stable")
    observed = np.full(2, -np.inf)
    observed[: len(peaks)] = fused[peaks][order]
    p_values = []
    for null in kinds:
        if noisy:
            made = null(curves, N_NULL, rng)
            more = (
                found.noise[rng.integers(0, len(found.noise), len(made))]
                * (found.gain / np.ptp(found.raw, axis=1))[:, None]
            )
            more[0] = 0
            made = nulls.local_contrast(made + more)
        else:
            made = null(contrast, N_NULL, rng)
        highest = nulls._two_highest(np.einsum("s,nsg->ng", found.weights, made))
        p_values.append(nulls._peak_p_values(observed, highest))
    first, second = np.max(p_values, axis=0)
    if beside and len(peaks) == 2:
        rest = np.delete(contrast, peaks[order[0]], axis=1)
        tops = [np.einsum("s,nsg->ng", found.weights, null(rest, N_NULL, rng)).max(axis=1) for null in kinds]
        second = min(second, max(float(nulls._reached(top, observed[1]).mean()) for top in tops))
    told = np.empty(len(peaks))
    told[order] = (first, max(first, second))[: len(peaks)]
    return told


def tail(values: np.ndarray, gap: int, left_out: list[int]) -> float:
    """Upper tail of one gap's value among those of the others."""
    rest = np.delete(values, left_out)
    spread = rest.std(ddof=1) * np.sqrt(1 + 1 / len(rest))
    return float(student.sf((values[gap] - rest.mean()) / spread, len(rest) - 1)) if spread > 0 else 1.0


def conjunction(found: Peaks, seed: int) -> np.ndarray:
    """At least two signals stand out at a gap that was chosen on the other half."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(SPLITS):
        noise = found.noise[rng.integers(len(found.noise))]
        chosen, tested = (nulls.local_contrast(on_log(found.raw + sign * noise)) for sign in (1, -1))
        fused, row = found.weights @ chosen, []
        for peak in found.peaks:
            near = np.arange(max(0, peak - 1), min(len(fused), peak + 2))
            gap = int(near[fused[near].argmax()])
            out = sorted({gap, *map(int, found.peaks)})
            row.append(min(1.0, (len(tested) - 1) * np.sort([tail(one, gap, out) for one in tested])[1]))
        rows.append(row)
    return np.minimum(1, 2 * np.median(rows, axis=0) * len(found.peaks))


METHODS: Mapping[str, Callable[[Peaks, int], np.ndarray]] = {
    "first": lambda f, s: agreement(f, s, (nulls._permuted, drawn), beside=False),
    "beside": lambda f, s: agreement(f, s, (nulls._permuted, drawn)),
    "shifts": lambda f, s: agreement(f, s, NULLS),
    "turned": lambda f, s: agreement(f, s, (nulls._permuted, turned)),
    "signed": lambda f, s: agreement(f, s, NULLS, weigh=lambda c: np.sign(c) * np.sqrt(np.abs(c))),
    "adopted": lambda f, s: agreement(f, s, NULLS, weigh=lambda c: np.sqrt(np.maximum(c, 0))),
    "log": lambda f, s: agreement(f, s, NULLS, log=True),
    "noise": lambda f, s: agreement(f, s, NULLS, beside=False, noisy=True),
    "rough": lambda f, s: agreement(f, s, (rough,), beside=False, noisy=True),
    "conjunction": conjunction,
}


def one_signal(found: Peaks, planted: tuple[int, ...]) -> list[bool]:
    """By signal: whether its own peaks stand out at a gap with nothing planted within one layer."""
    alarms = []
    for raw, shown in zip(found.raw, found.shown, strict=True):
        peaks, values = pick_peaks(shown / shown.max()), nulls.local_contrast(on_log(raw[None]))[0]
        out = [int(peak) for peak in peaks]
        hits = [p for p in out if len(raw) * tail(values, p, out) < ALPHA]
        alarms.append(any(all(abs(p + 1 - gap) > 1 for gap in planted) for p in hits))
    return alarms


GROUPS: Mapping[str, Callable[[Cell], bool]] = {
    "no boundary": lambda cell: cell.is_null,
    "strength 1": lambda cell: cell.strength == 1 and not cell.is_null,
    "strength 0.75": lambda cell: cell.strength == 0.75,
    "strength 0.5": lambda cell: cell.strength == 0.5,
    "strength 0.25": lambda cell: cell.strength == 0.25,
}


def main() -> None:
    """Print one row a cell, then what groups of cells come to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--cases", type=int, default=1000, help="of each cell, at most")
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    run, names = Run.read(given.calibration), given.methods.split(",")
    alone: list[bool] = []
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    print("| cell | cases |", " | ".join(names), "|")
    print("| --- | --- |", " | ".join("---" for _ in names), "|")
    for cell in make_grid("full").cells:
        cases = [(i, case, peaks_of(case)) for i, case in islice(read_cases(run, cell), given.cases)]
        if not cases:
            continue
        told = []
        for name in names:
            alarms, hits = [], []
            for index, case, found in cases:
                known = (*case.planted, *case.rivals)
                able = len(found.peaks) and len(found.weights) > 1
                p_values = METHODS[name](found, index) if able else np.full(len(found.peaks), np.nan)
                gaps = found.peaks[(p_values < ALPHA) & found.localised] + 1
                alarms.append(any(all(abs(gap - k) > 1 for k in known) for gap in gaps))
                hits += [any(abs(gap - k) <= 1 for gap in gaps) for k in case.planted]
            share = float(np.mean(alarms if cell.is_null else hits))
            shares[next(group for group, holds in GROUPS.items() if holds(cell)), name].append(share)
            told.append(f"{share:.0%}" + (f" ({np.mean(alarms):.0%})" if not cell.is_null and any(alarms) else ""))
        if cell.is_null:
            alone += [alarm for _, case, found in cases for alarm in one_signal(found, case.planted)]
        print(f"| {'no boundary: ' * cell.is_null}{cell.name} | {len(cases)} |", " | ".join(told), "|", flush=True)
    for group in GROUPS:
        told = [f"{np.mean(own):.1%} ({min(own):.0%} … {max(own):.0%})" for n in names if (own := shares[group, n])]
        print(f"| **{group}, mean of cells** | |", " | ".join(told), "|")
    print(f"\nOne signal's own peak stands out in {np.mean(alone):.0%} of {len(alone)} curves without a boundary.")


if __name__ == "__main__":
    main()
