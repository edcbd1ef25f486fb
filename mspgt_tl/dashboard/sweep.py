"""Draws a sweep: dose–response curves with their controls, the ledger, the paper's table, and texts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mspgt_tl.dashboard.drawing import GREY, blank_figure, colour_of, draw_band, symbol_of
from mspgt_tl.dashboard.sheet import (
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
from mspgt_tl.dashboard.tables import Cell, Shown, digits, named, p_value, words
from mspgt_tl.dashboard.words import MISSING, number
from mspgt_tl.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

BROWSED = 40
"""Samples that the page shows."""
NEXT_TOKEN = {
    "kl": ("KL(clean ‖ disturbed)", "nats/token"),
    "loss_change": ("Loss change", "nats/token"),
    "agreement": ("Top-1 agreement", "share"),
}
DOSE_UNITS = {
    "per_layer": "σ at every block",
    "per_scale": "σ·√k of k blocks",
    "exit_norm": "relative change after the scale",
    "kl": "nats of KL",
}


class SweepResult(Protocol):
    """What is drawn; `Intervention` is one."""

    @property
    def conditions(self) -> pd.DataFrame: ...
    @property
    def effects(self) -> xr.Dataset: ...
    @property
    def ledger(self) -> xr.Dataset: ...
    @property
    def samples(self) -> pd.DataFrame: ...
    @property
    def statistics(self) -> pd.DataFrame: ...
    @property
    def tokens(self) -> xr.Dataset | None: ...
    @property
    def table_2(self) -> pd.DataFrame: ...
    @property
    def manifest(self) -> Any: ...


def response_figure(result: SweepResult, measure: str = "kl") -> go.Figure:
    """Return the dose–response curves of a next-token measure or of a text metric, with bands and controls.

    Raises:
        ConfigError: no such measure in this sweep.
    """
    if measure not in shown_measures(result):
        raise ConfigError(unknown_name("measure", measure, shown_measures(result)))
    if measure in NEXT_TOKEN:
        return _next_token_figure(result.effects, measure)
    return _metric_figure(result, measure)


def _next_token_figure(effects: xr.Dataset, measure: str) -> go.Figure:
    title, unit = NEXT_TOKEN[measure]
    figure = blank_figure(height=380, x_title=_level_title(effects.attrs["dose"]), y_title=f"{title}, {unit}")
    levels, scales = effects["level"].values, _scales_of(effects)
    for name in effects["target"].values[effects["group"].values == "control"]:
        row = effects.sel(target=name)
        own = str(row["control_of"].item())
        colour = colour_of(scales.index(own))
        _draw_line(figure, levels, row[measure].values, str(name), colour, faint=True, scale=own)
    for i, name in enumerate(scales):
        row, colour = effects.sel(target=name), colour_of(i)
        label = f"{name} ({row['blocks'].item()})"
        _band(figure, levels, row[f"{measure}_low"].values, row[f"{measure}_high"].values, colour, scale=name)
        _draw_line(figure, levels, row[measure].values, label, colour, symbol=symbol_of(i), scale=name)
    _level_axis(figure, levels)
    if measure == "kl":
        figure.update_yaxes(type="log", exponentformat="power")
    return figure


def _metric_figure(result: SweepResult, metric: str) -> go.Figure:
    table = result.statistics[result.statistics["metric"] == metric]
    config = result.manifest["identity"]["config"]
    main = table[(table["dose"] == config["dose"]) & ~table["is_control"]]
    figure = blank_figure(height=320, x_title=_level_title(config["dose"]), y_title="change, %")
    scales = list(dict.fromkeys(main["scale"]))
    for i, scale in enumerate(scales):
        colour, rows = colour_of(i), main[main["scale"] == scale].sort_values("level")
        controls = table[table["is_control"] & (table["scale"] == scale)]
        levels = rows["level"].to_numpy()
        _band(figure, levels, rows["change_low"].to_numpy(), rows["change_high"].to_numpy(), colour, scale=scale)
        _draw_line(figure, levels, rows["change"].to_numpy(), scale, colour, symbol=symbol_of(i), scale=scale)
        if len(controls):
            figure.add_scatter(
                x=controls["level"],
                y=controls["change"],
                mode="markers",
                marker={"color": colour, "symbol": "line-ew-open", "size": 11, "opacity": 0.6},
                name=f"controls of {scale}",
                text=controls["condition"],
                hovertemplate="%{text}: %{y:+.2f} %<extra></extra>",
                showlegend=False,
                meta={"scale": scale, "control": True},
            )
    figure.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    _level_axis(figure, sorted(set(main["level"])))
    return figure


def _level_axis(figure: go.Figure, levels: Sequence[float] | np.ndarray) -> None:
    figure.update_xaxes(type="log", tickvals=levels, ticktext=[f"{level:g}" for level in levels])


def _band(figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, *, scale: str = "") -> None:
    known = np.isfinite(low) & np.isfinite(high)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    shade = f"rgba({red}, {green}, {blue}, 0.15)"
    meta = {"scale": scale, "control": False}
    if known.sum() == 1:  # a band of one level has no width to be seen
        bar = {"array": (high - low)[known] / 2, "color": colour}
        dot: dict[str, Any] = {"mode": "markers", "marker_size": 1, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=x[known], y=(high + low)[known] / 2, error_y=bar, meta=meta, **dot)
        return
    draw_band(figure, x[known], low[known], high[known], colour=shade, name="95 %", showlegend=False, meta=meta)


def _draw_line(
    figure: go.Figure,
    x: Any,
    y: Any,
    name: str,
    colour: str,
    *,
    faint: bool = False,
    symbol: str = "circle",
    scale: str = "",
) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines" if faint and len(x) > 1 else "lines+markers",
        name=name,
        line={"color": colour, "width": 1 if faint else 2.5, "dash": "dot" if faint else "solid"},
        marker={"symbol": symbol, "size": 8},
        opacity=0.55 if faint else 1,
        showlegend=not faint,
        hovertemplate="%{x:g}: %{y:.4g}<extra>" + name + "</extra>",
        meta={"scale": scale, "control": faint},
    )


def layer_figure(effects: xr.Dataset) -> go.Figure:
    """Return the KL of every single block disturbed on its own, one line a level."""
    figure = blank_figure(height=340, x_title="block", y_title="KL(clean ‖ disturbed), nats/token")
    rows = effects.isel(target=effects["group"].values == "layer")
    blocks = [int(str(span).partition("-")[0]) for span in rows["blocks"].values]
    levels = rows["level"].values
    for i, level in enumerate(levels):
        shade = f"rgba(0, 114, 178, {0.3 + 0.7 * (i + 1) / len(levels):.2f})"
        part = rows.isel(level=i)
        _band(figure, np.array(blocks), part["kl_low"].values, part["kl_high"].values, colour_of(0))
        _draw_line(figure, blocks, part["kl"].values, f"{level:g}", shade, symbol=symbol_of(i))
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_xaxes(dtick=1 if len(blocks) <= 16 else 4)
    return figure


def ledger_figure(result: SweepResult) -> go.Figure:
    """Return how far the stream has moved after every layer, at the compared level, one line a condition."""
    figure = blank_figure(height=340, x_title="after block", y_title="‖h′ − h‖ / ‖h‖")
    level, table = result.manifest["notes"]["compared_level"], result.conditions
    shown = table[
        (table["level"] == level) & ~table["is_control"] & table["name"].isin(result.ledger["condition"].values)
    ]
    scales = list(dict.fromkeys(shown["scale"]))
    doses = list(dict.fromkeys(shown["dose"]))
    dashes = ("solid", "dash", "dot", "dashdot")
    for row in shown.to_dict("records"):
        moved = result.ledger["deviation"].sel(condition=row["name"]).values
        colour, dash = colour_of(scales.index(row["scale"])), dashes[doses.index(row["dose"]) % len(dashes)]
        figure.add_scatter(
            x=np.arange(len(moved)),
            y=np.where(moved > 0, moved, np.nan),
            name=row["name"],
            line={"color": colour, "dash": dash},
            mode="lines",
            hovertemplate="after block %{x}: %{y:.3g}<extra>" + row["name"] + "</extra>",
        )
    figure.update_layout(height=340 + 22 * (len(shown) // 3 + 1))
    return figure


def render_sweep(result: SweepResult) -> str:
    """Return the report of a sweep as one self-contained HTML page."""
    identity, notes = result.manifest["identity"], result.manifest["notes"]
    model, level = Path(identity["model"]["name"]).name, notes["compared_level"]
    headline, sentences = _verdict(result, level)
    if doubt := notes.get("scales_doubt"):
        sentences.insert(0, doubt)
    headline, sentences = mark_quick(headline, sentences, result.manifest)
    config = identity["config"]
    unit = config.get("unit", config.get("scale"))  # as earlier versions called it
    intro = (
        f"{config['samples']:,} samples under {int(np.isfinite(result.conditions['sigma']).sum())} conditions; dose "
        f"{config['dose']} ({_level_title(config['dose'])}), kind {config['kind']}, activation unit "
        f"{unit}, seed {config['seed']}. Changes are paired: every condition continues the same prompts "
        "with the same random numbers."
    )
    sections = [
        _response_section(result),
        _browser_section(result, level),
        _table_section(result, level),
        _layer_section(result),
        _ledger_section(result, level),
        Section("All comparisons", "", tables=[_statistics_table(result)], folded=True),
    ]
    title, heading = f"Interventions on {model}", f"What noise in one scale does to {model}"
    page = Sheet(title, heading, headline, sentences, intro, sections, list_facts(result.manifest))
    return render_sheet(replace(page, script=static_text("sweep.js"), style=static_text("sweep.css")))


def _verdict(result: SweepResult, level: float) -> tuple[str, list[str]]:
    """Say which scale moves the next token most, and whether controls of the same size do as much."""
    effects = result.effects
    if level not in effects["level"].values:
        return "Nothing was measured at the compared level.", []
    here = effects.sel(level=level)
    scales = here.isel(target=here["group"].values == "scale")
    kl = scales["kl"].values
    if not np.isfinite(kl).any():
        return "No effect could be measured.", []
    order = [i for i in np.argsort(-np.nan_to_num(kl, nan=-1)) if np.isfinite(kl[i])]
    top, names = order[0], [str(n) for n in scales["target"].values]
    apart = all(scales["kl_low"].values[top] > scales["kl_high"].values[i] for i in order[1:])
    sentences, shared = [], False
    for i in order:
        own = here.isel(target=here["control_of"].values == names[i])
        known = own["kl"].values[np.isfinite(own["kl"].values)]
        text = f"{names[i].capitalize()} (blocks {scales['blocks'].values[i]}): KL {number(float(kl[i]))} nats/token"
        if len(known):
            above = int((known >= kl[i]).sum())
            shared |= i == top and above > 0
            text += f"; {above} of {len(known)} control stretches of the same length do as much or more"
        sentences.append(text + ".")
    relation = "most" if apart else "most, but its interval overlaps another's"
    end = ". Other stretches of as many blocks do as much." if shared else "."
    return f"At level {level:g}, disturbing the {names[top]} scale moves the next token {relation}{end}", sentences


def _level_title(dose: str) -> str:
    return f"level: {DOSE_UNITS[dose]}"


def _scales_of(effects: xr.Dataset) -> list[str]:
    return [str(name) for name in effects["target"].values[effects["group"].values == "scale"]]


def _table_section(result: SweepResult, level: float) -> Section:
    table = result.table_2
    rows = [[str(scale), *map(str, row)] for scale, row in zip(table.index, table.to_numpy(), strict=True)]
    missing = result.statistics[result.statistics["confirmatory"] & ~np.isfinite(result.statistics["change"])]
    reasons = {row["metric"]: f"{row['metric']}: {row['reason']}" for row in missing.to_dict("records")}
    note = (
        "A star marks p < 0.05 by a paired permutation test, corrected by Holm's method within this table. "
        "Self-BLEU: lower is more diverse."
    )
    effects = Table("Effects by scale, per cent", ["scale", *table.columns], rows, note)
    lead = f"Relative change against the undisturbed model at level {level:g}."
    return Section("The paper's table", lead, tables=[effects], notes=list(reasons.values()))


def _response_section(result: SweepResult) -> Section:
    """Every measure's figure, one shown at a time: measure, scale and controls are the reader's to choose."""
    from markupsafe import Markup

    plots = [
        Plot(_next_token_figure(result.effects, name), f"{title} by level, one curve a scale.", title)
        for name, (title, _) in NEXT_TOKEN.items()
    ]
    missing = []
    for metric in dict.fromkeys(result.statistics["metric"]):
        rows = result.statistics[result.statistics["metric"] == metric]
        if np.isfinite(rows["change"]).any():
            title = metric.replace("_", " ")
            plots.append(Plot(_metric_figure(result, metric), f"Change of {metric} by level.", title))
        else:
            missing.append(f"{metric}: {rows['reason'].iloc[0]}")
    names = [plot.title for plot in plots], _scales_of(result.effects)
    options = (Markup("").join(map(Markup("<option>{}</option>").format, given)) for given in names)
    form = Markup(RESPONSE_HTML).format(*options)
    return Section(
        "Dose and response",
        "Bands hold 95 % of bootstrap resamples: of the next token's measures over sentences, of the text's over "
        "samples, as relative changes paired by sample. Dotted lines and dashes are controls: as many contiguous "
        "blocks at other depths. Where they lie among the scales, the scale is not what matters.",
        plots,
        "KL and loss change in nats per predicted token (N).",
        notes=missing,
        controls=form,
        short="Response",
    )


def _layer_section(result: SweepResult) -> Section:
    return Section(
        "One block at a time",
        "KL when a single block is disturbed, one line a level.",
        [Plot(layer_figure(result.effects), "KL by disturbed block, one line a level.")],
    )


def _ledger_section(result: SweepResult, level: float) -> Section:
    rows = []
    for row in result.conditions.to_dict("records"):
        if row["level"] != level or row["is_control"]:
            continue
        ratio, moved = MISSING, (MISSING, MISSING)
        if "condition" in result.ledger and row["name"] in result.ledger["condition"].values:
            own = result.ledger.sel(condition=row["name"])
            exit_at = int(row["blocks"].rpartition("-")[2])
            touched = own["snr_db"].values[np.isfinite(own["snr_db"].values)]
            ratio = f"{np.min(touched):.1f} to {np.max(touched):.1f}" if len(touched) else MISSING
            moved = (number(float(own["deviation"].values[at])) for at in (exit_at, -1))
        how = row["reason"] or ("given" if row["dose"] in ("per_layer", "per_scale") else "solved")
        rows.append([row["name"], number(row["sigma"]), number(row["realised"]), ratio, *moved, how])
    columns = ("condition", "σ", "realised", "SNR of the noise, dB", "moved at the scale's end", "at the last block")
    note = "Realised: the measured target of a solved dose."
    table = Table("Ledger", (*columns, "how σ was found"), rows, note)
    lead = f"Equal σ is not an equal dose. At level {level:g}: how far the stream has moved after every block."
    plot = Plot(ledger_figure(result), "Relative deviation of the residual stream by layer.")
    return Section("What was really injected", lead, [plot], tables=[table])


def _browser_section(result: SweepResult, level: float) -> Section:
    """Texts of one sample under all scales, with dose and level to choose, and the KL of every token where stored."""
    from markupsafe import Markup

    table = result.conditions[np.isfinite(result.conditions["sigma"]) & (result.conditions["dose"] != "")]
    samples = result.samples[result.samples["sample"] < BROWSED]
    doses = []
    for dose in dict.fromkeys(table["dose"]):
        rows = table[table["dose"] == dose]
        levels = [
            {
                "name": f"{one:g}",
                "conditions": [
                    {"name": row["name"], "label": _condition_label(row), "control": bool(row["is_control"])}
                    for row in rows[rows["level"] == one].to_dict("records")
                ],
            }
            for one in sorted(set(rows["level"]))
        ]
        doses.append({"name": dose, "levels": levels})
    config = result.manifest["identity"]["config"]
    own = next((dose for dose in doses if dose["name"] == config["dose"]), doses[0])
    named = [one["name"] for one in own["levels"]]
    start = {"dose": own["name"], "level": named.index(f"{level:g}") if f"{level:g}" in named else 0}
    kl = None if result.tokens is None else result.tokens["kl"].values
    most = 1.0 if kl is None or not np.isfinite(kl).any() else float(np.nanquantile(kl, 0.99))
    data = {"doses": doses, "start": start, "most": max(most, 1e-6), "samples": _browsed(samples, result.tokens)}
    stored = Markup('<script type="application/json" id="texts">{}</script>').format(embed_json(data))
    told = " Below each, the undisturbed text's tokens, darker where the prediction of that token changes more (KL)."
    return Section(
        "The texts side by side",
        "What a level of noise does to the words: those that the undisturbed text does not have are marked."
        + (told if kl is not None else ""),
        html=Markup(BROWSER_HTML) + stored,
        short="Texts",
    )


def _condition_label(row: Any) -> str:
    return f"{row['scale']}, blocks {row['blocks']}" + (" (control)" if row["is_control"] else "")


def _browsed(samples: pd.DataFrame, tokens: xr.Dataset | None) -> list[dict[str, Any]]:
    """Return prompt, texts and tokens of every sample that the page shows."""
    found = []
    for i, rows in ((int(str(name)), rows) for name, rows in samples.groupby("sample")):
        texts = dict(zip(rows["condition"], rows["text"], strict=True))
        one: dict[str, Any] = {"prompt": rows["prompt"].iloc[0], "clean": texts.pop("clean"), "texts": texts}
        if tokens is not None and i < tokens.sizes["sample"]:
            names = tokens["token"].values[i].tolist()
            end = next((k for k, token in enumerate(names) if token == "" and not any(names[k:])), len(names))
            values = np.round(tokens["kl"].values[:, i, :end].astype(float), 4)
            one["tokens"] = names[:end]
            one["kl"] = {
                str(name): [None if np.isnan(value) else value for value in row.tolist()]
                for name, row in zip(tokens["condition"].values, values, strict=True)
            }
        found.append(one)
    return found


RESPONSE_HTML = """
<form id="response"><label>metric <select name="metric">{}</select></label>
<label>scale <select name="scale"><option value="">all</option>{}</select></label>
<label><input type="checkbox" name="controls" checked> controls</label></form>
"""
BROWSER_HTML = """
<form id="browser"><label>sample <input type="number" name="sample" min="1" value="1"></label>
<label>dose <select name="dose"></select></label>
<label>level <input type="range" name="level" min="0" step="1"><output></output></label>
<label><input type="checkbox" name="controls"> controls</label></form>
<table class="texts"><tbody id="lines"></tbody></table>
"""


def _statistics_table(result: SweepResult) -> Table:
    cells = {
        **named("metric", "condition", "n"),
        "clean": digits("reference"),
        "value": digits("value"),
        "change": _interval("change", " %"),
        "d_z": _interval("effect_size", ""),
        "t-test": p_value("t_p"),
        "permutation": p_value("permutation_p"),
        "corrected": p_value("p_corrected"),
        "by": words("correction"),
    }
    return Shown("All comparisons with the undisturbed model", result.statistics, cells).table(wide=True)


def _interval(name: str, unit: str) -> Cell:
    return lambda row: f"{number(row[name])}{unit} ({number(row[f'{name}_low'])} to {number(row[f'{name}_high'])})"


def shown_measures(result: SweepResult) -> Sequence[str]:
    """Return the names that `response_figure` takes."""
    return [*NEXT_TOKEN, *dict.fromkeys(result.statistics["metric"])]
