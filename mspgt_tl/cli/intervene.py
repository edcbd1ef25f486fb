"""`mspgt intervene`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mspgt_tl.cli.console import app, out, parse_numbers
from mspgt_tl.cli.format import MISSING, make_table, number, span
from mspgt_tl.cli.options import (
    CorpusOption,
    ForceFlag,
    JsonFlag,
    LoadingOptions,
    ModelOrRunArgument,
    RunOptions,
    ScalesOption,
    grouped,
    option,
)
from mspgt_tl.cli.results import Summary, prints, show
from mspgt_tl.config import InterveneConfig

if TYPE_CHECKING:
    from mspgt_tl.pipeline.intervention import Intervention

NOISE, MEASURED = "The noise", "What is measured"
USUAL = InterveneConfig()


@app.command(
    epilog="""Examples:

    mspgt intervene runs/mine

    mspgt intervene llama2-mini --scales 0-3,4-8,9-11 --levels 0.05,0.1,0.2 --samples 100

    mspgt intervene runs/mine --dose kl --levels 0.5,1,2 --metrics perplexity,type_token_ratio
    """
)
@grouped
def intervene(
    model: ModelOrRunArgument,
    *,
    corpus: CorpusOption = None,
    scales: ScalesOption = None,
    run: RunOptions,
    dose: Annotated[
        str | None, option(NOISE, "How a level becomes σ: per_layer, per_scale, exit_norm or kl.", default=USUAL.dose)
    ] = None,
    levels: Annotated[
        str | None,
        option(
            NOISE,
            "Levels of the dose: σ itself, or what exit_norm or kl is to reach.",
            default=",".join(map(str, USUAL.levels)),
            metavar="NUMBERS",
        ),
    ] = None,
    level: Annotated[
        float | None,
        option(
            NOISE,
            "The one of them for other doses, controls and the confirmatory tests.",
            default="0.1, or the middle one",
        ),
    ] = None,
    kind: Annotated[str | None, option(NOISE, "gaussian, covariance, resample or skip.", default=USUAL.kind)] = None,
    samples: Annotated[
        int | None, option(MEASURED, "Prompts, each under all conditions.", default=str(USUAL.samples), min=1)
    ] = None,
    new_tokens: Annotated[
        int | None, option(MEASURED, "Tokens after each prompt.", default=str(USUAL.decode.new_tokens), min=1)
    ] = None,
    metrics: Annotated[
        str | None, option(MEASURED, "Text metrics, separated by commas.", default="all", metavar="NAMES")
    ] = None,
    sbert: Annotated[
        str | None,
        option(
            MEASURED,
            "Embedding model: hub name, folder, or package:NAME for one in a package.",
            default=USUAL.metrics.sbert,
            metavar="MODEL",
        ),
    ] = None,
    languagetool: Annotated[
        str | None,
        option(MEASURED, "A LanguageTool server.", default="a local one, where it is installed", metavar="URL"),
    ] = None,
    loading: LoadingOptions,
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Add noise to one scale at a time, and measure what changes in the next token and in generated text."""
    from mspgt_tl.pipeline import intervention
    from mspgt_tl.store import default_folder

    with run.started(default_folder(f"intervene-{Path(model).name}"), force=force) as common:
        result = intervention.intervene(
            model,
            corpus,
            scales=scales,
            **common,
            **loading.arguments(),
            levels=tuple(parse_numbers(levels)) if levels else None,
            dose=dose,
            level=level,
            kind=kind,
            samples=samples,
            new_tokens=new_tokens,
            metrics=metrics.split(",") if metrics else None,
            sbert=sbert,
            languagetool=languagetool,
        )
    show(result, as_json=as_json)


def summarise(result: Intervention) -> Summary:
    """Return a sweep at its compared level as plain values."""
    level = result.manifest["notes"]["compared_level"]
    effects = result.effects.sel(level=level).reset_coords(drop=False).to_dataframe().reset_index()
    missing = result.statistics[~result.statistics["change"].notna()].drop_duplicates("metric")
    return {
        "model": result.name,
        "level": level,
        "table_2": result.table_2.to_dict("index"),
        "next_token": json.loads(effects.to_json(orient="records")),
        "statistics": json.loads(result.statistics.to_json(orient="records")),
        "reasons": [f"{row['metric']}: {row['reason']}" for row in missing.to_dict("records")],
    }


@prints("intervene", summarise)
def print_intervention(summary: Summary) -> None:
    """Print the paper's table, and the next-token effects at the compared level."""
    level, table_2 = summary["level"], summary["table_2"]
    titles = [str(title).partition(" (")[0] for title in next(iter(table_2.values()), {})]
    rows = [(scale, *changes.values()) for scale, changes in table_2.items()]
    title = f"Change at level {level:g}, per cent (* corrected p < 0.05)"
    out.print(make_table(title, ("scale", *titles), rows, left=("scale",)))
    columns = ("scale", "blocks", "KL", "95 %", "controls", "loss", "top-1")
    title = f"Next token at level {level:g}: KL in nats/token, with that of other stretches as long"
    out.print(make_table(title, columns, _effect_rows(summary["next_token"]), left=("scale",)))


def _effect_rows(effects: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for row in effects:
        if row["group"] != "scale":
            continue
        others = [o["kl"] for o in effects if o["control_of"] == row["target"]]
        known = [kl for kl in others if kl is not None]
        rows.append(
            (
                row["target"],
                row["blocks"],
                number(row["kl"], ".2g"),
                span(row["kl_low"], row["kl_high"], ".2g"),
                span(min(known), max(known), ".2g") if known else MISSING,
                number(row["loss_change"], "+.2g"),
                number(row["agreement"], ".0%"),
            )
        )
    return rows
