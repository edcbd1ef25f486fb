"""Draws a theory run: sensitivity by layer, closure, information with its slope, rate and distortion, H-VIB."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.contracts import GAP, LAYER, SCALES
from mspgt_tl.dashboard.drawing import (
    GAP_TITLE,
    GREY,
    INK,
    SIGNAL_COLOURS,
    blank_figure,
    colour_of,
    curve,
    draw_band,
    error_bars,
    symbol_of,
    thin_boundaries,
    translucent,
)
from mspgt_tl.dashboard.sheet import Plot, Section, Sheet, Table, list_facts, mark_quick, render_sheet
from mspgt_tl.dashboard.words import number
from mspgt_tl.theory.closure import TOLERANCE
from mspgt_tl.theory.findings import findings

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

FISHER = (
    "s² tr F: the trace of the Fisher information of a text's whole output with respect to the stream after a block at "
    "one position, mean over tokens, times the squared activation unit. Half of it times σ² is the KL that noise of "
    "relative size σ causes, for small σ. Eq. 29–30, P; sums per scale eq. 31. The band is a 95 % bootstrap interval "
    "over texts."
)
CLOSURE = (
    "Measured KL(clean ‖ noised) over ½ σ² Σ s² tr F on the same texts. It tends to 1 as σ → 0 if the trace is right "
    f"(N). The band is 1 ± {TOLERANCE}: where a curve leaves it, the quadratic expansion ends."
)
INFORMATION = (
    "V-information: cross-entropy of the best constant prediction less that of a linear readout, on texts that the "
    "readout has not seen (Xu et al. 2020; N for eq. 25). Gaussian channel: ½ Σ log(1 + λ/σ²), an upper bound at this "
    "noise (R). Nothing beyond ln n can be shown by n samples, and is left out."
)
SLOPE = (
    "Jump of the slope at gap b: |slope(b+1) − slope(b−1)|, slope(b) = I(b) − I(b−1). p: share of all choices of as "
    "many gaps whose mean jump is as large. Eq. 27–28 and prediction 1.2, P; the test R."
)
RATES = (
    "Rate: ½ Σ log(1 + λ/(σ s)²), λ the eigenvalues of the layer's covariance; for a scale, the smallest of its "
    "layers'. Distortion: measured loss increase. β = −ΔD/ΔR between neighbouring σ. Eq. 19–23, R."
)
HVIB = (
    "Gaussian posteriors and learned conditional priors for z_G → z_I → z_L on the frozen stream at the scales' last "
    "blocks, decoded by the model's own unembedding; measured on held-out texts. ELBO: reconstruction less all three "
    "rates. Effective β: slope of the sweep; at an optimum it lies between the two weights. Eq. 1 and 9–22, R."
)
BAND = translucent(SIGNAL_COLOURS[0], 0.2)


def render_theory(parts: Mapping[str, xr.Dataset], manifest: Mapping[str, Any]) -> str:
    """Return the page of a theory run as one self-contained HTML file.

    Args:
        parts: labelled arrays by stage.
        manifest: the run's manifest.
    """
    identity = manifest["identity"]
    model = Path(identity["model"]["name"]).name
    told = [doubt] if (doubt := manifest["notes"].get("scales_doubt")) else []
    told += findings(parts)
    where = ", ".join(f"{name} {first}–{last}" for name, (first, last) in identity["scales"].items())
    origin = identity["scales_from"]
    boundaries = [] if origin == "equal thirds" else [first for first, _ in identity["scales"].values()][1:]
    intro = (
        f"{parts['fisher'].attrs['tokens']:,} tokens in {parts['fisher'].attrs['texts']:,} texts. Scales ({origin}): "
        f"blocks {where}. Information is in nats per token; padding, first tokens and sinks are no data."
    )
    reasons = [why for part in parts.values() for why in json.loads(part.attrs.get("reasons", "[]"))]
    sections = [
        _fisher_section(parts["fisher"], boundaries),
        _closure_section(parts["closure"], parts["closure-float64"]),
        *_information_sections(parts["information"], boundaries),
        _rate_section(parts["rates"]),
        _bottleneck_section(parts["bottleneck"]),
        _layer_table(parts),
    ]
    if reasons:
        sections.append(Section("Why something is missing", "", notes=reasons))
    headline, told = mark_quick(_headline(parts), told, manifest)
    title, heading = f"Theory of {model}", f"What the theory says of {model}"
    return render_sheet(Sheet(title, heading, headline, told, intro, sections, list_facts(manifest)))


def _headline(parts: Mapping[str, xr.Dataset]) -> str:
    """Say whether noise does what the trace predicts; in float64, where no rounding plays a part, if measured."""
    wide = parts["closure-float64"]
    part = wide if np.isfinite(wide["ratio"].values).any() else parts["closure"]
    away, error = np.abs(part["ratio"].values[:, 0] - 1), part["error"].values[:, 0]
    measured = np.isfinite(away)
    if not measured.any() or not measured[np.isfinite(part["predicted"].values[:, 0])].all():
        return "Closure could not be told for every layer."
    away, error = away[measured], error[measured]
    far, wide = f"{100 * away.max():.1f} %", f"{100 * error.max():.1f} %"
    if away.max() <= TOLERANCE:
        return f"Small noise moves the output as the Fisher trace predicts, to within {far} (error up to {wide})."
    if (away <= 3 * error).all():
        return f"Closure is not decided: it is off by up to {far}, but the draws' own error is up to {wide}."
    return f"Small noise does not do what the Fisher trace predicts: it is off by up to {far} (error up to {wide})."


def _layer_figure(layers: Sequence[int] | np.ndarray, y_title: str, *, height: int) -> go.Figure:
    """Return an empty figure with every layer on its x axis."""
    n_layers = len(layers)
    figure = blank_figure(height=height, x_title="layer (block)", y_title=y_title)
    figure.update_xaxes(range=[-0.5, n_layers - 0.5], dtick=1 if n_layers <= 16 else 5)
    return figure


def _fisher_section(part: xr.Dataset, boundaries: list[int]) -> Section:
    layers, values = part[LAYER].values, part["sensitivity"].values
    figure = _layer_figure(layers, "s² tr F, nats per token", height=400)
    low, high = part["sensitivity_interval"].values
    draw_band(figure, layers, low, high, colour=BAND, name="95 %")
    figure.add_scatter(x=layers, y=values, **curve(colour_of(0), 3), name="s² tr F")
    figure.update_yaxes(rangemode="tozero")
    thin_boundaries(figure, boundaries, shift=0.5)
    top = int(np.argmax(values))
    columns = (part[name].values for name in ("scale_name", "scale_sensitivity", "scale_interval"))
    rows = [[str(name), number(float(value)), _interval(ends)] for name, value, ends in zip(*columns, strict=True)]
    return Section(
        "How sensitive is the output to each layer?",
        f"The output is most sensitive to noise, relative to the stream's own size, after block {top}.",
        [Plot(figure, f"Sensitivity by layer, highest at {top} with {number(values[top])} nats per token.")],
        FISHER,
        tables=[Table("Sums per scale", ("scale", "Σ s² tr F [nats/token]", "95 % interval"), rows)],
        short="Sensitivity",
    )


def _closure_section(narrow: xr.Dataset, wide: xr.Dataset) -> Section:
    figure = blank_figure(height=480, x_title="σ", y_title="measured / predicted KL")
    sigmas = narrow["sigma"].values
    ends = [sigmas[0] * 0.8, sigmas[-1] * 1.25]
    draw_band(figure, ends, 1 - TOLERANCE, 1 + TOLERANCE, colour=translucent(GREY, 0.2), name="1 ± 0.1")
    names = [str(name) for name in narrow["set"].values]
    for i in range(len(names)):
        figure.add_scatter(
            x=sigmas,
            y=narrow["ratio"].values[i],
            error_y={"type": "data", "array": narrow["error"].values[i], "thickness": 1, "width": 2},
            **_set_style(names, i),
        )
    figure.add_hline(y=1, line={"color": INK, "width": 1})
    figure.update_xaxes(type="log", range=np.log10(ends).tolist(), tickvals=sigmas.tolist(), tickformat="~g")
    known = narrow["ratio"].values
    figure.update_yaxes(range=[max(0.0, float(np.nanmin(known)) - 0.1), min(2.0, float(np.nanmax(known)) + 0.1)])
    figure.update_layout(height=460 + 20 * (narrow.sizes["set"] // 6 + 1))
    rows = [
        [name, _with_error(narrow, i), _with_error(wide, i), number(float(narrow["exit_sigma"].values[i]))]
        for i, name in enumerate(names)
    ]
    columns = ("disturbed", f"{narrow.attrs['dtype']}, σ = {sigmas[0]:g}", "float64", "leaves 1 ± 0.1 at σ")
    return Section(
        "Does noise do what the trace predicts?",
        "Every curve should start at 1 on the left. How far to the right it stays in the band is how far the theory of "
        "small noise reaches.",
        [Plot(figure, "Closure ratio over sigma: " + "; ".join(f"{row[0]} {row[1]}" for row in rows) + ".")],
        CLOSURE,
        tables=[Table("Closure", columns, rows, note="± is the standard error over draws of noise and labels.")],
        short="Closure",
    )


def _with_error(closure: xr.Dataset, i: int) -> str:
    """Show a set's ratio at the smallest σ with its error; the mark for what is missing where it was not measured."""
    ratio, error = (float(closure[name].values[i, 0]) for name in ("ratio", "error"))
    return f"{ratio:.3f} ± {error:.3f}" if np.isfinite(ratio) else number(ratio)


