"""Runs a study step by step, or several steps at once; a killed study resumes where it was.

Every step is a run in a folder of its own, which resumes by itself. A step that fails is recorded with its reason;
those that need its result are left out, and all others go on.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mspgt_tl.config import hash_plain, make_config, to_plain
from mspgt_tl.contracts import Progress
from mspgt_tl.errors import MspgtError, StoreError
from mspgt_tl.files import write_atomically
from mspgt_tl.models.names import check_weights, find_source
from mspgt_tl.models.shape import shape_of
from mspgt_tl.pipeline.detection import Detection, detect, load_run
from mspgt_tl.pipeline.inputs import open_corpus, open_treebank
from mspgt_tl.pipeline.intervention import choose_metrics, intervene
from mspgt_tl.pipeline.scales import ASK_FOR_THIRDS
from mspgt_tl.pipeline.shell import claim
from mspgt_tl.pipeline.theory import run_theory
from mspgt_tl.store import MANIFEST, Run
from mspgt_tl.study.plan import Step, StudyConfig, make_steps, nulls_of, settings_of
from mspgt_tl.workers import PATIENCE, Shard, Workers

OUTCOMES = "outcomes"
"""Folder within a study's: what every step came to, each in a file of its own, so that shards never share one."""


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
    workers: Workers | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> Study:
    """Run every step that is not finished yet.

    Args:
        out: folder of the study; one that was killed resumes there, and models and corpora may be added to it.
        name: what the manifest calls it.
        workers: steps at the same time and where they run; one after the other by default.
        shard: run only this part of the models and corpora; other processes may run the others at the same time.
        said: told one line when a step begins and ends.

    Raises:
        ModelError, CorpusError: a model, corpus or treebank cannot be found; nothing has been run then.
        StoreError: the folder holds a study with other settings, or is in use.
    """
    inputs = check_inputs(config)
    # A shard leaves the folder to the others as soon as it says what the study is; steps have folders of their own.
    run = _open(Path(out), config, name, PATIENCE if shard else 0.0)
    folder, manifest = run.folder, run.manifest
    if shard:
        del run
    steps = {step.name: step for step in make_steps(config)}
    own = {step.name for unit in (shard or Shard(1, 1)).pick(units(config)) for step in unit}
    told = fingerprints(config, inputs)
    known = {n: found for n in steps if (found := read_outcome(folder, n))}
    finished = {
        n
        for n, (outcome, fingerprint) in known.items()
        if not outcome.reason and fingerprint == told[n] and (folder / n / MANIFEST).is_file()
    }
    waiting = [step for n, step in steps.items() if n in own and n not in finished]
    at_once = partial(_at_once, folder, config, workers or Workers(), progress, said)
    for done, outcome in enumerate(_in_order(waiting, finished, at_once, said), 1):
        _write_outcome(folder, outcome, told[outcome.step])
        if progress:
            progress("steps", len(own) - len(waiting) + done, len(own))
    return Study(config, _read_outcomes(folder, steps), manifest, folder)


def _open(folder: Path, config: StudyConfig, name: str, patience: float) -> Run:
    """Write down what the study is, and hold its folder; wait so many seconds while somebody else does."""
    run = claim(folder, {"command": "study", "name": name, "config": settings_of(config)}, patience=patience)
    if run.manifest["notes"].get("plan") != to_plain(config):
        run.note(plan=to_plain(config))
    return run


def units(config: StudyConfig) -> list[list[Step]]:
    """Return the steps in parts that need nothing of each other: a model on a corpus, with what rests on it.

    Detections on a second corpus take over probes of the first where these are finished, and train the same ones
    where they are not.
    """
    found: dict[tuple[str, str], list[Step]] = {}
    for step in make_steps(config):
        found.setdefault((step.model, step.corpus), []).append(step)
    return list(found.values())


def read_outcome(folder: Path, step: str) -> tuple[Outcome, str] | None:
    """Return what a step came to and the fingerprint of what it was told; None if it has not been run."""
    path = folder / OUTCOMES / f"{step}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(**kept["outcome"]), kept["fingerprint"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error!r}): remove it, and the step is looked at again.") from error


