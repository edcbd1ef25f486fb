"""The stages of a detection in order, each reading and writing the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.audit import audit, audit_signals, heed
from mspgt_tl.boundaries import MIN_LAYERS, Boundaries
from mspgt_tl.config import QUICK_DEV_TREES, DetectConfig, settings_of, to_plain
from mspgt_tl.contracts import SEEDS, CausalModel, Progress, StreamSignal, TextCorpus, Treebank
from mspgt_tl.dashboard.explorer import with_p_grid
from mspgt_tl.errors import CorpusError
from mspgt_tl.evidence import make_signals, read_boundaries, weigh_evidence
from mspgt_tl.models.placement import memory_budget
from mspgt_tl.models.pretrained import Backend
from mspgt_tl.passes.corpus import count_cut, observe_corpus, usable_text
from mspgt_tl.passes.folds import Folds, assign_folds, assign_trees
from mspgt_tl.passes.words import bytes_of_word_vectors
from mspgt_tl.pipeline.checks import check_detection
from mspgt_tl.pipeline.inputs import (
    Inputs,
    Loading,
    Prefixes,
    identify,
    null_inputs,
    open_corpus,
    open_treebank,
    reading_notes,
)
from mspgt_tl.pipeline.sentences import strongest_sentences
from mspgt_tl.pipeline.shell import Kind, quick_folder, register, stage
from mspgt_tl.pipeline.shown import Shown
from mspgt_tl.power import power_of
from mspgt_tl.profile import PROFILE, StreamProfile, label_profile
from mspgt_tl.progress import Told, telling
from mspgt_tl.rivals import make_rivals, weigh_rivals
from mspgt_tl.signals.probe import ProbeSignal
from mspgt_tl.signals.probe_fitting import ProbeData, fit_probes, read_words
from mspgt_tl.store import MANIFEST, QUICK, Run, pack_sums, unpack_sums

if TYPE_CHECKING:
    import xarray as xr

RIVALS = "rivals"
"""Stage of the rival readings."""
PLACES = ((), (QUICK,))
"""Where a folder says that it holds a detection, if only a quick look."""

VECTORS_SHARE = 0.75
"""Words' vectors stay in memory where they take no more of what is given."""

Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True, repr=False)
class Detection(Shown):
    """The result of `detect`: where the boundaries are, whether they exist, and everything they rest on.

    See Also:
        detect: makes one.
        load_run: reads one.

    Example:
        >>> result = load_run("docs/runs/smollm2-135m")
        >>> list(result.summary().columns[:4])
        ['gap', 'depth', 'low', 'high']
        >>> result.reweigh({"cka": 1, "attention_jsd": 1}).curves.sizes["gap"]
        29
    """

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
        return KIND.write_page(replace(self, folder=run.folder, manifest=run.manifest))


def _read(run: Run) -> Detection:
    stages = run.manifest["stages"]
    nulls = {name.removeprefix("null-"): run.arrays(name) for name in stages if name.startswith("null-")}
    rivals = run.arrays(RIVALS) if RIVALS in stages else None
    return Detection(run.arrays("result"), run.manifest, nulls, run.folder, rivals)


def _draw(detection: Detection) -> str:
    from mspgt_tl.dashboard import render_report

    return render_report(detection.data, detection.manifest, detection.nulls, detection.rivals)


KIND = register(Kind("detect", "detection", lambda run: "result" in run.manifest["stages"], _read, _draw))


def load_run(folder: str | Path) -> Detection:
    """Read a finished detection from its folder.

    Raises:
        StoreError: no detection is there, or it has not finished.

    See Also:
        Detection: what comes back.
        load_intervention: the same for a sweep of noise.

    Example:
        A run that lies in the repository:

        >>> load_run("docs/runs/smollm2-135m").name
        'smollm2-135m'
    """
    return KIND.load(folder)


