"""`mspgt predictions`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from mspgt_tl.cli.compare import Architectures, CountOption, EffectsFile, Families, checked_count, read_pairs
from mspgt_tl.cli.console import app, out
from mspgt_tl.cli.format import MISSING, make_table, number, span
from mspgt_tl.cli.options import JsonFlag
from mspgt_tl.cli.results import print_json, say
from mspgt_tl.predictions.judging import Outcome

if TYPE_CHECKING:
    from mspgt_tl.predictions import Evidence, Judgement, PredictionSet

COLOURS = {Outcome.SUPPORTED: "green", Outcome.REFUTED: "red", Outcome.UNDECIDED: "yellow"}


@app.command(
    epilog="""Examples:

    mspgt predictions --set paper-v3

    mspgt predictions runs/llama2 runs/qwen2.5 --family qwen2.5=Qwen

    mspgt predictions --reference
    """,
)
def predictions(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN...]", help="Finished detections to judge them on.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set to take: paper-v2, paper-v3, mspgt. Repeatable. Default: all."),
    ] = None,
    file: Annotated[list[Path] | None, typer.Option(help="TOML file of predictions of your own. Repeatable.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Judge them on the paper's own tables.")] = False,
    effects: EffectsFile = None,
    measurements: Annotated[
        Path | None, typer.Option(help="CSV of measured quantities: model,quantity,value,low,high.")
    ] = None,
    family: Families = None,
    architecture: Architectures = None,
    count: CountOption = "supported",
    as_json: JsonFlag = False,
) -> None:
    """List the predictions, or judge them: supported, refuted or undecided, beside what chance alone would pass."""
    from mspgt_tl.comparison import read_effects, read_runs
    from mspgt_tl.errors import ConfigError
    from mspgt_tl.predictions import SETS, Evidence, load_set, paper_evidence, read_measurements, read_predictions

    names = sets if sets is not None else ([] if file else list(SETS))
    chosen = [load_set(name) for name in names] + [read_predictions(path) for path in file or ()]
    data = bool(runs or effects or measurements)
    if reference and data:
        raise ConfigError("--reference judges the paper's own tables: give it, or runs and tables, not both.")
    if not reference and not data:
        _list(chosen, as_json=as_json)
        return
    from mspgt_tl.pipeline.detection import load_run

    families, architectures = read_pairs("--family", family), read_pairs("--architecture", architecture)
    counted = cast(Any, checked_count(count))
    located = read_runs([load_run(run) for run in runs or []], families=families, architectures=architectures)
    given = Evidence(
        tuple(model.counting(counted) for model in located),
        read_effects(effects) if effects else None,
        read_measurements(measurements) if measurements else None,
        name=f"{len(located)} runs, boundaries {count}",
    )
    _judge(chosen, paper_evidence() if reference else given, with_tables=reference, as_json=as_json)


def _list(chosen: Sequence[PredictionSet], *, as_json: bool) -> None:
    from mspgt_tl.predictions import chance_rate

    rates = {id(p): (chance_rate(p, 2), chance_rate(p, max(2, p.min_n))) for s in chosen for p in s.predictions}
    if as_json:
        listing = []
        for s in chosen:
            entries = [
                p.model_dump() | dict(zip(("chance_at_2", "chance_at_min_n"), rates[id(p)], strict=True))
                for p in s.predictions
            ]
            listing.append(s.model_dump(exclude={"predictions"}) | {"predictions": entries})
        print_json(listing)
        return
    columns = ("id", "claim", "passes if", "min n", "chance n = 2", "chance min n")
    for s in chosen:
        rows = []
        for p in s.predictions:
            passes = f"{p.statistic} {p.boundary or p.metric or p.quantity or ''} {p.condition}"
            rows.append((p.id, p.claim, passes, p.min_n, *(number(rate, ".1%") for rate in rates[id(p)])))
        title = f"{s.name}, version {s.version}, frozen {s.frozen}: {s.title}"
        out.print(make_table(title, columns, rows, left=columns[:3], fold={*columns} - {"id", "min n"}))
    out.print(
        "Chance: how often one group of n models passes when boundaries are random and effects are noise.",
        highlight=False,
    )


def _judge(chosen: Sequence[PredictionSet], evidence: Evidence, *, with_tables: bool, as_json: bool) -> None:
    from mspgt_tl.comparison import recomputed_table3
    from mspgt_tl.comparison.models import drift
    from mspgt_tl.comparison.positions import paper_models
    from mspgt_tl.predictions import judge

    judged = [(s, judge(s, evidence)) for s in chosen]
    qwen = drift([model for model in paper_models() if model.family == "Qwen"], 1).value
    if as_json:
        result: dict[str, Any] = {
            "evidence": evidence.name,
            "sets": [
                {"name": s.name, "version": s.version, "sha256": s.sha256, "judgements": [j.to_plain() for j in found]}
                for s, found in judged
            ],
        }
        if with_tables:
            result["table_3"] = recomputed_table3()
            result["drift_points"] = qwen
        print_json(result)
        return
    if with_tables:
        _print_table3(qwen)
    for s, found in judged:
        _print_judgements(s, found, evidence)


def _print_table3(drift_points: float) -> None:
    from mspgt_tl.comparison import recomputed_table3

    columns = ("family", "", "mean L-I", "CV L-I", "mean I-G", "CV I-G")
    figures = ("mean_LI", "cv_LI", "mean_IG", "cv_IG")
    kinds = (("published", "published", ".2f"), ("rounded", "from rounded %", ".3f"), ("exact", "unrounded", ".3f"))
    rows = [
        (family, title, *(number(found[kind][what], ".1%" if what.startswith("mean") else form) for what in figures))
        for family, found in recomputed_table3().items()
        for kind, title, form in kinds
    ]
    out.print(make_table("Table 3 from Table 1 (CV: population form)", columns, rows, left=columns[:2]))
    say(f"I-G drift, Qwen1.5-7B to Qwen2.5-7B: {drift_points:.1f} points of depth")


def _print_judgements(chosen: PredictionSet, judged: Sequence[Judgement], evidence: Evidence) -> None:
    columns = ("id", "verdict", "at its word", "group", "n", "estimate", "95 % interval", "chance")
    rows: list[tuple[Any, ...]] = []
    for j in judged:
        head = (j.prediction.id, Text(j.verdict, COLOURS[j.verdict]), j.point_verdict)
        telling = [g for g in j.groups if g.point is not None]
        if len(telling) != 1:
            told = (j.prediction.quantifier if telling else "", j.n, MISSING, MISSING, number(j.chance, ".1%"))
            rows.append((*head, *told))
        for g in telling:
            mine = head if len(telling) == 1 else ("", f" {g.verdict}", " passes" if g.point else " fails")
            ends = span(g.found.low, g.found.high)
            rows.append((*mine, g.name, g.found.n, number(g.found.value), ends, number(g.chance, ".1%")))
    title = f"{chosen.name} (version {chosen.version}) on {evidence.name}"
    left = {*columns} - {"n", "estimate", "chance"}
    out.print(make_table(title, columns, rows, left=left, fold=columns[3:]))
    for j in judged:
        said = [g.reason for g in j.groups if g.reason and g.reason not in j.reason]
        why = "; ".join(dict.fromkeys([*said, *([j.reason] if j.reason else [])]))
        line = " ".join(part for part in (f"{why}." if why else "", j.further and f"To decide: {j.further}") if part)
        if line:
            say(f"{j.prediction.id}: {line}", soft_wrap=True)
