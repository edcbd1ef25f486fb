"""The tables of a study's report, each made once: raw for CSV, in words for the page and for LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.dashboard.sheet import HASH_SHOWN, Table
from mspgt_tl.dashboard.words import MISSING, number, percent
from mspgt_tl.escape import to_latex

if TYPE_CHECKING:
    import pandas as pd

Cell = Callable[[Mapping[Any, Any]], str]
"""A cell's text from the row of the raw table."""


@dataclass(frozen=True)
class Shown:
    """One table of the report."""

    caption: str
    raw: pd.DataFrame
    """As the CSV file has it."""
    cells: Mapping[str, Cell]
    """Columns of the table as it is shown."""
    note: str = ""
    chosen: pd.DataFrame | None = None
    """The rows that are shown, where that is not all of them."""

    def text(self) -> pd.DataFrame:
        """Return the table as it is shown, all strings."""
        import pandas as pd

        rows = [{name: cell(row) for name, cell in self.cells.items()} for row in rows_of(self).to_dict("records")]
        return pd.DataFrame(rows, columns=list(self.cells))

    def table(self) -> Table:
        """Return it for a page."""
        text = self.text()
        return Table(self.caption, list(text.columns), text.to_numpy().tolist(), self.note)

    def latex(self, label: str) -> str:
        """Return it as a LaTeX table in `booktabs` style; Greek letters and signs need XeLaTeX or LuaLaTeX."""
        cells, caption = self.text().map(to_latex), to_latex(self.caption)
        cells.columns = list(map(to_latex, cells.columns))
        return cells.to_latex(index=False, escape=False, caption=caption, label=f"tab:{label}", longtable=True)


def rows_of(shown: Shown) -> pd.DataFrame:
    """Return the rows that a table shows."""
    return shown.raw if shown.chosen is None else shown.chosen


def words(column: str) -> Cell:
    """Show a column as it is; what is missing as a dash."""

    def show(row: Mapping[Any, Any]) -> str:
        value = row[column]
        return MISSING if value is None or value != value or value == "" else str(value)

    return show


def digits(column: str, count: int = 3) -> Cell:
    """Show a number to so many significant digits."""
    return lambda row: number(row[column], count)


def share(column: str) -> Cell:
    """Show a fraction in per cent."""
    return lambda row: percent(row[column])


def fixed(column: str, form: str) -> Cell:
    """Show a number in a fixed format."""
    return lambda row: MISSING if not math.isfinite(row[column]) else format(row[column], form)


def bounds(low: str, high: str, form: str = ".3g") -> Cell:
    """Show an interval; an open end as ∞."""

    def show(row: Mapping[Any, Any]) -> str:
        if not math.isfinite(row[low]):
            return MISSING
        end = "∞" if math.isinf(row[high]) else format(row[high], form)
        return f"[{format(row[low], form)}, {end}]"

    return show


def study_tables(found: Any) -> dict[str, Shown]:
    """Return every table of the report that has a row, by the name of its file.

    Args:
        found: `mspgt_tl.study.findings.Findings`; no protocol, which pyright does not match with cached properties.
    """
    tables = {
        **_boundaries(found.boundaries, found.study.config.first_corpus),
        **comparison_tables(found.comparison),
        "rules": _rules(found.rules),
        "doses": _doses(found.doses),
        "ratios": _ratios(found.ratios),
        "noise": _noise(found.scales),
        "table2": _table_2(found.table_2),
        **_dependence(found.dependence, found.architectures),
        "rivals": _rivals(found.rivals),
        "rival_pairs": _rival_pairs(found.rival_pairs),
        "theory": _theory(found.theory),
        "information": _information(found.measurements),
        "predictions": _predictions(found.predictions.drop(columns=["estimates", "reason", "further"])),
        "predictions_why": _reasons(found.predictions),
        "inputs": _inputs(found.inputs),
        "steps": _steps(found.progress),
    }
    return {name: table for name, table in tables.items() if len(table.raw)}


