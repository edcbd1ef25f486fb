"""`mspgt detect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

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
    from mspgt_tl.pipeline.detection import Detection


@app.command()
def detect(
    model: Annotated[
        str, typer.Argument(help="An embedded model (see `mspgt models`), a Hugging Face folder, or a hub name.")
    ],
    corpus: Annotated[
        str | None, typer.Option(help="Text file or hf:NAME[@SPLIT][#COLUMN]. Default: generated sentences.")
    ] = None,
    treebank: Annotated[
        str | None, typer.Option(help="Folder with a train and a dev CoNLL-U file, or TRAIN,DEV. Default: generated.")
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder; an interrupted run resumes there. Default: runs/MODEL-TIME."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One setting, e.g. probe.epochs=5. Repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    sentences: Annotated[int | None, typer.Option(min=1, help="Sentences of the corpus to use.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Probe tasks, comma-separated: pos,deprel,ner,srl.")] = None,
    weights: Annotated[str | None, typer.Option(help="Fusion weights of cka,probe,attention_jsd, e.g. 1,1,2.")] = None,
    rule: Annotated[str | None, typer.Option(help="mspgt, or paper for the published rule alone.")] = None,
    null: Annotated[
        list[str] | None, typer.Option(help="Model null to run as well: random:SEED, labels, tokens. Repeatable.")
    ] = None,
    rivals: Annotated[
        bool, typer.Option("--rivals", help="Also say where other readings of depth put boundaries, on the same pass.")
    ] = False,
    max_length: Annotated[int | None, typer.Option(min=4, help="Tokens a sentence is cut to.")] = None,
    batch_positions: Annotated[int | None, typer.Option(min=1, help="Positions per forward pass.")] = None,
    backend: Annotated[str, typer.Option(help="hooked (HookedTransformer) or bridge (TransformerBridge).")] = "hooked",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: by device.")] = None,
    no_parity: NoParityFlag = False,
    trust_remote_code: RemoteCodeFlag = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Keep the good rest of a malformed treebank.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the boundaries of a model, and say whether they are there at all."""
    from mspgt_tl import pipeline
    from mspgt_tl.config import override, read_settings
    from mspgt_tl.store import default_folder

    settings = override(read_settings(config) if config else {}, parse_settings(set_ or []))
    folder = out_folder or default_folder(Path(model).name)
    with progress_bars() as bars:
        result = pipeline.detect(
            model,
            corpus,
            treebank,
            seed=seed,
            out=folder,
            config=settings,
            nulls=null or [],
            rivals=rivals,
            backend=cast(Any, backend),
            device=device,
            dtype=dtype,
            parity=not no_parity,
            trust_remote_code=trust_remote_code,
            skip_bad=skip_bad,
            progress=bars,
            sentences=sentences,
            tasks=tasks.split(",") if tasks else None,
            weights=parse_numbers(weights) if weights else None,
            rule=rule,
            max_length=max_length,
            batch_positions=batch_positions,
        )
    print_detection(result, as_json=as_json)


def print_detection(result: Detection, *, as_json: bool) -> None:
    """Print a detection's verdict, table and where its report lies."""
    summary = _summarise(result)
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    table = new_table(f"Boundaries of {summary['model']} ({summary['n_layers']} blocks, rule {summary['rule']})")
    # All of it fits 80 columns, so that no verdict is broken.
    for column in ("gap", "depth", "95 %", "p", "found", "audit", "verdict"):
        left = column in ("audit", "verdict")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for row in summary["boundaries"]:
        interval = row["interval"]
        table.add_row(
            str(row["gap"]),
            f"{row['gap'] / summary['n_layers']:.1%}",
            "–" if interval is None else f"{interval[0]:.0f} … {interval[1]:.0f}",
            "–" if row["p_value"] is None else f"{row['p_value']:.3f}",
            "–" if row["presence"] is None else f"{row['presence']:.0%}",
            row["grade"] or "–",
            row["verdict"],
        )
    if summary["boundaries"]:
        out.print(table)
    else:
        out.print(f"[bold]No boundary found[/] in {summary['model']} ({summary['n_layers']} blocks).")
    for what in summary["reading"]:
        out.print(f"· {plain(what)}", highlight=False)
    for reason in summary["reasons"]:
        out.print(f"· {plain(reason)}", highlight=False)
    for name, null in summary["nulls"].items():
        places = ", ".join(f"gap {gap} ({verdict})" for gap, verdict in null) or "no boundary"
        out.print(f"· null {name}: {places}", highlight=False)
    if summary["rivals"]:
        _print_rivals(summary["rivals"], summary["n_layers"])
    if summary["report"]:
        out.print(f"Dashboard: {summary['report']}", soft_wrap=True, highlight=False)


