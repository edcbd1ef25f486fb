"""Draws a study: one report of all its models, corpora and stages, the figures of the paper redone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP, SCALES, Existence
from mspgt_tl.dashboard.drawing import (
    BOUNDARY,
    DEPTH_TITLE,
    GREY,
    INK,
    SIGNAL_COLOURS,
    beside,
    blank_figure,
    colour_of,
    curve,
    depth_axis,
    depths,
    draw_band,
    error_bars,
    points,
    row_figure,
    symbol_of,
    translucent,
)
from mspgt_tl.dashboard.sheet import Plot, Section, Sheet, list_facts, render_sheet
from mspgt_tl.dashboard.study_questions import kl_figure, question_sections
from mspgt_tl.dashboard.tables import Shown, tabled

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

COLUMNS = 2
"""Evidence curves side by side."""
PANEL = 170
"""Height of one in pixels."""


def render_study(found: Any, tables: Mapping[str, Shown], told: Sequence[str]) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        found: what the study's runs say, `mspgt_tl.study.findings.Findings`.
        tables: of `study_tables`.
        told: the conclusions, the first of which is the headline.
    """
    config = found.study.config
    first = config.first_corpus
    intro = (
        f"{len(config.models)} models; text: {', '.join(config.corpora)}. Families, noise, "
        f"theory and predictions rest on {first}. A gap b lies between blocks b−1 and b. Seed {config.seed}."
    )
    sections = [
        _asked_section(found, tables),
        *question_sections(found, tables),
        _boundary_section(found, tables, first),
        *_spread_section(found),
        *_family_section(tables),
        *_corpus_section(found, tables),
        *_noise_section(found, tables),
        *_theory_section(found, tables),
        *_rival_section(tables),
        _prediction_section(tables),
        _limit_section(found),
        tabled("Everything that was read and run", "", tables, ["inputs", "steps"], folded=True),
    ]
    headline = told[0] if told else "Nothing has finished yet."
    facts = list_facts(_short_manifest(found.study.manifest))
    return render_sheet(Sheet(config.title, config.title, headline, told[1:], intro, sections, facts))


def _asked_section(found: Any, tables: Mapping[str, Shown]) -> Section:
    state = tables["steps"].raw["state"]
    done = int((state == "finished").sum())
    notes = [
        f"{row['folder']}: {row['state']}."
        for row in tables["steps"].raw.to_dict("records")
        if row["state"] not in ("finished", "not run yet")
    ]
    notes += found.problems
    return Section(
        "What was asked",
        "Are there layer boundaries between scales of processing, do families share them, and does noise in one scale "
        f"do what the theory says? {done} of {len(state)} runs have finished.",
        notes=notes,
    )


def _boundary_section(found: Any, tables: Mapping[str, Shown], first: str) -> Section:
    panels = {model: run.data for model, run in found.at_home.items()}
    plots = [Plot(evidence_panels(panels), _panel_summary(panels))] if panels else []
    lead = (
        f"Fused evidence of every model on {first} with its 95 % bootstrap band; dashed lines are boundaries found, "
        "whole ones are supported by the test of existence. Where a curve stays inside the grey band, signals that "
        "agree only by chance would look the same."
    )
    return tabled("Where are the boundaries?", lead, tables, ["boundaries"], plots)


def _panel_summary(panels: Mapping[str, xr.Dataset]) -> str:
    told = []
    for model, data in panels.items():
        gaps = ", ".join(str(int(gap)) for gap in data["boundary"].values) or "none"
        told.append(f"{model}: {gaps}")
    return "Boundaries found: " + "; ".join(told) + "."


