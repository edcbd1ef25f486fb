"""`mspgt models` and `mspgt train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mspgt_tl.cli.console import JsonFlag, app, out, progress_bars


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
