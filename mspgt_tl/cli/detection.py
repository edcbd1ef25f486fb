"""`mspgt detect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mspgt_tl.cli.console import app, mark, out, parse_numbers
from mspgt_tl.cli.format import MISSING, make_table, number, span
from mspgt_tl.cli.options import (
    DATA,
    WORK,
    CorpusOption,
    ForceFlag,
    JsonFlag,
    LoadingOptions,
    ModelArgument,
    RunOptions,
    SentencesOption,
    grouped,
    option,
)
from mspgt_tl.cli.results import Summary, prints, say, show
from mspgt_tl.config import SignalConfig, StreamConfig
from mspgt_tl.evidence import make_signals

if TYPE_CHECKING:
    from mspgt_tl.pipeline.detection import Detection

FUSED = tuple(make_signals(SignalConfig()))


@app.command(
    epilog="""Examples:

    mspgt detect llama2-mini --quick

    mspgt detect llama2-mini --out runs/mine

    mspgt detect ./my-model --corpus wiki.txt --treebank en_ewt/ --out runs/mine

    mspgt detect HuggingFaceTB/SmolLM2-135M --sentences 1000 --set train_trees=700 --null random:0 --rivals
    """
)
@grouped
def detect(
    model: ModelArgument,
    *,
    corpus: CorpusOption = None,
    treebank: Annotated[
        str | None,
        option(
            DATA, "Folder with a train and a dev CoNLL-U file, or TRAIN,DEV.", default="generated", metavar="FOLDER"
        ),
    ] = None,
    sentences: SentencesOption = None,
    skip_bad: Annotated[bool, option(DATA, "Keep the good rest of a malformed treebank.", "--skip-bad")] = False,
    tasks: Annotated[
        str | None,
        option(DATA, "Probe tasks, separated by commas.", default=",".join(SignalConfig().tasks), metavar="NAMES"),
    ] = None,
    run: RunOptions,
    weights: Annotated[
        str | None,
        option(WORK, f"Fusion weights of {','.join(FUSED)}.", default=",".join("1" * len(FUSED)), metavar="NUMBERS"),
    ] = None,
    rule: Annotated[str | None, option(WORK, "mspgt, or paper for the published rule alone.", default="mspgt")] = None,
    null: Annotated[
        list[str] | None,
        option(WORK, "Model null to run as well: random:SEED, labels, tokens. Repeatable.", metavar="NULL"),
    ] = None,
    rivals: Annotated[
        bool, option(WORK, "Also say where other readings of depth put boundaries, on the same pass.", "--rivals")
    ] = False,
    max_length: Annotated[
        int | None, option(WORK, "Tokens a sentence is cut to.", default=str(StreamConfig().max_length), min=4)
    ] = None,
    batch_positions: Annotated[
        int | None, option(WORK, "Positions per forward pass.", default=str(StreamConfig().batch_positions), min=1)
    ] = None,
    memory: Annotated[
        str | None,
        option(
            WORK,
            "Memory for words' vectors and probes, such as 8GB; with less, vectors lie in a file meanwhile.",
            default="a quarter of the machine's",
            metavar="SIZE",
        ),
    ] = None,
    loading: LoadingOptions,
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the boundaries of a model, and say whether they are there at all."""
    from mspgt_tl import pipeline
    from mspgt_tl.cli.plan import announce
    from mspgt_tl.config import DetectConfig, settings_of
    from mspgt_tl.pipeline.checks import check_detection
    from mspgt_tl.pipeline.detection import read_text
    from mspgt_tl.pipeline.inputs import open_treebank
    from mspgt_tl.store import MANIFEST, default_folder

    options: dict[str, Any] = {
        "sentences": sentences,
        "tasks": tasks.split(",") if tasks else None,
        "weights": parse_numbers(weights) if weights else None,
        "rule": rule,
        "max_length": max_length,
        "batch_positions": batch_positions,
    }
    text: Any = corpus
    trees: Any = treebank
    with run.started(default_folder(Path(model).name), force=force) as common:
        if not (run.quick or (common["out"] / MANIFEST).is_file()):
            asked = settings_of(DetectConfig, common["config"], {"seed": run.seed, **options})
            # Whatever the detection would refuse is refused before anything is rehearsed.
            check_detection(model, asked, null or [], common["out"])
            text = None if corpus is None else read_text(corpus, asked)
            trees = treebank and open_treebank(treebank, asked, skip_bad=skip_bad)
            announce(model, asked, text=corpus, treebank=treebank, device=loading.device, dtype=loading.dtype)
        options |= {"nulls": null or [], "rivals": rivals, "skip_bad": skip_bad, "memory": memory}
        result = pipeline.detect(model, text, trees, **common, **loading.arguments(), **options)
    show(result, as_json=as_json)