def _information_sections(part: xr.Dataset, boundaries: list[int]) -> list[Section]:
    layers = part[LAYER].values
    names = [str(name) for name in part["curve"].values]
    readouts = np.flatnonzero(part["readout"].values != "").tolist()
    figures = []
    for title, chosen in (
        ("About the next token", readouts),
        ("About the input, through noise", [i for i in range(len(names)) if i not in readouts]),
    ):
        figure = _layer_figure(layers, "nats per token", height=420)
        for j, i in enumerate(chosen):
            low, high = part["interval"].values[i]
            if np.isfinite(low).all():
                draw_band(figure, layers, low, high, colour=translucent(GREY, 0.2), name="95 %", showlegend=False)
            values = part["information"].values[i]
            if np.isfinite(values).any():
                readout, sigma = part["readout"].values[i], part["channel_sigma"].values[i]
                name = f"{readout} readout" if readout else f"sigma {sigma:g}"
                figure.add_scatter(x=layers, y=values, **_line(j), name=name)
        thin_boundaries(figure, boundaries, shift=0.5)
        figures.append(Plot(figure, f"Information {title.lower()} by layer.", title))
    lead = (
        f"Of the {number(float(part.attrs['entropy']))} nats that the next token holds, how much a linear readout gets "
        "from each layer; and what noise of fixed relative size leaves of the stream."
    )
    jump = blank_figure(height=380, x_title=GAP_TITLE, y_title="jump of the slope, nats/layer")
    for j, i in enumerate(readouts):
        jump.add_scatter(x=part[GAP].values, y=part["jump"].values[i], **_line(j), name=names[i])
    jump.update_xaxes(range=[0.4, len(layers) - 0.4], dtick=1 if len(layers) <= 16 else 5)
    jump.update_yaxes(rangemode="tozero")
    thin_boundaries(jump, boundaries)
    rows = [
        [name, *(number(float(part[v].values[i])) for v in ("statistic", "elsewhere", "p_value", "smallest_p"))]
        for i, name in enumerate(names)
    ]
    columns = ("curve", "mean jump at boundaries", "elsewhere", "p", "smallest p possible")
    told = "The dashed lines are the boundaries." if boundaries else "There are no boundaries to test."
    return [
        Section("How much can be read from each layer?", lead, figures, INFORMATION, short="Information"),
        Section(
            "Does information bend at the boundaries?",
            f"Prediction 1.2 wants the highest jumps there. {told}",
            [Plot(jump, "Jump of the slope of information at every gap.")],
            SLOPE,
            tables=[Table("Slope tests", columns, rows)],
            short="Jumps",
        ),
    ]


