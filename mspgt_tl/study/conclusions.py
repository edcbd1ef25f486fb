"""Says in sentences what a study found; every number in them is counted from its tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mspgt_tl.contracts import Existence
from mspgt_tl.dashboard.words import DOSE_WORDS, p_text
from mspgt_tl.power import STEPS
from mspgt_tl.predictions.judging import Outcome
from mspgt_tl.study.findings import Findings
from mspgt_tl.study.questions import READINGS

if TYPE_CHECKING:
    import pandas as pd


def conclusions(findings: Findings) -> list[str]:
    """Say what the study found, in sentences made of its numbers; the first is a headline."""
    return [
        sentence
        for make in (
            _on_existence,
            on_missing,
            _on_chance,
            on_power,
            _on_published_rule,
            on_onsets,
            _on_corpora,
            _on_curves,
            _on_families,
            _on_noise,
            on_doses,
            _on_predictions,
        )
        if (sentence := make(findings))
    ]


def _own(findings: Findings) -> pd.DataFrame:
    table = findings.boundaries
    return table[table["corpus"] == findings.study.config.first_corpus]


def _on_existence(findings: Findings) -> str:
    table = _own(findings)
    trained = table[~table["random"]]
    if trained.empty:
        return "No detection has finished yet."
    models = _count(trained["model"].nunique(), "trained model")
    placed = trained[trained["boundary"] != "none"]
    tested, supported = int(placed["p"].notna().sum()), int((placed["verdict"] == Existence.SUPPORTED).sum())
    if not tested:
        return f"{len(placed)} candidate boundaries in {models}; whether any exists was not tested."
    text = f"{supported or 'None'} of {_count(tested, 'candidate boundary', 'candidate boundaries')} in {models}"
    text += f" {'is' if supported < 2 else 'are'} supported"
    left = len(placed) - tested
    return f"{text}; {left} could not be tested." if left else f"{text}."


def on_missing(findings: Findings) -> str:
    """Say that another shard, or the rest of a killed study, is missing; what failed is told with its reason."""
    missing = sum(step.name not in findings.study.outcomes for step in findings.steps)
    if not missing:
        return ""
    verb = "has" if missing == 1 else "have"
    return f"{missing} of {_count(len(findings.steps), 'run')} {verb} not been made yet; all this rests on the others."


def _on_chance(findings: Findings) -> str:
    table = _own(findings)
    trained, twins = table[~table["random"]], table[table["random"]]
    least = trained["p"].min()
    if not math.isfinite(least):
        return ""
    text = (
        "Supported means that the signals agree there more than chance, and that the place is known to five layers; "
        f"the smallest of the {int(trained['p'].notna().sum())} p-values is {least:.2g}"
    )
    if len(twins):
        false = int((twins["verdict"] == Existence.SUPPORTED).sum())
        text += f"; with random weights, {_count(twins['model'].nunique(), 'model')}, {false} supported"
    return f"{text}."


def on_power(findings: Findings) -> str:
    """Say how large a step the trained models' own tests would have found."""
    table = findings.power
    trained = table[~table["random"]]
    if trained.empty:
        return ""
    sums = trained.groupby("step")[["supported", "gaps"]].sum()
    told = [f"{row.supported} of {row.gaps} ({STEPS[float(str(step))]} of it)" for step, row in sums.iterrows()]
    return (
        "What could have been found: with a share of each signal's range added to all signals at one inner gap, a "
        f"boundary there is supported at {', '.join(told)} gaps of the trained models."
    )


def _on_published_rule(findings: Findings) -> str:
    table = _own(findings).drop_duplicates("model")
    if table.empty:
        return ""
    both = table["published"].str.contains(" and ")
    trained, twins = both[~table["random"]], both[table["random"]]
    text = f"The published rule accepts two boundaries in {int(trained.sum())} of {len(trained)} trained models"
    if len(twins):
        text += f" and in {int(twins.sum())} of {len(twins)} with random weights"
    return text + "."


def on_onsets(findings: Findings) -> str:
    """Say how many boundaries of the published rule lie at an onset or end."""
    table = findings.rules
    table = table[(table["kind"] == "trained") & (table["reading"] == next(iter(READINGS)))]
    count, near = int(table["count"].sum()), int(table["near"].sum())
    if not count:
        return ""
    chance = float((table["chance"] * table["count"]).sum() / count)
    return (
        f"With first tokens and sinks among the data, {near} of {_count(count, 'boundary', 'boundaries')} that the "
        f"published rule accepts in trained models {'lies' if near == 1 else 'lie'} within one gap of the onset or end "
        f"of a massive activation or a sink (random gaps: {chance:.0%})."
    )