def evidence_panels(panels: Mapping[str, xr.Dataset]) -> go.Figure:
    """Draw one small evidence curve a model, over relative depth."""
    rows = -(-len(panels) // COLUMNS)
    height = PANEL * rows + 80
    figure = blank_figure(height=height, x_title="", y_title="", top=50)
    figure.set_subplots(
        rows=rows,
        cols=COLUMNS,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=34 / height,
        subplot_titles=list(panels),
    )
    for i, data in enumerate(panels.values()):
        _draw_panel(figure, data, {"row": i // COLUMNS + 1, "col": i % COLUMNS + 1})
    figure.update_annotations(font={"size": 12})
    figure.update_yaxes(range=[-0.03, 1.04], tickvals=[0, 0.5, 1])
    depth_axis(figure)
    # No tick at 100 %, which would run into the next panel's 0 %.
    figure.update_xaxes(tickvals=[0, 0.25, 0.5, 0.75])
    figure.update_xaxes(title={"text": DEPTH_TITLE}, row=rows)
    figure.update_layout(showlegend=False)
    return figure


def _draw_panel(figure: go.Figure, data: xr.Dataset, place: dict[str, Any]) -> None:
    depth = depths(data)
    band = data["null_band"].values
    if np.isfinite(band).all():
        draw_band(figure, [0, 1], *band, colour=translucent(GREY, 0.18), name="chance", **place)
    low, high = data["fused_interval"].values
    if np.isfinite(low).all():
        draw_band(figure, depth, low, high, colour=translucent(SIGNAL_COLOURS[0], 0.22), name="95 %", **place)
    for gap, verdict in zip(data["boundary"].values, data["verdict"].values, strict=True):
        sure = str(verdict) == Existence.SUPPORTED
        line = {"color": BOUNDARY, "width": 2.5 if sure else 1.5, "dash": "solid" if sure else "dash"}
        at = [gap / int(data.attrs["n_layers"])] * 2
        figure.add_scatter(x=at, y=[0, 1.04], mode="lines", line=line, hoverinfo="skip", name="boundary", **place)
    figure.add_scatter(
        x=depth,
        y=data["fused"].values,
        **curve(INK, size=5),
        customdata=data[GAP].values,
        hovertemplate="gap %{customdata}: %{y:.2f}<extra></extra>",
        name="fused evidence",
        **place,
    )


def _spread_section(found: Any) -> list[Section]:
    models = [model for model in found.located if len(model.draws)]
    if not models:
        return []
    summary = "; ".join(
        f"{m.name} at {m.relative[0]:.0%} and {m.relative[1]:.0%}" for m in models if np.isfinite(m.relative).all()
    )
    lead = (
        "Where the bootstrap puts the two boundaries of each model, over relative depth; a dot's area is the share of "
        "resamples. A boundary that is known is one dot."
    )
    plot = Plot(spread_figure(models), f"Positions: {summary}.")
    notes = [f"{model.name}: {model.reason}." for model in found.located if model.reason]
    return [Section("How sure are the places?", lead, [plot], notes=notes)]


def spread_figure(models: Sequence[Any]) -> go.Figure:
    """Draw the bootstrap distribution of both boundaries, one row a model."""
    figure = row_figure([model.name for model in models], DEPTH_TITLE, height=120 + 34 * len(models))
    for rank, title in enumerate(("L–I", "I–G")):
        x, rows, size, text = [], [], [], []
        for row, model in enumerate(models):
            drawn = model.draws[:, rank]
            gaps, counts = np.unique(drawn[np.isfinite(drawn)], return_counts=True)
            x += (gaps / model.n_layers).tolist()
            rows += [row] * len(gaps)
            size += (26 * np.sqrt(counts / len(model.draws))).tolist()
            text += [f"gap {g:.0f}: {c / len(model.draws):.0%}" for g, c in zip(gaps, counts, strict=True)]
        figure.add_scatter(
            x=x,
            y=beside(rows, rank, 2, 0.26),
            **points(rank, size),
            marker_opacity=0.8,
            text=text,
            hovertemplate="%{text}<extra></extra>",
            name=title,
        )
    depth_axis(figure)
    figure.update_layout(legend={"itemsizing": "constant"})
    return figure


def _family_section(tables: Mapping[str, Shown]) -> list[Section]:
    lead = (
        "All boundaries that were found count here, supported or not, as the paper counts them; random-weight twins do "
        "not."
    )
    section = tabled("Do families share boundaries?", lead, tables, ["families", "labels", "pairs"], folded=True)
    return [section] if section.tables else []


def _corpus_section(found: Any, tables: Mapping[str, Shown]) -> list[Section]:
    if "readings" not in tables and "shares" not in tables:
        return []
    plots = []
    if len(found.study.config.corpora) > 1 or len(set(found.boundaries["corpus"])) > 1:
        plots = [Plot(corpus_figure(found.boundaries), "Boundaries found by model and corpus.")]
    lead = (
        "The same models on every corpus. A boundary that is the model's stays where it is when the text changes, and "
        "goes when the order of words does."
    )
    names = ("readings", "shares", "agreement", "boundaries_elsewhere")
    return [tabled("The model's boundaries, or the corpus's?", lead, tables, names, plots, folded=True)]


def corpus_figure(table: Any) -> go.Figure:
    """Draw where boundaries lie by model, one symbol a corpus."""
    placed = table[table["boundary"] != "none"]
    models, corpora = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["corpus"]))
    figure = row_figure(models, DEPTH_TITLE, height=130 + 40 * len(models))
    for i, corpus in enumerate(corpora):
        rows = placed[placed["corpus"] == corpus]
        figure.add_scatter(
            x=rows["depth"],
            y=beside(map(models.index, rows["model"]), i, len(corpora), 0.7 / max(len(corpora), 2)),
            **points(i),
            error_x=error_bars(*(rows[end] / rows["n_layers"] for end in ("gap", "low", "high")), thickness=1, width=0),
            name=corpus,
            text=[f"{model}, gap {gap:.0f}" for model, gap in zip(rows["model"], rows["gap"], strict=True)],
            hovertemplate="%{text}<extra></extra>",
        )
    depth_axis(figure)
    return figure


def _noise_section(found: Any, tables: Mapping[str, Shown]) -> list[Section]:
    if "noise" not in tables:
        return []
    level = float(found.scales["level"].iloc[0])
    lead = (
        f"KL of the next token when every block of one scale gets noise of level {level:g}; grey bars are controls: "
        "stretches of as many blocks that start elsewhere."
    )
    figure = kl_figure(found.scales, found.scales["model"], each=40)
    figure.update_xaxes(rangemode="tozero")
    plot = Plot(figure, "KL of the next token by model and scale, beside controls.")
    names = ("noise", "table2", "brittleness")
    return [tabled("What does noise in a scale do?", lead, tables, names, [plot], folded=True)]


def _theory_section(found: Any, tables: Mapping[str, Shown]) -> list[Section]:
    if "theory" not in tables:
        return []
    lead = (
        "Small noise must move the output as the Fisher trace of the stream predicts: measured over predicted KL tends "
        "to 1. One line a model, mean over layers, the band from the lowest layer to the highest."
    )
    parts = {model: theory.parts for model, theory in found.theories.items()}
    plot = Plot(closure_figure(parts), "Closure by noise and model.")
    return [tabled("Does the theory hold?", lead, tables, ("theory", "information"), [plot])]


def closure_figure(parts: Mapping[str, Mapping[str, xr.Dataset]]) -> go.Figure:
    """Draw measured over predicted KL against sigma, one line a model."""
    figure = blank_figure(
        height=400, x_title="σ, relative to the activation unit", y_title="measured over predicted KL"
    )
    figure.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "dot"})
    for i, (model, found) in enumerate(parts.items()):
        closure = found["closure"]
        single = closure["ratio"].values[[str(name) not in SCALES for name in closure["set"].values]]
        fill, sigmas = translucent(colour_of(i), 0.15), closure["sigma"].values
        single = single[np.isfinite(single).any(axis=1)]
        draw_band(figure, sigmas, single.min(axis=0), single.max(axis=0), colour=fill, name=model, showlegend=False)
        style = curve(colour_of(i), symbol=symbol_of(i), size=7)
        figure.add_scatter(x=sigmas, y=single.mean(axis=0), **style, name=model)
    figure.update_xaxes(type="log", exponentformat="power")
    return figure