def _line(i: int) -> dict[str, Any]:
    return curve(colour_of(i), 2.5, symbol=symbol_of(i), size=7)


def _set_style(names: Sequence[str], i: int) -> dict[str, Any]:
    """Return how the line of a layer or a scale is drawn: layers from light to dark, scales wide in colours."""
    layers = [name not in SCALES for name in names]
    share = i / max(sum(layers) - 1, 1)
    shade = f"rgb({int(200 - 170 * share)},{int(190 - 120 * share)},215)"
    colour, width = (shade, 1.5) if layers[i] else (colour_of(i), 3.0)
    return {"name": names[i], **curve(colour, width, symbol=symbol_of(i), size=5)}


def _rate_section(part: xr.Dataset) -> Section:
    step = int(part.attrs["operating_step"])
    names = [str(name) for name in part["set"].values]
    layers = [i for i, name in enumerate(names) if name not in SCALES]
    plane = blank_figure(height=460, x_title="rate R, nats per token", y_title="distortion D, nats per token")
    for i in range(len(names)):
        plane.add_scatter(
            x=part["rate"].values[i],
            y=part["distortion"].values[i],
            **_set_style(names, i),
            customdata=part["sigma"].values,
            hovertemplate="σ %{customdata:g}: R %{x:.3g}, D %{y:.3g}",
        )
    plane.update_layout(height=440 + 20 * (len(names) // 4 + 1))
    sigma = float(part["beta_sigma"].values[step])
    slope = _layer_figure(layers, f"β at σ = {sigma:.2g}", height=460)
    low, high = part["beta_interval"].values[:, layers, step]
    at = np.arange(len(layers))
    draw_band(slope, at, low, high, colour=BAND, name="95 %")
    slope.add_scatter(x=at, y=part["beta"].values[layers, step], **curve(colour_of(0), 3), name="β = −ΔD/ΔR")
    slope.add_hline(y=0, line={"color": GREY, "width": 1})
    rows = []
    for i, name in enumerate(names):
        ends = part["beta_interval"].values[:, i, step]
        left = float(part["conditional_rate"].values[i]) if i in layers else np.nan
        rows.append([name, number(float(part["beta"].values[i, step])), _interval(ends), number(left)])
    columns = ("disturbed", f"β at σ = {sigma:.2g}", "95 % interval", "left to encode, given the layer before [nats]")
    return Section(
        "What does a nat of rate buy?",
        "As noise grows, a layer lets less through and the loss rises; β is the exchange rate between the two.",
        [
            Plot(plane, "Distortion against rate for every layer and scale.", "Information plane"),
            Plot(slope, "β by layer.", "β by layer"),
        ],
        RATES,
        tables=[Table("β and conditional entropy (eq. 23)", columns, rows)],
        short="Rate",
    )


def _bottleneck_section(part: xr.Dataset) -> Section:
    scales = [str(name) for name in part["scale_name"].values]
    rows = []
    for i, beta in enumerate(part["beta"].values):
        effective = "–"
        if i:
            found = float(part["effective_beta"].values[i - 1])
            effective = f"{number(found)} {_interval(part['effective_interval'].values[:, i - 1])}"
        reconstruction, rates = number(float(part["reconstruction"].values[i]), 4), part["rate"].values[i]
        elbo = f"{number(float(part['elbo'].values[i]), 4)} {_interval(part['elbo_interval'].values[:, i], 4)}"
        rows.append([f"{beta:g}", reconstruction, *(number(float(rate)) for rate in rates), elbo, effective])
    columns = ("β", "reconstruction", *(f"KL {name}" for name in scales), "ELBO", "effective β since the row above")
    figure = blank_figure(height=380, x_title="β", y_title="rate, nats per token")
    for k, name in enumerate(scales):
        rate, (low, high) = part["rate"].values[:, k], part["rate_interval"].values[:, :, k]
        figure.add_scatter(x=part["beta"].values, y=rate, error_y=error_bars(rate, low, high), **_line(k), name=name)
    figure.update_xaxes(type="log", tickvals=part["beta"].values.tolist(), tickformat="~g")
    figure.update_yaxes(rangemode="tozero")
    return Section(
        "H-VIB: what each scale is paid for",
        f"Three latents of {part.attrs['width']} dimensions each, fitted at every weight β; which scale spends nats "
        "tells where the context that predicts the next token is cheapest to read.",
        [Plot(figure, "KL rate of every scale over beta.")],
        HVIB,
        tables=[Table("H-VIB on held-out texts, nats per token", columns, rows, wide=True)],
        short="H-VIB",
    )


def _layer_table(parts: Mapping[str, xr.Dataset]) -> Section:
    fisher, info, rates = parts["fisher"], parts["information"], parts["rates"]
    names = [str(name) for name in info["curve"].values]
    # Runs of earlier versions left out nothing but a BOS.
    others = fisher["left_out_trace" if "left_out_trace" in fisher else "bos_trace"].values
    rows = []
    for layer in fisher[LAYER].values:
        values = [
            parts["units"]["unit"].values[layer],
            fisher["trace"].values[layer],
            others[layer],
            fisher["label_error"].values[layer],
            *info["information"].values[:, layer],
            rates["conditional_rate"].values[layer],
        ]
        rows.append([str(layer), *(number(float(value)) for value in values)])
    columns = ("layer", "s", "tr F", "tr F of what is no data", "its error from labels", *names, "left to encode")
    return Section("All numbers by layer", "", tables=[Table("By layer", columns, rows, wide=True)], folded=True)


def _interval(ends: Any, digits: int = 3) -> str:
    low, high = (number(float(end), digits) for end in ends)
    return f"[{low}, {high}]"
