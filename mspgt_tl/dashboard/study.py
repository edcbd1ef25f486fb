"""Draws a study: one report of all its models, corpora and stages, the figures of the paper redone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP, Existence
from mspgt_tl.dashboard.drawing import (
    BOUNDARY,
    GREY,
    INK,
    RUN_COLOURS,
    SYMBOLS,
    blank_figure,
    draw_band,
    error_bars,
    name_rows,
    translucent,
)
from mspgt_tl.dashboard.sheet import Plot, Section, Sheet, list_facts, render_sheet
from mspgt_tl.dashboard.study_questions import question_sections
from mspgt_tl.dashboard.study_tables import Shown

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
        f"{len(config.models)} models, {len(config.corpora)} corpora ({', '.join(config.corpora)}). Families, noise, "
        f"theory and predictions rest on {first}. A gap b lies between blocks b−1 and b. Seed {config.seed}."
    )
    sections = [
        _asked_section(found, tables),
        *question_sections(found, tables),
        _boundary_section(found, tables, first),
        _spread_section(found),
        _family_section(tables),
        _corpus_section(found, tables),
        _noise_section(found, tables),
        _theory_section(found, tables),
        _rival_section(tables),
        _prediction_section(tables),
        _limit_section(found),
        Section("Everything that was read and run", "", tables=_chosen(tables, "inputs", "steps"), folded=True),
    ]
    page = Sheet(
        config.title,
        config.title,
        told[0] if told else "Nothing has finished yet.",
        told[1:],
        intro,
        [section for section in sections if section is not None],
        list_facts(_short_manifest(found.study.manifest)),
    )
    return render_sheet(page)


def _chosen(tables: Mapping[str, Shown], *names: str) -> list[Any]:
    return [tables[name].table() for name in names if name in tables]


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
    panels = {model: run.data for (corpus, model), run in found.detections.items() if corpus == first}
    plots = [Plot(evidence_panels(panels), _panel_summary(panels))] if panels else []
    return Section(
        "Where are the boundaries?",
        f"Fused evidence of every model on {first} with its 95 % bootstrap band; dashed lines are boundaries found, "
        "whole ones are supported by the test of existence. Where a curve stays inside the grey band, signals that "
        "agree only by chance would look the same.",
        plots,
        tables=_chosen(tables, "boundaries"),
    )


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
    # No tick at 100 %, which would run into the next panel's 0 %.
    figure.update_xaxes(range=[0, 1], tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75])
    figure.update_xaxes(title={"text": "relative depth b / L"}, row=rows)
    figure.update_layout(showlegend=False)
    return figure


def _draw_panel(figure: go.Figure, data: xr.Dataset, place: dict[str, Any]) -> None:
    n_layers = int(data.attrs["n_layers"])
    depth = data[GAP].values / n_layers
    band = data["null_band"].values
    if np.isfinite(band).all():
        draw_band(figure, [0, 1], *band, colour="rgba(118,118,118,0.18)", name="chance", **place)
    low, high = data["fused_interval"].values
    if np.isfinite(low).all():
        draw_band(figure, depth, low, high, colour="rgba(0,114,178,0.22)", name="95 %", **place)
    for gap, verdict in zip(data["boundary"].values, data["verdict"].values, strict=True):
        sure = str(verdict) == Existence.SUPPORTED
        line = {"color": BOUNDARY, "width": 2.5 if sure else 1.5, "dash": "solid" if sure else "dash"}
        figure.add_scatter(
            x=[gap / n_layers] * 2, y=[0, 1.04], mode="lines", line=line, hoverinfo="skip", name="boundary", **place
        )
    figure.add_scatter(
        x=depth,
        y=data["fused"].values,
        mode="lines+markers",
        line={"color": INK, "width": 2},
        marker={"size": 5},
        customdata=data[GAP].values,
        hovertemplate="gap %{customdata}: %{y:.2f}<extra></extra>",
        name="fused evidence",
        **place,
    )


def _spread_section(found: Any) -> Section | None:
    models = [model for model in found.located if len(model.draws)]
    if not models:
        return None
    summary = "; ".join(
        f"{m.name} at {m.relative[0]:.0%} and {m.relative[1]:.0%}" for m in models if np.isfinite(m.relative).all()
    )
    return Section(
        "How sure are the places?",
        "Where the bootstrap puts the two boundaries of each model, over relative depth; a dot's area is the share of "
        "resamples. A boundary that is known is one dot.",
        [Plot(spread_figure(models), f"Positions: {summary}.")],
        notes=[f"{model.name}: {model.reason}." for model in found.located if model.reason],
    )


def spread_figure(models: Sequence[Any]) -> go.Figure:
    """Draw the bootstrap distribution of both boundaries, one row a model."""
    figure = blank_figure(height=120 + 34 * len(models), x_title="relative depth b / L", y_title="")
    names = [model.name for model in models]
    for rank, (title, shift) in enumerate((("L–I", -0.13), ("I–G", 0.13))):
        x, y, size, text = [], [], [], []
        for row, model in enumerate(models):
            drawn = model.draws[:, rank]
            drawn = drawn[np.isfinite(drawn)]
            gaps, counts = np.unique(drawn, return_counts=True)
            x += (gaps / model.n_layers).tolist()
            y += [row + shift] * len(gaps)
            size += (26 * np.sqrt(counts / len(model.draws))).tolist()
            text += [f"gap {g:.0f}: {c / len(model.draws):.0%}" for g, c in zip(gaps, counts, strict=True)]
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"size": size, "color": RUN_COLOURS[rank], "symbol": SYMBOLS[rank], "opacity": 0.8},
            text=text,
            hovertemplate="%{text}<extra></extra>",
            name=title,
        )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    name_rows(figure, names)
    figure.update_layout(legend={"itemsizing": "constant"})
    return figure


def _family_section(tables: Mapping[str, Shown]) -> Section | None:
    chosen = _chosen(tables, "families", "labels", "pairs")
    if not chosen:
        return None
    return Section(
        "Do families share boundaries?",
        "All boundaries that were found count here, supported or not, as the paper counts them; random-weight twins do "
        "not.",
        tables=chosen,
        folded=True,
    )


def _corpus_section(found: Any, tables: Mapping[str, Shown]) -> Section | None:
    if "readings" not in tables and "shares" not in tables:
        return None
    plots = []
    if len(found.study.config.corpora) > 1 or len(set(found.boundaries["corpus"])) > 1:
        plots = [Plot(corpus_figure(found.boundaries), "Boundaries found by model and corpus.")]
    return Section(
        "The model's boundaries, or the corpus's?",
        "The same models on every corpus. A boundary that is the model's stays where it is when the text changes, and "
        "goes when the order of words does.",
        plots,
        tables=_chosen(tables, "readings", "shares", "agreement", "boundaries_elsewhere"),
        folded=True,
    )


def corpus_figure(table: Any) -> go.Figure:
    """Draw where boundaries lie by model, one symbol a corpus."""
    placed = table[table["boundary"] != "none"]
    models, corpora = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["corpus"]))
    figure = blank_figure(height=130 + 40 * len(models), x_title="relative depth b / L", y_title="")
    for i, corpus in enumerate(corpora):
        rows = placed[placed["corpus"] == corpus]
        shift = (i - (len(corpora) - 1) / 2) * 0.7 / max(len(corpora), 2)
        figure.add_scatter(
            x=rows["depth"],
            y=[models.index(model) + shift for model in rows["model"]],
            mode="markers",
            marker={"color": RUN_COLOURS[i % len(RUN_COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9},
            error_x=error_bars(*(rows[end] / rows["n_layers"] for end in ("gap", "low", "high")), thickness=1, width=0),
            name=corpus,
            text=[f"{model}, gap {gap:.0f}" for model, gap in zip(rows["model"], rows["gap"], strict=True)],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    name_rows(figure, models)
    return figure


def _noise_section(found: Any, tables: Mapping[str, Shown]) -> Section | None:
    if "noise" not in tables:
        return None
    level = float(found.scales["level"].iloc[0])
    return Section(
        "What does noise in a scale do?",
        f"KL of the next token when every block of one scale gets noise of level {level:g}; grey bars are controls: "
        "stretches of as many blocks that start elsewhere.",
        [Plot(noise_figure(found.scales), "KL of the next token by model and scale, beside controls.")],
        tables=_chosen(tables, "noise", "table2", "brittleness"),
        folded=True,
    )


def noise_figure(table: Any) -> go.Figure:
    """Draw KL by model and scale with intervals, and the range of the controls behind each."""
    models, scales = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["scale"]))
    figure = blank_figure(height=130 + 40 * len(models), x_title="KL(clean ‖ noised), nats per token", y_title="")
    for i, scale in enumerate(scales):
        rows = table[table["scale"] == scale]
        shift = (i - (len(scales) - 1) / 2) * 0.24
        y = [models.index(model) + shift for model in rows["model"]]
        for at, low, high in zip(y, rows["controls_low"], rows["controls_high"], strict=True):
            if np.isfinite(low):
                figure.add_scatter(
                    x=[low, high],
                    y=[at, at],
                    mode="lines",
                    line={"color": "rgba(118,118,118,0.45)", "width": 9},
                    hovertemplate="controls %{x:.3g}<extra></extra>",
                    showlegend=False,
                )
        figure.add_scatter(
            x=rows["kl"],
            y=y,
            mode="markers",
            marker={"color": RUN_COLOURS[i % len(RUN_COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9},
            error_x=error_bars(rows["kl"], rows["low"], rows["high"]),
            name=scale,
            text=rows["blocks"],
            hovertemplate="blocks %{text}: %{x:.3g} nats<extra></extra>",
        )
    figure.update_xaxes(rangemode="tozero")
    name_rows(figure, models)
    return figure


def _theory_section(found: Any, tables: Mapping[str, Shown]) -> Section | None:
    if "theory" not in tables:
        return None
    parts = {model: theory.parts for model, theory in found.theories.items()}
    return Section(
        "Does the theory hold?",
        "Small noise must move the output as the Fisher trace of the stream predicts: measured over predicted KL tends "
        "to 1. One line a model, mean over layers, the band from the lowest layer to the highest.",
        [Plot(closure_figure(parts), "Closure by noise and model.")],
        tables=_chosen(tables, "theory", "information"),
    )


def closure_figure(parts: Mapping[str, Mapping[str, xr.Dataset]]) -> go.Figure:
    """Draw measured over predicted KL against sigma, one line a model."""
    figure = blank_figure(
        height=400, x_title="σ, relative to the activation unit", y_title="measured over predicted KL"
    )
    figure.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "dot"})
    for i, (model, found) in enumerate(parts.items()):
        closure = found["closure"]
        single = closure["ratio"].values[[str(name).startswith("layer") for name in closure["set"].values]]
        colour = RUN_COLOURS[i % len(RUN_COLOURS)]
        fill = translucent(colour, 0.15)
        sigmas = closure["sigma"].values
        draw_band(figure, sigmas, single.min(axis=0), single.max(axis=0), colour=fill, name=model, showlegend=False)
        figure.add_scatter(
            x=sigmas,
            y=single.mean(axis=0),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 7},
            name=model,
        )
    figure.update_xaxes(type="log", exponentformat="power")
    return figure


def _rival_section(tables: Mapping[str, Shown]) -> Section | None:
    if "rivals" not in tables:
        return None
    return Section(
        "What do other readings of depth say?",
        "Other signals on the same pass, never fused. Three of them read what the first token does (its norm, the sink "
        "rate, compression of the spectrum): a reading that agrees with these may read them.",
        tables=_chosen(tables, "rivals", "rival_pairs"),
        folded=True,
    )


def _prediction_section(tables: Mapping[str, Shown]) -> Section:
    return Section(
        "Are the predictions true?",
        "Supported or refuted only where the whole interval lies on one side of the threshold and models are enough; "
        "beside each, how often chance alone would pass it.",
        tables=_chosen(tables, "predictions", "predictions_why"),
    )


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
        "Intervals of positions are over sentences, as if those were independent; other training runs are not in them.",
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
