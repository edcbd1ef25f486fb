"""The stages of a sweep: activation units, doses, effects on the next token, text, metrics, statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.cards import card
from mspgt_tl.config import InterveneConfig, StreamConfig, settings_of, to_plain
from mspgt_tl.contracts import CausalModel, Progress, TextCorpus, layer_target
from mspgt_tl.errors import ConfigError, CorpusError
from mspgt_tl.escape import read_csv, to_csv
from mspgt_tl.interventions.alternatives import disturbance_hooks, find_kind, measure_activations
from mspgt_tl.interventions.next_token import HookMaker, clean_passes, measure_ledger, next_token_effects
from mspgt_tl.interventions.scales import MIN_LAYERS
from mspgt_tl.interventions.sweep import (
    CLEAN,
    Condition,
    decode_samples,
    name_controls,
    plan_conditions,
    solve_conditions,
)
from mspgt_tl.interventions.token_effects import token_kl
from mspgt_tl.interventions.units import activation_units
from mspgt_tl.metrics.base import METRICS, Sample, TextMetric
from mspgt_tl.models.pretrained import Backend, encode
from mspgt_tl.models.tokens import continuation_text
from mspgt_tl.passes.corpus import count_cut
from mspgt_tl.pipeline.checks import check_folder
from mspgt_tl.pipeline.detection import Detection
from mspgt_tl.pipeline.inputs import Loading, identify, open_corpus, reading_notes
from mspgt_tl.pipeline.scales import Scales, choose_scales, choose_source
from mspgt_tl.pipeline.shell import Kind, quick_folder, register, stage
from mspgt_tl.pipeline.sweep_tables import (
    arrange_table_2,
    compare_conditions,
    conditions_table,
    pack_conditions,
    read_condition,
)
from mspgt_tl.progress import Told, telling
from mspgt_tl.store import Run

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SAMPLES, STATISTICS, TABLE_2, PARTS = "samples.parquet", "statistics.csv", "table2.csv", "parts"
DOSES = "dose-effects"
"""Stage of the next-token effects at the σ of other doses."""
TOKENS, TOKEN_SAMPLES = "tokens", 12
"""Stage of the KL at every token, and the samples whose undisturbed texts it is measured on."""
SEARCHED = 8
"""Sentences that are read in search of prompts, as a multiple of the samples; many are too short."""


@dataclass(frozen=True, repr=False)
class Intervention:
    """The result of `intervene`.

    See Also:
        intervene: makes one, and has an example.
        load_intervention: reads one.
    """

    conditions: pd.DataFrame
    """One row a condition: scale, blocks, dose, level, σ, and why there is none where there is none."""
    effects: xr.Dataset
    """Next-token effects `[target, level]` of every layer, scale and control, with intervals."""
    ledger: xr.Dataset
    """What every condition amounts to at every layer, `[condition, layer]`."""
    samples: pd.DataFrame
    """Every text with its metrics."""
    statistics: pd.DataFrame
    """One row a metric and condition: change against the clean one, intervals, tests, corrected p-values."""
    manifest: Mapping[str, Any]
    folder: Path | None
    doses: xr.Dataset | None = None
    """Next-token effects `[condition]` of every scale at the σ of other doses; None in folders of earlier versions."""
    tokens: xr.Dataset | None = None
    """KL at every token of a few undisturbed texts, `[condition, sample, pos]`; None in folders of earlier versions."""

    @property
    def doubt(self) -> str:
        """What is wrong with the scales themselves; empty if nothing is, or if they were given by hand."""
        return str(self.manifest["notes"].get("scales_doubt", ""))

    @property
    def name(self) -> str:
        """The model's name, without its folder."""
        return Path(self.manifest["identity"]["model"]["name"]).name

    def __repr__(self) -> str:
        spans = ", ".join(
            f"{name} {first}-{last}" for name, (first, last) in self.manifest["identity"]["scales"].items()
        )
        look = "Quick look. " if "quick" in self.manifest["notes"] else ""
        told = f"{look}Intervention on {self.name}: scales {spans}; {self.conditions['name'].nunique()} conditions"
        return f"{told}, {self.samples['sample'].nunique()} samples.{' ' + self.doubt if self.doubt else ''}"

    def _repr_html_(self) -> str:
        return card(repr(self), ["plot('kl') draws the dose and response."], self.summary())

    def summary(self) -> pd.DataFrame:
        """Return one row a scale: its blocks and the next-token effects at the compared level, with their intervals."""
        effects = self.effects.sel(level=self.manifest["notes"]["compared_level"])
        here = effects.isel(target=effects["group"].values == "scale").drop_vars("level")
        columns = ["blocks", "kl", "kl_low", "kl_high", "loss_change", "agreement"]
        return here[columns].to_dataframe()[columns].rename_axis("scale").reset_index()

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a metric and condition: `statistics`."""
        return self.statistics

    @property
    def table_2(self) -> pd.DataFrame:
        """Relative changes at the compared level in the layout of the paper's Table 2, in per cent."""
        return arrange_table_2(self.statistics, self.manifest["notes"]["compared_level"])

    def plot(self, measure: str = "kl") -> Any:
        """Return the dose–response curves of one next-token measure or text metric as an interactive figure."""
        from mspgt_tl.dashboard.sweep import response_figure

        return response_figure(self, measure)