def on_doses(findings: Findings) -> str:
    """Say how far scales and models differ, by dose."""
    table = findings.ratios
    largest = table[np.isfinite(table["ratio"])].groupby("dose", sort=False)["ratio"].max() if len(table) else table
    if len(largest) == 0:
        return ""
    told = [f"{ratio:.3g} ({DOSE_WORDS.get(str(dose), dose)})" for dose, ratio in largest.items()]
    return f"Scales and models differ in brittleness at most {', '.join(told)} times, by how noise is dosed."


def _on_corpora(findings: Findings) -> str:
    found, first = findings.dependence, findings.study.config.first_corpus
    if found is None or found.recurrence.empty:
        return ""
    met = found.recurrence[found.recurrence["corpus"] == first]
    told = []
    for relation, name in (("corpora", "other text"), ("shuffled", "the same text with its words shuffled")):
        rows = met[met["relation"] == relation]
        if rows.empty:
            continue
        blind = int((rows["shared"] != "").sum())
        text = f"in {int(rows['recurs'].eq(True).sum())} of {len(rows)} cases on {name}"
        text += f" (random gaps: {rows['chance'].mean():.0%}"
        told.append(text + (f"; in {blind} a signal is the same by construction)" if blind else ")"))
    if not told:
        return ""
    own = found.boundaries[(found.boundaries["corpus"] == first) & found.boundaries["gap"].notna()]
    readings = ", ".join(f"{count} {name}" for name, count in own["reading"].value_counts().items())
    return f"Candidates of {first} recur within one gap {' and '.join(told)}; whose they are: {readings}."


def _on_curves(findings: Findings) -> str:
    found = findings.dependence
    if found is None:
        return ""
    table = found.curves[(found.curves["curve"] == "fused") & ~found.curves["twins"] & ~found.curves["shuffled"]]
    kinds = table["model"].map(findings.architectures) == table["other_model"].map(findings.architectures)
    same_corpus = table["corpus"] == table["other_corpus"]
    groups = {
        "the same model on other text": table["model"] == table["other_model"],
        "another training run of its architecture on the same text": kinds & same_corpus,
        "other architectures on the same text": ~kinds & same_corpus,
    }
    means = {name: table[rows]["correlation"].mean() for name, rows in groups.items()}
    told = [f"{value:+.2f} with {name}" for name, value in means.items() if math.isfinite(value)]
    return f"A model's evidence curve correlates {', '.join(told)} (rank correlation, mean)." if len(told) > 1 else ""


def _on_families(findings: Findings) -> str:
    found = findings.comparison
    if found is None:
        return ""
    labels = [row for row in found.labels.to_dict("records") if math.isfinite(row["p"])]
    told = [f"{row['boundary']} {p_text(row['p'])} (at best {row['smallest_p']:.2g})" for row in labels]
    cvs = [
        f"{row['family']} {row['boundary']} {row['cv']:.2f} ({row['n']} models)"
        for row in found.families.to_dict("records")
        if math.isfinite(row["cv"])
    ]
    parts = [f"Candidates count, training runs of one architecture too: CV of position {', '.join(cvs)}"] if cvs else []
    parts += [f"do family labels explain positions? {', '.join(told)}, by permutation"] if told else []
    return "; ".join(parts) + "." if parts else ""


def _on_noise(findings: Findings) -> str:
    table = findings.scales
    if table.empty:
        return ""
    known = table[table["controls"] > 1]
    if known.empty:
        return ""
    inside = int(known["kl"].between(known["controls_low"], known["controls_high"]).sum())
    expected = float(((known["controls"] - 1) / (known["controls"] + 1)).sum())
    ratio = known["kl"] / ((known["controls_low"] + known["controls_high"]) / 2)
    return (
        f"Noise in a scale moves the next token {ratio.min():.2f} to {ratio.max():.2f} times as much as in stretches "
        f"of as many blocks that start elsewhere; {inside} of {len(known)} scales lie within the range of theirs, and "
        f"{expected:.0f} would if place did not matter."
    )


def _on_predictions(findings: Findings) -> str:
    said = []
    for name, table in findings.predictions.groupby("set", sort=False):
        counts = table["verdict"].value_counts()
        verdicts = ", ".join(f"{counts[v]} {v}" for v in Outcome if v in counts)
        said.append(f"{name} ({len(table)}): {verdicts}")
    return f"Predictions, on supported boundaries: {'; '.join(said)}."


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
