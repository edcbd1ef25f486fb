"""Draws the pictures of the README and the site from committed runs and tables, and writes their numbers.

Each picture is a Plotly figure, as pages of runs have them, turned into SVG by Chromium, for white and for dark pages.
What it shows is written down beside it as a hash (`drawn.json`). Numbers stand in the pages between two comments,
`<!-- made by make figures: NAME -->` and `<!-- end -->`. Tests make figures and numbers again and compare.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go

HERE = Path(__file__).parent
RUNS, DATA, PICTURES = HERE / "runs", HERE / "data", HERE / "figures"
SCALES = (("Local", "#117733"), ("Intermediate", "#332288"), ("Global", "#AA4499"))
WIDTH = 860


def _blank(height: int, **ranges: Any) -> go.Figure:
    """Return a figure without axes, for drawings."""
    from mspgt_tl.dashboard.drawing import blank_figure

    figure = blank_figure(height=height, x_title="", y_title="", top=8)
    figure.update_xaxes(visible=False, range=ranges["x"])
    figure.update_yaxes(visible=False, range=ranges["y"])
    return figure.update_layout(margin={"l": 8, "r": 8, "t": 8, "b": 8}, showlegend=False)


def _box(figure: go.Figure, x0: float, x1: float, text: str, colour: str) -> None:
    figure.add_shape(type="rect", x0=x0, x1=x1, y0=0, y1=1, line={"color": colour, "width": 2})
    figure.add_annotation(x=(x0 + x1) / 2, y=0.5, text=text, showarrow=False, font={"color": colour, "size": 14})


def gap() -> go.Figure:
    """Blocks, and the gaps between them."""
    from mspgt_tl.dashboard.drawing import BOUNDARY, GREY, INK

    n = 6
    figure = _blank(190, x=[-1.1, n + 0.6], y=[-0.75, 1.75])
    for i in range(n):
        _box(figure, i + 0.14, i + 0.86, f"block {i}", INK)
    for b in range(n + 1):
        figure.add_annotation(
            ax=b - 0.14, x=b + 0.14, ay=0.5, y=0.5, axref="x", ayref="y", showarrow=True, arrowhead=2, arrowcolor=GREY
        )
    for b in range(1, n):
        colour, y, label = (BOUNDARY, 1.45, f"<b>gap {b}: a boundary</b>") if b == 3 else (GREY, -0.4, f"gap {b}")
        figure.add_shape(type="line", x0=b, x1=b, y0=-0.15, y1=1.15, line={"color": colour, "width": 2, "dash": "dot"})
        figure.add_annotation(x=b, y=y, text=label, showarrow=False, font={"color": colour})
    figure.add_annotation(x=-0.6, y=0.5, text="embedded<br>text", showarrow=False)
    figure.add_annotation(x=n + 0.36, y=0.5, text="next<br>token", showarrow=False)
    return figure


def scale() -> go.Figure:
    """Two boundaries cut twelve blocks into three scales."""
    from mspgt_tl.dashboard.drawing import BOUNDARY

    cuts = (0, 4, 9, 12)
    figure = _blank(190, x=[-0.2, 12.2], y=[-0.85, 1.75])
    for (name, colour), start, end in zip(SCALES, cuts[:-1], cuts[1:], strict=True):
        for i in range(start, end):
            _box(figure, i + 0.08, i + 0.92, str(i), colour)
        figure.add_annotation(
            x=(start + end) / 2,
            y=-0.45,
            text=f"<b>{name}</b>, blocks {start} to {end - 1}",
            showarrow=False,
            font={"color": colour, "size": 14},
        )
    for b in cuts[1:-1]:
        figure.add_shape(type="line", x0=b, x1=b, y0=-0.2, y1=1.2, line={"color": BOUNDARY, "width": 2, "dash": "dot"})
        figure.add_annotation(
            x=b,
            y=1.45,
            text=f"boundary at gap {b}, relative depth {b}/12 = {b / 12:.0%}",
            showarrow=False,
            font={"color": BOUNDARY},
        )
    return figure


def evidence() -> go.Figure:
    """The evidence curve of a planted model, in which two boundaries were built."""
    return _evidence_of("planted")


def smollm2() -> go.Figure:
    """The evidence curve of SmolLM2-135M, with the onsets and ends of massive activations marked."""
    from mspgt_tl.dashboard.drawing import GREY

    figure = _evidence_of("smollm2-135m")
    onset = _run("smollm2-135m").data["onset"]
    for b in onset["gap"].values[onset.values != 0]:
        figure.add_shape(
            type="rect",
            x0=b - 0.5,
            x1=b + 0.5,
            y0=0,
            y1=1.04,
            fillcolor=GREY,
            opacity=0.13,
            line_width=0,
            layer="below",
        )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": "square", "size": 13, "color": GREY, "opacity": 0.3},
        name="a massive activation or a sink starts or ends",
    )
    return figure


def _run(name: str) -> Any:
    import mspgt_tl

    return mspgt_tl.load_run(RUNS / name)


def _evidence_of(name: str) -> go.Figure:
    from mspgt_tl.dashboard.curves import evidence_figure

    return evidence_figure(_run(name).data)


def existence() -> go.Figure:
    """Three signals of pure noise, in which the published rule finds two boundaries and ours none."""
    from mspgt_tl import find_boundaries
    from mspgt_tl.dashboard.drawing import BOUNDARY, GREY, INK, SIGNAL_COLOURS, blank_figure

    paper, ours = find_boundaries(noise(0), rule="paper"), find_boundaries(noise(0), seed=0)
    figure = blank_figure(height=360, x_title="gap", y_title="evidence, 0 to 1", top=62)
    gaps = np.arange(1, 24)
    for i, one in enumerate(paper.normalised):
        figure.add_scatter(x=gaps, y=one, line={"color": SIGNAL_COLOURS[i], "width": 1.2}, name=f"noise {i + 1}")
    figure.add_scatter(x=gaps, y=paper.fused, line={"color": INK, "width": 3.5}, name="fused evidence")
    for b in paper.boundaries:
        figure.add_vline(x=b, line={"color": BOUNDARY, "dash": "dot", "width": 2})
        found = [p for g, p in zip(ours.boundaries, ours.p_values, strict=True) if g == b]
        told = f"p = {found[0]:.2f} here" if found else "no peak here"
        figure.add_annotation(
            x=b,
            y=1.02,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            font={"color": BOUNDARY, "size": 12},
            text=f"gap {b}<br>published rule: a boundary<br>{told}",
        )
    figure.update_xaxes(range=[0.4, 23.6], dtick=1, linecolor=GREY)
    return figure


def noise(i: int) -> np.ndarray:
    """Return the i-th draw of three signals of noise over 23 gaps."""
    return np.random.default_rng(i).standard_normal((3, 23))


def artefact() -> go.Figure:
    """1 − CKA of SmolLM2-135M on all tokens and on data tokens, and how long the first token's vector is."""
    from plotly.subplots import make_subplots

    from mspgt_tl.dashboard.drawing import GREY, INK, SIGNAL_COLOURS, blank_figure

    rows = np.genfromtxt(DATA / "massive.csv", delimiter=",", names=True)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    figure.update_layout(blank_figure(height=470, x_title="", y_title="", top=16).layout)
    for name, title, colour in (
        ("all_tokens_raw", "all tokens, raw rows (the published form)", SIGNAL_COLOURS[1]),
        ("data_tokens", "first tokens and sinks left out, rows as the next block reads them", SIGNAL_COLOURS[0]),
    ):
        figure.add_scatter(x=rows["gap"], y=rows[name], line={"color": colour, "width": 2.5}, name=title, row=1, col=1)
    figure.add_scatter(
        x=rows["gap"], y=rows["first_norm"], line={"color": INK, "width": 2.5}, showlegend=False, row=2, col=1
    )
    figure.update_xaxes(title="", linecolor=GREY, dtick=2, range=[0.4, 29.6])
    figure.update_xaxes(title={"text": "gap b (between blocks b−1 and b)"}, row=2, col=1)
    figure.update_yaxes(title={"text": "1 − CKA"}, row=1, col=1)
    figure.update_yaxes(title={"text": "first token's length<br>over the median"}, type="log", row=2, col=1)
    return figure


