"""Which boundaries are the model's and which the corpus's: the same models on several corpora (N).

A boundary *recurs* in another result if that result has one within one gap of it in at least half of the bootstrap
resamples, and in more of them than random gaps would. Each boundary of a trained model on unshuffled text is then read
in this order, whether or not it is supported by the test of existence, which is told beside the reading:

- `architecture`: it recurs in most random-weight twins of the model on this corpus.
- `words`: it recurs on most word-shuffled versions of this corpus, so it needs no sentence structure.
- `model`: it recurs on every other real corpus, beyond chance, and neither of the above, where both were run.
- `corpus`: it recurs in most other trained models on this corpus, beyond chance, and on no other real corpus.
- `unclear`: anything else; the reason says what is missing or does not fit.

*Beyond chance* is p < 0.05 for all boundaries of a result together: random gaps, on each other corpus (or in each other
model) as many as were found there, come near at least as many of them. One boundary alone could hardly be told from
chance on a few corpora. These p-values are not corrected for the number of results. A single twin or shuffled text is
no test, but only ever takes `model` or `corpus` away; `chance` beside `near` says how little it may mean.

A signal that does not see the corpus is the same curve on each (probes, where only the text was changed or shuffled)
and makes boundaries recur by construction, so such signals are named in `shared` and in the reason. Give every corpus
a treebank of its own, or read `curves` and `shares` signal by signal.

Models of other depths are compared by relative depth: a gap goes to the other's nearest one, and curves are read, by
linear interpolation, at the gaps of the shallower model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from mspgt_tl.boundaries import ALPHA, normalise, scale_signals
from mspgt_tl.comparison.layout import complete_block, effect_p, variance_shares
from mspgt_tl.comparison.positions import RANKS
from mspgt_tl.config import json_values
from mspgt_tl.contracts import SIGNAL, WITHIN, Existence
from mspgt_tl.errors import ConfigError, DataError, unknown_name
from mspgt_tl.evidence import fused_resamples, peak_draws, resampled_peaks
from mspgt_tl.rivals import chance_near, rank_correlation
from mspgt_tl.stats import TAILS

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Reading = Literal["architecture", "words", "model", "corpus", "unclear"]
RELATIONS = ("corpora", "shuffled", "twins", "models")
"""What a result is held against: the model's other real corpora, shuffles of this one, its twins, other models."""
NEEDED = (SIGNAL, "curve", "weight", "gain", "fused", "boundary", "interval", "verdict", "n_layers")
FUSED = "fused"
MIN_SHARE = 0.5
"""Share of resamples in which a boundary must come near to recur."""


@dataclass(frozen=True, eq=False)
class Observed:
    """A detection of one model on one corpus."""

    result: xr.Dataset
    """As `Detection.data`; without `resampled`, what needs resamples is nan."""
    model: str
    corpus: str
    shuffled_of: str | None = None
    """The corpus whose words were shuffled to make this one."""
    twin_of: tuple[str, ...] = ()
    """The trained model that this one has the architecture of, with random weights."""

    @property
    def shuffled(self) -> bool:
        return self.shuffled_of is not None

    @property
    def random_weights(self) -> bool:
        return bool(self.twin_of)

    @property
    def where(self) -> str:
        return f"{self.model} on {self.corpus}"

    @property
    def n_layers(self) -> int:
        return int(self.result.attrs["n_layers"])

    @property
    def gaps(self) -> list[int]:
        """Found boundaries in depth order, in 1 … n_layers-1."""
        return [int(gap) for gap in self.result["boundary"].values]

    @cached_property
    def draws(self) -> Float[np.ndarray, "resample found"]:
        """Gap of every found boundary in every resample; see `peak_draws`."""
        return peak_draws(self.result) if "resampled" in self.result else np.empty((0, len(self.gaps)))

    @cached_property
    def picked(self) -> Float[np.ndarray, "resample 2"]:
        """Gaps of at most two peaks in every resample, nan where there are fewer."""
        if "resampled" not in self.result:
            return np.empty((0, 2))
        return resampled_peaks(self.result)

    @cached_property
    def curves(self) -> dict[str, tuple[Float[np.ndarray, "gap"], Float[np.ndarray, "resample gap"]]]:
        """Every signal as it enters the fusion, and the fused curve, with resamples; zero where left out."""
        gain, values = self.result["gain"].to_numpy(), self.result["curve"].to_numpy()
        shown, drawn = scale_signals(values, gain), np.empty((0, *values.shape))
        fused = np.empty((0, values.shape[1]))
        if "resampled" in self.result:
            drawn = scale_signals(self.result["resampled"].to_numpy().astype(np.float64), gain)
            fused = fused_resamples(self.result)
        names = [str(name) for name in self.result[SIGNAL].values]
        found = {name: (shown[i], drawn[:, i]) for i, name in enumerate(names)}
        return found | {FUSED: (self.result["fused"].to_numpy(), fused)}


