"""Runs a study step by step, or several steps at once; a killed study resumes where it was.

Every step is a run in a folder of its own, which resumes by itself. A step that fails is recorded with its reason;
those that need its result are left out, and all others go on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mspgt_tl.config import hash_plain, make_config, to_plain
from mspgt_tl.contracts import Progress
from mspgt_tl.errors import ConfigError, MspgtError, StoreError
from mspgt_tl.models.names import check_weights, find_source
from mspgt_tl.models.shape import shape_of
from mspgt_tl.pipeline.detection import detect, load_run
from mspgt_tl.pipeline.inputs import open_corpus, open_treebank
from mspgt_tl.pipeline.intervention import choose_metrics, intervene
from mspgt_tl.pipeline.theory import run_theory
from mspgt_tl.store import MANIFEST, Run
from mspgt_tl.study.plan import Step, StudyConfig, make_steps, nulls_of, settings_of

STEPS = "steps"
"""Note of the study's manifest: what every step came to."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to."""

    step: str
    seconds: float
    reason: str = ""
    """Why it failed or was left out; empty for a finished one."""
    peak_bytes: int = 0
    """Largest memory that its process has held so far, in bytes; 0 where the system does not tell."""


@dataclass(frozen=True)
class Study:
    """A study that was run, finished or not."""

    config: StudyConfig
    outcomes: Mapping[str, Outcome]
    """By step; a step without one has not been run yet."""
    manifest: Mapping[str, Any]
    folder: Path

    @property
    def unfinished(self) -> list[Outcome]:
        """Steps that failed or were left out."""
        return [outcome for outcome in self.outcomes.values() if outcome.reason]


def run_study(
    config: StudyConfig,
    *,
    out: str | Path,
    name: str = "study",
    jobs: int = 1,
    progress: Progress | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> Study:
    """Run every step that is not finished yet.

    Args:
        out: folder of the study; one that was killed resumes there, and models and corpora may be added to it.
        name: what the manifest calls it.
        jobs: steps at the same time, each on its share of the processor's cores.
        said: told one line when a step begins and ends.

    Raises:
        ConfigError: no jobs.
        ModelError, CorpusError: a model, corpus or treebank cannot be found; nothing has been run then.
        StoreError: the folder holds a study with other settings.
    """
    if jobs < 1:
        raise ConfigError(f"At least one job is needed, got {jobs}.")
    inputs = check_inputs(config)
    run = Run.create(Path(out), {"command": "study", "name": name, "config": settings_of(config)})
    run.note(plan=to_plain(config))
    steps = {step.name: step for step in make_steps(config)}
    outcomes = {n: Outcome(**kept) for n, kept in run.manifest["notes"].get(STEPS, {}).items() if n in steps}
    kept, told = run.manifest["notes"].get("fingerprints", {}), fingerprints(config, inputs)
    finished = {
        n
        for n, outcome in outcomes.items()
        if not outcome.reason and kept.get(n) == told[n] and (run.folder / n / MANIFEST).is_file()
    }
    waiting = [step for step in steps.values() if step.name not in finished]
    for done, outcome in enumerate(_in_order(run.folder, config, waiting, finished, jobs, progress, said), 1):
        outcomes[outcome.step] = outcome
        kept[outcome.step] = told[outcome.step]
        run.note(**{STEPS: {n: vars(outcomes[n]) for n in steps if n in outcomes}, "fingerprints": kept})
        if progress:
            progress("steps", len(steps) - len(waiting) + done, len(steps))
    return Study(config, {n: outcomes[n] for n in steps}, run.manifest, run.folder)


def load_study(folder: str | Path) -> Study:
    """Read a study from its folder, finished or not.

    Raises:
        StoreError: no study is there.
    """
    run = Run.read(Path(folder))
    if run.manifest["identity"].get("command") != "study":
        raise StoreError(f"{folder} holds no study.")
    if "plan" not in run.manifest["notes"]:
        raise StoreError(f"{folder} holds a study that was stopped before its first step: run it again.")
    config = make_config(run.manifest["notes"]["plan"], StudyConfig)
    kept = run.manifest["notes"].get(STEPS, {})
    return Study(config, {name: Outcome(**outcome) for name, outcome in kept.items()}, run.manifest, run.folder)


def check_inputs(config: StudyConfig) -> dict[str, Any]:
    """Look at every model, corpus and treebank once, so that a wrong name is told before hours of work.

    Returns:
        What each of them holds, by its name in the study: hashes of texts, treebanks and embedded weights, sizes and
        times of the weight files of folders (hashing gigabytes would take longer than looking at a step again).

    Raises:
        ModelError: no such model, or its configuration cannot be read.
        CorpusError: a corpus or treebank cannot be read, or lacks the labels of a task.
        ConfigError: an unknown text metric.
    """
    choose_metrics(config.intervene)
    held: dict[str, Any] = {}
    for model in config.models:
        shape_of(model)
        held[model] = weights_of(model)
    trees: dict[str | None, str] = {}
    for name, corpus in config.corpora.items():
        if corpus.treebank not in trees:
            trees[corpus.treebank] = open_treebank(corpus.treebank, config.detect, skip_bad=False).sha256
        held[name] = [open_corpus(corpus.text, config.detect.sentences).sha256, trees[corpus.treebank]]
    return held


def weights_of(model: str) -> Any:
    """Return what tells a model's weights from others; None where the name alone does, or nothing local is known."""
    source = find_source(model)
    if source is None or source.random_seed is not None:
        return None
    if source.card:
        return check_weights(source)
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in source.weights]