def _rules(raw: pd.DataFrame) -> Shown:
    def told(row: Mapping[Any, Any]) -> str:
        return " and ".join(map(str, row["boundaries"])) or "none"

    return Shown(
        "What each rule says",
        raw,
        {
            "model": words("model"),
            "weights or words": words("kind"),
            "rule": words("reading"),
            "boundaries": told,
            "within one gap of an onset or end": lambda row: (
                f"{row['near']} of {row['count']}" if row["count"] else MISSING
            ),
            "random gaps": share("chance"),
        },
        "Boundaries that the published rule accepts, or that are supported here. Onset or end: of a massive "
        "activation or a sink; random gaps: the share of all gaps within one of those.",
    )


def _doses(raw: pd.DataFrame) -> Shown:
    return Shown(
        "KL of the next token by dose",
        raw,
        {
            "model": words("model"),
            "dose": words("dose"),
            "scale": words("scale"),
            "blocks": words("blocks"),
            "σ": digits("sigma"),
            "KL, nats": digits("kl"),
            "95 %": bounds("low", "high"),
            "controls": bounds("controls_low", "controls_high"),
        },
        "Doses: per_layer, equal σ at every block; per_scale, equal power over a scale; exit_norm, equal relative "
        "change of the stream after it; kl, equal KL. Controls: lowest and highest of stretches of as many blocks "
        "elsewhere.",
    )


def _ratios(raw: pd.DataFrame) -> Shown:
    return Shown(
        "How many times as brittle?",
        raw,
        {
            "dose": words("dose"),
            "between": words("between"),
            "largest over smallest": digits("ratio"),
            "of the controls": digits("controls"),
        },
        "Ratio of the largest to the smallest KL. At equal KL it is 1 by construction.",
    )


