"""`mspgt theory`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from mspgt_tl.cli.console import (
    JsonFlag,
    NoParityFlag,
    RemoteCodeFlag,
    app,
    new_table,
    out,
    parse_settings,
    plain,
    progress_bars,
)

if TYPE_CHECKING:
    from mspgt_tl.pipeline.theory import Theory


@app.command()
def theory(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_RUN", help="A model as for `mspgt detect`, or a finished detection's run."),
    ],
    corpus: Annotated[
        str | None, typer.Option(help="Text file or hf:NAME[@SPLIT][#COLUMN]. Default: generated sentences.")
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(help="Three ranges of blocks, e.g. 0-3,4-8,9-11. Default: the detection's, else equal thirds."),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder; an interrupted run resumes there. Default: runs/theory-MODEL-TIME."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One setting, e.g. closure_texts=12. Repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    sentences: Annotated[int | None, typer.Option(min=1, help="Sentences of the corpus to use.")] = None,
    backend: Annotated[str, typer.Option(help="hooked (HookedTransformer) or bridge (TransformerBridge).")] = "hooked",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: by device.")] = None,
    no_parity: NoParityFlag = False,
    trust_remote_code: RemoteCodeFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Test what the theory says of a model: Fisher traces, closure, information, rate-distortion, H-VIB."""
    from mspgt_tl.config import override, read_settings
    from mspgt_tl.pipeline.theory import run_theory
    from mspgt_tl.store import default_folder

    settings = override(read_settings(config) if config else {}, parse_settings(set_ or []))
    with progress_bars() as bars:
        result = run_theory(
            model,
            corpus,
            scales=scales,
            seed=seed,
            out=out_folder or default_folder(f"theory-{Path(model).name}"),
            config=settings,
            backend=cast(Any, backend),
            device=device,
            dtype=dtype,
            parity=not no_parity,
            trust_remote_code=trust_remote_code,
            progress=bars,
            sentences=sentences,
        )
    print_theory(result, as_json=as_json)


def print_theory(result: Theory, *, as_json: bool) -> None:
    """Print a theory run's tables, its findings, and where its page lies."""
    from mspgt_tl.pipeline.theory import summarise

    summary = summarise(result)
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    title = f"Layers of {summary['model']} (nats per token; {summary['tokens']} tokens)"
    out.print(_table(title, LAYER_COLUMNS, summary["layers"]))
    out.print(_table(f"Scales ({summary['scales_from']})", SCALE_COLUMNS, summary["scales"]))
    for line in summary["findings"]:
        out.print(f"· {plain(line)}", highlight=False)
    for reason in summary["reasons"]:
        out.print(f"· {plain(reason)}", highlight=False, style="dim")
    out.print(f"Page: {summary['report']}", soft_wrap=True, highlight=False)


LAYER_COLUMNS = {
    "layer": "layer",
    "sensitivity": "s² tr F",
    "sensitivity_interval": "95 %",
    "closure_float32": "KL/pred.",
    "closure_float64": "float64",
    "exit_sigma": "to σ",
    "information": "I_V",
    "beta": "β",
}
SCALE_COLUMNS = {
    "scale": "scale",
    "blocks": "blocks",
    "sensitivity": "Σ s² tr F",
    "sensitivity_interval": "95 %",
    "closure_float32": "KL/pred.",
    "closure_float64": "float64",
    "exit_sigma": "to σ",
    "beta": "β",
    "hvib_rate": "H-VIB",
}


def _table(title: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> Table:
    table = new_table(title)
    for shown in columns.values():
        table.add_column(shown, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return "–".join(_cell(part) for part in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
