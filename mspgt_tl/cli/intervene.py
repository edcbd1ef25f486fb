"""`mspgt intervene`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mspgt_tl.cli.console import (
    JsonFlag,
    NoParityFlag,
    RemoteCodeFlag,
    app,
    new_table,
    out,
    parse_numbers,
    parse_settings,
    plain,
    progress_bars,
)

if TYPE_CHECKING:
    from mspgt_tl.pipeline.intervention import Intervention


@app.command()
def intervene(
    model: Annotated[
        str, typer.Argument(help="Folder of a detection, an embedded model, a Hugging Face folder, or a hub name.")
    ],
    corpus: Annotated[
        str | None, typer.Option(help="Text file or hf:NAME[@SPLIT][#COLUMN]; prompts are openings of its sentences.")
    ] = None,
    scales: Annotated[
        str | None, typer.Option(help="Blocks of each scale, such as 0-3,4-8,9-11. Default: the detection's.")
    ] = None,
    sigma: Annotated[str | None, typer.Option(help="Levels of the dose. Default: 0.01,0.02,0.05,0.1,0.2,0.5.")] = None,
    dose: Annotated[str | None, typer.Option(help="per_layer, per_scale, exit_norm or kl. Default: per_layer.")] = None,
    level: Annotated[
        float | None, typer.Option(help="The level for other doses, controls and the confirmatory tests. Default: 0.1.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="gaussian, covariance, resample or skip. Default: gaussian.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Prompts, each under all conditions. Default: 1000.")
    ] = None,
    new_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens after each prompt. Default: 80.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Text metrics, comma-separated. Default: all.")] = None,
    sbert: Annotated[
        str | None, typer.Option(help="Embedding model: hub name, folder, or package:NAME for one in a package.")
    ] = None,
    languagetool: Annotated[str | None, typer.Option(help="URL of a LanguageTool server.")] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder; a killed sweep resumes there. Default: runs/intervene-MODEL-TIME."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One setting, e.g. decode.temperature=0.8. Repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: by device.")] = None,
    no_parity: NoParityFlag = False,
    trust_remote_code: RemoteCodeFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Add noise to one scale at a time, and measure what changes in the next token and in generated text."""
    from mspgt_tl.config import override, read_settings
    from mspgt_tl.pipeline import intervention
    from mspgt_tl.store import default_folder

    settings = override(read_settings(config) if config else {}, parse_settings(set_ or []))
    folder = out_folder or default_folder(f"intervene-{Path(model).name}")
    with progress_bars() as bars:
        result = intervention.intervene(
            model,
            corpus,
            scales=scales,
            seed=seed,
            out=folder,
            config=settings,
            device=device,
            dtype=dtype,
            parity=not no_parity,
            trust_remote_code=trust_remote_code,
            progress=bars,
            sigmas=tuple(parse_numbers(sigma)) if sigma else None,
            dose=dose,
            level=level,
            kind=kind,
            samples=samples,
            new_tokens=new_tokens,
            metrics=metrics.split(",") if metrics else None,
            sbert=sbert,
            languagetool=languagetool,
        )
    print_intervention(result, as_json=as_json)


def print_intervention(result: Intervention, *, as_json: bool) -> None:
    """Print the paper's table, the next-token effects at the compared level, and where the report lies."""
    from mspgt_tl.pipeline.intervention import REPORT

    report = str((result.folder / REPORT).resolve()) if result.folder else None
    effects = result.effects.sel(level=result.manifest["notes"]["compared_level"])
    if as_json:
        columns = effects.reset_coords(drop=False).to_dataframe().reset_index()
        print(
            json.dumps(
                {
                    "level": result.manifest["notes"]["compared_level"],
                    "next_token": json.loads(columns.to_json(orient="records")),
                    "statistics": json.loads(result.statistics.to_json(orient="records")),
                    "doubt": result.doubt or None,
                    "report": report,
                },
                indent=1,
            )
        )
        return
    level = result.manifest["notes"]["compared_level"]
    table = new_table(f"Change at level {level:g}, per cent (* corrected p < 0.05)")
    table.add_column("scale", no_wrap=True)
    for title in result.table_2.columns:
        table.add_column(str(title).partition(" (")[0], justify="right", no_wrap=True)
    for scale, row in zip(result.table_2.index, result.table_2.to_numpy(), strict=True):
        table.add_row(str(scale), *map(str, row))
    out.print(table)
    shown = new_table(f"Next token at level {level:g}: KL in nats/token, with that of other stretches as long")
    for title in ("scale", "blocks", "KL", "95 %", "controls", "loss", "top-1"):
        shown.add_column(title, justify="left" if title == "scale" else "right", no_wrap=True)
    for name in effects["target"].values[effects["group"].values == "scale"]:
        row = effects.sel(target=name)
        others = [str(other).startswith(f"{name} control") for other in effects["target"].values]
        controls = effects["kl"].values[others]
        shown.add_row(
            str(name),
            str(row["blocks"].item()),
            f"{float(row['kl']):.2g}",
            f"{float(row['kl_low']):.2g} … {float(row['kl_high']):.2g}",
            f"{controls.min():.2g} … {controls.max():.2g}" if len(controls) else "–",
            f"{float(row['loss_change']):+.2g}",
            f"{float(row['agreement']):.0%}",
        )
    out.print(shown)
    if result.doubt:
        out.print(f"[bold yellow]·[/] {plain(result.doubt)}", highlight=False)
    missing = result.statistics[~result.statistics["change"].notna()].drop_duplicates("metric")
    for row in missing.to_dict("records"):
        out.print(f"· {plain(str(row['metric']))}: {plain(str(row['reason']))}", highlight=False)
    if report:
        out.print(f"Dashboard: {report}", soft_wrap=True, highlight=False)
