"""Fuses signal curves, finds the peaks, and says where they lie, how sure that is, and whether they exist.

`rule="mspgt"` is the method of this package: reliability-weighted fusion, bootstrap intervals, and a test that the
peaks are more than chance. `rule="paper"` is the published rule alone: equal treatment of every signal, two peaks of
prominence 0.3, and nothing that could say no except an interval of five layers or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from mspgt_tl.cards import card, thumbnail
from mspgt_tl.codec import stored
from mspgt_tl.config import Rule
from mspgt_tl.contracts import GAP, RESAMPLE, SCALES, SIGNAL, Existence, Published, check_seed
from mspgt_tl.errors import ConfigError, DataError, unknown_name
from mspgt_tl.nulls import MIN_GAPS, concordance_test
from mspgt_tl.stats import TAILS

if TYPE_CHECKING:
    import pandas as pd

PROMINENCE = 0.3
"""Smallest prominence of a peak of the fused curve (the paper's own number)."""
MAX_WIDTH = 5
"""A 95 % interval must be narrower than this many layers (the paper's own number)."""
ALPHA = 0.05
MIN_LAYERS = 4
"""Two boundaries that are not neighbours need three gaps."""
MIN_RELIABILITY = 0.5
"""A signal with more bootstrap noise than half of its variance over gaps is flat."""
MIN_PRESENCE = 0.5
"""An interval is only given for a boundary that at least this share of the resamples found."""
NEAR_TIE = 0.2
"""A rival place that takes this share of the resamples makes the boundary a near tie."""


@dataclass(frozen=True, repr=False)
class Boundaries:
    """What `find_boundaries` found. Arrays over boundaries are in depth order.

    See Also:
        find_boundaries: makes one.

    Example:
        >>> curves = np.zeros((3, 11))
        >>> curves[:, [3, 8]] = 1
        >>> found = find_boundaries(curves + 0.01 * np.random.default_rng(0).random((3, 11)))
        >>> found.boundaries, bool((found.p_values < 0.05).all())
        ((4, 9), True)
    """

    boundaries: tuple[int, ...] = field(metadata=stored("found", name="boundary"))
    """Gaps in 1 … n_layers-1; at most two."""
    verdicts: tuple[str, ...] = field(metadata=stored("found", name="verdict"))
    p_values: Float[np.ndarray, "boundary"] = field(metadata=stored("found", name="p_value"))
    """Adjusted for both boundaries; nan where `reasons` says why."""
    intervals: Float[np.ndarray, "boundary 2"] = field(metadata=stored("found", "bound", name="interval"))
    """95 % bootstrap percentile intervals of the gap; nan where only curves are given."""
    presence: Float[np.ndarray, "boundary"] = field(metadata=stored("found"))
    """Share of resamples in which the boundary was found."""
    mode_mass: Float[np.ndarray, "boundary"] = field(metadata=stored("found"))
    """Share of those resamples at the commonest gap."""
    near_ties: tuple[int | None, ...] = field(metadata=stored("found", name="near_tie"))
    """The rival gap of each boundary, if there is one."""
    peak_counts: Float[np.ndarray, "3"] = field(metadata=stored("peaks", name="peak_count"))
    """Share of resamples with 0, 1 and 2 peaks."""
    peaks: Float[np.ndarray, "resample 2"] = field(metadata=stored(RESAMPLE, "rank", name="peak"))
    """Gaps of every resample's own two peaks, in depth order; nan where it has fewer. No rows without resamples."""
    fused: Float[np.ndarray, "gap"] = field(metadata=stored(GAP, long_name="evidence"))
    normalised: Float[np.ndarray, "signal gap"] = field(
        metadata=stored(SIGNAL, GAP, long_name="min-max normalised signal times reliability")
    )
    """Min-max normalised signals times their reliability; zero for signals left out."""
    weights: Float[np.ndarray, "signal"] = field(metadata=stored(SIGNAL, name="weight"))
    """The weights really used: zero for signals left out, summing to one over the rest."""
    reliability: Float[np.ndarray, "signal"] = field(metadata=stored(SIGNAL))
    """In [0, 1]; nan where only curves are given."""
    gain: Float[np.ndarray, "signal"] = field(metadata=stored(SIGNAL))
    """Factor of each normalised signal: its reliability, 1 where that is unknown or not asked for, 0 if left out."""
    flat: tuple[bool, ...] = field(metadata=stored(SIGNAL))
    contrast: Float[np.ndarray, "gap"] = field(metadata=stored(GAP, long_name="fused local contrast"))
    """Fused roots of local contrasts, the statistic of the existence test; nan where it was not made."""
    contrast_threshold: float = field(metadata=stored())
    """The contrast that 5 % of the null curves exceed somewhere."""
    rule: Rule
    seed: int
    reasons: tuple[str, ...]
    """Why something is nan, flat or left out."""

    @property
    def verdict(self) -> str:
        """One phrase for the whole result."""
        if not self.boundaries:
            return Existence.NOT_FOUND
        return "; ".join(f"gap {b}: {v}" for b, v in zip(self.boundaries, self.verdicts, strict=True))

    @property
    def are_supported(self) -> bool:
        """Whether every boundary is supported, or accepted where the published rule alone was asked."""
        return all(verdict in (Existence.SUPPORTED, Published.ACCEPTED) for verdict in self.verdicts)

    def __repr__(self) -> str:
        return f"Boundaries({self.verdict}; {len(self.fused)} gaps, rule {self.rule})"

    def _repr_html_(self) -> str:
        return card(self.verdict, self.reasons, self.summary(), thumbnail(self.fused, self.boundaries))

    def summary(self) -> pd.DataFrame:
        """Return one row a boundary: its place, how sure that is, and whether it is there."""
        import pandas as pd

        low, high = self.intervals.T
        return pd.DataFrame(
            {
                "gap": np.array(self.boundaries, dtype=int),
                "low": low,
                "high": high,
                "p": self.p_values,
                "presence": self.presence,
                "mode_mass": self.mode_mass,
                "near_tie": np.array(self.near_ties, dtype=float),
                "verdict": np.array(self.verdicts, dtype=object),
            }
        )

    def scales(self, n_layers: int, *, unsupported: bool = False) -> dict[str, range]:
        """Cut the blocks at the boundaries: Local, Intermediate, Global for two of them.

        Args:
            unsupported: cut at boundaries that are mere candidates, too.

        Raises:
            DataError: there are not exactly two boundaries, and no scales follow then; or one of them is not
                supported, and `unsupported` was not asked for.
        """
        if len(self.boundaries) != 2:
            raise DataError(f"Three scales need two boundaries, found {len(self.boundaries)}: {self.verdict}.")
        if not (unsupported or self.are_supported):
            raise DataError(
                f"Scales need boundaries that are supported: {self.verdict}. "
                "scales(unsupported=True) cuts there all the same."
            )
        first, second = self.boundaries
        return dict(zip(SCALES, (range(first), range(first, second), range(second, n_layers)), strict=True))


def normalise(curves: Float[np.ndarray, "*any gap"]) -> Float[np.ndarray, "*any gap"]:
    """Scale every curve to [0, 1] over gaps (eq. 6, P); a constant curve becomes zero."""
    low, high = curves.min(axis=-1, keepdims=True), curves.max(axis=-1, keepdims=True)
    return (curves - low) / np.where(high > low, high - low, 1)


def scale_signals(
    curves: Float[np.ndarray, "*any signal gap"], gain: Float[np.ndarray, "signal"]
) -> Float[np.ndarray, "*any signal gap"]:
    """Return the signals as they enter the fusion: normalised, times their gain; zero for signals left out."""
    return normalise(np.where(gain[:, None] > 0, curves, 0)) * gain[:, None]


def pick_peaks(fused: Float[np.ndarray, "gap"], *, prominence: float = PROMINENCE) -> Int[np.ndarray, "peak"]:
    """Return the indices of the two most prominent peaks, in depth order (P)."""
    return np.sort(rank_peaks(fused, prominence=prominence)[:2])


def rank_peaks(fused: Float[np.ndarray, "gap"], *, prominence: float = PROMINENCE) -> Int[np.ndarray, "peak"]:
    """Return the indices of all peaks of at least this prominence, the most prominent first.

    The ends are padded with the curve's minimum, so the first and last gap can be peaks.
    """
    from scipy.signal import find_peaks

    padded = np.concatenate([[fused.min()], fused, [fused.min()]])
    peaks, found = find_peaks(padded, prominence=prominence)
    return peaks[np.argsort(-found["prominences"], kind="stable")] - 1


def pick_peaks_by_row(
    fused: Float[np.ndarray, "row gap"], *, prominence: float = PROMINENCE
) -> Float[np.ndarray, "row 2"]:
    """Return what `pick_peaks` does for every row; nan where a row has fewer than two peaks.

    1,000 rows of 11 to 79 gaps take 0.02 s (measured), and a case of the calibration 1 % longer than if all rows were
    worked on at once.
    """
    picked = np.full((len(fused), 2), np.nan)
    for row, curve in zip(picked, fused, strict=True):
        peaks = pick_peaks(curve, prominence=prominence)
        row[: len(peaks)] = peaks
    return picked


def reliability(
    curves: Float[np.ndarray, "signal gap"], resampled: Float[np.ndarray, "resample signal gap"]
) -> Float[np.ndarray, "signal"]:
    """Return 1 - (mean squared bootstrap error) / (variance over gaps), floored at 0 (N)."""
    error = resampled.var(axis=0).mean(axis=-1)
    spread = curves.var(axis=-1)
    return np.maximum(0, 1 - np.divide(error, spread, out=np.ones_like(error), where=spread > 0))


def find_boundaries(
    curves: ArrayLike,
    *,
    weights: ArrayLike | Sequence[float | int] | None = None,
    rule: Rule = "mspgt",
    seed: int = 0,
    resampled: Float[np.ndarray, "resample signal gap"] | None = None,
    names: Sequence[str] | None = None,
    n_null: int = 2000,
    prominence: float = PROMINENCE,
) -> Boundaries:
    """Find at most two boundaries in signal curves (docs/method.md; eq. 6 and the paper's peak rule).

    Args:
        curves: `[signal, gap]`, in any unit; column j is gap j+1. A signal with a nan is left out, with its reason.
        weights: one a signal, not negative; equal by default. They are scaled to sum to one.
        rule: `"paper"` for the published rule alone: no reliability, no existence test.
        seed: of the null curves.
        resampled: bootstrap resamples of `curves`; without them intervals and reliabilities are nan.
        names: of the signals, for the reasons.
        n_null: null curves of each kind.
        prominence: smallest prominence of a peak, in (0, 1]; the paper's by default.

    Raises:
        DataError: wrong shape, fewer than two gaps, or an infinite value.
        ConfigError: unknown rule, unusable weights, prominence or seed.

    See Also:
        Boundaries: what comes back.
        detect: measures the curves of a model, and resamples them.

    Example:
        >>> curves = np.zeros((3, 11))
        >>> curves[:, [3, 8]] = 1  # column j is gap j + 1
        >>> find_boundaries(curves + 0.01 * np.random.default_rng(0).random((3, 11))).boundaries
        (4, 9)
    """
    check_seed(seed)
    values = _checked_curves(curves)
    if rule not in get_args(Rule):
        raise ConfigError(unknown_name("rule", str(rule), get_args(Rule)))
    if not 0 < prominence <= 1:
        raise ConfigError(f"A prominence lies above 0 and is at most 1, got {prominence}.")
    n_signals, n_gaps = values.shape
    labels = list(names) if names is not None else [f"signal {i}" for i in range(n_signals)]
    share = _checked_weights(weights, n_signals)
    trust, reasons = np.full(n_signals, np.nan), []
    if resampled is not None:
        resampled = np.asarray(resampled, dtype=np.float64)
        if resampled.shape[1:] != values.shape or len(resampled) < 2:
            raise DataError(f"`resampled` must be [resample, {n_signals}, {n_gaps}], got {list(resampled.shape)}.")
        trust = reliability(values, resampled)
    left_out = _signals_left_out(values, resampled, trust, share, labels, rule, reasons)
    used = np.where(left_out, 0, share)
    used = used / used.sum() if used.sum() > 0 else used
    gain = np.where(left_out, 0.0, np.nan_to_num(trust, nan=1) if rule == "mspgt" else 1.0)
    shown = scale_signals(values, gain)
    fused = used @ shown
    peaks = pick_peaks(fused, prominence=prominence) if used.any() else np.empty(0, dtype=int)
    if not used.any():
        reasons.append("No boundary: every signal was left out.")
    elif len(peaks) == 0:
        reasons.append(f"No boundary: the fused curve has no peak of prominence {prominence:g}.")
    place = _bootstrap_places(peaks, fused, resampled, used, gain, rule, prominence, reasons)
    p_values, contrast, threshold = _existence(shown, used, peaks, rule, seed, n_null, reasons)
    return Boundaries(
        boundaries=tuple(int(p) + 1 for p in peaks),
        verdicts=tuple(_verdict(p, i, rule) for p, i in zip(p_values, place["intervals"], strict=True)),
        p_values=p_values,
        **place,
        fused=fused,
        normalised=shown,
        weights=used,
        reliability=trust,
        gain=gain,
        flat=tuple(bool(f) for f in left_out),
        contrast=contrast,
        contrast_threshold=threshold,
        rule=rule,
        seed=seed,
        reasons=tuple(reasons),
    )


def _checked_curves(curves: ArrayLike) -> Float[np.ndarray, "signal gap"]:
    try:
        values = np.array(curves, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"Curves must be numbers [signal, gap], rows of one length: {error}.") from error
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise DataError(f"Curves must be [signal, gap] with at least 2 gaps, got shape {list(values.shape)}.")
    if np.isinf(values).any():
        raise DataError(f"Curves must be finite or nan; {int(np.isinf(values).sum())} values are infinite.")
    return values


def _checked_weights(weights: ArrayLike | Sequence[float | int] | None, n_signals: int) -> Float[np.ndarray, "signal"]:
    if weights is None:
        return np.full(n_signals, 1 / n_signals)
    share = np.array(weights, dtype=np.float64)
    if share.shape != (n_signals,) or not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise ConfigError(f"Weights must be {n_signals} numbers >= 0 with a positive sum, got {share.tolist()}.")
    return share / share.sum()


def _signals_left_out(
    values: np.ndarray,
    resampled: np.ndarray | None,
    trust: np.ndarray,
    share: np.ndarray,
    labels: Sequence[str],
    rule: Rule,
    reasons: list[str],
) -> np.ndarray:
    """Return which signals cannot or must not take part, adding the reason of each."""
    left_out = share == 0
    for i, label in enumerate(labels):
        missing = int(np.isnan(values[i]).sum())
        if missing:
            reasons.append(f"{label} left out: nan at {missing} of {values.shape[1]} gaps.")
        elif resampled is not None and np.isnan(resampled[:, i]).any():
            reasons.append(f"{label} left out: nan in some bootstrap resamples.")
        elif np.ptp(values[i]) == 0:
            reasons.append(f"{label} left out: flat, the same value at every gap.")
        elif rule == "mspgt" and trust[i] < MIN_RELIABILITY:
            reasons.append(f"{label} left out: flat, reliability {trust[i]:.2f} below {MIN_RELIABILITY}.")
        else:
            continue
        left_out[i] = True
    return left_out


def _bootstrap_places(
    peaks: np.ndarray,
    fused: np.ndarray,
    resampled: np.ndarray | None,
    weights: np.ndarray,
    gain: np.ndarray,
    rule: Rule,
    prominence: float,
    reasons: list[str],
) -> dict[str, Any]:
    """Pick again in every resample and return the fields of `Boundaries` that say where each boundary went.

    The interval asks where *this* boundary is: in each resample, the highest gap of its section. The published rule
    asks where the first and the second peak are, so its intervals also span rivals (docs/calibration.md).
    """
    n = len(peaks)
    intervals, presence, mode_mass = np.full((n, 2), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    told: dict[str, Any] = {"intervals": intervals, "presence": presence, "mode_mass": mode_mass}
    if resampled is None or not weights.any():
        if n:
            reasons.append("Intervals are nan: they need bootstrap resamples, and only curves were given.")
        none = np.full((0 if resampled is None else len(resampled), 2), np.nan)
        return told | {"near_ties": (None,) * n, "peak_counts": np.full(3, np.nan), "peaks": none}
    refused = np.einsum("s,rsg->rg", weights, scale_signals(resampled, gain))
    picked = pick_peaks_by_row(refused, prominence=prominence)
    counts = np.bincount(np.isfinite(picked).sum(axis=1), minlength=3) / len(picked)
    places = match_peaks(peaks, picked)
    local = _highest_by_section(peaks, fused, refused)
    rivals: list[int | None] = []
    for i in range(n):
        found = places[~np.isnan(places[:, i]), i]
        presence[i] = len(found) / len(picked)
        gaps, times = np.unique(found, return_counts=True)
        mode_mass[i] = times.max() / len(found) if len(found) else np.nan
        far = [(t, g) for g, t in zip(gaps, times, strict=True) if abs(g - peaks[i]) > 1 and t >= NEAR_TIE * len(found)]
        rivals.append(int(max(far)[1]) + 1 if far else None)
        if far:
            share = max(far)[0] / len(found)
            reasons.append(f"Gap {peaks[i] + 1} is a near tie: {share:.0%} of the resamples prefer gap {rivals[i]}.")
        if presence[i] < MIN_PRESENCE:
            reasons.append(f"Gap {peaks[i] + 1} has no interval: found in only {presence[i]:.0%} of the resamples.")
        else:
            drawn = found if rule == "paper" else local[:, i]
            intervals[i] = np.quantile(drawn, TAILS, method="inverted_cdf") + 1
    return told | {"near_ties": tuple(rivals), "peak_counts": counts, "peaks": picked + 1}


def _highest_by_section(peaks: np.ndarray, fused: np.ndarray, refused: np.ndarray) -> Int[np.ndarray, "resample peak"]:
    """Return each resample's highest gap in the section of each boundary; two sections meet in the valley between."""
    if len(peaks) < 2:
        return np.repeat(refused.argmax(axis=1)[:, None], len(peaks), axis=1)
    cut = int(peaks[0] + 1 + fused[peaks[0] + 1 : peaks[1]].argmin())
    return np.stack([refused[:, :cut].argmax(axis=1), cut + refused[:, cut:].argmax(axis=1)], axis=1)


def match_peaks(
    peaks: Int[np.ndarray, "boundary"], picked: Float[np.ndarray, "resample 2"]
) -> Float[np.ndarray, "resample boundary"]:
    """Return the peak of each resample that stands for each boundary, nan for none.

    As many peaks as boundaries are assigned in depth order; a single one goes to the nearest boundary, and a single
    boundary takes the nearest of two peaks.
    """
    n, count = len(peaks), np.isfinite(picked).sum(axis=1)
    places = np.full((len(picked), n), np.nan)
    places[count == n] = picked[count == n, :n]
    if n == 1:
        found = picked[count == 2]
        nearest = np.abs(found - peaks[0]).argmin(axis=1)
        places[count == 2, 0] = found[np.arange(len(found)), nearest]
    if n == 2:
        found = picked[count == 1, 0]
        nearest = np.abs(peaks - found[:, None]).argmin(axis=1)
        places[np.flatnonzero(count == 1), nearest] = found
    return places


def _existence(
    shown: np.ndarray, weights: np.ndarray, peaks: np.ndarray, rule: Rule, seed: int, n_null: int, reasons: list[str]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return p-values, the contrast curve and its threshold; nan with a reason where the test has no ground."""
    n_gaps = shown.shape[1]
    untested = np.full(len(peaks), np.nan), np.full(n_gaps, np.nan), np.nan
    if rule == "paper":
        return untested
    active = weights > 0
    if active.sum() < 2 or n_gaps < MIN_GAPS:
        if len(peaks):
            reasons.append(
                f"p-values are nan: existence is the agreement of two signals over {MIN_GAPS} or more gaps; "
                f"here {int(active.sum())} and {n_gaps}."
            )
        return untested
    test = concordance_test(shown[active], weights[active], peaks, n_null=n_null, seed=seed)
    return test.p_values, test.contrast, test.threshold


def _verdict(p_value: float, interval: np.ndarray, rule: Rule) -> Existence | Published:
    is_localised = bool(interval[1] - interval[0] < MAX_WIDTH)
    if rule == "paper":
        return Published.ACCEPTED if is_localised else Published.NOT_ACCEPTED
    if p_value < ALPHA:
        return Existence.SUPPORTED if is_localised else Existence.SIGNIFICANT
    return Existence.LOCALISED if is_localised else Existence.NOT_FOUND


@dataclass(frozen=True)
class WeightMap:
    """Where the boundaries lie for every choice of fusion weights (N): no conclusion rests on one choice."""

    weights: Float[np.ndarray, "point signal"] = field(metadata=stored("point", SIGNAL, name="map_weight"))
    boundaries: Float[np.ndarray, "point 2"] = field(metadata=stored("point", "rank", name="map_boundary"))
    """In depth order; nan where fewer than two peaks were found."""

    def agreement(self, boundary: int, *, within: int = 1) -> float:
        """Return the share of weight choices that put a boundary within `within` gaps of this one."""
        return float((np.abs(self.boundaries - boundary) <= within).any(axis=1).mean())


def weight_map(
    normalised: Float[np.ndarray, "signal gap"], *, steps: int = 20, prominence: float = PROMINENCE
) -> WeightMap:
    """Pick peaks for every fusion weight on a regular grid of `steps` divisions over the simplex."""
    grid = simplex_grid(len(normalised), steps)
    used = grid * normalised.any(axis=1)
    total = used.sum(axis=1, keepdims=True)
    places = pick_peaks_by_row(used / np.where(total > 0, total, 1) @ normalised, prominence=prominence)
    return WeightMap(grid, places + 1)


def simplex_grid(n_signals: int, steps: int) -> Float[np.ndarray, "point signal"]:
    """Return all weights that are multiples of 1 / `steps` and sum to one.

    >>> simplex_grid(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    bars = combinations(range(steps + n_signals - 1), n_signals - 1)
    return np.array([np.diff((-1, *bar, steps + n_signals - 1)) - 1 for bar in bars]) / steps