def summarise(result: Detection) -> Summary:
    """Return a detection's verdicts as plain values."""
    from mspgt_tl.power import count_power, power_of, tell_power
    from mspgt_tl.rivals import rival_rows

    found, data = result.found, result.data.assign(power=power_of(result.data))
    rows = [
        {
            "gap": gap,
            "verdict": found.verdicts[i],
            "p_value": float(found.p_values[i]),
            "interval": None if (ends := found.intervals[i]) is None or ends[0] != ends[0] else ends.tolist(),
            "presence": float(found.presence[i]),
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
        "reliability": dict(zip(result.curves["signal"].values.tolist(), found.reliability.tolist(), strict=True)),
        "reasons": [*found.reasons, *([told] if (told := tell_power(data)) else [])],
        "power": count_power(data),
        "nulls": {
            name: list(zip(data["boundary"].values.tolist(), data["verdict"].values.tolist(), strict=True))
            for name, data in result.nulls.items()
        },
        "rivals": rival_rows(result.rivals) if result.rivals is not None else [],
    }


@prints("detect", summarise)
def print_detection(summary: Summary) -> None:
    """Print a detection's verdict and tables."""
    model, n_layers = Path(summary["model"]).name, summary["n_layers"]
    rows = [
        (
            row["gap"],
            number(row["gap"] / n_layers, ".1%"),
            span(*(row["interval"] or (None, None)), form=".0f"),
            number(row["p_value"], ".3f"),
            number(row["presence"], ".0%"),
            row["grade"] or MISSING,
            row["verdict"],
        )
        for row in summary["boundaries"]
    ]
    if rows:
        # All of it fits 80 columns, so that no verdict is broken.
        columns = ("gap", "depth", "95 %", "p", "found", "audit", "verdict")
        title = f"Boundaries of {model} ({n_layers} blocks, rule {summary['rule']})"
        out.print(make_table(title, columns, rows, left=("audit", "verdict")))
    else:
        out.print(mark("No boundary found", "bold", f"in {model} ({n_layers} blocks)."))
    for name, null in summary["nulls"].items():
        places = ", ".join(f"gap {gap} ({verdict})" for gap, verdict in null) or "no boundary"
        say(f"null {name}: {places}")
    if summary["rivals"]:
        _print_rivals(summary["rivals"], n_layers)


def _print_rivals(rows: list[dict[str, Any]], n_layers: int) -> None:
    """Print where rival readings put their boundaries, and how far these lie from the fused ones."""
    from mspgt_tl.boundaries import MIN_RELIABILITY

    placed, near = [], []
    for row in rows:
        pairs = zip(row["boundaries"], row["intervals"], strict=True)
        places = ", ".join(f"{gap} ({span(low, high, '.0f')})" for gap, (low, high) in pairs)
        flat = row["reliability"] is not None and row["reliability"] < MIN_RELIABILITY
        correlation = f"{number(row['correlation'], '+.2f')} ({span(*row['correlation_interval'], form='+.2f')})"
        placed.append((row["rival"], places or ("flat" if flat else "none"), correlation))
        cells = [
            (
                f"{number(one['distance'], '+.0f')} ({span(*one['interval'], form='+.0f')})",
                f"{number(one['within_one'], '.0%')} ({number(one['chance'], '.0%')})",
            )
            for one in row["agreement"]
        ]
        near.append((row["rival"], *(value for pair in cells for value in pair)))
    words = ("rival", "boundaries with 95 % interval", "rank correlation with the fused curve")
    title = f"Rival readings of {n_layers} blocks (existence is not tested)"
    out.print(make_table(title, words, placed, left=words, fold=words))
    if found := [one["found"] for one in rows[0]["agreement"]]:
        columns = ("rival", *(head for gap in found for head in (f"from gap {gap}", "within one")))
        title = "Distance to the rival's nearest boundary; share of resamples within one gap (by chance)"
        out.print(make_table(title, columns, near, left=columns, fold=columns))
