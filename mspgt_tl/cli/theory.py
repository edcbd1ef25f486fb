"""`mspgt theory`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from mspgt_tl.cli.console import app, out
from mspgt_tl.cli.format import make_table
from mspgt_tl.cli.options import (
    WORK,
    CorpusOption,
    ForceFlag,
    JsonFlag,
    LoadingOptions,
    ModelOrRunArgument,
    RunOptions,
    ScalesOption,
    SentencesOption,
    grouped,
    option,
)
from mspgt_tl.cli.results import Summary, prints, say, show


@app.command(
    epilog="""Examples:

    mspgt theory llama2-mini

    mspgt theory runs/mine --sentences 200 --set closure_texts=12

    mspgt theory ./my-model --scales 0-9,10-19,20-29 --corpus wiki.txt
    """
)
@grouped
def theory(
    model: ModelOrRunArgument,
    *,
    corpus: CorpusOption = None,
    sentences: SentencesOption = None,
    scales: ScalesOption = None,
    run: RunOptions,
    loading: LoadingOptions,
    budget: Annotated[
        str | None,
        option(
            WORK,
            "Take fewer draws, layers and sentences, to finish in about this time, such as 10min.",
            default="as the settings say",
            metavar="TIME",
        ),
    ] = None,
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Test what the theory says of a model: Fisher traces, closure, information, rate-distortion, H-VIB.

    Three scales that cover all blocks are needed; equal thirds stand in where none are given or detected.
    """
    from mspgt_tl.pipeline.theory import run_theory
    from mspgt_tl.store import default_folder

    with run.started(default_folder(f"theory-{Path(model).name}"), force=force) as common:
        asked = {**common, **loading.arguments(), "sentences": sentences, "budget": budget}
        result = run_theory(model, corpus, scales=scales, **asked)
    show(result, as_json=as_json)


def summarise(result: Any) -> Summary:
    """Return a theory run's figures as plain values."""
    from mspgt_tl.pipeline.theory import summarise as plain_values

    return plain_values(result)


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


@prints("theory", summarise)
def print_theory(summary: Summary) -> None:
    """Print a theory run's tables and its findings."""
    title = f"Layers of {summary['model']} (nats per token; {summary['tokens']} tokens)"
    for head, columns, rows in (
        (title, LAYER_COLUMNS, summary["layers"]),
        (f"Scales ({summary['scales_from']})", SCALE_COLUMNS, summary["scales"]),
    ):
        # What was measured nowhere is a line among the findings, not a column; all of it fits 80 columns then.
        shown = {name: text for name, text in columns.items() if any(row.get(name) is not None for row in rows)}
        out.print(make_table(head, shown, rows, fold=("scale",)))
    for line in summary["findings"]:
        say(line)
