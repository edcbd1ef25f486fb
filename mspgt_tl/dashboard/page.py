"""Renders a detection as one HTML page that works offline: verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.boundaries import WeightMap
from mspgt_tl.contracts import GAP, SIGNAL, TASK, Existence, Published
from mspgt_tl.dashboard.audit import audit_section
from mspgt_tl.dashboard.curves import contrast_figure, nulls_figure, signals_figure
from mspgt_tl.dashboard.definitions import CKA_MAP, CONTRAST, FUSION, NULLS, PROBES, SIGNALS_SHOWN, WEIGHTS
from mspgt_tl.dashboard.explorer import explorer_data
from mspgt_tl.dashboard.layers import cka_figure, probe_figure, probed_tasks
from mspgt_tl.dashboard.rivals import rivals_section
from mspgt_tl.dashboard.sheet import (
    PANELS,
    Plot,
    Section,
    Sheet,
    Table,
    embed_json,
    list_facts,
    mark_quick,
    render_sheet,
    static_text,
)
from mspgt_tl.dashboard.words import (
    MISSING,
    bare_p,
    boundary_label,
    interval_text,
    is_tested,
    missing_reasons,
    number,
    percent,
    reasons,
    verdict_words,
    why_left_out,
)
from mspgt_tl.power import STEPS, count_power, power_of, tell_power

if TYPE_CHECKING:
    import xarray as xr

MARKS = {Existence.SUPPORTED: "✓", Published.ACCEPTED: "✓", Existence.NOT_FOUND: "✗", Published.NOT_ACCEPTED: "✗"}


def render_report(
    data: xr.Dataset,
    manifest: Mapping[str, Any],
    nulls: Mapping[str, xr.Dataset],
    rivals: xr.Dataset | None = None,
    *,
    others: Mapping[str, xr.Dataset] | None = None,
    plotly: str | None = None,
) -> str:
    """Return the report of a detection as one HTML page that works offline.

    Args:
        data: the labelled result.
        manifest: the run's manifest; parts that it lacks are left out of the page.
        nulls: results of model nulls by name.
        rivals: rival readings of depth, where they were watched.
        others: results that the reader can lay over this one, by name.
        plotly: see `render_sheet`.
    """
    from markupsafe import Markup

    data = data.assign(power=power_of(data))
    headline, sentences = verdict_words(data)
    headline, sentences = mark_quick(headline, [*sentences, *_could_be_missed(data)], manifest)
    identity = manifest.get("identity", {})
    model, n_layers = Path(identity.get("model", {}).get("name", "a model")).name, int(data.attrs["n_layers"])
    intro = (
        f"A gap b lies between blocks b−1 and b; this model has {n_layers} blocks, so gaps 1 to {n_layers - 1}. "
        f"Relative depth is b / {n_layers}. Rule: {data.attrs['rule']}. Seed {data.attrs['seed']}."
    )
    sections = [
        *_found_sections(data),
        *audit_section(data),
        *_boundary_sections(data),
        *_layer_sections(data, identity),
        *_null_sections(data, nulls),
        *rivals_section(data, rivals),
        *(section for draw in PANELS for section in draw(data, manifest)),
        Section("All numbers by gap", "", tables=[gap_table(data)], folded=True),
    ]
    title, heading = f"Boundaries of {model}", f"Processing scales of {model}"
    place = Markup('<div id="explorer"></div><script type="application/json" id="explorer-data">{}</script>')
    explorer = {
        "opening": place.format(embed_json(explorer_data(data, manifest, others))),
        "module": static_text("explorer.js") + static_text("host.js"),
        "style": static_text("explorer.css"),
    }
    sheet = Sheet(title, heading, headline, sentences, intro, sections, list_facts(manifest), **explorer)
    return render_sheet(sheet, plotly=plotly)


def _found_sections(data: xr.Dataset) -> list[Section]:
    boundaries = boundary_table(data)
    tables = [*([boundaries] if boundaries.rows else []), _signal_table(data)]
    found = Section("What was found", f"{_peak_counts(data)} {FUSION}", tables=tables, short="Found")
    why = missing_reasons(data)
    return [found, Section("Why something is missing or left out", "", notes=why, short="Missing")] if why else [found]


def _boundary_sections(data: xr.Dataset) -> list[Section]:
    lead = (
        "What was measured before any scaling, with the band that holds 95 % of the bootstrap resamples. "
        "A narrow band around a shape with one clear peak is a signal worth having."
    )
    plot = Plot(signals_figure(data), "The signals over gaps: " + ", ".join(_highest(data)) + ".")
    curves = Section("Each signal in its own unit", lead, [plot], SIGNALS_SHOWN, short="Signals")
    return [curves, _contrast_section(data), *_power_section(data), *_weight_section(data)]


def _highest(data: xr.Dataset) -> list[str]:
    """Say where each signal is highest."""
    told = []
    for name, curve in zip(data[SIGNAL].values, data["curve"].values, strict=True):
        known = np.isfinite(curve).any()
        told.append(f"{name} is highest at gap {np.nanargmax(curve) + 1}" if known else f"{name} could not be computed")
    return told


def _contrast_section(data: xr.Dataset) -> Section:
    title = "Is it more than chance?"
    if not is_tested(data):
        why = "No test was made: it needs two signals that are not flat, over six or more gaps."
        if data.attrs["rule"] == "paper":
            why = "The published rule makes no such test; run with rule = mspgt for it."
        return Section(title, why, [], CONTRAST, short="Chance")
    lead = (
        "How far each gap stands out from its neighbours, all signals together; "
        "the dotted line is what chance rarely exceeds."
    )
    threshold = float(data["contrast_threshold"])
    over = data[GAP].values[data["contrast"].values > threshold]
    summary = f"Gaps above the threshold of {threshold:.2f}: {', '.join(map(str, over)) or 'none'}."
    note = (
        "The p-values look at the two highest peaks of every null curve and pay for looking twice: a first peak "
        "just above the line can have p over 0.05, and a second one below it p under 0.05."
    )
    plot = Plot(contrast_figure(data), "Fused local contrast. " + summary)
    return Section(title, lead, [plot], CONTRAST, [summary, note], short="Chance")


def _could_be_missed(data: xr.Dataset) -> list[str]:
    """Say beside a verdict that is no full yes how much could have been missed."""
    if len(data["boundary"]) == 2 and (data["verdict"].values == Existence.SUPPORTED).all():
        return []
    return [told] if (told := tell_power(data)) else []


def _power_section(data: xr.Dataset) -> list[Section]:
    """Say how large a step would have been found, beside what stands out in this model."""
    power = power_of(data).dropna(GAP)
    if not power.sizes[GAP]:
        return []
    curves, tried = data["curve"].values, power[GAP].values - 1
    with np.errstate(invalid="ignore"):
        here = (curves[:, tried] - (curves[:, tried - 1] + curves[:, tried + 1]) / 2).max(axis=1)
    rows = [["largest here, against both neighbours", *(number(float(rise)) for rise in here), "", ""]]
    for one in count_power(data):
        missed = power[GAP].values[power.sel(step=one["step"]).values == 0]
        rises = (number(float(one["step"] * span)) for span in np.ptp(curves, axis=1))
        told = "all" if not one["supported"] else ", ".join(map(str, missed)) or "none"
        rows.append([f"{STEPS[one['step']]} of the range", *rises, f"{one['supported']} of {one['gaps']}", told])
    lead = (
        f"{tell_power(data)} The step is added to these curves and to every resample, and the boundaries are looked "
        "for anew. It has no noise of its own and stands in all signals at the same gap; a change of this size in a "
        "model is found more rarely."
    )
    columns = ("step", *map(str, data[SIGNAL].values), "supported at", "missed at gaps")
    table = Table("Steps that would have been found", columns, rows)
    return [Section("What could have been found?", lead, tables=[table], short="Power")]


def _weight_section(data: xr.Dataset) -> list[Section]:
    """Say what other weights would give; the map itself is beside the evidence, to be clicked."""
    if "map_boundary" not in data:
        return []
    notes = []
    agreement = WeightMap(data["map_weight"].values, data["map_boundary"].values)
    for gap in (int(gap) for gap in data["boundary"].values):
        notes.append(f"Gap {gap}: {percent(agreement.agreement(gap))} of all choices keep a boundary within ±1 of it.")
    found = np.isfinite(data["map_boundary"].values)
    notes.append(
        f"{percent(found.all(axis=1).mean())} of all choices give two boundaries, "
        f"{percent((found.any(axis=1) & ~found.all(axis=1)).mean())} one, {percent((~found.any(axis=1)).mean())} none."
        if found.any()
        else "No choice of weights gives a boundary."
    )
    lead = "A verdict should not hang on one choice of weights; try others with the sliders above."
    definition = WEIGHTS.format(choices=len(found), step=np.diff(np.unique(agreement.weights)).min(initial=1))
    return [Section("What if the weights were others?", lead, [], definition, notes, short="Weights")]


def _layer_sections(data: xr.Dataset, identity: Mapping[str, Any]) -> list[Section]:
    tasks = probed_tasks(data)
    probes = Section(
        "What can be read from each layer",
        "F1 of probes by layer. Control is the same probe on random labels, one a word type: what it reaches is "
        "memory, not language, so selectivity (MLP less control) is what the layer itself offers.",
        [Plot(probe_figure(data, task), _probe_summary(data, task), task) for task in tasks],
        PROBES,
        [*_loud_controls(data, tasks), *_missing_f1(data, tasks, identity.get("config", {}))],
        short="Probes",
    )
    values = data["cka"].values
    nan_note = ["White cells could not be computed: a layer's variance estimate was not positive."]
    lead = (
        "Bright blocks along the diagonal are runs of layers that represent tokens alike; "
        "boundaries should lie between blocks."
    )
    lowest = f"Similarity of all layer pairs, lowest {number(np.nanmin(values, initial=1))}."
    plot, notes = Plot(cka_figure(data), lowest, shape="square"), nan_note if np.isnan(values).any() else []
    return [probes, Section("How alike are all pairs of layers?", lead, [plot], CKA_MAP, notes, short="Layer pairs")]


def _probe_summary(data: xr.Dataset, task: str) -> str:
    f1 = data["f1"].sel({TASK: task}, drop=True).sel(kind="mlp").values
    if not np.isfinite(f1).any():
        return f"{task}: no F1 of the MLP probe."
    best = int(np.nanargmax(f1))
    return f"{task}: the MLP probe's F1 is highest at layer {best}, {f1[best]:.2f}."


def _loud_controls(data: xr.Dataset, tasks: Sequence[str]) -> list[str]:
    """Explain every task whose control task scores above the probe itself."""
    notes = []
    for task in tasks:
        table = data["f1"].sel({TASK: task}, drop=True)
        above = np.flatnonzero((table.sel(kind="control") > table.sel(kind="mlp")).values)
        if len(above):
            where = "every layer" if len(above) == data.sizes["layer"] else f"layers {', '.join(map(str, above))}"
            notes.append(
                f"{task}: the control is above the probe at {where}. That is no error: its labels are random but fixed "
                "for every word type, so they can be learned by knowing the words alone, while a true label depends on "
                "the sentence. There the layer tells words apart better than it tells this task's labels."
            )
    return notes


def _missing_f1(data: xr.Dataset, tasks: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Explain every task without a figure, and gaps in those that have one."""
    asked = config.get("signals", {}).get("tasks")
    least = config.get("probe", {}).get("min_items", 20)
    notes = []
    for task in (str(task) for task in data[TASK].values):
        if task in tasks:
            if np.isnan(data["f1"].sel({TASK: task}).values).any():
                notes.append(f"{task}: a broken line means that no F1 could be computed there.")
        elif asked is not None and task not in asked:
            notes.append(f"{task}: not among this run's tasks ({', '.join(asked)}).")
        else:
            notes.append(f"{task}: no F1, for no label has {least} test items or more, or the task was not run.")
    return notes


