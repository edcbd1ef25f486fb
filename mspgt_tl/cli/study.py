"""`mspgt study`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mspgt_tl.cli.compare import read_pairs
from mspgt_tl.cli.console import app, mark, out, parse_settings, resumable
from mspgt_tl.cli.format import make_table, size
from mspgt_tl.cli.options import ForceFlag, JsonFlag, StudySetOption, choose_folder, grouped, out_option
from mspgt_tl.cli.parallel import JobsOption, ParallelOptions
from mspgt_tl.cli.results import Summary, print_json, prints, say, show
from mspgt_tl.progress import duration, telling

if TYPE_CHECKING:
    from mspgt_tl.study import Cost, Estimate, Findings, Study
    from mspgt_tl.workers import Shard


@app.command(
    epilog="""Examples:

    mspgt study miniature --quick

    mspgt study study.toml --dry-run

    mspgt study study.toml --out runs/study --jobs 2
    """,
)
@grouped
def study(
    *,
    source: Annotated[
        str, typer.Argument(metavar="STUDY", help="A TOML file, or a study that comes along: miniature, paper, real.")
    ] = "miniature",
    out_folder: Annotated[Path | None, out_option("runs/study-NAME")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The study's short profile: little text, few samples.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with its time, memory and disk, and run nothing.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report", help="Only draw the report anew from what has finished in --out.")
    ] = False,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            metavar="NAME=TEXT",
            help="A further corpus, before the study's own: a text file, hf:NAME or hf:NAME@SPLIT#COLUMN. Repeatable.",
        ),
    ] = None,
    treebank: Annotated[
        list[str] | None,
        typer.Option("--treebank", metavar="NAME=FOLDER", help="Treebank that goes with a corpus. Repeatable."),
    ] = None,
    nulls: Annotated[
        list[str] | None,
        typer.Option("--null", metavar="NAME=NULL", help="Null of a corpus, such as wikitext=tokens. Repeatable."),
    ] = None,
    set_: StudySetOption = None,
    jobs: JobsOption = 1,
    parallel: ParallelOptions,
    force: ForceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a whole study: all its models on all its corpora, noise, theory, predictions, and one report."""
    from mspgt_tl.study import Findings, estimate_study, load_study, read_study, run_study
    from mspgt_tl.study.report import KIND

    workers, part = parallel.read(jobs, force=force)
    default = Path("runs") / f"study-{Path(source).stem}{'-quick' if quick else ''}"
    folder = choose_folder(out_folder, default, force=force)
    if report_only:
        done = load_study(folder)
    else:
        config = read_study(
            source,
            quick=quick,
            corpora=read_pairs("--corpus", corpus),
            treebanks=read_pairs("--treebank", treebank),
            nulls=_read_nulls(nulls or []),
            settings=parse_settings(set_ or []),
        )
        if dry_run:
            print_plan(config.title, estimate_study(config), as_json=as_json)
            return
        with telling(True) as told, resumable(folder, given=out_folder):
            done = run_study(
                config,
                out=folder,
                name=Path(source).stem,
                workers=workers,
                shard=part,
                progress=told,
                said=told.say,
            )
        if part:
            _print_shard(done, part, folder, as_json=as_json)
            return
    found = Findings(done)
    KIND.write_page(found)
    show(found, as_json=as_json)
    if done.unfinished:
        raise typer.Exit(1)


def _print_shard(done: Study, part: Shard, folder: Path, *, as_json: bool) -> None:
    """Say what this part came to; the report waits for all of them."""
    if as_json:
        print_json({"steps": _plain_steps(done)})
    else:
        _print_unfinished(_plain_steps(done))
        out.print(f"Part {part.index} of {part.count} is done. When all are: --report --out {folder}", soft_wrap=True)
    if done.unfinished:
        raise typer.Exit(1)


def _read_nulls(pairs: list[str]) -> dict[str, list[str]]:
    """Return nulls by corpus; one corpus may have several."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        for name, null in read_pairs("--null", [pair]).items():
            found.setdefault(name, []).append(null)
    return found


def print_plan(title: str, estimate: Estimate, *, as_json: bool) -> None:
    """Print what every run will take."""
    if as_json:
        print_json(_plain_plan(estimate))
        return
    on_device = estimate.total.device_bytes > 0
    columns = ("stage", "corpus", "model", "time", "memory", *(["GPU"] * on_device), "disk", "meanwhile")

    def told(cost: Cost) -> list[str]:
        sizes = [cost.memory_bytes, *([cost.device_bytes] * on_device), cost.disk_bytes, cost.scratch_bytes]
        return [duration(cost.seconds), *map(size, sizes)]

    rows = [(step.stage, step.corpus, step.model, *told(cost)) for step, cost in estimate.costs.items()]
    head = f"{title}: {len(rows)} runs, in this order"
    table = make_table(head, columns, rows, left=columns[:3], fold=("model",))
    table.add_row("all", "", "", *told(estimate.total), style="bold")
    out.print(table)
    for name, reason in estimate.reasons.items():
        say(f"{name}: {reason}", soft_wrap=True)
    known = (c for s, c in estimate.costs.items() if not {s.model, s.corpus} & estimate.reasons.keys())
    for reason in dict.fromkeys(cost.reason for cost in known if cost.reason):
        say(reason, soft_wrap=True)
    out.print(
        "One run after the other, on this machine; the first of each rehearsed on a small random model of the same "
        "make, right to a factor of about two. Meanwhile: disk that is free again after the run. Nothing has been run.",
        highlight=False,
    )


def _plain_plan(estimate: Estimate) -> dict[str, Any]:
    names = ("seconds", "parts", "memory_bytes", "device_bytes", "disk_bytes", "scratch_bytes", "reason")
    steps = [
        {"step": step.name, "after": step.after, **{name: getattr(cost, name) for name in names}}
        for step, cost in estimate.costs.items()
    ]
    whole = estimate.total
    return {"steps": steps, **{name: getattr(whole, name) for name in ("seconds", "memory_bytes", "disk_bytes")}}


def _plain_steps(done: Study) -> dict[str, dict[str, Any]]:
    return {name: vars(outcome) for name, outcome in done.outcomes.items()}


def _print_unfinished(steps: Mapping[str, Mapping[str, Any]]) -> None:
    for name, outcome in steps.items():
        if outcome["reason"]:
            out.print(mark("Not finished", "red", f"{name}: {outcome['reason']}"), highlight=False)


def _summarise(found: Findings) -> Summary:
    from mspgt_tl.study import conclusions

    return {
        "conclusions": conclusions(found),
        "steps": _plain_steps(found.study),
        "tables": str(found.folder / "tables"),
    }


@prints("study", _summarise)
def _print_study(summary: Summary) -> None:
    for sentence in summary["conclusions"]:
        say(sentence)
    _print_unfinished(summary["steps"])
    out.print(f"Tables: {summary['tables']} (CSV and LaTeX)", soft_wrap=True, highlight=False)
