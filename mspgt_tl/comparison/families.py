"""How boundary positions agree within a family of models: means, coefficients of variation, and their intervals.

Two things shaped this file. Published percentages are rounded half up (2 / 32 = 6.25 % is printed as 6.3 %), which
binary rounding to even would turn into 6.2 %. And the coefficient of variation of two models says next to nothing
about a family, so it comes with an interval over models as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TypedDict

import numpy as np
from jaxtyping import Float

from mspgt_tl.errors import DataError
from mspgt_tl.stats import LEVEL

MAX_EXACT = 20_000
"""At most so many ways to deal family labels are all looked at; beyond, as many are drawn at random."""

Triple = tuple[int, int, int]


class FamilyRow(TypedDict):
    """One family. Means are fractions of depth; coefficients of variation are ratios, population form (ddof = 0)."""

    n: int
    mean_LI: float
    cv_LI: float
    mean_IG: float
    cv_IG: float


def family_table(families: Mapping[str, Iterable[Triple]], decimals: int | None = None) -> dict[str, FamilyRow]:
    """Return mean and coefficient of variation of both relative boundary positions, family by family (Table 3, P).

    Args:
        families: for each family its models as `(b_LI, b_IG, n_layers)`, gaps with 0 < b_LI < b_IG < n_layers.
        decimals: round the percentages to so many decimals first, half up, as the paper does with one; None does not.

    Returns:
        For each family `n` (models), `mean_LI`, `cv_LI`, `mean_IG`, `cv_IG`: means as fractions in (0, 1), CVs as
        ratios >= 0. The CV of a single model is nan: nothing varies.

    Raises:
        DataError: no family, an empty one, a triple that is no pair of boundaries, or negative decimals.

    >>> paper = {"Qwen": [(2, 20, 28), (2, 8, 32)]}
    >>> [round(family_table(paper, decimals=d)["Qwen"]["cv_LI"], 3) for d in (1, None)]
    [0.06, 0.067]
    """
    if not families:
        raise DataError("At least one family is needed, as {'family': [(b_LI, b_IG, n_layers), ...]}; got none.")
    if decimals is not None and decimals < 0:
        raise DataError(f"decimals must be None or at least 0, got {decimals}.")
    table = {}
    for family, models in families.items():
        triples = [_checked(family, model) for model in models]
        if not triples:
            raise DataError(f"Family '{family}' has no models: give at least one (b_LI, b_IG, n_layers).")
        first, second = ([relative_position(t[i], t[2], decimals) for t in triples] for i in (0, 1))
        table[family] = FamilyRow(
            n=len(triples),
            mean_LI=float(np.mean(first)),
            cv_LI=coefficient_of_variation(first),
            mean_IG=float(np.mean(second)),
            cv_IG=coefficient_of_variation(second),
        )
    return table


def _checked(family: str, model: Triple) -> Triple:
    try:
        first, second, n_layers = (int(value) for value in model)
        whole = (first, second, n_layers) == tuple(model)
    except (TypeError, ValueError, OverflowError):
        whole, first, second, n_layers = False, 0, 0, 0
    if not whole or not 0 < first < second < n_layers:
        raise DataError(
            f"Family '{family}': a model is (b_LI, b_IG, n_layers), whole numbers with 0 < b_LI < b_IG < n_layers; "
            f"got {model!r}."
        )
    return first, second, n_layers


def relative_position(boundary: int, n_layers: int, decimals: int | None = None) -> float:
    """Return boundary / n_layers as a fraction, its percentage rounded half up to `decimals` first if given.

    >>> relative_position(2, 32, 1), relative_position(2, 32)
    (0.063, 0.0625)
    """
    if decimals is None:
        return boundary / n_layers
    # In whole numbers: a float would make 6.25 a matter of luck.
    steps = (2 * 100 * 10**decimals * boundary + n_layers) // (2 * n_layers)
    return steps / (100 * 10**decimals)


def coefficient_of_variation(positions: Sequence[float] | Float[np.ndarray, "model"]) -> float:
    """Return standard deviation (ddof = 0) over mean of positive positions; nan for fewer than two."""
    values = np.asarray(positions, dtype=np.float64)
    return float(values.std() / values.mean()) if len(values) > 1 else math.nan


def cv_interval(
    positions: Sequence[float] | Float[np.ndarray, "model"], *, resolution: float = 0.0
) -> tuple[float, float]:
    """Return the 95 % interval of a family's coefficient of variation, of which these models are a sample.

    Vangel's (1996) modification of McKay's interval, for normal positions. `resolution` is the least standard
    deviation that the measurement can show (a gap is known to one layer: 1 / (n_layers √12)); without it, two equal
    gaps would prove a CV of 0. The upper limit is inf where the data set none; both are nan for fewer than two models.
    """
    values = np.asarray(positions, dtype=np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    ratio, n = max(float(values.std(ddof=1)), resolution) / float(values.mean()), len(values)
    low = cv_limit(ratio, n, (1 + LEVEL) / 2) if values.std() >= resolution else 0.0
    return low, cv_limit(ratio, n, (1 - LEVEL) / 2)


def cv_limit(ratio: float, n: int, share: float) -> float:
    """Return a limit of `cv_interval`, at a quantile of chi squared, from the CV (ddof = 1) of n positions."""
    from scipy.stats import chi2

    u = float(chi2.ppf(share, n - 1))
    square = ((u + 2) / n - 1) * ratio**2 + u / (n - 1)
    return ratio / math.sqrt(square) if square > 0 else math.inf


def mean_interval(
    positions: Sequence[float] | Float[np.ndarray, "model"], *, resolution: float = 0.0
) -> tuple[float, float]:
    """Return the 95 % t interval of a family's mean relative position, `resolution` as in `cv_interval`."""
    from scipy.stats import t

    values = np.asarray(positions, dtype=np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * max(float(values.std(ddof=1)), resolution)
    half /= math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def label_permutation(
    positions: Float[np.ndarray, "model"], labels: Sequence[str], *, seed: int = 0
) -> tuple[float, float]:
    """Test whether positions are closer within families than random families of the same sizes would be (N).

    The statistic is the sum of squares within families. All ways to deal the labels are looked at while there are at
    most 20,000, else as many random ones.

    Returns:
        The p-value, and the smallest one that this many models in these families could give (1/3 for two and two).
        Both are nan with fewer than two families, or where no family has two models.
    """
    names = sorted(set(labels))
    members = [np.flatnonzero(np.array(labels) == name) for name in names]
    if len(names) < 2 or max(len(m) for m in members) < 2:
        return math.nan, math.nan
    sizes = [len(m) for m in members]
    observed = _within(positions, members)
    ways = math.factorial(len(positions)) // math.prod(math.factorial(size) for size in sizes)
    if ways <= MAX_EXACT:
        dealt = [_within(positions, hand) for hand in _all_deals(tuple(range(len(positions))), sizes)]
    else:
        rng, cuts = np.random.default_rng(seed), np.cumsum(sizes)[:-1]
        dealt = [_within(positions, np.split(rng.permutation(len(positions)), cuts)) for _ in range(MAX_EXACT)]
        dealt.append(observed)
    # Sums in another order differ in the last digits.
    reached = np.array(dealt) <= observed + 1e-12
    same = math.prod(math.factorial(sizes.count(size)) for size in set(sizes))
    return float(reached.mean()), same / ways if ways <= MAX_EXACT else 1 / len(dealt)


def _within(positions: np.ndarray, members: Sequence[np.ndarray]) -> float:
    return float(sum(((positions[list(m)] - positions[list(m)].mean()) ** 2).sum() for m in members))


def _all_deals(items: tuple[int, ...], sizes: Sequence[int]) -> Iterable[list[np.ndarray]]:
    if not sizes:
        yield []
        return
    for hand in combinations(items, sizes[0]):
        rest = tuple(item for item in items if item not in hand)
        for others in _all_deals(rest, sizes[1:]):
            yield [np.array(hand), *others]