@dataclass(frozen=True)
class Dependence:
    """What depends on the model and what on the corpus; `reason` says why something in a row is nan or unclear."""

    boundaries: pd.DataFrame
    """Trained model, unshuffled corpus and found boundary: gap, relative, interval in gaps, verdict, supported (None
    where untested), `reading`; for each of `RELATIONS` how many results (`n_…`), in how many it recurs (`recurs_…`),
    and the means of `near` and `chance`; p of other corpora and of other models."""
    recurrence: pd.DataFrame
    """Boundary and other result: the nearest boundary of the other, in gaps of its own depth; `near`, the share of
    paired resamples within one gap (of those in which the boundary was found); `chance`, that of random gaps; recurs
    (None where unknown); `shared`, the signals whose curves are the same in both."""
    curves: pd.DataFrame
    """Curve and pair of results that share a model, a corpus or neither: Spearman's correlation over gaps with its 95 %
    bootstrap interval; twins and shuffled text take part and are marked."""
    shares: pd.DataFrame
    """Boundary by rank (relative position) or curve (scaled to [0, 1] over gaps): the shares of variance between
    models, between corpora and the rest, which sum to one; what meaningless labels would give the first two; their p by
    permutation, and the smallest p that so many models and corpora could give."""

    def to_plain(self) -> dict[str, Any]:
        """Return every table as lists of rows that JSON can hold."""
        tables = ("boundaries", "recurrence", "curves", "shares")
        return json_values({name: getattr(self, name).to_dict("records") for name in tables})


def compare_corpora(observed: Sequence[Observed], *, seed: int = 0) -> Dependence:
    """Tell what depends on the model from what depends on the corpus, by the rule at the top of this file.

    Args:
        observed: detections, one for each model and corpus.
        seed: of permutations that are too many to look at.

    Raises:
        ConfigError: a model and corpus there twice, or `shuffled_of` or `twin_of` name nothing that was observed.
        DataError: no detection, one that lacks an array, or one model with two depths.
    """
    import pandas as pd

    _check(observed)
    real = [one for one in observed if not one.shuffled and not one.random_weights]
    rows, met = [], []
    for one in real:
        found, held = _boundary_rows(one, observed)
        rows, met = rows + found, met + held
    return Dependence(
        boundaries=pd.DataFrame(rows, columns=_BOUNDARY),
        recurrence=pd.DataFrame(met, columns=_RECURRENCE),
        curves=pd.DataFrame(_curve_rows(observed), columns=_CURVE),
        shares=pd.DataFrame(_share_rows(real, seed), columns=_SHARE),
    )


_BOUNDARY = [
    *("model", "corpus", "gap", "relative", "low", "high", "verdict", "supported", "reading"),
    *(f"{what}_{relation}" for relation in RELATIONS for what in ("n", "recurs", "near", "chance")),
    *("p_corpora", "p_models", "reason"),
]
_RECURRENCE = [
    *("model", "corpus", "gap", "relation", "other_model", "other_corpus"),
    *("nearest", "near", "chance", "recurs", "shared", "reason"),
]
_CURVE = [
    *("curve", "pair", "model", "corpus", "other_model", "other_corpus", "twins", "shuffled"),
    *("correlation", "low", "high", "reason"),
]
_SHARE = [
    *("quantity", "n_models", "n_corpora", "share_model", "share_corpus", "share_rest", "chance_model"),
    *("chance_corpus", "p_model", "smallest_p_model", "p_corpus", "smallest_p_corpus", "reason"),
]


def _check(observed: Sequence[Observed]) -> None:
    if not observed:
        raise DataError("Detections of one or more models are needed, got none.")
    corpora = {one.corpus for one in observed if not one.shuffled}
    models = {one.model for one in observed if not one.random_weights}
    seen: dict[tuple[str, str], Any] = {}
    for i, one in enumerate(observed):
        if missing := [name for name in NEEDED if name not in {*one.result.variables, *one.result.attrs}]:
            raise DataError(f"The result of {one.where} lacks {', '.join(missing)}: give `Detection.data`.")
        if any((one.model, one.corpus) == (other.model, other.corpus) for other in observed[:i]):
            raise ConfigError(f"{one.where} is there twice; give every model and corpus once.")
        named = [("corpus", one.shuffled_of, corpora), *(("model", name, models) for name in one.twin_of)]
        for kind, name, known in named:
            if name is not None and name not in known:
                raise ConfigError(unknown_name(kind, name, known))
        facts = (
            ("shuffled_of", one.corpus, one.shuffled_of),
            ("twin_of", one.model, one.twin_of),
            *(("n_layers", name, one.n_layers) for name in one.twin_of or (one.model,)),
        )
        for fact, name, value in facts:
            if seen.setdefault((fact, name), value) != value:
                raise DataError(f"'{name}' has {fact} {seen[fact, name]} in one result and {value} in another.")


