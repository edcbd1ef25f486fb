"""The `mspgt` command: parses arguments, calls the pipeline, prints.

Heavy imports wait until a command runs, so that `mspgt --help` answers at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mspgt_tl.errors import MspgtError

if TYPE_CHECKING:
    from mspgt_tl.pipeline import Detection

app = typer.Typer(
    name="mspgt",
    help="Find, test and question the layer boundaries between processing scales of causal language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
err = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of tables.")]


def main() -> None:
    """Run the command line; our own errors become one line on standard error and exit code 2."""
    try:
        app()
    except MspgtError as error:
        err.print(f"[bold red]Error:[/] {_plain(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


class ProgressBars:
    """Progress of a run's stages as bars with rate and time left."""

    def __init__(self, bars: Progress) -> None:
        self.bars, self.tasks = bars, dict[str, TaskID]()

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total, rate="")
        elapsed = self.bars.tasks[self.tasks[stage]].elapsed or 0
        rate = f"{done / elapsed:,.0f}/s" if elapsed > 1 and total > 100 else ""
        self.bars.update(self.tasks[stage], completed=done, total=total, rate=rate)


@contextmanager
def progress_bars() -> Iterator[ProgressBars]:
    """Show progress on standard error while the body runs."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err) as bars:
        yield ProgressBars(bars)


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
    max_length: Annotated[int | None, typer.Option(min=4, help="Tokens a sentence is cut to.")] = None,
    batch_positions: Annotated[int | None, typer.Option(min=1, help="Positions per forward pass.")] = None,
    backend: Annotated[str, typer.Option(help="hooked (HookedTransformer) or bridge (TransformerBridge).")] = "hooked",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: by device.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Keep the good rest of a malformed treebank.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the boundaries of a model, and say whether they are there at all."""
    from mspgt_tl import pipeline
    from mspgt_tl.config import override, read_settings

    settings = override(read_settings(config) if config else {}, _parse_settings(set_ or []))
    folder = out_folder or Path("runs") / f"{Path(model).name.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    with progress_bars() as bars:
        result = pipeline.detect(
            model,
            corpus,
            treebank,
            seed=seed if seed is not None else int(settings.get("seed", 0)),
            out=folder,
            config=settings,
            nulls=null or [],
            backend=cast(Any, backend),
            device=device,
            dtype=dtype,
            skip_bad=skip_bad,
            progress=bars,
            sentences=sentences,
            tasks=tasks.split(",") if tasks else None,
            weights=_parse_numbers(weights) if weights else None,
            rule=rule,
            max_length=max_length,
            batch_positions=batch_positions,
        )
    print_detection(result, as_json=as_json)


def _parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a value is TOML, or else a plain string."""
    import tomllib

    from mspgt_tl.errors import ConfigError

    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set needs NAME=VALUE, got '{pair}'.")
        try:
            settings[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name.strip()] = value
    return settings


def _parse_numbers(text: str) -> list[float]:
    from mspgt_tl.errors import ConfigError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"Numbers separated by commas are needed, got '{text}'.") from error


def print_detection(result: Detection, *, as_json: bool) -> None:
    """Print a detection's verdict, table and where its report lies."""
    summary = _summarise(result)
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    table = Table(title=f"Boundaries of {summary['model']} ({summary['n_layers']} blocks, rule {summary['rule']})")
    for column in ("gap", "depth", "95 % interval", "p", "found in", "verdict"):
        table.add_column(column, justify="left" if column == "verdict" else "right")
    for row in summary["boundaries"]:
        interval = row["interval"]
        table.add_row(
            str(row["gap"]),
            f"{row['gap'] / summary['n_layers']:.1%}",
            "–" if interval is None else f"{interval[0]:.0f} … {interval[1]:.0f}",
            "–" if row["p_value"] is None else f"{row['p_value']:.3f}",
            "–" if row["presence"] is None else f"{row['presence']:.0%}",
            row["verdict"],
        )
    if summary["boundaries"]:
        out.print(table)
    else:
        out.print(f"[bold]No boundary found[/] in {summary['model']} ({summary['n_layers']} blocks).")
    for reason in summary["reasons"]:
        out.print(f"· {_plain(reason)}", highlight=False)
    for name, null in summary["nulls"].items():
        places = ", ".join(f"gap {gap} ({verdict})" for gap, verdict in null) or "no boundary"
        out.print(f"· null {name}: {places}", highlight=False)
    if summary["report"]:
        out.print(f"Dashboard: {summary['report']}", soft_wrap=True, highlight=False)