def _write_outcome(folder: Path, outcome: Outcome, fingerprint: str) -> None:
    path = folder / OUTCOMES / f"{outcome.step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"outcome": vars(outcome), "fingerprint": fingerprint}, indent=1)
    write_atomically(path, text)


def _read_outcomes(folder: Path, steps: Iterable[str]) -> dict[str, Outcome]:
    return {name: found[0] for name in steps if (found := read_outcome(folder, name))}


def is_planned(run: Run) -> bool:
    """Return whether a study got as far as its plan; one that was stopped before its first step did not."""
    return "plan" in run.manifest["notes"]


def open_study(run: Run) -> Study:
    """Return the study of a run, finished or not."""
    config = make_config(run.manifest["notes"]["plan"], StudyConfig)
    steps = (step.name for step in make_steps(config))
    return Study(config, _read_outcomes(run.folder, steps), run.manifest, run.folder)


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
    waiting: Sequence[Step],
    finished: set[str],
    at_once: Callable[[Sequence[Step]], Iterator[Outcome]],
    said: Callable[[str], None],
) -> Iterator[Outcome]:
    """Run the waiting steps in rounds, each with what the rounds before it made possible."""
    finished, ended, here = set(finished), set(finished), {step.name for step in waiting}

    def is_ready(step: Step) -> bool:
        # A detection takes probes over if they are there, and trains its own if they are not, or are another shard's.
        if step.stage == "detect":
            return step.after is None or step.after in ended or step.after not in here
        return step.after in finished

    open_steps = list(waiting)
    while ready := [step for step in open_steps if is_ready(step)]:
        open_steps = [step for step in open_steps if step not in ready]
        for outcome in at_once(ready):
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
    workers: Workers,
    progress: Progress | None,
    said: Callable[[str], None],
    steps: Sequence[Step],
) -> Iterator[Outcome]:
    if workers.is_serial:
        for step in steps:
            said(f"{step.name} …")
            yield run_step(folder, config, step, progress=progress)
        return
    on_gpu = str(config.device or "").startswith("cuda")
    yield from workers.run(
        run_step,
        [(folder, config, step) for step in steps],
        folder=folder,
        gpus=float(on_gpu),
        lost=lambda number, reason: Outcome(steps[number].name, 0.0, reason),
    )


def run_step(folder: Path, config: StudyConfig, step: Step, *, progress: Progress | None = None) -> Outcome:
    """Run one step in its folder; an error becomes the outcome's reason, and one that is not ours leaves its traceback.

    Not even that goes for a process that the system kills for its memory: it ends the study, which then resumes.
    """
    started, reason = time.perf_counter(), ""
    try:
        _run(folder, config, step, progress)
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


def _run(folder: Path, config: StudyConfig, step: Step, progress: Progress | None) -> None:
    corpus = config.corpora[step.corpus]
    common: dict[str, Any] = {"seed": config.seed, "device": config.device, "dtype": config.dtype, "progress": progress}
    common |= {"out": folder / step.name, "config": getattr(config, step.stage)}
    if step.stage == "detect":
        again: dict[str, Any] = {"nulls": nulls_of(config, step), "reuse": _donor(folder, step)}
        detect(step.model, corpus.text, corpus.treebank, rivals=config.rivals, **again, **common)
        return
    detection = load_run(folder / str(step.after))
    run = run_theory if step.stage == "theory" else intervene
    run(detection, corpus.text, scales=scales_for(detection), **common)


def _donor(folder: Path, step: Step) -> Path | None:
    """Return the run whose probes are taken over: only one that has finished, for another shard may be at it."""
    found = read_outcome(folder, step.after) if step.after else None
    return folder / str(step.after) if found and not found[0].reason else None


def scales_for(detection: Detection) -> str | None:
    """Return the scales of noise and theory: the detection's (None) where both are supported, else thirds."""
    found = detection.found
    return None if len(found.boundaries) == 2 and found.are_supported else ASK_FOR_THIRDS