def _related(one: Observed, observed: Sequence[Observed]) -> dict[str, list[Observed]]:
    own = [other for other in observed if other.model == one.model]
    here = [other for other in observed if other.corpus == one.corpus]
    found = (
        [other for other in own if not other.shuffled and other.corpus != one.corpus],
        [other for other in own if other.shuffled_of == one.corpus],
        [other for other in here if one.model in other.twin_of],
        [other for other in here if not other.random_weights and other.model != one.model],
    )
    return dict(zip(RELATIONS, found, strict=True))


def _boundary_rows(one: Observed, observed: Sequence[Observed]) -> tuple[list[dict], list[dict]]:
    """Return the rows of `boundaries` and of `recurrence` of one result."""
    start = {"model": one.model, "corpus": one.corpus}
    if not one.gaps:
        return [
            {**start, "verdict": "", "supported": False, "reading": "unclear", "reason": "no boundary was found"}
        ], []
    related = _related(one, observed)
    held = {
        (relation, i): [_recurrence(one, i, other) for other in others]
        for relation, others in related.items()
        for i in range(len(one.gaps))
    }
    p = {}
    for relation in ("corpora", "models"):
        known = [row["recurs"] for i in range(len(one.gaps)) for row in held[relation, i]]
        usable = known and None not in known
        p[relation] = recurrence_p(one, related[relation], sum(map(bool, known))) if usable else math.nan
    rows = []
    for i, gap in enumerate(one.gaps):
        reading, reason = read_boundary({r: [row["recurs"] for row in held[r, i]] for r in RELATIONS}, p)
        verdict = str(one.result["verdict"].values[i])
        low, high = (float(bound) for bound in one.result["interval"].values[i])
        supported = verdict == Existence.SUPPORTED if verdict in list(Existence) else None
        row = {**start, "gap": gap, "relative": gap / one.n_layers, "low": low, "high": high, "verdict": verdict}
        blind = {r["shared"] for relation in ("corpora", "shuffled") for r in held[relation, i]} - {""}
        reason = "; ".join(filter(None, [reason, *(f"{names} did not see the corpus" for names in sorted(blind))]))
        row |= {"supported": supported, "reading": reading, "reason": reason}
        for relation in RELATIONS:
            row |= _summary(relation, held[relation, i])
        rows.append(row | {f"p_{relation}": value for relation, value in p.items()})
    met = [
        {**start, "gap": one.gaps[i], "relation": relation, **row}
        for (relation, i), there in held.items()
        for row in there
    ]
    return rows, met