def _columns() -> Any:
    """Both rules on real weights and what was done to them, of every model that was measured."""
    import pandas as pd

    tables = []
    for path in sorted(DATA.glob("columns-*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        tables.append(table.assign(model=path.stem.removeprefix("columns-"), kind=table["column"]))
    whole = pd.concat(tables, ignore_index=True)
    return whole.assign(boundaries=[tuple(map(int, gaps.split())) for gaps in whole["boundaries"]])


def columns() -> go.Figure:
    """Boundaries by model, by what was done to it, and by rule."""
    from mspgt_tl.dashboard.study_questions import rules_figure

    return rules_figure(_columns())


FIGURES: dict[str, Callable[[], go.Figure]] = {
    "gap": gap,
    "scale": scale,
    "evidence": evidence,
    "existence": existence,
    "artefact": artefact,
    "smollm2-135m": smollm2,
    "columns": columns,
}


def boundary_table(name: str) -> str:
    """Return the verdict of a committed run and its candidates as Markdown."""
    from mspgt_tl.dashboard.words import interval_text, p_text, verdict_words

    run = _run(name)
    lines = [
        f"**{verdict_words(run.data)[0]}**",
        "",
        "| gap | depth | 95 % interval | p | grade | verdict |",
        "|" + " --- |" * 6,
    ]
    for row in run.summary().itertuples():
        cells = (
            f"{row.gap}",
            f"{100 * row.depth:.1f} %",
            interval_text(np.array([row.low, row.high])),
            p_text(row.p).removeprefix("p = "),
            row.grade or "–",
            row.verdict,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def about_smollm2() -> str:
    """What the picture of the README shows, and what was found."""
    asked = _run("smollm2-135m").manifest["identity"]
    layers, sentences = asked["model"]["n_layers"], asked["corpus"]["sentences"]
    trees, tasks = asked["treebank"]["train"], " and ".join(asked["config"]["signals"]["tasks"])
    return (
        f"SmolLM2-135M, a pretrained Llama of {layers} blocks, on {sentences:,} sentences of WikiText-103; probes\n"
        f"({tasks}) on {trees:,} trees of the English Web Treebank. Thick: the evidence with its 95 % band. Thin: the\n"
        "three signals. Grey gaps: a massive activation or an attention sink starts or ends there.\n\n"
        + boundary_table("smollm2-135m")
    )


def about_noise() -> str:
    """What the rules say of the noise that is drawn, and of many such draws."""
    from mspgt_tl import find_boundaries

    paper, ours = find_boundaries(noise(0), rule="paper"), find_boundaries(noise(0), seed=0)
    draws, fooled, alarms = 200, 0, 0
    for i in range(draws):
        fooled += len(find_boundaries(noise(i), rule="paper").boundaries) == 2
        alarms += bool((find_boundaries(noise(i), seed=i, n_null=300).p_values < 0.05).any())
    places = " and ".join(str(b) for b in paper.boundaries)
    told = " and ".join(f"{p:.2f}" for p in ours.p_values)
    return (
        f"The published rule names gaps {places}. The p-values of the test here are {told}. Of {draws} such draws the\n"
        f"published rule names two boundaries in {fooled / draws:.0%}, and any p is below 0.05 in {alarms / draws:.1%}."
    )


def about_massive() -> str:
    """The two readings of 1 − CKA where the first token takes off."""
    rows = np.genfromtxt(DATA / "massive.csv", delimiter=",", names=True)
    first, raw, data = rows["first_norm"], rows["all_tokens_raw"], rows["data_tokens"]
    at = int(np.argmax(np.diff(np.log(first)))) + 1
    return (
        f"SmolLM2-135M, 220 sentences of WikiText-103. At gap {rows['gap'][at]:.0f} the first token's vector grows\n"
        f"from {first[at - 1]:.1f} to {first[at]:.0f} times the median length of the others. On all tokens 1 − CKA is\n"
        f"{raw[at]:.2f} there, and under 0.001 at {(raw < 0.001).sum()} of the {len(raw)} gaps: nothing but that\n"
        f"token is seen. With first tokens and sinks left out it is {data[at]:.3f} there, "
        f"{data[at] / np.median(data):.1f} times its median."
    )


def about_columns() -> str:
    """One row a model and what was done to it: both rules, and how much of the published rule's is an onset."""
    lines = ["| model | weights or words | published rule, all tokens | at an onset or end | random gaps | "]
    lines[0] += "published rule, our curves | this package |"
    lines.append("|" + " --- |" * 7)
    for (model, kind), rows in _columns().groupby(["model", "kind"], sort=False):
        told = {row["reading"]: row for row in rows.to_dict("records")}
        every, ours, verdict = (
            told[name] for name in ("published rule, all tokens", "published rule, our curves", "this package")
        )
        places = [" and ".join(map(str, one["boundaries"])) or "none" for one in (every, ours, verdict)]
        near = f"{every['near']} of {len(every['boundaries'])}" if every["boundaries"] else "–"
        cells = (model, kind, places[0], near, f"{float(every['chance']):.0%}", places[1], places[2])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _alike()])


def _alike() -> str:
    """How far curves on data tokens correlate between trained weights and what was done to them or their text."""
    own = _columns()
    own, told = own[own["reading"] == "this package"], []
    for model, rows in own.groupby("model", sort=False):
        curves = {
            (row["kind"], name): np.array(row[name].split(), dtype=float)
            for row in rows.to_dict("records")
            for name in ("cka", "attention")
        }
        for kind in ("words shuffled", "random weights 0"):
            both = [np.corrcoef(curves["trained", n], curves[kind, n])[0, 1] for n in ("cka", "attention")]
            told.append(f"{model}, {kind}: {both[0]:+.2f} and {both[1]:+.2f}")
    return _wrapped(f"Correlation of 1 − CKA and of attention drift with those of trained weights: {'; '.join(told)}.")


def about_spikes() -> str:
    """One row a model and strength: the size of the planted change, and how often each rule finds it."""
    import pandas as pd

    lines = [
        "| model | strength | 1 − CKA there | elsewhere inside, at most | attention drift there "
        "| elsewhere inside, at most | supported there | supported elsewhere | published rule: there | any claim |"
    ]
    lines.append("|" + " --- |" * 10)
    for model in ("smollm2-135m", "gemma3-270m"):
        for strength, rows in pd.read_csv(DATA / f"spikes-{model}.csv").groupby("strength"):
            n, sizes = (
                len(rows),
                rows[["cka size", "cka inside", "attention_jsd size", "attention_jsd inside"]].median(),
            )
            planted = float(str(strength)) > 0
            cells = (
                model,
                f"{strength:g}",
                *(f"{size:.2f}" for size in sizes),
                f"{rows['found'].sum()} of {n}" if planted else "–",
                f"{(rows['false'] > 0).sum()} of {n}",
                f"{rows['paper_found'].sum()} of {n}" if planted else "–",
                f"{(rows['paper'] > 0).sum()} of {n}",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def about_detection(name: str) -> str:
    """What was read, where massive activations start and end, every curve, the verdict and the rivals of a run."""
    from mspgt_tl.rivals import rival_rows

    run = _run(name)
    data, n_layers = run.data, int(run.data.attrs["n_layers"])
    count = dict(zip(data["kind_of_token"].values.tolist(), data["token_count"].values.astype(int), strict=True))
    moved = data["gap"].values[data["onset"].values != 0]
    told = [
        f"{count['sentences']:,} sentences, {count['tokens']:,} tokens, of which {count['first_tokens']:,} are first "
        f"tokens and {count['sinks']:,} further sinks, {count['data']:,} data. Massive activations or sinks start or "
        f"end at gaps {', '.join(map(str, moved)) or 'none'}.",
        "",
    ]
    blocks = sorted({0, n_layers - 1, n_layers // 2, *(int(b) for gap in moved for b in (gap - 1, gap))})
    told += ["| block | " + " | ".join(map(str, blocks)) + " |", "|" + " --- |" * (len(blocks) + 1)]
    for title, variable in (
        ("first token's norm over the median", "first_norm"),
        ("attention mass on sinks", "sink_mass"),
        ("largest magnitude over the median", "massive_size"),
        ("entropy of the spectrum, nats", "spectrum_entropy"),
    ):
        values = data[variable].values[blocks]
        cells = [f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}" for x in values]
        told.append(f"| {title} | " + " | ".join(cells) + " |")
    curves = {str(s): data["curve"].sel(signal=s).values for s in data["signal"].values}
    curves |= {f"macro-F1, {t}, by block": data["f1"].sel(kind="mlp", task=t).values for t in data["task"].values}
    for title, values in curves.items():
        if np.isfinite(values).all():
            told += ["", _wrapped(f"`{title}`: " + " ".join(f"{x:.3f}".lstrip("0") for x in values) + ".")]
    told += ["", boundary_table(name)]
    if run.rivals is not None:
        told += [
            "",
            "| rival | boundaries (95 % interval) | rank correlation with the fused curve |",
            "| --- | --- | --- |",
        ]
        for row in rival_rows(run.rivals):
            places = [
                f"{gap}" if low == high else f"{gap} ({low:.0f} … {high:.0f})"
                for gap, (low, high) in zip(row["boundaries"], row["intervals"], strict=True)
            ]
            name_of = str(row["rival"]).replace("_", " ")
            told.append(f"| {name_of} | {', '.join(places) or 'none'} | {row['correlation']:+.2f} |")
    return "\n".join(told)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False)


def about_doses(name: str) -> str:
    """KL by scale and dose of a committed sweep, its ratios, and the paper's Table 2 with every level and metric."""
    import pandas as pd

    from mspgt_tl.dashboard.words import DOSE_WORDS
    from mspgt_tl.pipeline.intervention import load_intervention
    from mspgt_tl.study.questions import dose_rows, ratio_rows

    sweep = load_intervention(RUNS / name)
    table = pd.DataFrame(dose_rows(sweep.name, sweep))
    told = ["| held equal | scale | σ | KL, nats | controls of as many blocks |", "| --- | --- | --- | --- | --- |"]
    for row in table.to_dict("records"):
        beside = f"{row['controls_low']:.3g} … {row['controls_high']:.3g}" if np.isfinite(row["controls_low"]) else "–"
        told.append(
            f"| {DOSE_WORDS[row['dose']]} {row['level']:g} | {row['scale']}, {row['blocks']} | {row['sigma']:.3g} | "
            f"{row['kl']:.3g} [{row['low']:.3g}, {row['high']:.3g}] | {beside} |"
        )
    ratios = [f"{DOSE_WORDS[row['dose']]} {row['ratio']:.3g}" for row in ratio_rows(table)]
    told += ["", _wrapped(f"Largest over smallest KL: {', '.join(ratios)}."), ""]
    own = sweep.statistics[(sweep.statistics["dose"] == "per_layer") & ~sweep.statistics["is_control"].astype(bool)]
    own = own[np.isfinite(own["change"])]
    scales = list(dict.fromkeys(own["scale"]))
    told += ["| change in % | σ | " + " | ".join(scales) + " |", "|" + " --- |" * (len(scales) + 2)]
    for (metric, level), rows in own.groupby(["metric", "level"], sort=False):
        cells = {row["scale"]: _change(row) for row in rows.to_dict("records")}
        told.append(f"| {metric} | {level:g} | " + " | ".join(cells.get(scale, "–") for scale in scales) + " |")
    return "\n".join(told)


def _change(row: dict[Any, Any]) -> str:
    interval = f"[{row['change_low']:.0f}, {row['change_high']:.0f}]" if np.isfinite(row["change_low"]) else "[–]"
    return f"{row['change']:+.0f} {interval}, p = {row['p_corrected']:.2g}"


def about_theory() -> str:
    """Sensitivity, closure, information and slope by thirds of the blocks of both committed theory runs."""
    from mspgt_tl.pipeline.theory import load_theory, summarise

    columns = ("model", "blocks", "sensitivity", "closure at σ = .001", "information, nats", "β")
    told = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for name in ("smollm2", "gemma3"):
        theory = load_theory(RUNS / f"{name}-theory")
        rows = summarise(theory)["layers"]
        for part in np.array_split(np.arange(len(rows)), 3):
            of = [rows[i] for i in part]
            ratios = [row["closure_float32"] for row in of if row["closure_float32"] is not None]
            information = [row["information"] for row in of]
            told.append(
                f"| {Path(theory.manifest['identity']['model']['name']).name} | {part[0]}-{part[-1]} | "
                f"{sum(row['sensitivity'] for row in of):,.0f} | {min(ratios):.2f} … {max(ratios):.2f} | "
                f"{min(information):.2f} … {max(information):.2f} | "
                f"{min(row['beta'] for row in of):.2g} … {max(row['beta'] for row in of):.2g} |"
            )
    return "\n".join(told)


TEXTS: dict[str, Callable[[], str]] = {
    "smollm2": about_smollm2,
    "planted": lambda: boundary_table("planted"),
    "existence": about_noise,
    "artefact": about_massive,
    "columns": about_columns,
    "spikes": about_spikes,
    "smollm2-135m": lambda: about_detection("smollm2-135m"),
    "gemma3-270m": lambda: about_detection("gemma3-270m"),
    "smollm2-sweep": lambda: about_doses("smollm2-sweep"),
    "theory": about_theory,
    "gemma3-sweep": lambda: about_doses("gemma3-sweep"),
}
PAGES = (HERE.parent / "README.md", HERE / "concepts.md", HERE / "real-models.md")


def fill(page: str) -> str:
    """Return a page with its numbers made anew."""

    def make(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{TEXTS[found[2]]()}\n\n{found[3]}"

    return re.sub(r"(<!-- made by make figures: (\S+) -->)\n.*?(<!-- end -->)", make, page, flags=re.DOTALL)


def digest(figure: go.Figure) -> str:
    """Return a hash of what a figure shows: its curves and texts to six digits, not how Plotly writes them down."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in sorted(value.items()) if key != "template"}
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return f"{value:.6g}" if isinstance(value, float) else value

    text = json.dumps(plain(figure.to_dict()), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def swaps() -> dict[str, str]:
    """Return which colours take each other's place on a dark page, as the pages of runs have it."""
    from mspgt_tl.dashboard.sheet import static_text

    found = re.search(r"const SWAPS = (\{.*?\});", static_text("figures.js"), re.DOTALL)
    assert found, "figures.js no longer says which colours a dark page has"
    return json.loads(found[1])


def draw(figures: dict[str, go.Figure]) -> None:
    """Write each figure as NAME.svg and NAME-dark.svg."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    from mspgt_tl.dashboard.sheet import plotly_source

    driver_path = shutil.which("chromedriver")
    if not (driver_path and shutil.which("chromium")):
        sys.exit("Pictures are drawn by Chromium: install chromium and chromedriver.")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f"<meta charset=utf-8><div id=f></div><script>{plotly_source()}</script>", encoding="utf-8")
        browser = webdriver.Chrome(options=options, service=Service(driver_path))
        try:
            browser.set_script_timeout(60)
            browser.get(page.as_uri())
            for name, figure in figures.items():
                figure.update_layout(template={"layout": {}}, overwrite=True)
                for ending, is_dark in (("", False), ("-dark", True)):
                    (PICTURES / f"{name}{ending}.svg").write_text(
                        _svg(browser, figure, is_dark) + "\n", encoding="utf-8"
                    )
        finally:
            browser.quit()


def _svg(browser: Any, figure: go.Figure, is_dark: bool) -> str:
    from urllib.parse import unquote

    text = str(figure.to_json())
    for light, dark in swaps().items() if is_dark else ():
        text = text.replace(light, dark)
    made = json.loads(text)
    paper, ink, line = ("#1b1b19", "#ecebe6", "#45453f") if is_dark else ("#ffffff", "#1a1a1a", "#e1e1dd")
    layout = made["layout"]
    layout |= {"paper_bgcolor": paper, "plot_bgcolor": paper, "font": {**layout["font"], "color": ink}}
    for axis in (name for name in layout if re.match(r"[xy]axis", name)):
        layout[axis] = {"gridcolor": line, "linecolor": line, "automargin": True, **layout[axis]}
    address = browser.execute_async_script(
        "const [figure, width, done] = arguments;"
        "Plotly.purge('f'); Plotly.newPlot('f', figure.data, {...figure.layout, width}).then(f =>"
        " Plotly.toImage(f, {format: 'svg', width, height: figure.layout.height})).then(done)",
        made,
        WIDTH,
    )
    # Clips and the like are named after a figure at random; with a fixed name, the same figure is the same file.
    svg = unquote(address.partition(",")[2])
    for name in set(re.findall(r'id="defs-([0-9a-f]{6})"', svg)):
        svg = svg.replace(name, "figure")
    return re.sub(r"\b(trace scatter) trace[0-9a-f]{6}\b", r"\1", svg)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    figures = {name: make() for name, make in FIGURES.items()}
    drawn = {name: digest(figure) for name, figure in figures.items()}
    draw(figures)
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
    (PICTURES / "drawn.json").write_text(json.dumps(drawn, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