def _null_sections(data: xr.Dataset, nulls: Mapping[str, xr.Dataset]) -> list[Section]:
    if not nulls:
        return []
    runs = {"this model": data, **nulls}
    rows = []
    for name, run in runs.items():
        labels = [boundary_label(run, i) for i in range(len(run["boundary"]))]
        flat = [str(s) for s in run[SIGNAL].values[run["flat"].values.astype(bool)]]
        rows.append([name, "; ".join(labels) or "none", ", ".join(flat) or "none", " ".join(reasons(run)) or MISSING])
    alarms = [name for name, run in nulls.items() if Existence.SUPPORTED in run["verdict"].values.tolist()]
    lead = (
        "The same analysis where no boundary of the trained model can be: random weights, shuffled labels or shuffled "
        f"words. {len(alarms)} of {len(nulls)} null runs report a supported boundary"
        f"{': ' if alarms else ''}{', '.join(alarms)}."
    )
    table = Table("Boundaries of the null runs", ("run", "boundaries", "signals left out", "reasons"), rows)
    tested = [name for name, run in nulls.items() if is_tested(run)]
    untested = [name for name in nulls if name not in tested]
    notes = [f"Not drawn, for nothing could be tested there: {', '.join(untested)}."] if untested else []
    plots = [Plot(nulls_figure(data, nulls), f"Contrast of this model and of {', '.join(tested)}.")] if tested else []
    return [Section("What do null models give?", lead, plots, NULLS, notes, [table], short="Nulls")]


