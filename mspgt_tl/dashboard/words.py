"""Puts a result into words: numbers to sensible digits, the verdict for a newcomer, and why something is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mspgt_tl.boundaries import MAX_WIDTH, MIN_RELIABILITY, PROMINENCE
from mspgt_tl.cards import MISSING
from mspgt_tl.contracts import Existence, Published

if TYPE_CHECKING:
    import xarray as xr

COUNT = {1: "One", 2: "Two"}
TIE = re.compile(r"Gap (\d+) is a near tie: (\d+)%")
"""How `find_boundaries` words a near tie."""

DOSE_WORDS = {
    "per_layer": "equal σ",
    "per_scale": "equal power",
    "exit_norm": "equal change of the stream",
    "kl": "equal KL",
}
"""What each way to dose noise holds equal."""


def number(value: float, digits: int = 3) -> str:
    """Return a number to so many significant digits, a dash for nan.

    >>> number(0.123456), number(float("nan"))
    ('0.123', '–')
    """
    return MISSING if not np.isfinite(value) else f"{value:.{digits}g}"


def percent(value: float) -> str:
    """Return a share in per cent, a dash for nan.

    >>> percent(0.4063)
    '40.6 %'
    """
    return MISSING if not np.isfinite(value) else f"{100 * value:.1f} %".replace(".0 %", " %")


def p_text(value: float) -> str:
    """Return a p-value with its relation; near 0.05 with the digit that decides.

    >>> p_text(0.2103), p_text(0.0499), p_text(0.0005)
    ('p = 0.21', 'p = 0.0499', 'p < 0.001')
    """
    if not np.isfinite(value):
        return f"p {MISSING}"
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3g}" if 0.045 <= value < 0.055 else f"p = {value:.2g}"


def bare_p(value: float) -> str:
    """Return a p-value for a column that says so; its relation only where it is no equality.

    >>> bare_p(0.2103), bare_p(0.0005), bare_p(float("nan"))
    ('0.21', '< 0.001', '–')
    """
    return p_text(value).removeprefix("p ").removeprefix("= ")


def estimate(value: float, low: float, high: float, show: Callable[[float], str] = percent) -> str:
    """Return an estimate with its interval, a dash for nan.

    >>> estimate(0.5, 0.4, 0.6)
    '50 % [40 %, 60 %]'
    """
    return MISSING if not np.isfinite(value) else f"{show(value)} [{show(low)}, {show(high)}]"


def interval_text(interval: np.ndarray) -> str:
    """Return an interval of gaps as `[4, 7]`, a dash for nan."""
    return f"[{interval[0]:.0f}, {interval[1]:.0f}]" if np.isfinite(interval).all() else MISSING


def boundary_label(data: xr.Dataset, i: int) -> str:
    """Return one line for a boundary: gap, verdict, p, interval."""
    parts = [f"gap {int(data['boundary'].values[i])}", str(data["verdict"].values[i])]
    if data.attrs["rule"] != "paper":
        parts.append(p_text(float(data["p_value"].values[i])))
    interval = interval_text(data["interval"].values[i])
    return " · ".join([*parts, "no interval" if interval == MISSING else interval])


def reasons(data: xr.Dataset) -> list[str]:
    """Return why something is nan, flat or left out."""
    return list(json.loads(data.attrs["reasons"]))


def missing_reasons(data: xr.Dataset) -> list[str]:
    """Return why something is nan, flat or left out, without the near ties: these are no missing thing."""
    return [why for why in reasons(data) if not TIE.match(why)]


def is_tested(data: xr.Dataset) -> bool:
    """Return whether the existence test was made."""
    return bool(np.isfinite(data["contrast"].values).all())


def why_left_out(data: xr.Dataset, i: int) -> str | None:
    """Return in a few words why a signal takes no part in the fusion; None if it does."""
    curve, trust = data["curve"].values[i], float(data["reliability"].values[i])
    if not bool(data["flat"].values[i]):
        return None
    if np.isnan(curve).any() or np.isnan(data["resampled"].values[:, i]).any():
        return "left out, nan"
    if np.ptp(curve) == 0:
        return "flat (one value everywhere), left out"
    if data.attrs["rule"] != "paper" and trust < MIN_RELIABILITY:
        return f"flat (reliability {trust:.2f}), left out"
    return "left out, weight 0"


def verdict_words(data: xr.Dataset) -> tuple[str, list[str]]:
    """Return the verdict as a headline and the sentences that explain it."""
    gaps = [int(gap) for gap in data["boundary"].values]
    if not gaps:
        return _nothing_found(data)
    verdicts = [str(v) for v in data["verdict"].values]
    noun = "boundary" if len(gaps) == 1 else "boundaries"
    sure = all(v == Existence.SUPPORTED for v in verdicts)
    kind = "peak of the published rule" if data.attrs["rule"] == "paper" else noun if sure else f"candidate {noun}"
    if data.attrs["rule"] == "paper" and len(gaps) == 2:
        kind = "peaks of the published rule"
    where = " and ".join(str(gap) for gap in gaps)
    places = f"at gap{'s' if len(gaps) == 2 else ''} {where}"
    headline = f"{COUNT[len(gaps)]} {kind}, {places}."
    if data.attrs["rule"] != "paper" and not sure:
        supported = [gap for gap, v in zip(gaps, verdicts, strict=True) if v == Existence.SUPPORTED]
        p_values = data["p_value"].values
        tested = "not tested" if np.isnan(p_values).any() else " and ".join(p_text(float(p)) for p in p_values)
        tested = tested.replace(" and p = ", " and ")
        candidates = "candidate" if len(gaps) == 1 else "candidates"
        headline = f"No boundary is supported: {len(gaps)} {candidates}, {places} ({tested})."
        if supported:
            headline = f"One of two boundaries is supported, at gap {supported[0]}; candidates {places} ({tested})."
    sentences = []
    for verdict in dict.fromkeys(verdicts):
        chosen = [i for i, v in enumerate(verdicts) if v == verdict]
        sentences.append(_explain_paper(data, chosen) if data.attrs["rule"] == "paper" else _explain(data, chosen))
    return headline, sentences + _warn_ties(data)


def _nothing_found(data: xr.Dataset) -> tuple[str, list[str]]:
    if data["flat"].values.all():
        why = (
            "Every signal was left out: none of them varies over depth by clearly more than its own measuring noise. "
            "That is no evidence that the model has no boundaries; it is no evidence of any."
        )
        return "No boundary can be named.", [why]
    why = (
        f"The combined evidence has no peak that stands out by {PROMINENCE} or more on its scale from 0 to 1. "
        "This is a result, not a failure: the signals do not single out any depth."
    )
    return "No boundary was found.", [why]


def _explain(data: xr.Dataset, chosen: list[int]) -> str:
    """Explain the verdict that the chosen boundaries share."""
    n = len(data["boundary"])
    verdict = str(data["verdict"].values[chosen[0]])
    values = [float(data["p_value"].values[i]) for i in chosen]
    spelled = [p_text(p) for p in values]
    p = "p = " + ", ".join(s.removeprefix("p = ") for s in spelled) if len(chosen) == 2 else spelled[0]
    it, whose, place_is = ("it", "its", "place is") if len(chosen) == 1 else ("them", "their", "places are")
    one = "It" if n == 1 else f"Gap {int(data['boundary'].values[chosen[0]])}"
    yes = "Both are" if len(chosen) == 2 else f"{one} is"
    no = "Neither is" if len(chosen) == 2 else f"{one} is not"
    stable = f"resampling the sentences moves {it} by fewer than {MAX_WIDTH} layers"
    vague = f"{whose} {place_is} not known to within {MAX_WIDTH} layers"
    is_placed = verdict in (Existence.SUPPORTED, Existence.LOCALISED)
    if np.isnan(values).any():
        subject = "they exist" if len(chosen) == 2 else "it exists" if n == 1 else f"gap {one.split()[1]} exists"
        why = next(
            (r for r in reasons(data) if r.startswith("p-values are nan: ")), "p-values are nan: no reason given."
        )
        why = why.removeprefix("p-values are nan: ").rstrip(".")
        return f"Whether {subject} could not be tested ({why}). Besides, {stable if is_placed else vague}."
    if verdict == Existence.SUPPORTED:
        return f"{yes} supported: the signals change together there by more than chance explains ({p}), and {stable}."
    if verdict == Existence.LOCALISED:
        return (
            f"{no} more than chance agreement between signals ({p}). {whose.capitalize()} {place_is} steady, for "
            f"{stable}, but a steady peak is not yet a boundary."
        )
    if verdict == Existence.SIGNIFICANT:
        return f"{yes} more than chance agreement between signals ({p}), but {vague}."
    return f"{no} more than chance agreement between signals ({p}), and {vague}."


def _explain_paper(data: xr.Dataset, chosen: list[int]) -> str:
    names = " and ".join(str(int(data["boundary"].values[i])) for i in chosen)
    gaps = f"{'Gaps' if len(chosen) == 2 else 'Gap'} {names}"
    accepted = str(data["verdict"].values[chosen[0]]) == Published.ACCEPTED
    are = "are" if len(chosen) == 2 else "is"
    condition = "narrower than" if accepted else "not known to be narrower than"
    return (
        f"{gaps} {are} {'accepted' if accepted else 'not accepted'} by the published rule: the 95 % interval is "
        f"{condition} {MAX_WIDTH} layers. That rule does not ask whether a boundary exists; pure noise often passes it."
    )


def _warn_ties(data: xr.Dataset) -> list[str]:
    """Say where a boundary has a rival place, above all where most resamples prefer it."""
    told = []
    shares = {gap: share for why in reasons(data) for gap, share in TIE.findall(why)}
    for gap, tie in zip(data["boundary"].values, data["near_tie"].values, strict=True):
        if not np.isfinite(tie):
            continue
        share = float(shares.get(str(int(gap)), "nan")) / 100
        if share > 0.5:
            told.append(
                f"The fused curve puts a boundary at gap {int(gap)}, but {percent(share)} of the resamples put it at "
                f"gap {int(tie)}: only its interval can be believed."
            )
        else:
            much = "a fifth or more" if np.isnan(share) else percent(share)
            told.append(
                f"Gap {int(gap)} has a rival at gap {int(tie)} in {much} of the resamples: do not trust its interval."
            )
    return told
