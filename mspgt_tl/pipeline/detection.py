"""The stages of a detection in order, each reading and writing the run's folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from mspgt_tl.audit import audit, audit_signals, heed
from mspgt_tl.boundaries import MIN_LAYERS, Boundaries
from mspgt_tl.config import DetectConfig, make_config, override, to_plain
from mspgt_tl.contracts import CausalModel, Progress, StreamSignal, TextCorpus, Tree, Treebank
from mspgt_tl.errors import CorpusError, StoreError
from mspgt_tl.evidence import make_signals, read_boundaries, weigh_evidence
from mspgt_tl.models.pretrained import Backend, load, require_blocks
from mspgt_tl.passes.corpus import observe_corpus, which_usable
from mspgt_tl.passes.folds import MIN_FOLDS, Folds, assign_folds
from mspgt_tl.passes.words import WordVectors, word_vectors
from mspgt_tl.pipeline.inputs import Inputs, Prefixes, identify, null_inputs, open_corpus, open_treebank, reading_notes
from mspgt_tl.pipeline.sentences import strongest_sentences
from mspgt_tl.pipeline.shown import Shown
from mspgt_tl.profile import PROFILE, StreamProfile, label_profile
from mspgt_tl.rivals import make_rivals, weigh_rivals
from mspgt_tl.signals.probe_fitting import ProbeData, fit_probes
from mspgt_tl.stats import fold_documents, split_folds
from mspgt_tl.store import MANIFEST, Run, pack_sums, unpack_sums

if TYPE_CHECKING:
    import xarray as xr

REPORT = "report.html"
RIVALS = "rivals"
"""Stage of the rival readings."""
DEV_FOLDS = 80
"""Bootstrap folds of the treebank's dev split."""

Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True, repr=False)
class Detection(Shown):
    """The result of `detect`: where the boundaries are, whether they exist, and everything they rest on."""

    data: xr.Dataset
    """Every number of the result, labelled."""
    manifest: Mapping[str, Any]
    """What the numbers depend on: config, seeds, hashes, versions, timings."""
    nulls: Mapping[str, xr.Dataset]
    """Results of the model nulls that were asked for, by name."""
    folder: Path | None
    """The run's folder, if it has one."""
    rivals: xr.Dataset | None = None
    """Where rival readings of depth put their boundaries, if they were asked for; see `weigh_rivals`."""

    @property
    def found(self) -> Boundaries:
        """The boundaries with their intervals, p-values and reasons."""
        return read_boundaries(self.data)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Gaps in depth order; at most two."""
        return self.found.boundaries

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One verdict for each boundary."""
        return self.found.verdicts

    @property
    def curves(self) -> xr.DataArray:
        """`[signal, gap]`, each signal in its own unit."""
        return self.data["curve"]

    def scales(self, *, unsupported: bool = False) -> dict[str, range]:
        """Return the blocks of the Local, Intermediate and Global scale; see `Boundaries.scales`."""
        return self.found.scales(int(self.data.attrs["n_layers"]), unsupported=unsupported)

    def save(self, folder: str | Path) -> Path:
        """Write the result with its report to a new folder and return the report's path.

        Raises:
            StoreError: the folder holds something else.
        """
        run = Run.create(Path(folder), self.manifest["identity"])
        if self.folder is None or run.folder.resolve() != self.folder.resolve():
            stages = {"result": self.data, **{f"null-{k}": v for k, v in self.nulls.items()}}
            stages |= {RIVALS: self.rivals} if self.rivals is not None else {}
            for name, data in stages.items():
                run.stage(name, lambda data=data: data)
            run.note(**self.manifest["notes"])
        return write_report(replace(self, folder=run.folder, manifest=run.manifest))


def write_report(detection: Detection) -> Path:
    """Draw the dashboard of a detection into its folder and return its path."""
    from mspgt_tl.dashboard import render_report

    if detection.folder is None:
        raise StoreError("This detection has no folder yet: save(folder) writes it and its report.")
    page = render_report(detection.data, detection.manifest, detection.nulls, detection.rivals)
    return Run(detection.folder, dict(detection.manifest)).write(REPORT, page)


