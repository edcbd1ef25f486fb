"""`mspgt export-treebank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mspgt_tl.cli.console import app, out
from mspgt_tl.cli.options import SeedOption


@app.command(
    "export-treebank",
    epilog="""Examples:

    mspgt export-treebank trees/ --train 2000 --dev 500
    """,
)
def export_treebank(
    folder: Annotated[Path, typer.Argument(help="Folder for train.conllup and dev.conllup.")],
    seed: SeedOption = 0,
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