def _summarise(result: Detection) -> dict[str, Any]:
    import numpy as np

    from mspgt_tl.pipeline import REPORT

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
        "nulls": {
            name: list(zip(data["boundary"].values.tolist(), data["verdict"].values.tolist(), strict=True))
            for name, data in result.nulls.items()
        },
        "run": str(result.folder) if result.folder else None,
        "report": str((result.folder / REPORT).resolve()) if result.folder else None,
    }


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    as_json: JsonFlag = False,
) -> None:
    """Draw a run's dashboard anew and print its result."""
    from mspgt_tl.pipeline import load_run, write_report

    result = load_run(run)
    write_report(result)
    print_detection(result, as_json=as_json)


@app.command()
def models(as_json: JsonFlag = False) -> None:
    """List the embedded models with what they were trained on and how good they are."""
    from mspgt_tl.models.embedded import list_embedded

    cards = list_embedded()
    if as_json:
        print(json.dumps(cards, indent=1))
        return
    table = Table(title="Embedded models (loss in nats/token on held-out text)")
    columns = {
        "name": "name",
        "namesake": "namesake",
        "parameters": "weights",
        "tokens": "tokens",
        "validation_loss": "loss",
        "bigram_loss": "bigram",
        "bytes": "bytes",
    }
    for key, title in columns.items():
        table.add_column(title, justify="left" if key in ("name", "namesake") else "right", no_wrap=True)
    for card in cards:
        table.add_row(*(_cell(card.get(key)) for key in columns))
    out.print(table)
    out.print("Random-weight twin of any of them, or of a folder: NAME@random:SEED", highlight=False)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value / 1e6:.1f} M" if isinstance(value, int) else str(value)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="An embedded recipe's name, or a recipe's TOML file.")],
    text: Annotated[Path, typer.Option(help="Training text, one paragraph a line; .xz is decompressed.")],
    valid: Annotated[Path, typer.Option(help="Held-out text of the same kind.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run; an interrupted run resumes there.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the order of the data.")] = 0,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to see instead of the recipe's number.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a tokenizer to use; by default one is trained on the text.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the text, for the model card.")] = "unstated",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    embed: Annotated[bool, typer.Option("--embed", help="Put the finished model into the package's own zoo.")] = False,
) -> None:
    """Train a small model from a recipe, resuming where an earlier run of the same folder stopped."""
    from mspgt_tl.models import cards, training

    if threads:
        import torch

        torch.set_num_threads(threads)
    run = training.TrainingRun(training.load_recipe(recipe), text, valid, out_folder, seed, tokens, tokenizer, licence)
    with progress_bars() as bars:
        folder = training.train(run, progress=bars)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    if embed:
        folder = cards.add_to_zoo(folder)
    out.print(
        f"Finished: {folder}\nvalidation loss {card['validation_loss']:.3f} nats/token, "
        f"interpolated bigram {card['bigram_loss']:.3f}, unigram {card['unigram_loss']:.3f}",
        highlight=False,
    )


@app.command("export-treebank")
def export_treebank(
    folder: Annotated[Path, typer.Argument(help="Folder for train.conllup and dev.conllup.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the grammar.")] = 0,
    train_size: Annotated[int, typer.Option("--train", min=1, help="Training sentences.")] = 2000,
    dev_size: Annotated[int, typer.Option("--dev", min=1, help="Sentences to measure on.")] = 500,
) -> None:
    """Write the generated treebank as CoNLL-U Plus."""
    from mspgt_tl.corpora.grammar import generate_treebank
    from mspgt_tl.corpora.treebank import write_conllup
    from mspgt_tl.errors import StoreError

    treebank = generate_treebank(seed=seed, train=train_size, dev=dev_size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, trees in (("train", treebank.train), ("dev", treebank.dev)):
            write_conllup(trees, folder / f"{split}.conllup")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}.") from error
    out.print(f"Wrote {len(treebank.train)} and {len(treebank.dev)} sentences to {folder}.", highlight=False)


if __name__ == "__main__":
    main()
