"""Do two signals agree run by run? Training runs of one architecture as replicates (N).

Curves over depth are not stationary, so shifting or turning them says nothing of chance. Independent training runs do:
if two signals X and Y have nothing to do with each other beyond the architecture, X of run j agrees with Y of run k as
much as with Y of its own run j. Agreement is Spearman's correlation over gaps. Two statistics, both exact:

- *Permutation*: the share of all n! pairings of runs whose mean agreement is at least that of the runs with themselves.
- *Perfect match*: in every run, X agrees most with the Y of its own run (or every Y with its own X). Given the Ys, the
  run that an X agrees most with is drawn anew for each of the n Xs, so all hit their own with probability at most n⁻ⁿ,
  and either direction at most 2 n⁻ⁿ. (The idea is Yuan and Shou's permute-match test.) A perfect match is also the
  best of all pairings, so taking the smaller p-value keeps its level.

Two runs can give p = 0.5 at best, three 0.074, four 0.008.

What it shows: that two signals move together from run to run. What it cannot show: that a boundary which all runs of an
architecture share is real. It makes X agree with the Y of every run alike, so it stands off the diagonal, and is told
apart from the test (`off`, `shared`): agreement between runs that their training and the architecture have in common,
which may be learnt or built in; only random-weight twins tell these apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.comparison.positions import Located
from mspgt_tl.contracts import SIGNAL, WITHIN
from mspgt_tl.rivals import rank_correlation
from mspgt_tl.stats import correct_p_values

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("architecture", "n", "one", "other", "own", "off", "matched", "p", "smallest_p", "shared", "reason")
MOST = 8
"""Runs of which all pairings are looked at; more than so many would take too long."""
NAN = math.nan


@dataclass(frozen=True)
class Match:
    """How two signals agree within runs, and between them."""

    own: float
    """Mean agreement of the two in the same run, in [-1, 1]."""
    off: float
    """In different runs."""
    matched: int
    """Runs in which one signal agrees most with the other of the same run; the better of the two directions."""
    p: float


def agreement(one: Float[np.ndarray, "run gap"], other: Float[np.ndarray, "run gap"]) -> Float[np.ndarray, "run run"]:
    """Return the rank correlation of one signal in each run (row) with the other in each run (column)."""
    return np.stack([rank_correlation(np.broadcast_to(row, other.shape), other) for row in one])


def smallest_p(n: int) -> float:
    """Return the smallest p-value that n runs can give.

    >>> [round(smallest_p(n), 3) for n in (2, 3, 4)]
    [0.5, 0.074, 0.008]
    """
    return min(1 / math.factorial(n), 2 / n**n)


def match(table: Float[np.ndarray, "run run"]) -> Match:
    """Test whether runs agree with themselves more than with each other; nan where a curve is constant."""
    n, own = len(table), np.diag(table)
    apart = table[~np.eye(n, dtype=bool)]
    if not np.isfinite(table).all():
        return Match(NAN, NAN, 0, NAN)
    # Ties count against a match.
    hits = [int((own > np.where(np.eye(n, dtype=bool), -np.inf, table).max(axis=axis)).sum()) for axis in (1, 0)]
    rows = np.arange(n)
    means = np.array([table[rows, list(order)].mean() for order in permutations(range(n))])
    p = float((means >= own.mean() - 1e-12).mean())
    return Match(float(own.mean()), float(apart.mean()), max(hits), min(p, 2 / n**n) if max(hits) == n else p)


def shared_gaps(boundaries: Sequence[Sequence[int]], n_layers: int) -> list[int]:
    """Return the gaps within one of which every run has a boundary, the middle of neighbouring ones.

    >>> shared_gaps([[3, 9], [4], [3, 7]], 12)
    [3]
    """
    near = [all(any(abs(gap - b) <= WITHIN for b in found) for found in boundaries) for gap in range(1, n_layers)]
    stretches: list[list[int]] = []
    for gap in (i + 1 for i, is_near in enumerate(near) if is_near):
        if stretches and stretches[-1][-1] == gap - 1:
            stretches[-1].append(gap)
        else:
            stretches.append([gap])
    return [stretch[(len(stretch) - 1) // 2] for stretch in stretches]


def replicate_frame(located: Sequence[Located]) -> pd.DataFrame:
    """Return one row an architecture of two runs or more and a pair of signals.

    Columns: `architecture`, `n` runs, the signals `one` and `other`, their agreement in `own` runs and `off` them, runs
    `matched`, `p`, `p_holm` (over all rows), `smallest_p` that so many runs can give, `shared` gaps, `reason`.
    """
    import pandas as pd

    groups: dict[str, list[Located]] = {}
    for model in located:
        if model.result is not None and "curve" in model.result:
            groups.setdefault(model.architecture, []).append(model)
    rows = [row for name, runs in groups.items() if len(runs) > 1 for row in _rows(name, runs)]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"reason": object})
    table["p_holm"] = correct_p_values(table["p"].to_numpy(dtype=float), "holm")
    return table


def _rows(architecture: str, runs: Sequence[Located]) -> list[dict[str, Any]]:
    results: list[Any] = [run.result for run in runs]
    n, names = len(runs), [str(name) for name in results[0][SIGNAL].values]
    common = {"architecture": architecture, "n": n, "smallest_p": smallest_p(n), "shared": ""}
    trained = [re.sub(r"@step:\d+| \(.*\)$", "", run.name) for run in runs]
    if len(set(trained)) < n:
        twice = next(name for name in trained if trained.count(name) > 1)
        why = f"{twice} is there more than once: results of one training run are no replicates"
    elif n > MOST:
        why = f"{n} runs; the pairings of at most {MOST} are looked at"
    elif len({result["curve"].shape for result in results}) > 1:
        why = "the runs' curves are of different lengths or signals"
    else:
        why = ""
    if why:
        return [{**common, "one": "", "other": "", "own": NAN, "off": NAN, "matched": 0, "p": NAN, "reason": why}]
    found = [[int(gap) for gap in result["boundary"].values] for result in results]
    common["shared"] = ", ".join(map(str, shared_gaps(found, runs[0].n_layers)))
    curves = np.stack([result["curve"].values for result in results], axis=1)
    rows = []
    for i, j in combinations(range(len(names)), 2):
        tested = match(agreement(curves[i], curves[j]))
        flat = "" if math.isfinite(tested.p) else "a curve is constant or not finite"
        rows.append({**common, "one": names[i], "other": names[j], **vars(tested), "reason": flat})
    return rows