def load_run(folder: str | Path) -> Detection:
    """Read a finished detection from its folder.

    Raises:
        StoreError: no run is there, or it has not finished.
    """
    run = Run.read(Path(folder))
    command = run.manifest["identity"].get("command", "detect")
    if command != "detect":
        reader = {"intervene": "load_intervention", "theory": "theory.load_theory", "calibrate": "mspgt report"}
        raise StoreError(
            f"{folder} holds a run of `mspgt {command}`, no detection; "
            f"{reader.get(command, 'its own command')} reads it."
        )
    if "result" not in run.manifest["stages"]:
        raise StoreError(f"{folder} has not finished: run the same `mspgt detect` again to resume it.")
    nulls = {s.removeprefix("null-"): run.arrays(s) for s in run.manifest["stages"] if s.startswith("null-")}
    rivals = run.arrays(RIVALS) if RIVALS in run.manifest["stages"] else None
    return Detection(run.arrays("result"), run.manifest, nulls, run.folder, rivals)


def as_detection(model: Any) -> Detection | None:
    """Return a detection, or the one in a run's folder; None for anything else, which is then a model.

    Raises:
        StoreError: the folder holds a run of another kind, or an unfinished one.
    """
    if isinstance(model, Detection):
        return model
    if not (isinstance(model, str | Path) and (Path(model) / MANIFEST).is_file()):
        return None
    if Run.read(Path(model)).manifest["identity"].get("command") != "detect":
        raise StoreError(f"{model} holds no detection: give the folder of a finished `mspgt detect`, or a model.")
    return load_run(model)


def detect(
    model: str | Path | CausalModel,
    corpus: str | Path | TextCorpus | Sequence[str] | None = None,
    treebank: str | Path | tuple[str | Path, str | Path] | Treebank | None = None,
    *,
    seed: int | None = None,
    out: str | Path | None = None,
    config: DetectConfig | Mapping[str, Any] | None = None,
    nulls: Sequence[str] = (),
    rivals: bool = False,
    reuse: str | Path | None = None,
    backend: Backend = "hooked",
    device: str | None = None,
    dtype: str | None = None,
    parity: bool = True,
    trust_remote_code: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Detection:
    """Find the boundaries of a model: signals, fusion, bootstrap, existence test, verdict (docs/method.md).

    Args:
        model: anything `load` takes.
        corpus: a text file, `hf:` dataset, sentences or a `TextCorpus`; generated sentences by default.
        treebank: a folder with a train and a dev file, `"TRAIN,DEV"`, a pair of paths or a `Treebank`; the generated
            one by default.
        seed: of everything random; None takes the config's, which is 0 unless told.
        out: folder of the run; a run that was killed resumes there. None keeps nothing on disk.
        config: a `DetectConfig`, or nested settings as in a TOML file.
        nulls: model nulls to run beside it: `random:SEED` (the architecture with random weights), `labels`
            (shuffled treebank labels) and `tokens` (shuffled words).
        rivals: also watch the rival readings of depth (`mspgt_tl.rivals`) on the same pass; the result is the
            same with and without them.
        reuse: folder of another detection of the same model; its probes are taken over, not trained again, where it
            saw the same treebank with the same settings.
        skip_bad: keep the good rest of a treebank with malformed lines.
        options: settings by dotted or plain name, such as `sentences=2000` or `rule="paper"`.

    Raises:
        MspgtError: bad input of any kind, with what was needed, what came and what to do.
    """
    plain = to_plain(config) if isinstance(config, DetectConfig) else dict(config or {})
    settings = make_config(override(plain, _full_names({"seed": seed, **options})))
    trust = {"parity": parity, "trust_remote_code": trust_remote_code}
    load_alike = partial(load, backend=backend, device=device, dtype=dtype, **trust)
    # Text and trees first: they are refused in seconds, while loading a model takes minutes.
    text = open_corpus(corpus, settings.sentences)
    assign_folds(len(text.sentences), seed=settings.seed)  # refuses too short a corpus before anything is written
    trees = open_treebank(treebank, settings, skip_bad=skip_bad)
    hooked = load_alike(model)
    require_blocks(hooked, MIN_LAYERS, "A detection")
    identity = {
        "command": "detect",
        "config": to_plain(settings),
        "model": identify(hooked),
        "corpus": {"name": text.name, "sha256": text.sha256, "sentences": len(text.sentences)},
        "treebank": {"name": trees.name, "sha256": trees.sha256, "train": len(trees.train), "dev": len(trees.dev)},
    }
    inputs = Inputs(hooked, text, trees)
    variants = {name: null_inputs(name, inputs, model, load_alike, settings.seed) for name in nulls}
    others = make_rivals(hooked) if rivals else {}
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="mspgt-"))
    try:
        run = Run.create(folder, identity)
        run.note(**reading_notes(text, trees))
        if reuse is not None:
            _adopt_probes(run, Run.read(Path(reuse)), settings)
        result = run.stage("result", lambda: _detect_once(run, Prefixes(), inputs, settings, progress, others))
        if others:
            run.stage(RIVALS, lambda: _weigh_rivals(run, inputs, others, result, settings, progress))
        null_results = {}
        for name, make_inputs in variants.items():
            stage = f"null-{name.replace(':', '-')}"

            def compute(name: str = stage, make: Callable[[], Inputs] = make_inputs) -> xr.Dataset:
                changed = make()
                prefixes = inputs.prefixes_of(changed, f"{name.removeprefix('null-')}.")
                return _detect_once(run, prefixes, changed, settings, progress)

            null_results[stage.removeprefix("null-")] = run.stage(stage, compute)
        weighed = run.arrays(RIVALS) if RIVALS in run.manifest["stages"] else None
        detection = Detection(result, run.manifest, null_results, folder if out is not None else None, weighed)
        if out is not None:
            write_report(detection)
        return detection
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)