def as_detection(model: Any) -> Detection | None:
    """Return a detection, or the one in a run's folder; None for anything else, which is then a model.

    Raises:
        StoreError: the folder holds a run of another kind, or an unfinished one.
    """
    if isinstance(model, Detection):
        return model
    if not (isinstance(model, str | Path) and any(Path(model).joinpath(*part, MANIFEST).is_file() for part in PLACES)):
        return None
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
    quick: bool = False,
    reuse: str | Path | None = None,
    backend: Backend = "hooked",
    device: str | None = None,
    dtype: str | None = None,
    parity: bool = True,
    trust_remote_code: bool = False,
    skip_bad: bool = False,
    memory: str | float | None = None,
    progress: Progress | bool | None = None,
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
        quick: a first answer with little data and short training (`mspgt_tl.config.QUICK`), but for what the options
            ask; marked as such wherever it is shown. It lies in `out`/quick, and the full run in `out` takes over what
            is the same.
        reuse: folder of another detection of the same model; its probes are taken over, not trained again, where it
            saw the same treebank with the same settings, and its signals where it saw the same text.
        backend, device, dtype, parity, trust_remote_code: as for `load`.
        skip_bad: keep the good rest of a treebank with malformed lines.
        memory: what words' vectors and the probes on them may take, beside the model: bytes, or a text such as `8GB`;
            None is a quarter of the machine's. With less, vectors lie in a file and fewer layers are trained at once.
        progress: True shows it on standard error, False does not, None does where somebody watches; or a function that
            is told instead.
        options: settings by dotted or plain name, such as `sentences=2000` or `rule="paper"`.

    Raises:
        MspgtError: bad input of any kind, with what was needed, what came and what to do.

    See Also:
        measure: curves alone, without a treebank.
        load_run: reads a run again.
        intervene: noise in the scales that a detection found.

    Example:
        Little data and short training, to be fast; leave these settings out.

        >>> quick = {"train_trees": 150, "tasks": ("pos",), "resamples": 100, "null_curves": 200}
        >>> result = detect("planted:8:3,6", sentences=200, **quick, config={"probe": {"epochs": 2, "repeats": 1}})
        >>> result.name, result.curves.sizes["gap"]
        ('planted:8:3,6@seed:0', 7)
    """
    settings = settings_of(DetectConfig, config, {"seed": seed, **options}, quick=quick)
    budget = memory_budget(memory)
    loading = Loading(backend, device, dtype, parity, trust_remote_code)
    check_detection(model, settings, nulls, quick_folder(out) if quick else out)
    with telling(progress) as told:
        # Text and trees first: they are refused in seconds, while loading a model takes minutes.
        with told.doing("reading"):
            text = read_text(corpus, settings)
            trees = open_treebank(treebank, settings, skip_bad=skip_bad, dev=QUICK_DEV_TREES if quick else None)
        with told.doing("loading"):
            hooked = loading.load(model, least=MIN_LAYERS, purpose="A detection")
        inputs = Inputs(hooked, text, trees)
        variants = {name: null_inputs(name, inputs, model, loading, settings.seed) for name in nulls}
        return _run(
            inputs, settings, out, told, variants=variants, rivals=rivals, quick=quick, reuse=reuse, memory=budget
        )


def read_text(corpus: Any, settings: DetectConfig) -> TextCorpus:
    """Return what `open_corpus` reads; a text that is too short for a bootstrap is refused."""
    text = open_corpus(corpus, settings.sentences)
    assign_folds(len(text.sentences), seed=settings.seed)
    return text


def _run(
    inputs: Inputs,
    settings: DetectConfig,
    out: str | Path | None,
    told: Told,
    *,
    variants: Mapping[str, Callable[[], Inputs]],
    rivals: bool,
    quick: bool,
    reuse: str | Path | None,
    memory: float,
) -> Detection:
    hooked, text, trees = inputs.model, inputs.corpus, inputs.treebank
    identity = {
        "config": to_plain(settings),
        "model": identify(hooked),
        "corpus": {"name": text.name, "sha256": text.sha256, "sentences": len(text.sentences)},
        "treebank": {"name": trees.name, "sha256": trees.sha256, "train": len(trees.train), "dev": len(trees.dev)},
        **({"quick": True} if quick else {}),
    }
    look = quick_folder(out)
    donors = [] if quick or look is None or not (look / MANIFEST).is_file() else [look]

    def work(run: Run) -> None:
        cut = count_cut(hooked, text.sentences, settings.stream)
        run.note(**reading_notes(text, trees, cut), **({"quick": _quick_words(inputs, settings)} if quick else {}))
        for donor in [*donors, *([] if reuse is None else [Path(reuse)])]:
            told.say(_take_over(run, Run.read(donor)))
        watched = _Stages(run, inputs, settings, told, rivals=make_rivals(hooked) if rivals else {}, memory=memory)
        result = watched.result()
        if rivals:
            watched.weighed(result)
        for name, make_inputs in variants.items():
            watched.null(name.replace(":", "-"), make_inputs)

    return KIND.make(look if quick else out, identity, work, told, _plan(inputs, settings, list(variants), rivals))


def _plan(inputs: Inputs, settings: DetectConfig, nulls: Sequence[str], rivals: bool) -> str:
    """Say what a detection will do."""
    cfg, tasks = inputs.model.cfg, settings.signals.tasks
    also = [*(f"null {name}" for name in nulls), *["rivals"] * rivals]
    return (
        f"Detection: {cfg.n_layers} blocks of {cfg.d_model} dimensions; {len(inputs.corpus.sentences):,} sentences; "
        f"probes of {', '.join(tasks)} on {len(inputs.treebank.train):,} trees, trained {settings.probe.repeats} × "
        f"each, measured on {len(inputs.treebank.dev):,}{'; besides ' + ', '.join(also) if also else ''}."
    )


def _quick_words(inputs: Inputs, settings: DetectConfig) -> str:
    """Say what a quick look is, for everything that shows it."""
    trees, repeats = inputs.treebank, settings.probe.repeats
    return (
        f"A quick look: {len(inputs.corpus.sentences):,} sentences, probes of {', '.join(settings.signals.tasks)} on "
        f"{len(trees.train):,} trees with {repeats} training{'s' * (repeats > 1)} each. Intervals are wider and weak "
        "boundaries are missed; the full run answers."
    )


READ_WITH = ("sentences", "folds", "resampled")
"""Notes of the pass over the text."""


def _take_over(run: Run, donor: Run) -> str:
    """Take over the stages of another run that see the same, and say which.

    Probes depend on the model, the treebank and their own settings alone; signals on the model, the text and theirs.
    """
    own, other = run.manifest["identity"], donor.manifest["identity"]

    def same(parts: Sequence[str], settings: Sequence[str]) -> bool:
        configs = [{**part["config"], **part["config"]["signals"]} for part in (own, other)]
        equal = all(own[part] == other.get(part) for part in parts)
        return equal and all(configs[0].get(name) == configs[1].get(name) for name in settings)

    taken = []
    if own["command"] == other.get("command"):
        stages, finished = set(donor.manifest["stages"]), set(run.manifest["stages"])
        probes = {name for name in stages if "probe-" in name}
        if same(("model", "treebank"), ("seed", "stream", "probe")):
            # Probes of shuffled labels see the same trees; those of a random twin, its weights, are its own.
            taken += [
                f"{prefix}probe-{task}" for task in own["config"]["signals"]["tasks"] for prefix in ("", "labels.")
            ]
        if same(("model", "corpus"), ("seed", "stream", "sentences", "attention_mode", "attention_sinks", "rows")) and (
            own["config"]["boundaries"]["rule"] == other["config"]["boundaries"]["rule"]
        ):
            taken += sorted(name for name in stages - probes if name not in ("result", RIVALS) and "null" not in name)
            run.note(**{name: donor.manifest["notes"][name] for name in READ_WITH if name in donor.manifest["notes"]})
        taken = [name for name in taken if name in stages - finished]
    for name in taken:
        run.adopt(name, donor)
    if taken and "trees_resampled" in donor.manifest["notes"]:
        run.note(trees_resampled=donor.manifest["notes"]["trees_resampled"])
    return f"Taken over from {donor.folder}: {', '.join(taken) or 'nothing, for its text and trees are others'}."


@dataclass(frozen=True)
class _Stages:
    """The stages of one detection: a model on a text and a treebank."""

    run: Run
    inputs: Inputs
    config: DetectConfig
    told: Told
    prefixes: Prefixes = field(default_factory=Prefixes)
    rivals: Mapping[str, StreamSignal] = field(default_factory=dict)
    """Signals that only watch the same pass."""
    memory: float | None = None
    """Bytes for words' vectors and the probes on them; None is a quarter of the machine's."""

    @stage("result")
    def result(self) -> xr.Dataset:
        """Return the labelled result."""
        return self._detect()

    @stage("null-{1}")
    def null(self, name: str, make_inputs: Callable[[], Inputs]) -> xr.Dataset:
        """Return the result on other inputs, which shares what sees the same ones."""
        changed = make_inputs()
        prefixes = self.inputs.prefixes_of(changed, f"{name}.")
        return _Stages(self.run, changed, self.config, self.told, prefixes, memory=self.memory)._detect()

    @stage(RIVALS)
    def weighed(self, result: xr.Dataset) -> xr.Dataset:
        """Return where the rivals put their boundaries."""
        sums = self._stream_sums(self.rivals)
        return weigh_rivals(result, self.rivals, sums, self.config.boundaries, seed=self.config.seed)

    def _detect(self) -> xr.Dataset:
        config = self.config
        signals = make_signals(config.signals, config.boundaries.rule)
        streamed = {name: s for name, s in signals.items() if isinstance(s, StreamSignal)}
        audited = {**audit_signals(config.signals), PROFILE: StreamProfile()}
        watched = self._stream_sums({**streamed, **audited, **self.rivals})
        sums = {name: watched[name] for name in streamed}
        sums[ProbeSignal.name], skipped = self._probe_sums()
        with self.told.doing("boundaries"):
            return self._weigh(signals, streamed, watched, sums, skipped)

    def _weigh(
        self,
        signals: Mapping[str, Any],
        streamed: Mapping[str, StreamSignal],
        watched: Mapping[str, Sums],
        sums: Mapping[str, Sums],
        skipped: Sequence[str],
    ) -> xr.Dataset:
        """Return the labelled result: boundaries, audit, profile, and the sentences that make each boundary."""
        config = self.config
        result = weigh_evidence(signals, sums, config.boundaries, seed=config.seed, reasons=skipped)
        audited_result = heed(result, audit(result, watched, config.signals, config.boundaries))
        profile = label_profile(watched[PROFILE], result["boundary"].values)
        usable, folds = self._usable
        strongest = strongest_sentences(
            result,
            streamed,
            sums,
            self.inputs.model,
            usable.sentences,
            folds,
            seed=config.seed,
            config=config.stream,
        )
        whole = audited_result.merge(profile, combine_attrs="override").merge(strongest, combine_attrs="override")
        return with_p_grid(whole.assign(power=power_of(result)), config.boundaries.weights)

    @cached_property
    def _usable(self) -> tuple[TextCorpus, Folds]:
        """The sentences that the signals read, and their bootstrap folds."""
        corpus = self.inputs.corpus
        return usable_text(self.inputs.model, corpus, seed=self.config.seed, config=self.config.stream)

    def _stream_sums(self, signals: Mapping[str, StreamSignal]) -> dict[str, Sums]:
        """Return the sums of signals over the text, each a stage; those not finished are read in one pass."""
        prefix, passed = self.prefixes.text, dict[str, Sums]()
        unfinished = {name: s for name, s in signals.items() if f"{prefix}{name}" not in self.run.manifest["stages"]}

        def sums_of(name: str) -> xr.Dataset:
            if not passed:
                passed.update(self._read_text(unfinished))
            return pack_sums(passed[name])

        return {
            name: unpack_sums(self.run.stage(f"{prefix}{name}", lambda name=name: sums_of(name))) for name in signals
        }

    def _read_text(self, signals: Mapping[str, StreamSignal]) -> dict[str, Sums]:
        prefix = self.prefixes.text
        with self.run.timed(f"{prefix}pass over the text"):
            usable, folds = self._usable
            self.run.note(**{f"{prefix}sentences": len(folds.order), f"{prefix}folds": [folds.count, folds.size]})
            self.run.note(**{f"{prefix}resampled": folds.rule})
            return observe_corpus(
                self.inputs.model,
                usable.sentences,
                signals,
                folds=folds,
                seed=self.config.seed,
                config=self.config.stream,
                progress=self.told,
            )

    def _probe_sums(self) -> tuple[Sums, list[str]]:
        """Train the probes task by task, each a stage of its own, on word vectors kept meanwhile.

        Returns:
            The sums of all tasks, and why tasks are missing.
        """
        words: list[ProbeData] = []
        stages = {task: self.probe(task, words) for task in self.config.signals.tasks}
        skipped = [why for part in stages.values() for why in json.loads(part.attrs["details"])["skipped"].values()]
        sums = {name: array for part in stages.values() for name, array in unpack_sums(part).items()}
        if not sums:
            raise CorpusError(f"No probe task can be scored. {' '.join(skipped)}")
        return sums, skipped

    @stage("{0.prefixes.trees}probe-{1}")
    def probe(self, task: str, words: list[ProbeData]) -> xr.Dataset:
        """Return the sums of one task's probes; the first to need the words' vectors leaves them for the others."""
        words[:] = words or self._read_words()
        (train, dev), config = words, self.config
        sums, details = fit_probes(
            train,
            dev,
            (task,),
            replace(config.probe, seed=(config.probe.seed + config.seed) % SEEDS),
            device=str(self.inputs.model.cfg.device),
            memory=self._memory[1],
            progress=self.told,
        )
        return pack_sums(sums, details=json.dumps(details))

    @cached_property
    def _memory(self) -> tuple[bool, float]:
        """Whether words' vectors stay in memory, and the bytes left to train probes with."""
        budget, model = memory_budget(self.memory), self.inputs.model.cfg
        trees = self.inputs.treebank
        words = sum(len(tree.words) for tree in (*trees.train, *trees.dev))
        needed = bytes_of_word_vectors(words, int(model.n_layers), int(model.d_model))
        stay = needed <= VECTORS_SHARE * budget
        kept = {"bytes": needed, "kept": "in memory" if stay else "in a file of the run's folder, meanwhile"}
        self.run.note(**{f"{self.prefixes.trees}word_vectors": kept})
        return stay, budget - needed * stay

    def _read_words(self) -> tuple[ProbeData, ProbeData]:
        trees, prefix, seed = self.inputs.treebank, self.prefixes.trees, self.config.seed
        with self.run.timed(f"{prefix}pass over the trees"):
            found = read_words(
                self.inputs.model,
                trees.train,
                trees.dev,
                seed=seed,
                config=self.config.stream,
                store=None if self._memory[0] else self.run.folder,
                progress=self.told,
            )
        self.run.note(**{f"{prefix}trees_resampled": assign_trees(trees.dev, seed=seed)[1]})
        return found