def _summary(relation: str, there: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {f"n_{relation}": len(there), f"recurs_{relation}": sum(bool(r["recurs"]) for r in there)}
    means = {what: [r[what] for r in there] for what in ("near", "chance")}
    return row | {f"{what}_{relation}": float(np.mean(v)) if v else math.nan for what, v in means.items()}


def _place(gap: Any, n_layers: int, other: int) -> Any:
    """Return the gap of a model of `other` layers that is nearest in relative depth."""
    return gap if n_layers == other else np.clip(np.rint(gap * other / n_layers), 1, other - 1)


def _recurrence(one: Observed, i: int, other: Observed) -> dict[str, Any]:
    placed = int(_place(one.gaps[i], one.n_layers, other.n_layers))
    row: dict[str, Any] = {"other_model": other.model, "other_corpus": other.corpus}
    row["nearest"] = min(other.gaps, key=lambda gap: abs(gap - placed)) if other.gaps else math.nan
    row["shared"] = ", ".join(shared_signals(one, other))
    row["chance"] = chance_near(placed, len(other.gaps), other.n_layers - 1)
    if not other.gaps:
        return row | {"near": 0.0, "recurs": False, "reason": ""}
    n = min(len(one.draws), len(other.picked))
    drawn = _place(one.draws[:n, i], one.n_layers, other.n_layers)
    there = np.isfinite(drawn)
    if not there.any():
        why = "no bootstrap resamples" if n == 0 else "the boundary was found in no resample"
        return row | {"near": math.nan, "recurs": None, "reason": why}
    near = float((np.abs(other.picked[:n] - drawn[:, None]) <= WITHIN).any(axis=1)[there].mean())
    return row | {"near": near, "recurs": near >= MIN_SHARE and near > row["chance"], "reason": ""}


def shared_signals(one: Observed, other: Observed) -> list[str]:
    """Return the signals in use whose curves are the same in two results: they did not see what differs."""
    first, second = ({name: c for name, (c, _) in o.curves.items() if name != FUSED and c.any()} for o in (one, other))
    both = [name for name in first if name in second and one.n_layers == other.n_layers]
    return [name for name in both if np.allclose(normalise(first[name]), normalise(second[name]), rtol=0, atol=1e-6)]


def recurrence_p(one: Observed, others: Sequence[Observed], recurring: int) -> float:
    """Return how often random gaps come within one gap of at least so many of a result's boundaries, over all others.

    Every set of as many different gaps as the other result has is equally likely; others are independent.
    """
    chance = np.ones(1)
    for other in others:
        own = np.array([_place(gap, one.n_layers, other.n_layers) for gap in one.gaps])
        sets = np.array(list(combinations(range(1, other.n_layers), len(other.gaps))), dtype=np.float64)
        near = (np.abs(sets[:, :, None] - own) <= WITHIN).any(axis=1).sum(axis=1)
        chance = np.convolve(chance, np.bincount(near, minlength=len(own) + 1) / len(near))
    return min(1.0, float(chance[recurring:].sum()))


def read_boundary(recurs: Mapping[str, Sequence[bool | None]], p: Mapping[str, float]) -> tuple[Reading, str]:
    """Return the reading of a boundary and, if it is not plain, why, by the rule at the top of this file.

    Args:
        recurs: for each of `RELATIONS`, whether the boundary recurs in each other result; None where unknown.
        p: of `"corpora"` and `"models"`, as `recurrence_p`; nan where unknown for any boundary of the result.
    """
    times = {relation: sum(map(bool, recurs[relation])) for relation in RELATIONS}
    most = {relation: 2 * times[relation] > len(recurs[relation]) for relation in RELATIONS}
    n, n_models = len(recurs["corpora"]), len(recurs["models"])
    if most["twins"]:
        return "architecture", "it also recurs on shuffled text" if most["shuffled"] else ""
    if most["shuffled"]:
        return "words", "" if recurs["twins"] else "no random-weight twin was run, so it may be the architecture"
    if n == 0:
        return "unclear", "no other real corpus was run"
    unknown = "in some comparisons recurrence is unknown; see `recurrence`"
    if any(None in recurs[relation] for relation in ("corpora", "shuffled", "twins")) or math.isnan(p["corpora"]):
        return "unclear", unknown
    missing = [] if recurs["shuffled"] else ["no word-shuffled version of the corpus was run, so it may be words"]
    missing += [] if recurs["twins"] else ["no random-weight twin was run, so it may be the architecture"]
    if times["corpora"] == n:
        if p["corpora"] >= ALPHA:
            missing.append(
                f"it recurs on all {n} other corpora, but random gaps would do as well in {p['corpora']:.0%}"
            )
        return ("unclear" if missing else "model"), "; ".join(missing)
    if times["corpora"]:
        return "unclear", f"it recurs on {times['corpora']} of {n} other corpora"
    if n_models == 0:
        return "unclear", "it recurs on no other corpus, and no other model was run on this one"
    if None in recurs["models"] or math.isnan(p["models"]):
        return "unclear", unknown
    if most["models"] and p["models"] < ALPHA:
        return "corpus", "; ".join(missing)
    why = f"it recurs on no other corpus, and in {times['models']} of {n_models} other models on this one"
    return "unclear", why + (f"; random gaps would do as well in {p['models']:.0%}" if most["models"] else "")


def _resize(curves: Float[np.ndarray, "*any gap"], n_gaps: int) -> Float[np.ndarray, "*any other"]:
    """Return curves read at the relative depths of a model with no more gaps."""
    own = curves.shape[-1]
    if own == n_gaps:
        return curves
    at = np.arange(1, n_gaps + 1) * (own + 1) / (n_gaps + 1) - 1
    below = np.minimum(at.astype(int), own - 2)
    return curves[..., below] * (1 - (at - below)) + curves[..., below + 1] * (at - below)


def _names(observed: Sequence[Observed]) -> list[str]:
    """Return all curves' names in the order of the results, the fused one last."""
    return [*dict.fromkeys(name for one in observed for name in one.curves if name != FUSED), FUSED]


def _unusable(one: Observed, name: str) -> str:
    """Return why a curve cannot be compared; empty if it can."""
    if name not in one.curves:
        return f"{one.where} has no {name}"
    return "" if np.ptp(one.curves[name][0]) > 0 else f"{name} was left out of the fusion, or is flat, in {one.where}"


def _curve_rows(observed: Sequence[Observed]) -> Iterator[dict[str, Any]]:
    for name in _names(observed):
        for one, other in combinations(observed, 2):
            same = (one.model == other.model, one.corpus == other.corpus)
            pair = {(True, False): "same model, other corpus", (False, True): "other model, same corpus"}
            row = {"curve": name, "pair": pair.get(same, "other both"), "model": one.model, "corpus": one.corpus}
            row |= {"other_model": other.model, "other_corpus": other.corpus}
            row |= {"twins": one.random_weights or other.random_weights, "shuffled": one.shuffled or other.shuffled}
            yield row | _correlation(one, other, name)


def _correlation(one: Observed, other: Observed, name: str) -> dict[str, Any]:
    """Return Spearman's correlation of two curves, in [-1, 1], and its interval over paired resamples."""
    found = {"correlation": math.nan, "low": math.nan, "high": math.nan, "reason": ""}
    if why := [text for text in (_unusable(one, name), _unusable(other, name)) if text]:
        return found | {"reason": "; ".join(why)}
    n_gaps = min(one.n_layers, other.n_layers) - 1
    (x, x_drawn), (y, y_drawn) = one.curves[name], other.curves[name]
    found["correlation"] = float(rank_correlation(_resize(x[None], n_gaps), _resize(y[None], n_gaps))[0])
    n = min(len(x_drawn), len(y_drawn))
    drawn = rank_correlation(_resize(x_drawn[:n], n_gaps), _resize(y_drawn[:n], n_gaps))
    if not np.isfinite(drawn).any():
        return found | {"reason": "no interval: no bootstrap resamples of both"}
    found["low"], found["high"] = (float(bound) for bound in np.nanquantile(drawn, TAILS))
    return found


def _share_rows(real: Sequence[Observed], seed: int) -> Iterator[dict[str, Any]]:
    for rank, boundary in enumerate(RANKS):
        cells = {
            (one.model, one.corpus): np.array([one.gaps[rank] / one.n_layers]) for one in real if len(one.gaps) == 2
        }
        yield {"quantity": boundary, **_share_row(cells, real, "not two boundaries", seed)}
    for name in _names(real):
        usable = [one for one in real if not _unusable(one, name)]
        cells = {(one.model, one.corpus): normalise(one.curves[name][0]) for one in usable}
        yield {"quantity": name, **_share_row(cells, real, "curve missing, flat or left out of the fusion", seed)}


def _share_row(
    cells: Mapping[tuple[str, str], np.ndarray], real: Sequence[Observed], lacking: str, seed: int
) -> dict[str, Any]:
    models, corpora = complete_block(cells)
    row: dict[str, Any] = {"n_models": len(models), "n_corpora": len(corpora)}
    absent = [one.where for one in real if (one.model, one.corpus) not in cells]
    reason = [f"{lacking}: {', '.join(absent)}"] if absent else []
    if not models:
        every = len({one.model for one in real}), len({one.corpus for one in real})
        needed = "two models on the same two corpora are needed, of {} models and {} corpora there are none"
        return row | {"reason": "; ".join([needed.format(*every), *reason])}
    left = dict.fromkeys([one.model for one in real if one.model not in models])
    left |= dict.fromkeys([one.corpus for one in real if one.corpus not in corpora])
    reason += [f"left out, having no complete row: {', '.join(left)}"] if left else []
    n_gaps = min(len(cells[model, corpora[0]]) for model in models)
    values = np.array([[_resize(cells[model, corpus], n_gaps) for corpus in corpora] for model in models])
    shares = variance_shares(values)
    if np.isnan(shares).any():
        return row | {"reason": "; ".join([*reason, "it is the same everywhere, so there is no variance to share"])}
    row |= dict(zip(("share_model", "share_corpus", "share_rest"), shares.tolist(), strict=True))
    free = len(models) * len(corpora) - 1
    row |= {"chance_model": (len(models) - 1) / free, "chance_corpus": (len(corpora) - 1) / free}
    row["p_model"], row["smallest_p_model"] = effect_p(values, seed=seed)
    row["p_corpus"], row["smallest_p_corpus"] = effect_p(values.swapaxes(0, 1), seed=seed)
    return row | {"reason": "; ".join(reason)}