def intervene(
    model: str | Path | CausalModel | Detection,
    corpus: str | Path | TextCorpus | Sequence[str] | None = None,
    *,
    scales: str | Mapping[str, range] | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    config: InterveneConfig | Mapping[str, Any] | None = None,
    quick: bool = False,
    backend: Backend = "hooked",
    device: str | None = None,
    dtype: str | None = None,
    parity: bool = True,
    trust_remote_code: bool = False,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Intervention:
    """Disturb one scale at a time and measure what changes (docs/method.md, section 3; eq. 7).

    Args:
        model: anything `load` takes, a `Detection`, or the folder of one, whose boundaries then cut the scales.
        corpus: as for `detect`; prompts are the openings of its sentences.
        scales: such as `"0-3,4-8,9-11"`, `"thirds"`, or blocks by name; needed unless a detection gives them.
        seed: of everything random; None takes the config's, which is 0 unless told.
        out: folder of the run; a run that was killed resumes there, with the same bytes, and a finished one can be
            given other metrics. None keeps nothing on disk.
        quick: a first answer with few samples, as for `detect`.
        backend, device, dtype, parity, trust_remote_code: as for `load`.
        config: an `InterveneConfig`, or nested settings as in a TOML file.
        progress: as for `detect`.
        options: settings by dotted or plain name, such as `samples=200`, `levels=(0.1,)`, `dose="kl"`.

    Raises:
        MspgtError: bad input of any kind, with what was needed, what came and what to do.

    See Also:
        noise_hooks: the noise alone, as hooks to be mixed with your own.
        detect: finds the scales.

    Example:
        Few prompts and one level, to be fast:

        >>> few = {"samples": 2, "new_tokens": 2, "effect_sentences": 4, "unit_sentences": 20, "resamples": 100}
        >>> sweep = intervene(
        ...     "planted:8:3,6", scales="0-2,3-5,6-7", levels=(0.1,), metrics=("type_token_ratio",), **few
        ... )
        >>> list(sweep.summary()["scale"])
        ['local', 'intermediate', 'global']
    """
    named = {("metrics.names" if name == "metrics" else name): value for name, value in options.items()}
    settings = settings_of(InterveneConfig, config, {"seed": seed, **named}, quick=quick)
    metrics = choose_metrics(settings)  # unknown names are refused at once
    find_kind(settings.kind)
    given, detection = choose_source(model, scales)
    loading = Loading(backend, device, dtype, parity, trust_remote_code)
    place = quick_folder(out) if quick else out
    check_folder(place, {"command": "intervene", "config": _numbers(settings)})
    with telling(progress) as told:
        most = max(SEARCHED * settings.samples, settings.unit_sentences, settings.effect_sentences)
        with told.doing("reading"):
            text = open_corpus(corpus, most)
        with told.doing("loading"):
            hooked = loading.load(given, least=MIN_LAYERS, purpose="An intervention")
        chosen = choose_scales(scales, detection, int(hooked.cfg.n_layers))
        return _run(hooked, text, chosen, settings, metrics, place, told, quick=quick)


def _run(
    hooked: CausalModel,
    text: TextCorpus,
    chosen: Scales,
    settings: InterveneConfig,
    metrics: Mapping[str, type[TextMetric]],
    out: str | Path | None,
    told: Told,
    *,
    quick: bool,
) -> Intervention:
    prompts = _choose_prompts(hooked, text, settings)
    identity = {
        "config": _numbers(settings),
        "model": identify(hooked),
        "corpus": {"name": text.name, "sha256": text.sha256},
        "scales": chosen.ends,
        **({"quick": True} if quick else {}),
    }
    words = (
        f"A quick look: {settings.samples:,} samples, levels {', '.join(f'{one:g}' for one in settings.levels)}, "
        f"effects on {settings.effect_sentences:,} sentences. Intervals are wider; the full run answers."
    )

    def work(run: Run) -> None:
        cut = count_cut(hooked, text.sentences[: settings.effect_sentences], StreamConfig())
        told_scales = {"scales_from": chosen.origin, "scales_doubt": chosen.doubt}
        run.note(compared_level=settings.compared_level, **told_scales, **reading_notes(text, cut=cut))
        if quick:
            run.note(quick=words)
        _Stages(run, hooked, text.sentences, chosen, prompts, settings, told).run_all(metrics)

    spans = ", ".join(f"{name} {first}-{last}" for name, (first, last) in chosen.ends.items())
    conditions = len(plan_conditions(chosen.blocks, int(hooked.cfg.n_layers), settings))
    plan = (
        f"Intervention: scales {spans} of {hooked.cfg.n_layers} blocks; {conditions} conditions × {settings.samples:,} "
        f"samples × {settings.decode.new_tokens} new tokens; next-token effects on {settings.effect_sentences:,} "
        f"sentences; metrics {', '.join(metrics)}."
    )
    return KIND.make(out, identity, work, told, plan)


def _numbers(settings: InterveneConfig) -> dict[str, Any]:
    """Return what the numbers depend on.

    Which metrics are measured changes no other number, so a folder can be given more of them later.
    """
    plain = to_plain(settings)
    del plain["metrics"]["names"]
    return plain


def _read(run: Run) -> Intervention:
    import pandas as pd

    return Intervention(
        conditions_table(run.arrays("conditions")),
        name_controls(run.arrays("effects")),
        run.arrays("ledger"),
        pd.read_parquet(BytesIO(run.content(SAMPLES))),
        read_csv(run.content(STATISTICS)),
        run.manifest,
        run.folder,
        *(run.arrays(name) if name in run.manifest["stages"] else None for name in (DOSES, TOKENS)),
    )


def _draw(result: Intervention) -> str:
    from mspgt_tl.dashboard.sweep import render_sweep

    return render_sweep(result)


KIND = register(Kind("intervene", "sweep", lambda run: (run.folder / STATISTICS).is_file(), _read, _draw))


def load_intervention(folder: str | Path) -> Intervention:
    """Read a finished sweep from its folder.

    Raises:
        StoreError: no sweep is there, or it has not finished.

    See Also:
        intervene: makes one.
        load_run: the same for a detection.
    """
    return KIND.load(folder)


@dataclass(frozen=True)
class _Stages:
    """The stages of one sweep."""

    run: Run
    model: CausalModel
    sentences: Sequence[str]
    scales: Scales
    prompts: Sequence[list[int]]
    config: InterveneConfig
    told: Told

    def run_all(self, metrics: Mapping[str, type[TextMetric]]) -> None:
        """Run every stage that is not finished yet."""
        table = conditions_table(self.conditions())
        conditions = [read_condition(row) for row in table.to_dict("records")]
        self.ledger(conditions)
        self.effects()
        self.dose_effects(conditions)
        usable = [c for c in conditions if math.isfinite(c.sigma)]
        self._decode(usable)
        texts = self._read_parts()
        self.tokens(texts, usable)
        for name, kind in metrics.items():
            self.metric(name, kind, texts, usable)
        self._write_tables(texts, usable, list(metrics))

    @property
    def n_layers(self) -> int:
        return int(self.model.cfg.n_layers)

    @cached_property
    def make_hooks(self) -> HookMaker:
        """Makes the hooks of a condition."""
        config = self.config
        unit: Any = "token"
        if config.unit != "token":
            unit = dict(enumerate(self.activations()[config.unit].values.tolist()))
        chosen = self.sentences[: config.unit_sentences]
        bank = measure_activations(self.model, chosen, seed=config.seed) if find_kind(config.kind).needs_bank else None

        def make(layers: Any, sigma: Any, ids: Any, positions: Any) -> list[Any]:
            return disturbance_hooks(
                self.model,
                layers,
                sigma,
                kind=config.kind,
                seed=config.seed,
                sample_ids=ids,
                positions=positions,
                unit=unit,
                bank=bank,
            )

        return make

    @stage("activations")
    def activations(self) -> xr.Dataset:
        """Return both activation units of every layer."""
        import xarray as xr

        kinds: tuple[Any, ...] = ("robust", "std")
        chosen = self.sentences[: self.config.unit_sentences]
        measured = {kind: activation_units(self.model, chosen, kind) for kind in kinds}
        return xr.Dataset({kind: ("layer", list(values.values())) for kind, values in measured.items()})

    def _clean(self) -> list[Any]:
        chosen = self.sentences[: self.config.dose_sentences]
        return list(clean_passes(self.model, chosen))

    @stage("conditions")
    def conditions(self) -> xr.Dataset:
        """Return every condition with the σ that gives its dose."""
        planned = plan_conditions(self.scales.blocks, self.n_layers, self.config)
        solved = solve_conditions(
            self.model,
            planned,
            self._clean(),
            self.make_hooks,
            largest=find_kind(self.config.kind).largest,
            progress=lambda done, total: self.told("doses", done, total),
        )
        return pack_conditions(solved)

    @stage("ledger")
    def ledger(self, conditions: Sequence[Condition]) -> xr.Dataset:
        """Return what every condition amounts to at every layer."""
        import xarray as xr

        clean, names, found = self._clean(), [], []
        for number, condition in enumerate(conditions):
            if condition.blocks and math.isfinite(condition.sigma):
                names.append(condition.name)
                found.append(measure_ledger(self.model, clean, condition.blocks, condition.sigma, self.make_hooks))
            self.told("ledger", number + 1, len(conditions))
        if not found:
            return xr.Dataset()
        return xr.concat(found, "condition").assign_coords(condition=names)

    @stage("effects")
    def effects(self) -> xr.Dataset:
        """Return what every layer, scale and control does at every level; a level's σ is solved for each of them."""
        config = self.config
        layers = {layer_target(layer): range(layer, layer + 1) for layer in range(self.n_layers)}
        level = config.compared_level
        scales = self.scales.blocks
        planned = plan_conditions(scales, self.n_layers, replace(config, other_doses=()))
        controls = {c.label: c.blocks for c in planned if c.is_control}
        targets = {**scales, **controls, **layers}
        wanted = [
            Condition(name, name, tuple(blocks), config.dose, one, math.nan)
            for name, blocks in targets.items()
            for one in config.levels
        ]
        solved = solve_conditions(
            self.model,
            wanted,
            self._clean() if config.dose in ("exit_norm", "kl") else [],
            self.make_hooks,
            largest=find_kind(config.kind).largest,
        )
        sigmas = {name: [c.sigma for c in solved if c.name == name] for name in targets}
        found = next_token_effects(
            self.model,
            self.sentences[: config.effect_sentences],
            targets,
            sigmas,
            self.make_hooks,
            seed=config.seed,
            resamples=config.resamples,
            progress=self.told,
        )
        group = ["scale"] * len(scales) + ["control"] * len(controls) + ["layer"] * len(layers)
        spans = [f"{blocks[0]}-{blocks[-1]}" for blocks in targets.values()]
        of = [""] * len(scales) + [c.scale for c in planned if c.is_control] + [""] * len(layers)
        extra = {"group": ("target", group), "control_of": ("target", of), "blocks": ("target", spans)}
        extra |= {"level": list(config.levels)}
        return found.assign_coords(extra).assign_attrs(compared_level=level, dose=config.dose)

    @stage(DOSES)
    def dose_effects(self, conditions: Sequence[Condition]) -> xr.Dataset:
        """Return the next-token effects of the scales at the σ that the other doses ask for."""
        import xarray as xr

        config = self.config
        others = [c for c in conditions if c.blocks and not c.is_control and c.dose != config.dose]
        if not others:
            return xr.Dataset()
        found = next_token_effects(
            self.model,
            self.sentences[: config.effect_sentences],
            {c.name: c.blocks for c in others},
            {c.name: [c.sigma] for c in others},
            self.make_hooks,
            seed=config.seed,
            resamples=config.resamples,
            progress=self.told,
        )
        return found.isel(level=0).rename(target="condition")

    def _decode(self, conditions: Sequence[Condition]) -> None:
        """Write one Parquet file for every few samples; files that are there are not made again."""
        size = self.config.decode.chunk_samples
        per_sample = len(conditions) * self.config.decode.new_tokens
        total = len(self.prompts) * per_sample
        for number, start in enumerate(range(0, len(self.prompts), size)):
            ids = list(range(start, min(start + size, len(self.prompts))))
            name = f"{PARTS}/part-{number:05d}.parquet"
            done = start * per_sample
            if not self.run.has(name):
                counted = 0

                def count(tokens: int, done: int = done) -> None:
                    nonlocal counted
                    counted += tokens
                    self.told("tokens", done + counted, total)

                new = decode_samples(
                    self.model,
                    [self.prompts[i] for i in ids],
                    ids,
                    conditions,
                    self.make_hooks,
                    seed=self.config.seed,
                    config=self.config.decode,
                    progress=count,
                )
                self.run.keep(name, self._part(ids, conditions, new).to_parquet(index=False))
            self.told("tokens", (ids[-1] + 1) * per_sample, total)

    def _part(self, ids: Sequence[int], conditions: Sequence[Condition], new: list[list[list[int]]]) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for i, per_condition in zip(ids, new, strict=True):
            prompt = self.prompts[i]
            for condition, tokens in zip(conditions, per_condition, strict=True):
                before, text = continuation_text(self.model.tokenizer, prompt, tokens)
                rows.append((i, condition.name, before, text, len(tokens), self.config.seed))
        return pd.DataFrame(rows, columns=["sample", "condition", "prompt", "text", "tokens", "seed"])

    @stage(TOKENS)
    def tokens(self, texts: pd.DataFrame, conditions: Sequence[Condition]) -> xr.Dataset:
        """Return the KL at every token of a few undisturbed texts."""
        clean = texts[(texts["condition"] == CLEAN) & (texts["sample"] < TOKEN_SAMPLES)].sort_values("sample")
        whole = (clean["prompt"] + clean["text"]).tolist()
        return token_kl(self.model, whole, conditions, self.make_hooks)

    def _read_parts(self) -> pd.DataFrame:
        import pandas as pd

        parts = [BytesIO(self.run.content(name)) for name in self.run.kept(f"{PARTS}/")]
        return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)

    @stage("metric-{1}")
    def metric(
        self, name: str, kind: type[TextMetric], table: pd.DataFrame, conditions: Sequence[Condition]
    ) -> xr.Dataset:
        """Return one text metric under every condition."""
        import xarray as xr

        metric = kind.from_config(self.config.metrics, self.model)
        values, per_sample, reasons = [], [], []
        groups = dict(tuple(table.groupby("condition", sort=False)))
        for number, condition in enumerate(conditions):
            frame = groups[condition.name].sort_values("sample")
            result = metric.measure([Sample(p, t) for p, t in zip(frame["prompt"], frame["text"], strict=True)])
            values.append(result.value)
            missing = np.full(len(frame), np.nan)
            per_sample.append(missing if result.per_sample is None else result.per_sample)
            reasons.append(result.reason or "")
            self.told(name, number + 1, len(conditions))
        attrs = {name: getattr(metric, name) for name in ("title", "unit", "better", "meaning", "source")}
        return xr.Dataset(
            {
                "value": ("condition", values),
                "per_sample": (("condition", "sample"), np.array(per_sample)),
                "reason": ("condition", reasons),
            },
            coords={"condition": [c.name for c in conditions]},
            attrs=attrs,
        )

    def _write_tables(self, table: pd.DataFrame, conditions: Sequence[Condition], metrics: Sequence[str]) -> None:
        import pandas as pd

        measured = {name: self.run.arrays(f"metric-{name}") for name in metrics}
        numbers = {c.name: i for i, c in enumerate(conditions)}
        which = table["condition"].map(numbers).to_numpy()
        described = pd.DataFrame([asdict(c) for c in conditions])[["scale", "dose", "level", "sigma", "is_control"]]
        complete = pd.concat([table, described.iloc[which].reset_index(drop=True)], axis=1)
        for name, data in measured.items():
            complete[name] = data["per_sample"].values[which, table["sample"].to_numpy()]
        self.run.keep(SAMPLES, complete.to_parquet(index=False))
        statistics = compare_conditions(conditions, measured, self.config)
        self.run.keep(TABLE_2, to_csv(arrange_table_2(statistics, self.config.compared_level), index=True))
        self.run.keep(STATISTICS, to_csv(statistics))