def _rival_section(tables: Mapping[str, Shown]) -> list[Section]:
    lead = (
        "Other signals on the same pass, never fused. Some read what the first token does (its norm, the sink rate, "
        "compression of the spectrum): a reading that agrees with these may read them."
    )
    title, names = "What do other readings of depth say?", ("rivals", "rival_pairs")
    return [tabled(title, lead, tables, names, folded=True)] if "rivals" in tables else []


def _prediction_section(tables: Mapping[str, Shown]) -> Section:
    lead = (
        "Supported or refuted only where the whole interval lies on one side of the threshold and models are enough; "
        "beside each, how often chance alone would pass it."
    )
    return tabled("Are the predictions true?", lead, tables, ("predictions", "predictions_why"))


def _limit_section(found: Any) -> Section:
    config = found.study.config
    deepest = max((model.n_layers for model in found.located), default=0)
    notes = [f"The models have at most {deepest} blocks; what holds of them need not hold of larger ones."] * (
        deepest > 0
    )
    notes += [
        f"Detections saw {_range(found.inputs)} sentences (the paper: 10,000), sweeps {config.intervene.samples:,} "
        "samples a condition (the paper: 1,000).",
        "Existence is agreement of signals: a boundary that only one signal sees cannot be told from chance.",
        "A negative result is worth what could have been found: see the table of steps under the second question.",
        "Intervals of positions are over documents where these are known, else over sentences; other training "
        "runs are not in them.",
    ]
    return Section("Limits", "", notes=notes)


def _range(inputs: Any) -> str:
    if inputs.empty:
        return "no"
    low, high = int(inputs["sentences"].min()), int(inputs["sentences"].max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _short_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest without the notes that the page shows as tables."""
    kept = {name: value for name, value in manifest["notes"].items() if name not in ("steps", "fingerprints", "plan")}
    plan = manifest["notes"].get("plan", {})
    sources = {
        f"corpus {name}": f"{entry['text'] or 'generated'}; treebank {entry['treebank'] or 'generated'}"
        for name, entry in plan.get("corpora", {}).items()
    }
    return {**manifest, "notes": kept | sources}
