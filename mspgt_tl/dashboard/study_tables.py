"""The tables of a study's report and of a comparison, as data: what each is called and how its columns are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.dashboard.sheet import HASH_SHOWN
from mspgt_tl.dashboard.tables import Cell, Shown, bounds, digits, fixed, named, share, words
from mspgt_tl.dashboard.words import DOSE_WORDS, MISSING, number, percent
from mspgt_tl.power import STEPS

if TYPE_CHECKING:
    import pandas as pd


def study_tables(found: Any) -> dict[str, Shown]:
    """Return every table of the report that has a row, by the name of its file.

    Args:
        found: `mspgt_tl.study.findings.Findings`; no protocol, which pyright does not match with cached properties.
    """
    first = found.study.config.first_corpus
    own = found.boundaries["corpus"] == first
    boundaries = lay_out(boundaries=found.boundaries[own], boundaries_elsewhere=found.boundaries[~own])
    boundaries["boundaries"] = replace(boundaries["boundaries"], caption=f"Boundaries on {first}")
    tables = boundaries | comparison_tables(found.comparison) | _dependence(found.dependence, found.architectures)
    tables |= lay_out(
        rules=found.rules,
        power=found.power,
        doses=found.doses,
        ratios=found.ratios,
        noise=found.scales,
        rivals=found.rivals,
        rival_pairs=found.rival_pairs,
        theory=found.theory,
        information=found.measurements,
        predictions=found.predictions.drop(columns=["estimates", "reason", "further"]),
        predictions_why=found.predictions[["set", "id", "estimates", "reason", "further"]],
        inputs=found.inputs,
        steps=found.progress,
    )
    if len(found.rules):
        wide, rules = _side_by_side(found.rules), tables["rules"]
        cells = {reading: words(reading) for reading in found.rules["reading"].unique()}
        tables["rules"] = replace(rules, chosen=wide, cells={**rules.cells, **cells, "random gaps": share("chance")})
    if len(found.power):
        told = found.power.assign(told=[f"{n} of {of} gaps" for n, of in found.power[["supported", "gaps"]].to_numpy()])
        told["step"] = told["step"].map("{:g}".format)
        chosen = told.pivot(index="model", columns="step", values="told").loc[told["model"].unique()].reset_index()
        tables["power"] = replace(tables["power"], chosen=chosen)
    note = (
        "A star: corrected p < 0.05 by a paired permutation test (Holm, within one model's table). Self-BLEU: lower is "
        "more diverse."
    )
    cells = named(*map(str, found.table_2.columns))
    tables["table2"] = Shown("Change of generated text, per cent (the paper's Table 2)", found.table_2, cells, note)
    return {name: table for name, table in tables.items() if len(table.raw)}


def comparison_tables(found: Any) -> dict[str, Shown]:
    """Return the tables of a comparison of models; none where there is none."""
    if found is None:
        return {}
    ratios = found.brittleness[found.brittleness["n"] > 1]
    tables = lay_out(families=found.families, pairs=found.pairs, labels=found.labels, brittleness=ratios)
    bounded = ratios[np.isfinite(ratios["high"].astype(float))]
    return tables | {"brittleness": replace(tables["brittleness"], chosen=bounded)}


def _dependence(found: Any, architectures: Mapping[str, str]) -> dict[str, Shown]:
    if found is None:
        return {}
    placed = found.boundaries[found.boundaries["gap"].notna()]
    return lay_out(readings=placed, shares=found.shares, agreement=_agreement(found.curves, architectures))


def _agreement(curves: pd.DataFrame, architectures: Mapping[str, str]) -> pd.DataFrame:
    """Return mean correlations of curves between results that share a model, an architecture, a corpus, or neither."""
    runs = (curves["model"] != curves["other_model"]) & (
        curves["model"].map(architectures) == curves["other_model"].map(architectures)
    )
    kinds = curves["pair"].mask(runs, curves["pair"].str.replace("other model", "other run of the architecture"))
    kinds = kinds.where(~curves["shuffled"], curves["pair"] + ", words shuffled in one or both")
    kinds = kinds.where(~curves["twins"], "with random weights in one or both")
    grouped = curves.assign(kind=kinds).groupby(["curve", "kind"], sort=False)["correlation"]
    return grouped.agg(["count", "mean", "min", "max"]).reset_index()


def lay_out(**raw: pd.DataFrame) -> dict[str, Shown]:
    """Return tables of these rows, each in the layout that its name stands for."""
    shown = {}
    for name, rows in raw.items():
        caption, cells, note = LAYOUTS[name]
        shown[name] = Shown(caption, rows, cells, note)
    return shown


def _recurring(relation: str) -> Cell:
    def show(row: Mapping[Any, Any]) -> str:
        if not row[f"n_{relation}"]:
            return MISSING
        near, chance = percent(row[f"near_{relation}"]), percent(row[f"chance_{relation}"])
        return f"{row[f'recurs_{relation}']:.0f} of {row[f'n_{relation}']:.0f} ({near}; {chance})"

    return show


def _first_few(text: str, count: int = 3) -> str:
    parts = text.split("; ")
    left = len(parts) - count
    return "; ".join(parts[:count]) + (f"; and {left} more" if left > 0 else "") or MISSING


def _dose(row: Mapping[Any, Any]) -> str:
    return DOSE_WORDS.get(str(row["dose"]), str(row["dose"]))


def _side_by_side(rules: pd.DataFrame) -> pd.DataFrame:
    """Return one row a model and what was done to it, one column a reading."""

    def told(row: pd.Series) -> str:
        places = " and ".join(map(str, row["boundaries"]))
        return f"{places} ({row['near']} of {row['count']})" if places else "none"

    return (
        rules.assign(told=rules.apply(told, axis=1))
        .pivot_table(index=["model", "kind", "chance"], columns="reading", values="told", aggfunc="first", sort=False)
        .reset_index()
    )


def _short(column: str) -> Cell:
    return lambda row: str(row[column]) if " " in str(row[column]) else str(row[column])[:HASH_SHOWN]


_PLACED: dict[str, Cell] = {
    "model": words("model"),
    "": words("boundary"),
    "gap": fixed("gap", ".0f"),
    "depth": share("depth"),
    "95 %": bounds("low", "high", ".0f"),
    "p": digits("p", 2),
    "found in": share("presence"),
    "audit": words("grade"),
    "verdict": words("verdict"),
    "published rule": words("published"),
}
_PLACED_NOTE = (
    "Gap: between blocks b−1 and b. 95 %: bootstrap over sentences, in gaps. p: existence, by null curves. "
    "Found in: share of resamples with a peak there. Published rule: the gaps that it accepts on the same curves."
)
LAYOUTS: dict[str, tuple[str, Mapping[str, Cell], str]] = {
    "boundaries": ("Boundaries", _PLACED, _PLACED_NOTE),
    "boundaries_elsewhere": ("Boundaries on other text", named("corpus") | _PLACED, _PLACED_NOTE),
    "rules": (
        "What each rule says",
        {"model": words("model"), "weights or words": words("kind")},
        "Boundaries that the published rule accepts, or that are supported here, and how many of them lie within one "
        "gap of the onset or end of a massive activation or a sink. Random gaps: the share of all gaps for which that "
        "is so.",
    ),
    "power": (
        "What could have been found",
        named("model") | {f"{size} of each signal's range": words(f"{step:g}") for step, size in STEPS.items()},
        "A step of this size is added to all signals at one inner gap, and boundaries are looked for anew: at how many "
        "gaps is one supported there? A change in a model is seen with noise and seldom in all signals, so it is found "
        "more rarely.",
    ),
    "doses": (
        "KL of the next token by dose",
        {
            "model": words("model"),
            "held equal": _dose,
            **named("scale", "blocks"),
            "σ": digits("sigma"),
            "KL, nats": digits("kl"),
            "95 %": bounds("low", "high"),
            "controls": bounds("controls_low", "controls_high"),
        },
        "Held equal: σ at every block; power over a scale; the relative change of the stream after it; KL. Controls: "
        "lowest and highest of stretches of as many blocks elsewhere, at equal σ alone.",
    ),
    "ratios": (
        "How many times as brittle?",
        {
            "held equal": _dose,
            "between": words("between"),
            "largest over smallest": digits("ratio"),
            "of the controls": digits("controls"),
        },
        "Ratio of the largest to the smallest KL. At equal KL it is 1 by construction.",
    ),
    "families": (
        "Families: relative positions of the boundaries found (the paper's Table 3)",
        {
            "family": words("family"),
            "": words("boundary"),
            "models": words("n"),
            "mean": share("mean"),
            "CV": fixed("cv", ".3f"),
            "95 %": bounds("cv_low", "cv_high", ".2f"),
            "drift, points": fixed("drift", ".1f"),
            "95 % over text": bounds("drift_low", "drift_high", ".1f"),
        },
        "CV: population form (ddof = 0), its interval over models. Drift: the largest difference of two models in "
        "percentage points of depth.",
    ),
    "places": (
        "Boundaries",
        {
            "model": words("model"),
            "": words("boundary"),
            "gap": fixed("gap", ".0f"),
            "of blocks": words("n_layers"),
            "depth": share("relative"),
            "95 %": bounds("low", "high", ".1%"),
            "verdict": lambda row: str(row["verdict"] or row["reason"]),
        },
        "LI: from the Local to the Intermediate scale. IG: from the Intermediate to the Global one.",
    ),
    "replicates": (
        "Training runs of one architecture",
        {
            "architecture": words("architecture"),
            "runs": words("n"),
            "signals": lambda row: str(row["reason"]) or f"{row['one']}, {row['other']}",
            "own run": fixed("own", "+.2f"),
            "other runs": fixed("off", "+.2f"),
            "p": fixed("p", ".3f"),
            "p (Holm)": fixed("p_holm", ".3f"),
            "best p": fixed("smallest_p", ".3f"),
            "shared gaps": words("shared"),
        },
        "Agreement is the rank correlation of two signals over gaps. Beyond that between runs it is not the "
        "architecture's doing; a gap that all runs share shows in both, and only random-weight twins tell whether it "
        "was learnt.",
    ),
    "pairs": (
        "Pairs of models",
        {
            **named("first", "second"),
            "": words("boundary"),
            "difference, points": fixed("difference", "+.1f"),
            "95 %": bounds("low", "high", ".1f"),
            "p": digits("p", 2),
            "p (Holm)": digits("p_holm", 2),
        },
        "From the bootstrap distributions of both models, not from their point estimates.",
    ),
    "labels": (
        "Do families explain where boundaries lie?",
        {
            "": words("boundary"),
            "models": words("n"),
            "p": digits("p", 2),
            "smallest possible p": digits("smallest_p", 2),
            "reason": words("reason"),
        },
        "Permutation of the family labels.",
    ),
    "brittleness": (
        "Brittleness: the most affected family over the least affected one (eq. 8)",
        {
            **named("metric", "scale", "dose"),
            "families": words("n"),
            "ratio": digits("ratio"),
            "95 %": bounds("low", "high"),
            "note": words("reason"),
        },
        "On models with two boundaries, supported or not. A ratio of largest to smallest is above 1 by construction, "
        "however alike the families are. Ratios whose smallest effect may be zero are in the CSV file alone.",
    ),
    "noise": (
        "Noise in one scale: KL of the next token",
        {
            **named("model", "scale", "blocks", "scales from"),
            "KL, nats": digits("kl"),
            "95 %": bounds("low", "high"),
            "controls": bounds("controls_low", "controls_high"),
            "KL per block": digits("kl_per_block", 2),
        },
        "Controls: lowest and highest KL of stretches of as many blocks that start elsewhere, under the same noise; "
        "they may share blocks with the scale. Where the scale lies among them, no difference of place shows.",
    ),
    "readings": (
        "Whose is each boundary?",
        {
            **named("corpus", "model"),
            "gap": fixed("gap", ".0f"),
            "reading": words("reading"),
            "other corpora": _recurring("corpora"),
            "words shuffled": _recurring("shuffled"),
            "twins": _recurring("twins"),
            "other models": _recurring("models"),
            "supported": lambda row: {True: "yes", False: "no"}.get(row["supported"], MISSING),
            "why": words("reason"),
        },
        "In how many of the others it recurs within one gap, in brackets the share of resamples that it does and that "
        "random gaps would. Readings: the model's own, the corpus's, of its words (not of their order), of the "
        "architecture (random weights have it too), or unclear.",
    ),
    "shares": (
        "How much of what differs lies between models, and how much between corpora?",
        {
            "": words("quantity"),
            "models": words("n_models"),
            "corpora": words("n_corpora"),
            "between models": share("share_model"),
            "by chance": share("chance_model"),
            "p": digits("p_model", 2),
            "between corpora": share("share_corpus"),
            "by chance ": share("chance_corpus"),
            "p ": digits("p_corpus", 2),
            "note": words("reason"),
        },
        "Shares of the variance of positions (LI, IG) and of curves; the rest is their interaction. By chance: what "
        "meaningless labels would give. p: by permutation. Probes see the treebank and not the text: on two corpora "
        "with one treebank their curves are the same by construction.",
    ),
    "agreement": (
        "How alike are the curves? Rank correlation over gaps",
        {
            "curve": words("curve"),
            "between": words("kind"),
            "pairs": words("count"),
            "mean": fixed("mean", "+.2f"),
            "lowest": fixed("min", "+.2f"),
            "highest": fixed("max", "+.2f"),
        },
        "Probes see the treebank and not the text: on shuffled text, and on two corpora with one treebank, they "
        "correlate by +1 by construction, and the fused curve by part of it.",
    ),
    "rivals": (
        "Other readings of depth",
        {
            **named("model", "rival", "boundaries"),
            "correlation with the fused curve": lambda row: (
                f"{number(row['correlation'], 2)} {bounds('correlation_low', 'correlation_high', '.2f')(row)}"
            ),
            "within one gap": share("within_one"),
            "by chance": share("by_chance"),
        },
        "Within one gap: share of resamples in which a rival's boundary lies within one gap of a found one, mean over "
        "the found ones. One signal alone cannot be tested for existence.",
    ),
    "rival_pairs": (
        "Which readings agree with each other beyond chance?",
        {
            **named("one", "other", "models"),
            "correlation": fixed("correlation", "+.2f"),
            "p": digits("p", 2),
            "after correction": digits("q", 2),
            "shared boundaries": lambda row: f"{row['shared']} of {row['boundaries']}",
            "by chance": fixed("by_chance", ".1f"),
        },
        "Rank correlation of what stands out of the neighbouring gaps, mean over models; chance shifts and turns one "
        "of the two. Shared: boundaries of the first within one gap of one of the second.",
    ),
    "theory": (
        "Theory by scale",
        {
            **named("model", "scale", "blocks", "scales from"),
            "Σ s² tr F": digits("sensitivity"),
            "closure, float32": fixed("closure_float32", ".3f"),
            "closure, float64": fixed("closure_float64", ".3f"),
            "β": digits("beta"),
            "H-VIB rate, nats": digits("hvib_rate"),
        },
        "Closure: measured KL over ½ σ² Σ s² tr F at the smallest σ; 1 if the expansion holds. β: −∂D/∂R at the σ "
        "nearest to a half. H-VIB rate: at the largest β of its sweep.",
    ),
    "information": (
        "Prediction 1.2: jump of the information's slope at boundaries, less the mean elsewhere",
        {**named("model"), "excess, nats": digits("value"), "95 %": bounds("low", "high"), "p": digits("p", 2)},
        "V-information about the next token with a linear softmax readout; p: share of all choices of as many gaps "
        "that jump as much.",
    ),
    "predictions": (
        "Predictions judged",
        {
            **named("set", "id", "claim", "verdict"),
            "if all found counted": words("verdict, all found"),
            "at its word": words("at its word"),
            "n, all found": words("n"),
            "chance passes": share("chance"),
        },
        "Verdict: on boundaries that are supported, and effects in scales that they cut. If all found counted: on "
        "every pair of candidates, with 95 % intervals. At its word: those estimates without intervals, as the paper "
        "judges. n: models or families, one for each dose where a prediction names none. Chance passes: how often "
        "random boundaries or effects of noise alone would pass so.",
    ),
    "predictions_why": (
        "What the verdicts rest on",
        {
            "id": lambda row: f"{row['set']} {row['id']}",
            "estimates, all found": lambda row: _first_few(row["estimates"]),
            "why": words("reason"),
            "what would decide it": words("further"),
        },
        "Estimates: group, value and 95 % interval, on every pair of candidates; all are in predictions_why.csv.",
    ),
    "steps": (
        "Runs of this study",
        {**named("stage", "corpus", "model", "state"), "seconds": fixed("seconds", ".0f"), **named("folder")},
        "Every run has a folder of its own with a page. Seconds: of the last time that it was looked at.",
    ),
    "inputs": (
        "What was read",
        {
            **named("model", "family", "blocks", "d_model"),
            "weights": _short("weights"),
            **named("corpus", "sentences"),
            "text": _short("text"),
            **named("treebank", "trees"),
            "labels": _short("labels"),
            **named("nulls", "stages", "version"),
        },
        "The first characters of sha256 hashes; the whole of them is in inputs.csv.",
    ),
}
"""Of every table, by the name of its file: caption, cells by the title of their column, and note."""