def _adopt_probes(run: Run, donor: Run, config: DetectConfig) -> None:
    """Take over the probes of a run on another text: they depend on the model, the treebank and the settings alone."""
    own, other = run.manifest["identity"], donor.manifest["identity"]
    if all(own[part] == other.get(part) for part in ("command", "config", "model", "treebank")):
        for task in config.signals.tasks:
            run.adopt(f"probe-{task}", donor)
            run.adopt(f"labels.probe-{task}", donor)  # of the null, where both have it


def _full_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Allow the settings of the boundary and signal stages by their plain names."""
    short = {
        **dict.fromkeys(("rule", "weights", "resamples", "null_curves"), "boundaries."),
        **dict.fromkeys(("attention_mode", "attention_sinks", "probe_curve", "rows", "tasks"), "signals."),
        **dict.fromkeys(("max_length", "batch_positions", "bos", "tokens"), "stream."),
    }
    return {short.get(name, "") + name: value for name, value in options.items() if value is not None}


def _detect_once(
    run: Run,
    prefixes: Prefixes,
    inputs: Inputs,
    config: DetectConfig,
    progress: Progress | None,
    rivals: Mapping[str, StreamSignal] | None = None,
) -> xr.Dataset:
    """Run every stage that is not finished yet and return the labelled result; rivals only watch the same pass."""
    signals = make_signals(config.signals, config.boundaries.rule)
    streamed = {name: s for name, s in signals.items() if isinstance(s, StreamSignal)}
    audited = {**audit_signals(config.signals), PROFILE: StreamProfile()}
    watched = _stream_sums(run, prefixes.text, inputs, {**streamed, **audited, **(rivals or {})}, config, progress)
    sums = {name: watched[name] for name in streamed}
    sums["probe"], skipped = _probe_sums(run, prefixes.trees, inputs.model, inputs.treebank, config, progress)
    result = weigh_evidence(signals, sums, config.boundaries, seed=config.seed, reasons=skipped)
    audited_result = heed(result, audit(result, watched, config.signals, config.boundaries))
    profile = label_profile(watched[PROFILE], result["boundary"].values)
    told = _told_sentences(result, streamed, sums, inputs, config)
    return audited_result.merge(profile, combine_attrs="override").merge(told, combine_attrs="override")


def _told_sentences(
    result: xr.Dataset,
    signals: Mapping[str, StreamSignal],
    sums: Mapping[str, Sums],
    inputs: Inputs,
    config: DetectConfig,
) -> xr.Dataset:
    usable, folds = _usable(inputs, config)
    return strongest_sentences(
        result, signals, sums, inputs.model, usable.sentences, folds, seed=config.seed, config=config.stream
    )


def _usable(inputs: Inputs, config: DetectConfig) -> tuple[TextCorpus, Folds]:
    """Return the sentences that the signals read, and their bootstrap folds."""
    usable = inputs.corpus.select(which_usable(inputs.model, inputs.corpus.sentences, config.stream))
    return usable, assign_folds(len(usable.sentences), seed=config.seed, documents=usable.documents)


def _weigh_rivals(
    run: Run,
    inputs: Inputs,
    rivals: Mapping[str, StreamSignal],
    result: xr.Dataset,
    config: DetectConfig,
    progress: Progress | None,
) -> xr.Dataset:
    sums = _stream_sums(run, "", inputs, rivals, config, progress)
    return weigh_rivals(result, rivals, sums, config.boundaries, seed=config.seed)


def _stream_sums(
    run: Run,
    prefix: str,
    inputs: Inputs,
    signals: Mapping[str, StreamSignal],
    config: DetectConfig,
    progress: Progress | None,
) -> dict[str, Sums]:
    """Return the sums of signals over the text, each a stage; those not finished are read in one pass."""
    unfinished = {name: s for name, s in signals.items() if f"{prefix}{name}" not in run.manifest["stages"]}
    passed: dict[str, Sums] = {}

    def sums_of(name: str) -> xr.Dataset:
        if not passed:
            usable, folds = _usable(inputs, config)
            run.note(**{f"{prefix}sentences": len(folds.order), f"{prefix}folds": [folds.count, folds.size]})
            run.note(**{f"{prefix}resampled": folds.rule})
            passed.update(
                observe_corpus(
                    inputs.model,
                    usable.sentences,
                    unfinished,
                    folds=folds,
                    seed=config.seed,
                    config=config.stream,
                    progress=progress,
                )
            )
        return pack_sums(passed[name])

    return {name: unpack_sums(run.stage(f"{prefix}{name}", lambda name=name: sums_of(name))) for name in signals}


def split_dev(trees: Sequence[Tree], *, seed: int) -> Int[np.ndarray, "tree"]:
    """Assign the trees that probes are measured on to bootstrap folds: whole documents where enough are known."""
    documents = _dev_documents(trees)
    if documents is not None:
        return fold_documents(documents, DEV_FOLDS, seed=seed)
    return split_folds(len(trees), DEV_FOLDS, seed=seed)


def _dev_documents(trees: Sequence[Tree]) -> Int[np.ndarray, "tree"] | None:
    """Return the document of every tree; None where some are unknown, or there are too few for a bootstrap."""
    documents = [tree.document for tree in trees]
    # A probe is scored word by word, so a fold may be a single document.
    enough = None not in documents and MIN_FOLDS <= len(set(documents)) < len(trees)
    return np.array(documents) if enough else None


def _probe_sums(
    run: Run, prefix: str, model: CausalModel, treebank: Treebank, config: DetectConfig, progress: Progress | None
) -> tuple[Sums, list[str]]:
    """Train the probes task by task, each a stage of its own, on word vectors kept on disk meanwhile."""
    splits: dict[str, ProbeData] = {}

    def read_words() -> None:
        for split, trees in (("train", treebank.train), ("dev", treebank.dev)):
            words: WordVectors = word_vectors(
                model, trees, config=config.stream, store=run.folder, progress=progress, stage=f"words ({split})"
            )
            fold = split_dev(trees, seed=config.seed) if split == "dev" else None
            splits[split] = ProbeData(words.features, trees, words.rows, fold)
        whole = _dev_documents(treebank.dev) is not None
        run.note(**{f"{prefix}trees_resampled": "documents" if whole else "trees"})

    def train(task: str) -> xr.Dataset:
        if not splits:
            read_words()
        sums, details = fit_probes(
            splits["train"],
            splits["dev"],
            (task,),
            replace(config.probe, seed=config.probe.seed + config.seed),
            n_folds=1 + int(split_dev(treebank.dev, seed=config.seed).max()),
            device=str(model.cfg.device),
            progress=progress,
        )
        return pack_sums(sums, details=json.dumps(details))

    stages = {task: run.stage(f"{prefix}probe-{task}", lambda task=task: train(task)) for task in config.signals.tasks}
    skipped = [why for stage in stages.values() for why in json.loads(stage.attrs["details"])["skipped"].values()]
    sums = {name: array for stage in stages.values() for name, array in unpack_sums(stage).items()}
    if not sums:
        raise CorpusError(f"No probe task can be scored. {' '.join(skipped)}")
    return sums, skipped