def fingerprints(config: StudyConfig, inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return a hash of all that each step is told; a step whose hash has changed is looked at again."""
    told = {}
    for step in make_steps(config):
        parts = [settings_of(config), step.stage, step.model, inputs[step.model], step.corpus, inputs[step.corpus]]
        told[step.name] = hash_plain([*parts, list(nulls_of(config, step))])
    return told


def _in_order(
    folder: Path,
    config: StudyConfig,
    waiting: Sequence[Step],
    finished: set[str],
    jobs: int,
    progress: Progress | None,
    said: Callable[[str], None],
) -> Iterator[Outcome]:
    """Run the waiting steps in rounds, each with what the rounds before it made possible."""
    finished, ended = set(finished), set(finished)

    def is_ready(step: Step) -> bool:
        # A detection takes probes over if they are there, and trains its own if they are not.
        return step.after is None or step.after in (ended if step.stage == "detect" else finished)

    open_steps = list(waiting)
    while ready := [step for step in open_steps if is_ready(step)]:
        open_steps = [step for step in open_steps if step not in ready]
        for outcome in _at_once(folder, config, ready, jobs, progress, said):
            ended.add(outcome.step)
            if not outcome.reason:
                finished.add(outcome.step)
            said(_sentence(outcome))
            yield outcome
    for step in open_steps:
        outcome = Outcome(step.name, 0.0, f"left out, for it rests on {step.after}, which failed")
        said(_sentence(outcome))
        yield outcome


def _sentence(outcome: Outcome) -> str:
    if outcome.reason:
        return f"{outcome.step}: {outcome.reason}"
    return f"{outcome.step}: done in {outcome.seconds:.0f} s"


def _at_once(
    folder: Path,
    config: StudyConfig,
    steps: Sequence[Step],
    jobs: int,
    progress: Progress | None,
    said: Callable[[str], None],
) -> Iterator[Outcome]:
    if jobs == 1:
        for step in steps:
            said(f"{step.name} …")
            yield run_step(folder, config, step, progress=progress)
        return
    from joblib import Parallel, cpu_count, delayed

    threads = max(1, cpu_count() // jobs)
    parallel: Any = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)  # pyright: ignore
    yield from parallel(delayed(run_step)(folder, config, step, threads=threads) for step in steps)


def run_step(
    folder: Path, config: StudyConfig, step: Step, *, threads: int | None = None, progress: Progress | None = None
) -> Outcome:
    """Run one step in its folder; an error becomes the outcome's reason, and one that is not ours leaves its traceback.

    Not even that goes for a process that the system kills for its memory: it ends the study, which then resumes.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    started, reason = time.perf_counter(), ""
    try:
        _RUNNERS[step.stage](folder, config, step, progress)
    except MspgtError as error:
        reason = str(error)
    except Exception as error:  # hours of other steps must not be lost with this one
        place = folder / f"{step.name.replace('/', '-')}.error.txt"
        place.write_text(traceback.format_exc(), encoding="utf-8")
        reason = f"{type(error).__name__}: {error} (traceback in {place.name})"
    return Outcome(step.name, round(time.perf_counter() - started, 1), reason, _peak_bytes())


def _peak_bytes() -> int:
    import sys

    try:
        import resource
    except ImportError:  # Windows has no such count
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux kilobytes


def _detect(folder: Path, config: StudyConfig, step: Step, progress: Progress | None) -> None:
    corpus = config.corpora[step.corpus]
    detect(
        step.model,
        corpus.text,
        corpus.treebank,
        seed=config.seed,
        out=folder / step.name,
        config=config.detect,
        nulls=nulls_of(config, step),
        rivals=config.rivals,
        reuse=folder / step.after if step.after and (folder / step.after / MANIFEST).is_file() else None,
        device=config.device,
        dtype=config.dtype,
        progress=progress,
    )


def _intervene(folder: Path, config: StudyConfig, step: Step, progress: Progress | None) -> None:
    detection = load_run(folder / str(step.after))
    intervene(
        detection,
        config.corpora[step.corpus].text,
        scales=None if len(detection.boundaries) == 2 else "thirds",
        seed=config.seed,
        out=folder / step.name,
        config=config.intervene,
        device=config.device,
        dtype=config.dtype,
        progress=progress,
    )


def _theory(folder: Path, config: StudyConfig, step: Step, progress: Progress | None) -> None:
    run_theory(
        load_run(folder / str(step.after)),
        config.corpora[step.corpus].text,
        seed=config.seed,
        out=folder / step.name,
        config=config.theory,
        device=config.device,
        dtype=config.dtype,
        progress=progress,
    )


_RUNNERS: Mapping[str, Callable[[Path, StudyConfig, Step, Progress | None], None]] = {
    "detect": _detect,
    "intervene": _intervene,
    "theory": _theory,
}