def _print_rivals(rows: list[dict[str, Any]], n_layers: int) -> None:
    """Print where rival readings put their boundaries, and how far these lie from the fused ones."""
    from mspgt_tl.boundaries import MIN_RELIABILITY
    from mspgt_tl.cli.compare import number, span

    table = new_table(f"Rival readings of {n_layers} blocks (existence is not tested)")
    for column in ("rival", "boundaries with 95 % interval", "rank correlation with the fused curve"):
        table.add_column(column, overflow="fold")
    near = new_table("Distance to the rival's nearest boundary; share of resamples within one gap (by chance)")
    near.add_column("rival", overflow="fold")
    for gap in (one["found"] for one in rows[0]["agreement"]):
        near.add_column(f"from gap {gap}")
        near.add_column("within one")
    for row in rows:
        pairs = zip(row["boundaries"], row["intervals"], strict=True)
        places = ", ".join(f"{gap} ({span(low, high, '.0f')})" for gap, (low, high) in pairs)
        flat = row["reliability"] is not None and row["reliability"] < MIN_RELIABILITY
        low, high = row["correlation_interval"]
        correlation = f"{number(row['correlation'], '+.2f')} ({span(low, high, '+.2f')})"
        table.add_row(row["rival"], places or ("flat" if flat else "none"), correlation)
        cells = [
            (
                f"{number(one['distance'], '+.0f')} ({span(one['interval'][0], one['interval'][1], '+.0f')})",
                f"{number(one['within_one'], '.0%')} ({number(one['chance'], '.0%')})",
            )
            for one in row["agreement"]
        ]
        near.add_row(row["rival"], *(cell for pair in cells for cell in pair))
    out.print(table)
    if rows[0]["agreement"]:
        out.print(near)


def _summarise(result: Detection) -> dict[str, Any]:
    import numpy as np

    from mspgt_tl.config import json_values
    from mspgt_tl.corpora.text import count_up
    from mspgt_tl.pipeline import REPORT
    from mspgt_tl.rivals import rival_rows

    def finite(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    found = result.found
    rows = [
        {
            "gap": gap,
            "verdict": found.verdicts[i],
            "p_value": finite(found.p_values[i]),
            "interval": None if np.isnan(found.intervals[i]).any() else found.intervals[i].tolist(),
            "presence": finite(found.presence[i]),
            "near_tie": found.near_ties[i],
            "grade": str(result.data["grade"].values[i]) if "grade" in result.data else None,
        }
        for i, gap in enumerate(found.boundaries)
    ]
    return {
        "model": result.manifest["identity"]["model"]["name"],
        "n_layers": int(result.data.attrs["n_layers"]),
        "rule": found.rule,
        "boundaries": rows,
        "reliability": dict(zip(result.curves["signal"].values.tolist(), map(finite, found.reliability), strict=True)),
        "reasons": list(found.reasons),
        "reading": [
            f"{part}: {count_up(result.manifest['notes'][f'reading_{part}'])}"
            for part in ("corpus", "treebank")
            if f"reading_{part}" in result.manifest["notes"]
        ]
        + [
            f"the bootstrap resamples {result.manifest['notes'][name]}"
            for name in ("resampled", "trees_resampled")
            if name in result.manifest["notes"]
        ],
        "nulls": {
            name: list(zip(data["boundary"].values.tolist(), data["verdict"].values.tolist(), strict=True))
            for name, data in result.nulls.items()
        },
        "rivals": json_values(rival_rows(result.rivals)) if result.rivals is not None else [],
        "run": str(result.folder) if result.folder else None,
        "report": str((result.folder / REPORT).resolve()) if result.folder else None,
    }