def boundary_table(data: xr.Dataset) -> Table:
    """Return one row a boundary."""
    columns = ("gap", "relative depth", "95 % interval", "p", "presence", "mode mass", "near tie", "verdict")
    rows = []
    for i, gap in enumerate(data["boundary"].values):
        tie, verdict = float(data["near_tie"].values[i]), str(data["verdict"].values[i])
        rows.append(
            [
                str(int(gap)),
                percent(gap / int(data.attrs["n_layers"])),
                interval_text(data["interval"].values[i]),
                bare_p(float(data["p_value"].values[i])),
                percent(float(data["presence"].values[i])),
                percent(float(data["mode_mass"].values[i])),
                f"gap {tie:.0f}" if np.isfinite(tie) else "no",
                f"{MARKS.get(verdict, '~')} {verdict}",
            ]
        )
    note = (
        "Interval: where 95 % of the bootstrap resamples put the boundary. p: how often signals that agree only by "
        "chance would do as well. Presence: share of resamples that found the boundary at all. Mode mass: share of "
        "those at the commonest gap. Near tie: a rival gap that a fifth or more of the resamples preferred."
    )
    return Table("Boundaries", columns, rows, note)


def _peak_counts(data: xr.Dataset) -> str:
    shares = data["peak_count"].values
    if not np.isfinite(shares).all():
        return "How many peaks the resamples have is not known: there were no resamples or no signal to fuse."
    none, one, two = (percent(float(share)) for share in shares)
    return f"Of the bootstrap resamples, {two} have two peaks, {one} one and {none} none."