def _choose_prompts(model: CausalModel, corpus: TextCorpus, config: InterveneConfig) -> list[list[int]]:
    wanted = config.decode.prompt_tokens
    encoding = encode(model, corpus.sentences, max_length=wanted + 2)
    length = wanted + encoding.has_bos
    if length + config.decode.new_tokens > model.cfg.n_ctx:
        raise ConfigError(
            f"A prompt of {length} tokens and {config.decode.new_tokens} new ones take "
            f"{length + config.decode.new_tokens} positions; the model's context has {model.cfg.n_ctx}. Lower "
            f"decode.prompt_tokens or decode.new_tokens (--set decode.new_tokens={max(1, model.cfg.n_ctx - length)})."
        )
    found = [ids[:length] for ids in encoding.ids if len(ids) >= length][: config.samples]
    if len(found) < config.samples:
        raise CorpusError(
            f"{config.samples} samples need as many sentences of {wanted} or more tokens; {corpus.name} has "
            f"{len(found)}. Give a longer text, --samples {len(found)}, or a smaller decode.prompt_tokens."
        )
    return found


def choose_metrics(config: InterveneConfig) -> dict[str, type[TextMetric]]:
    """Return the text metrics that the settings name, all known ones if they name none.

    Raises:
        ConfigError: an unknown name.
    """
    from mspgt_tl import metrics

    assert metrics  # importing the package fills the registry
    names = config.metrics.names if config.metrics.names is not None else METRICS
    return {name: METRICS[name] for name in names}
