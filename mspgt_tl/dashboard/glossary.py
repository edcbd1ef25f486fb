"""Words that a page explains where they stand: on hover, on focus and on a tap."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mspgt_tl.signals.cka_variants import MASKED_OVER

if TYPE_CHECKING:
    from markupsafe import Markup

GLOSSARY = {
    "prominence": "How far a peak rises above the higher of the two valleys beside it, on the scale from 0 to 1.",
    "reliability": "1 − (bootstrap noise) / (variance over gaps). Below 0.5 a signal is flat and left out.",
    "selectivity": "F1 of the MLP probe less that of its control task: what the layer offers beyond memorised words.",
    "presence": "Share of the bootstrap resamples in which the boundary was found at all.",
    "mode mass": "Of the resamples that found the boundary, the share at its commonest gap.",
    "near tie": "A rival gap that a fifth or more of the resamples preferred.",
    "95 % interval": "Where 95 % of the bootstrap resamples put it; the resamples draw folds of sentences.",
    "bootstrap": "The same measurement on sentences drawn with replacement, to see how much it owes to their choice.",
    "contrast": "How far a gap stands out from a straight line through its four nearest neighbours.",
    "CKA": "Centred kernel alignment: how alike two layers represent the same tokens; 1 means alike up to rotation.",
    "JSD": "Jensen–Shannon divergence: how far two distributions are apart, in nats.",
    "KL": "Kullback–Leibler divergence from the undisturbed next-token distribution to the disturbed one, in nats.",
    "macro-F1": "Mean over labels of the harmonic mean of precision and recall.",
    "massive channels": f"Channels whose magnitude exceeds {MASKED_OVER:.0f} times the layer's median.",
    "dose": "What a level of noise means: σ itself, or σ solved so that its effect is the same everywhere.",
    "relative depth": "The gap's number over the number of blocks.",
    "supported": "More than chance (p < 0.05), and the 95 % interval is narrower than five layers.",
    "localised, not significant": "Resampling hardly moves it, but signals that agree by chance would do as well.",
    "p": "How often signals that agree only by chance would do as well.",
    "gap": "Gap b lies between blocks b−1 and b; a boundary is a gap.",
}
"""Meaning by term; short ones come last, so that a longer term is found first."""

_TERMS = re.compile(r"(?<![\w-])(" + "|".join(re.escape(term) for term in GLOSSARY) + r")(?![\w-])")


def explain(text: object) -> Markup:
    """Return text as markup, the first place of each known term explained; what is markup already stays as it is.

    >>> str(explain("its CKA"))[:35]
    'its <span class="term" tabindex="0"'
    """
    from markupsafe import Markup, escape

    if isinstance(text, Markup):
        return text
    seen, parts, end = set[str](), list[Markup](), 0
    plain = str(text)
    for found in _TERMS.finditer(plain):
        term = found[1]
        # "p" is explained as the name of a column or before a number only: elsewhere it may be anything.
        alone = term != "p" or plain == "p" or plain[found.end() :].startswith((" =", " <"))
        if term in seen or not alone:
            continue
        seen.add(term)
        parts.append(escape(plain[end : found.start()]))
        mark = '<span class="term" tabindex="0" data-meaning="{}">{}</span>'
        parts.append(Markup(mark).format(GLOSSARY[term], term))
        end = found.end()
    return Markup("").join([*parts, escape(plain[end:])])