def _signal_table(data: xr.Dataset) -> Table:
    rows = []
    for i, name in enumerate(data[SIGNAL].values):
        rows.append(
            [
                f"{data['title'].values[i]} ({name})",
                number(float(data["weight"].values[i])),
                number(float(data["reliability"].values[i]), 2),
                why_left_out(data, i) or "used",
                str(data["unit"].values[i]),
                str(data["definition"].values[i]) if "definition" in data else MISSING,
            ]
        )
    note = (
        "Weight: share in the fused evidence. Reliability: 1 − (bootstrap noise) / (variance over gaps); below 0.5 the "
        "signal is flat and left out, unless the rule is paper."
    )
    return Table("Signals", ("signal", "weight", "reliability", "use", "unit", "definition"), rows, note)


def gap_table(data: xr.Dataset) -> Table:
    """Return one row a gap, with all curves."""
    names = [str(name) for name in data[SIGNAL].values]
    raw = [f"{name} [{unit}]" for name, unit in zip(names, data["unit"].values, strict=True)]
    columns = ["gap", "depth", *raw, *(f"{name}, as fused" for name in names), "fused", "fused 95 %", "contrast"]
    rows = []
    for j, gap in enumerate(data[GAP].values):
        low, high = (number(float(bound)) for bound in data["fused_interval"].values[:, j])
        values = [*data["curve"].values[:, j], *data["normalised"].values[:, j], data["fused"].values[j]]
        depth = percent(gap / int(data.attrs["n_layers"]))
        contrast = number(float(data["contrast"].values[j]))
        rows.append([str(gap), depth, *(number(float(v)) for v in values), f"{low} to {high}", contrast])
    return Table("All numbers by gap", columns, rows, wide=True)