def _boundaries(raw: pd.DataFrame, first: str) -> dict[str, Shown]:
    cells = {
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
    note = (
        "Gap: between blocks b−1 and b. 95 %: bootstrap over sentences, in gaps. p: existence, by null curves. "
        "Found in: share of resamples with a peak there. Published rule: the gaps that it accepts on the same curves."
    )
    own = raw["corpus"] == first
    return {
        "boundaries": Shown(f"Boundaries on {first}", raw[own], cells, note),
        "boundaries_elsewhere": Shown(
            "Boundaries on other text", raw[~own], {"corpus": words("corpus"), **cells}, note
        ),
    }


def comparison_tables(found: Any) -> dict[str, Shown]:
    """Return the tables of a comparison of models; none where there is none."""
    if found is None:
        return {}
    families = Shown(
        "Families: relative positions of the boundaries found (the paper's Table 3)",
        found.families,
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
    )
    pairs = Shown(
        "Pairs of models",
        found.pairs,
        {
            "first": words("first"),
            "second": words("second"),
            "": words("boundary"),
            "difference, points": fixed("difference", "+.1f"),
            "95 %": bounds("low", "high", ".1f"),
            "p": digits("p", 2),
            "p (Holm)": digits("p_holm", 2),
        },
        "From the bootstrap distributions of both models, not from their point estimates.",
    )
    labels = Shown(
        "Do families explain where boundaries lie?",
        found.labels,
        {
            "": words("boundary"),
            "models": words("n"),
            "p": digits("p", 2),
            "smallest possible p": digits("smallest_p", 2),
            "reason": words("reason"),
        },
        "Permutation of the family labels.",
    )
    brittleness = Shown(
        "Brittleness: the most affected family over the least affected one (eq. 8)",
        found.brittleness[found.brittleness["n"] > 1],
        {
            "metric": words("metric"),
            "scale": words("scale"),
            "dose": words("dose"),
            "families": words("n"),
            "ratio": digits("ratio"),
            "95 %": bounds("low", "high"),
            "note": words("reason"),
        },
        "On models with two boundaries, supported or not. A ratio of largest to smallest is above 1 by construction, "
        "however alike the families are. Ratios whose smallest effect may be zero are in the CSV file alone.",
        chosen=found.brittleness[(found.brittleness["n"] > 1) & np.isfinite(found.brittleness["high"].astype(float))],
    )
    return {"families": families, "pairs": pairs, "labels": labels, "brittleness": brittleness}


def _noise(raw: pd.DataFrame) -> Shown:
    return Shown(
        "Noise in one scale: KL of the next token",
        raw,
        {
            "model": words("model"),
            "scale": words("scale"),
            "blocks": words("blocks"),
            "scales from": words("scales from"),
            "KL, nats": digits("kl"),
            "95 %": bounds("low", "high"),
            "controls": bounds("controls_low", "controls_high"),
            "KL per block": digits("kl_per_block", 2),
        },
        "Controls: lowest and highest KL of stretches of as many blocks that start elsewhere, under the same noise; "
        "they may share blocks with the scale. Where the scale lies among them, no difference of place shows.",
    )


def _table_2(raw: pd.DataFrame) -> Shown:
    columns = [str(name) for name in raw.columns]
    return Shown(
        "Change of generated text, per cent (the paper's Table 2)",
        raw,
        {name: words(name) for name in columns},
        "A star: corrected p < 0.05 by a paired permutation test (Holm, within one model's table). Self-BLEU: lower is "
        "more diverse.",
    )


def _dependence(found: Any, architectures: Mapping[str, str]) -> dict[str, Shown]:
    if found is None:
        return {}
    placed = found.boundaries[found.boundaries["gap"].notna()]
    readings = Shown(
        "Whose is each boundary?",
        placed,
        {
            "corpus": words("corpus"),
            "model": words("model"),
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
    )
    shares = Shown(
        "How much of what differs lies between models, and how much between corpora?",
        found.shares,
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
    )
    return {"readings": readings, "shares": shares, "agreement": _agreement(found.curves, architectures)}


def _recurring(relation: str) -> Cell:
    def show(row: Mapping[Any, Any]) -> str:
        if not row[f"n_{relation}"]:
            return MISSING
        near, chance = percent(row[f"near_{relation}"]), percent(row[f"chance_{relation}"])
        return f"{row[f'recurs_{relation}']:.0f} of {row[f'n_{relation}']:.0f} ({near}; {chance})"

    return show


def _agreement(curves: pd.DataFrame, architectures: Mapping[str, str]) -> Shown:
    """Return mean correlations of curves between results that share a model, an architecture, a corpus, or neither."""
    runs = (curves["model"] != curves["other_model"]) & (
        curves["model"].map(architectures) == curves["other_model"].map(architectures)
    )
    kinds = curves["pair"].mask(runs, curves["pair"].str.replace("other model", "other run of the architecture"))
    kinds = kinds.where(~curves["shuffled"], curves["pair"] + ", words shuffled in one or both")
    kinds = kinds.where(~curves["twins"], "with random weights in one or both")
    raw = (
        curves.assign(kind=kinds)
        .groupby(["curve", "kind"], sort=False)["correlation"]
        .agg(["count", "mean", "min", "max"])
        .reset_index()
    )
    return Shown(
        "How alike are the curves? Rank correlation over gaps",
        raw,
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
    )


def _rivals(raw: pd.DataFrame) -> Shown:
    return Shown(
        "Other readings of depth",
        raw,
        {
            "model": words("model"),
            "rival": words("rival"),
            "boundaries": words("boundaries"),
            "correlation with the fused curve": lambda row: (
                f"{number(row['correlation'], 2)} {bounds('correlation_low', 'correlation_high', '.2f')(row)}"
            ),
            "within one gap": share("within_one"),
            "by chance": share("by_chance"),
        },
        "Within one gap: share of resamples in which a rival's boundary lies within one gap of a found one, mean over "
        "the found ones. One signal alone cannot be tested for existence.",
    )


def _rival_pairs(raw: pd.DataFrame) -> Shown:
    return Shown(
        "Which readings agree with each other beyond chance?",
        raw,
        {
            "one": words("one"),
            "other": words("other"),
            "models": words("models"),
            "correlation": fixed("correlation", "+.2f"),
            "p": digits("p", 2),
            "after correction": digits("q", 2),
            "shared boundaries": lambda row: f"{row['shared']} of {row['boundaries']}",
            "by chance": fixed("by_chance", ".1f"),
        },
        "Rank correlation of what stands out of the neighbouring gaps, mean over models; chance shifts and turns one "
        "of the two. Shared: boundaries of the first within one gap of one of the second.",
    )


def _theory(raw: pd.DataFrame) -> Shown:
    return Shown(
        "Theory by scale",
        raw,
        {
            "model": words("model"),
            "scale": words("scale"),
            "blocks": words("blocks"),
            "Σ s² tr F": digits("sensitivity"),
            "closure, float32": fixed("closure_float32", ".3f"),
            "closure, float64": fixed("closure_float64", ".3f"),
            "β": digits("beta"),
            "H-VIB rate, nats": digits("hvib_rate"),
        },
        "Closure: measured KL over ½ σ² Σ s² tr F at the smallest σ; 1 if the expansion holds. β: −∂D/∂R at the σ "
        "nearest to a half. H-VIB rate: at the largest β of its sweep.",
    )


def _information(raw: pd.DataFrame) -> Shown:
    return Shown(
        "Prediction 1.2: jump of the information's slope at boundaries, less the mean elsewhere",
        raw,
        {"model": words("model"), "excess, nats": digits("value"), "95 %": bounds("low", "high"), "p": digits("p", 2)},
        "V-information about the next token with a linear softmax readout; p: share of all choices of as many gaps "
        "that jump as much.",
    )


def _predictions(raw: pd.DataFrame) -> Shown:
    return Shown(
        "Predictions judged",
        raw,
        {
            "set": words("set"),
            "id": words("id"),
            "claim": words("claim"),
            "verdict": words("verdict"),
            "if all found counted": words("verdict, all found"),
            "at its word": words("at its word"),
            "n, all found": words("n"),
            "chance passes": share("chance"),
        },
        "Verdict: on boundaries that are supported, and effects in scales that they cut. If all found counted: on "
        "every pair of candidates, with 95 % intervals. At its word: those estimates without intervals, as the paper "
        "judges. n: models or families, one for each dose where a prediction names none. Chance passes: how often "
        "random boundaries or effects of noise alone would pass so.",
    )


def _reasons(raw: pd.DataFrame) -> Shown:
    return Shown(
        "What the verdicts rest on",
        raw[["set", "id", "estimates", "reason", "further"]],
        {
            "id": lambda row: f"{row['set']} {row['id']}",
            "estimates, all found": lambda row: _first_few(row["estimates"]),
            "why": words("reason"),
            "what would decide it": words("further"),
        },
        "Estimates: group, value and 95 % interval, on every pair of candidates; all are in predictions_why.csv.",
    )


def _first_few(text: str, count: int = 3) -> str:
    parts = text.split("; ")
    left = len(parts) - count
    return "; ".join(parts[:count]) + (f"; and {left} more" if left > 0 else "") or MISSING


def _steps(raw: pd.DataFrame) -> Shown:
    return Shown(
        "Runs of this study",
        raw,
        {
            "stage": words("stage"),
            "corpus": words("corpus"),
            "model": words("model"),
            "state": words("state"),
            "seconds": fixed("seconds", ".0f"),
            "folder": words("folder"),
        },
        "Every run has a folder of its own with a page. Seconds: of the last time that it was looked at.",
    )


def _inputs(raw: pd.DataFrame) -> Shown:
    return Shown(
        "What was read",
        raw,
        {
            "model": words("model"),
            "family": words("family"),
            "blocks": words("blocks"),
            "d_model": words("d_model"),
            "weights": _short("weights"),
            "corpus": words("corpus"),
            "sentences": words("sentences"),
            "text": _short("text"),
            "treebank": words("treebank"),
            "trees": words("trees"),
            "labels": _short("labels"),
            "nulls": words("nulls"),
            "stages": words("stages"),
            "version": words("version"),
        },
        "The first characters of sha256 hashes; the whole of them is in inputs.csv.",
    )


def _short(column: str) -> Cell:
    return lambda row: str(row[column]) if " " in str(row[column]) else str(row[column])[:HASH_SHOWN]
