"""`mspgt compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mspgt_tl.cli.console import app, mark, out
from mspgt_tl.cli.format import make_table, number, plain, span
from mspgt_tl.cli.options import JsonFlag
from mspgt_tl.cli.results import say

if TYPE_CHECKING:
    from mspgt_tl.comparison import Comparison, Located

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished detections.")]
Families = Annotated[
    list[str] | None,
    typer.Option("--family", metavar="NAME=FAMILY", help="Family of a model, by its name or run folder. Repeatable."),
]
Architectures = Annotated[
    list[str] | None,
    typer.Option("--architecture", metavar="NAME=ARCHITECTURE", help="Architecture of a model. Repeatable."),
]
EffectsFile = Annotated[
    Path | None,
    typer.Option(help="CSV of noise effects: model,family,scale,metric,effect,low,high,dose (effects in per cent)."),
]


@app.command(
    epilog="""Examples:

    mspgt compare runs/llama2 runs/qwen2.5 --family qwen2.5=Qwen

    mspgt compare runs/a runs/b --count supported --json
    """,
)
def compare(
    runs: Runs,
    family: Families = None,
    architecture: Architectures = None,
    effects: EffectsFile = None,
    count: Annotated[
        str, typer.Option(help="Boundaries that count: found, or supported by the test of existence.")
    ] = "found",
    seed: Annotated[int, typer.Option(min=0, help="Seed of permutations.")] = 0,
    page: Annotated[
        Path | None,
        typer.Option("--out", metavar="PAGE", help="Write a page of the comparison, such as all.html."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare the boundaries of several models: positions, families, drift, and whether differences are real."""
    from mspgt_tl.pipeline import compare as compare_runs

    found = compare_runs(
        runs,
        families=read_pairs("--family", family),
        architectures=read_pairs("--architecture", architecture),
        effects=effects,
        count=cast(Any, checked_count(count)),
        seed=seed,
    )
    written = None if page is None else found.save(page)
    if as_json:
        print(json.dumps(found.to_plain(), indent=1))
        return
    _print(found)
    if written:
        out.print(f"Page: {plain(str(written))}", highlight=False, soft_wrap=True)


def checked_count(count: str) -> str:
    """Return the choice of boundaries that count.

    Raises:
        ConfigError: it is none.
    """
    from mspgt_tl.errors import ConfigError, unknown_name

    if count not in ("found", "supported"):
        raise ConfigError(unknown_name("choice of --count", count, ("found", "supported")))
    return count


def read_pairs(option: str, pairs: Sequence[str] | None) -> dict[str, str]:
    """Read NAME=VALUE pairs; the last `=` separates.

    Raises:
        ConfigError: one is no pair.
    """
    from mspgt_tl.errors import ConfigError

    read = {}
    for pair in pairs or ():
        name, _, value = pair.rpartition("=")
        if not name or not value:
            raise ConfigError(f"{option} needs NAME=VALUE, got '{pair}'.")
        read[name] = value
    return read


def _print(found: Comparison) -> None:
    _table(
        "Boundaries (intervals over text)",
        ("model", "family", "", "gap", "depth", "95 % interval", "verdict"),
        [cells for model in found.located for cells in _model_rows(model)],
    )
    _table(
        "Families (CV: interval over models; drift: points of depth, interval over text)",
        ("family", "", "n", "mean", "CV", "95 % interval", "drift", "95 % interval"),
        [
            (
                row["family"],
                row["boundary"],
                str(row["n"]),
                number(row["mean"], ".1%"),
                number(row["cv"], ".3f"),
                span(row["cv_low"], row["cv_high"], ".3f"),
                number(row["drift"], ".1f"),
                span(row["drift_low"], row["drift_high"], ".1f"),
            )
            for row in found.families.to_dict("records")
        ],
    )
    _table(
        "Pairs (difference in points of depth)",
        ("first", "second", "", "difference", "95 % interval", "p", "p (Holm)"),
        [
            (
                row["first"],
                row["second"],
                row["boundary"],
                number(row["difference"], "+.1f"),
                span(row["low"], row["high"], "+.1f"),
                number(row["p"], ".3f"),
                number(row["p_holm"], ".3f"),
            )
            for row in found.pairs.to_dict("records")
        ],
    )
    for doubt in found.doubts:
        out.print(mark("·", "bold yellow", doubt), highlight=False)
    for row in found.labels.to_dict("records"):
        _print_labels(row)
    _table(
        "Training runs of one architecture (do two signals agree in their own run more than in others?)",
        ("architecture", "runs", "signals", "own", "other runs", "matched", "p", "p (Holm)", "best p", "shared gaps"),
        [
            (
                row["architecture"],
                str(row["n"]),
                row["reason"] or f"{row['one']}, {row['other']}",
                number(row["own"], "+.2f"),
                number(row["off"], "+.2f"),
                f"{row['matched']}/{row['n']}",
                number(row["p"], ".3f"),
                number(row["p_holm"], ".3f"),
                number(row["smallest_p"], ".3f"),
                row["shared"] or "–",
            )
            for row in found.replicates.to_dict("records")
        ],
    )
    if not found.replicates.empty:
        out.print(
            "· Agreement within runs beyond that between runs is no architecture's doing. A gap that all runs share "
            "shows in both, and only random-weight twins tell whether it was learnt.",
            highlight=False,
        )
    _table(
        "Brittleness (largest family's effect over the smallest's)",
        ("metric", "scale", "dose", "families", "ratio", "95 % interval", "note"),
        [
            (
                row["metric"],
                row["scale"],
                row["dose"] or "–",
                str(row["n"]),
                number(row["ratio"], ".2f"),
                span(row["low"], row["high"], ".2f"),
                row["reason"],
            )
            for row in found.brittleness.to_dict("records")
        ],
    )


def _model_rows(model: Located) -> list[tuple[str, ...]]:
    if model.reason:
        return [(model.name, model.family, "", "–", "–", "–", model.reason)]
    return [
        (
            model.name if rank == 0 else "",
            model.family if rank == 0 else "",
            boundary,
            f"{model.gaps[rank]:.0f}/{model.n_layers}",
            number(model.relative[rank], ".1%"),
            span(*(model.intervals[rank] / model.n_layers), form=".1%"),
            model.verdicts[rank],
        )
        for rank, boundary in enumerate(("L-I", "I-G"))
    ]


def _print_labels(row: Mapping[Any, Any]) -> None:
    if row["reason"]:
        say(f"{row['boundary']}: families not compared: {row['reason']}")
        return
    say(
        f"{row['boundary']}: family labels permuted, p = {row['p']:.3f} "
        f"(the smallest that {row['n']} models in these families can give is {row['smallest_p']:.3g})"
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    numeric = {"gap", "depth", "n", "mean", "CV", "drift", "difference", "p", "p (Holm)", "ratio", "95 % interval"}
    out.print(make_table(title, columns, rows, left=set(columns) - numeric, fold=columns))
