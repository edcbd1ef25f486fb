"""What is compared on the same curves: our verdict, the published rule, `ruptures`, and each signal alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mspgt_tl.boundaries import Boundaries, find_boundaries
from mspgt_tl.calibration.measure import NAMES, Measured
from mspgt_tl.contracts import Existence, Published

PENALTY = 2.0
"""Of `ruptures`, in units of (signals + 1) · ln(gaps) · noise variance; 1 is the usual BIC."""


@dataclass(frozen=True)
class Claim:
    """A boundary that a detector stands by."""

    gap: int
    interval: tuple[float, float] | None = None
    """95 % interval, where the detector gives one."""


Detector = Callable[[Measured, int], Sequence[Claim]]
"""Curves and a seed in, claims out."""


def claim_supported(measured: Measured, seed: int) -> list[Claim]:
    """Our verdict: boundaries that are `supported`."""
    found = find_boundaries(
        measured.curves, resampled=measured.resampled, names=NAMES, n_null=measured.null_curves, seed=seed
    )
    return _claims(found, Existence.SUPPORTED)


def claim_accepted(measured: Measured, seed: int) -> list[Claim]:
    """The published rule alone: peaks of prominence 0.3 whose interval is narrower than five layers."""
    found = find_boundaries(measured.curves, resampled=measured.resampled, rule="paper", seed=seed)
    return _claims(found, Published.ACCEPTED)


def _claims(found: Boundaries, verdict: str) -> list[Claim]:
    return [
        Claim(gap, (float(interval[0]), float(interval[1])))
        for gap, said, interval in zip(found.boundaries, found.verdicts, found.intervals, strict=True)
        if said == verdict
    ]


def claim_from_one(index: int) -> Detector:
    """Return the published rule on one signal alone."""

    def claim(measured: Measured, seed: int) -> list[Claim]:
        one = Measured(measured.curves[index : index + 1], measured.resampled[:, index : index + 1])
        return claim_accepted(one, seed)

    return claim


def claim_from_ruptures(measured: Measured, seed: int) -> list[Claim]:
    """Exact change-point search (PELT, l2 cost, `jump=1`) on all signals; every raised segment is one boundary.

    Signals are divided by their noise, estimated from differences of neighbouring gaps (median, so that boundaries do
    not count), and a segment that is higher on average than its neighbours is claimed at its highest gap. A peak of
    one gap is a segment of its own, hence `min_size=1`.
    """
    import ruptures

    curves = measured.curves[~np.isnan(measured.curves).any(axis=1)]
    noise = np.median(np.abs(np.diff(curves, axis=1)), axis=1) / (0.6745 * np.sqrt(2))
    curves, noise = curves[noise > 0], noise[noise > 0]
    if len(curves) == 0:
        return []
    scaled = (curves / noise[:, None]).T
    penalty = PENALTY * (scaled.shape[1] + 1) * np.log(len(scaled))
    ends = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(scaled).predict(pen=penalty)
    return [Claim(gap) for gap in raised_segments(scaled.sum(axis=1), ends)]


def raised_segments(height: Float[np.ndarray, "gap"], ends: Sequence[int]) -> list[int]:
    """Return the highest gap of every segment that lies above its neighbours; none if there is one segment only."""
    starts = [0, *ends[:-1]]
    if len(starts) == 1:
        return []
    means = np.array([height[start:end].mean() for start, end in zip(starts, ends, strict=True)])
    padded = np.concatenate([[-np.inf], means, [-np.inf]])
    raised = (means > padded[:-2]) & (means > padded[2:])
    return [
        start + int(height[start:end].argmax()) + 1
        for start, end, high in zip(starts, ends, raised, strict=True)
        if high
    ]


DETECTORS: dict[str, Detector] = {
    "mspgt": claim_supported,
    "paper": claim_accepted,
    "ruptures": claim_from_ruptures,
    **{f"{name} alone": claim_from_one(index) for index, name in enumerate(NAMES)},
}
"""By the name they have in the tables."""
