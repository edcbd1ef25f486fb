"""Gathers what the finished runs of a study say into tables, one for each question; the report is drawn from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mspgt_tl.comparison import Comparison, Located, read_runs, sweep_effects
from mspgt_tl.comparison import compare as compare_models
from mspgt_tl.comparison.dependence import Dependence, Observed, compare_corpora
from mspgt_tl.comparison.positions import RANKS, Count, family_of
from mspgt_tl.comparison.rival_agreement import rival_agreement
from mspgt_tl.contracts import SCALES, Existence
from mspgt_tl.dashboard.words import interval_text
from mspgt_tl.errors import StoreError
from mspgt_tl.pipeline.detection import Detection, load_run
from mspgt_tl.pipeline.intervention import Intervention, load_intervention
from mspgt_tl.pipeline.scales import DETECTED, THIRDS
from mspgt_tl.pipeline.theory import Theory, load_theory, summarise
from mspgt_tl.power import count_power
from mspgt_tl.predictions import SETS, Evidence, Judgement, judge, load_set
from mspgt_tl.rivals import rival_rows
from mspgt_tl.study.plan import Step, StudyModel, is_random, make_steps
from mspgt_tl.study.questions import DOSE_COLUMNS, RULE_COLUMNS, accepted_gaps, dose_rows, ratio_rows, rule_rows
from mspgt_tl.study.run import Outcome, Study

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SHUFFLED = {"tokens": "{}, words shuffled", "labels": "{}, labels shuffled"}
"""Names of a corpus's shuffled versions, by the null that makes them."""
WORDS = "tokens"
T = TypeVar("T")
COUNTS: tuple[Count, ...] = ("supported", "found")
KINK = "mi_kink_excess"
"""Quantity that prediction 1.2 is judged by."""
NEXT_TOKEN_KL = "next_token_kl"
"""Effect on the next token, in nats; all others are in per cent."""


@dataclass(frozen=True)
class Findings:
    """Everything that the report of a study says."""

    study: Study
    problems: list[str] = field(default_factory=list)
    """Runs that finished and cannot be read."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The study's."""
        return self.study.manifest

    @property
    def folder(self) -> Path:
        """The study's."""
        return self.study.folder

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps of the plan."""
        return make_steps(self.study.config)

    def finished(self, stage: str, corpus: str | None = None) -> dict[str, Path]:
        """Return the folders of finished runs of a stage on a corpus (the first), by model."""
        corpus = corpus or self.study.config.first_corpus
        done = {name for name, outcome in self.study.outcomes.items() if not outcome.reason}
        chosen = (step for step in self.steps if step.name in done and (step.stage, step.corpus) == (stage, corpus))
        return {step.model: self.study.folder / step.name for step in chosen}

    @cached_property
    def detections(self) -> dict[tuple[str, str], Detection]:
        """Finished detections by corpus and model."""
        found = {corpus: self._read("detect", corpus, load_run) for corpus in self.study.config.corpora}
        return {(corpus, model): run for corpus, runs in found.items() for model, run in runs.items()}

    @property
    def at_home(self) -> dict[str, Detection]:
        """Finished detections on the first corpus, by model."""
        first = self.study.config.first_corpus
        return {model: run for (corpus, model), run in self.detections.items() if corpus == first}

    def _read(self, stage: str, corpus: str, load: Callable[[Path], T]) -> dict[str, T]:
        """Read finished runs by model; a damaged one is told and left out."""
        runs = {}
        for model, folder in self.finished(stage, corpus).items():
            try:
                runs[model] = load(folder)
            except StoreError as error:
                self.problems.append(str(error))
        return runs

    @cached_property
    def interventions(self) -> dict[str, Intervention]:
        """Finished sweeps by model."""
        return self._read("intervene", self.study.config.first_corpus, load_intervention)

    @cached_property
    def theories(self) -> dict[str, Theory]:
        """Finished theory runs by model."""
        return self._read("theory", self.study.config.first_corpus, load_theory)

    def family(self, model: str) -> str:
        """Return a model's family; that of a random-weight twin says so."""
        given = self._entry(model).family
        if given is None:
            return family_of(model, 0 if is_random(model) else None)
        return f"{given} (random weights)" if is_random(model) else given

    def _entry(self, model: str) -> StudyModel:
        return self.study.config.models[model]

    @cached_property
    def located(self) -> tuple[Located, ...]:
        """Boundaries of every model on the first corpus."""
        runs = self.at_home
        kinds = {str(run.folder): self._entry(model).architecture for model, run in runs.items()}
        return read_runs(
            list(runs.values()),
            families={str(run.folder): self.family(model) for model, run in runs.items()},
            architectures={folder: kind for folder, kind in kinds.items() if kind is not None},
        )

    @property
    def trained(self) -> tuple[Located, ...]:
        """The models that are no random-weight twins."""
        return tuple(model for model in self.located if not model.random_weights)

    @cached_property
    def comparison(self) -> Comparison | None:
        """The trained models side by side, all boundaries counted; None for fewer than two."""
        if len(self.trained) < 2:
            return None
        effects = self._evidence("found")
        return compare_models(list(self.trained), effects=effects, seed=self.study.config.seed)

    @cached_property
    def boundaries(self) -> pd.DataFrame:
        """One row for each corpus, model and boundary; a model without one has a row that says so.

        `published`: gaps that the published rule accepts on the same curves.
        """
        rows: list[dict[str, Any]] = []
        for (corpus, model), detection in self.detections.items():
            rows += self._boundary_rows(model, corpus, detection.data)
            for null, data in detection.nulls.items():
                rows += self._boundary_rows(model, SHUFFLED[null].format(corpus), data)
        return frame(rows, columns=BOUNDARY_COLUMNS).astype({"random": bool})

    def _boundary_rows(self, model: str, corpus: str, data: xr.Dataset) -> list[dict[str, Any]]:
        n_layers = int(data.attrs["n_layers"])
        head = {"corpus": corpus, "model": model, "family": self.family(model), "random": is_random(model)}
        head |= {"n_layers": n_layers, "published": " and ".join(map(str, accepted_gaps(data))) or "none"}
        gaps = [int(gap) for gap in data["boundary"].values]
        if not gaps:
            return [head | {"boundary": "none", "grade": "", "verdict": Existence.NOT_FOUND}]
        rows = []
        for i, gap in enumerate(gaps):
            low, high = data["interval"].values[i].tolist()
            row = {"boundary": RANKS[i] if len(gaps) == 2 else "one", "gap": gap, "depth": gap / n_layers}
            row |= {"low": low, "high": high, "p": float(data["p_value"].values[i])}
            row |= {"presence": float(data["presence"].values[i]), "verdict": str(data["verdict"].values[i])}
            rows.append(head | row | {"grade": str(data["grade"].values[i]) if "grade" in data else ""})
        return rows

    @cached_property
    def rules(self) -> pd.DataFrame:
        """What the published rule and ours say of trained weights, random weights and shuffled words, first corpus."""
        rows = []
        for model, detection in self.at_home.items():
            rows += rule_rows(model, "random weights" if is_random(model) else "trained", detection.data)
            for null, data in detection.nulls.items():
                rows += rule_rows(model, SHUFFLED[null].partition(", ")[2], data)
        return frame(rows, columns=RULE_COLUMNS)

    @cached_property
    def power(self) -> pd.DataFrame:
        """At how many inner gaps a step of known size would have been supported, first corpus."""
        rows = []
        for model, detection in self.at_home.items():
            head = {"model": model, "random": is_random(model)}
            rows += [head | one for one in count_power(detection.data)]
        return frame(rows, columns=("model", "random", "step", "supported", "gaps")).astype({"random": bool})

    @cached_property
    def doses(self) -> pd.DataFrame:
        """KL of the next token by model, scale and dose."""
        rows = [row for model, sweep in self.interventions.items() for row in dose_rows(model, sweep)]
        return frame(rows, columns=DOSE_COLUMNS)

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """Brittleness ratios between scales and between models, by dose."""
        return frame(ratio_rows(self.doses), columns=["dose", "between", "ratio", "controls"])

    @cached_property
    def dependence(self) -> Dependence | None:
        """Which boundaries are the model's and which the corpus's; None before a detection has finished."""
        observed = []
        for (corpus, model), detection in self.detections.items():
            trained = self._runs_of_architecture(model) if is_random(model) else ()
            if is_random(model) and not trained:
                continue  # a twin of nothing in this study
            observed.append(Observed(detection.data, model, corpus, twin_of=trained))
            if WORDS in detection.nulls:
                shuffled = detection.nulls[WORDS]
                observed.append(Observed(shuffled, model, SHUFFLED[WORDS].format(corpus), corpus))
        return compare_corpora(observed, seed=self.study.config.seed) if observed else None

    @property
    def architectures(self) -> dict[str, str]:
        """What training runs share, by model."""
        return {name: entry.architecture or name.partition("@")[0] for name, entry in self.study.config.models.items()}

    def _runs_of_architecture(self, twin: str) -> tuple[str, ...]:
        """Return the trained models of a twin's architecture: several training runs share one."""
        kinds, seen = self.architectures, {model for _, model in self.detections}
        return tuple(name for name in kinds if name in seen and kinds[name] == kinds[twin] and not is_random(name))

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Effects of noise by model and scale, as `mspgt compare --effects` takes them, and KL of the next token."""
        tables = []
        for model, sweep in self.interventions.items():
            family = self.family(model)
            tables.append(sweep_effects(sweep.statistics, model=model, family=family))
            tables.append(_kl_effects(sweep, model, family))
        return _joined(tables)

    @cached_property
    def scales(self) -> pd.DataFrame:
        """What noise in each scale does to the next token, beside controls of as many blocks at other depths."""
        rows = [row for model, sweep in self.interventions.items() for row in self._scale_rows(model, sweep)]
        return frame(rows)

    def _scale_rows(self, model: str, sweep: Intervention) -> list[dict[str, Any]]:
        level = sweep.manifest["notes"]["compared_level"]
        here = sweep.effects.sel(level=level)
        origin = self._origin(model, sweep)
        rows = []
        for name in (str(n) for n in here["target"].values[here["group"].values == "scale"]):
            own = here.sel(target=name)
            controls = here["kl"].values[here["control_of"].values == name]
            controls = controls[np.isfinite(controls)].tolist()
            first, _, last = str(own["blocks"].item()).partition("-")
            kl, count = float(own["kl"]), int(last) - int(first) + 1
            row = {"model": model, "family": self.family(model), "scale": name, "scales from": origin}
            row |= {"blocks": f"{first}-{last}", "kl": kl, "low": float(own["kl_low"]), "high": float(own["kl_high"])}
            row |= {"kl_per_block": kl / count, "controls_low": min(controls, default=math.nan)}
            row |= {"controls_high": max(controls, default=math.nan), "controls": len(controls), "level": float(level)}
            rows.append(row)
        return rows

    def _origin(self, model: str, sweep: Intervention) -> str:
        """Return where a sweep's scales come from; earlier versions did not note it, only which blocks they are."""
        if noted := sweep.manifest["notes"].get("scales_from"):
            return str(noted)
        detection = self.at_home.get(model)
        starts = tuple(first for first, _ in sweep.manifest["identity"]["scales"].values())[1:]
        return DETECTED if detection is not None and starts == detection.boundaries else THIRDS

    @cached_property
    def table_2(self) -> pd.DataFrame:
        """The paper's Table 2 anew: changes in per cent by model and scale."""
        parts = []
        for model, sweep in self.interventions.items():
            table = sweep.table_2.reset_index()
            table.insert(0, "model", model)
            parts.append(table)
        return _joined(parts)

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """The excess of the jumps of the information's slope at boundaries, by model (prediction 1.2)."""
        rows = []
        for model, theory in self.theories.items():
            part = theory.parts["information"]
            i = part["readout"].values.tolist().index("softmax")
            value = float(part["statistic"].values[i] - part["elsewhere"].values[i])
            low, high = part["excess_interval"].values[i]
            if math.isfinite(value) and not is_random(model):
                row = {"model": model, "quantity": KINK, "value": value, "low": float(low), "high": float(high)}
                rows.append(row | {"p": float(part["p_value"].values[i])})
        return frame(rows, columns=["model", "quantity", "value", "low", "high", "p"])

    @cached_property
    def theory(self) -> pd.DataFrame:
        """Sensitivity, closure, β and H-VIB rate by model and scale."""
        rows = [
            {"model": model, "scales from": told["scales_from"], **{name: row[name] for name in THEORY_COLUMNS}}
            for model, told in ((model, summarise(theory)) for model, theory in self.theories.items())
            for row in told["scales"]
        ]
        return frame(rows, columns=["model", "scales from", *THEORY_COLUMNS]).astype(
            dict.fromkeys(THEORY_COLUMNS[2:], float)
        )

    @cached_property
    def rivals(self) -> pd.DataFrame:
        """Where other readings of depth put boundaries on the first corpus, and how they agree with the fused ones."""
        rows = []
        for model, (_, rivals) in self._watched.items():
            for row in rival_rows(rivals):
                near = frame(row["agreement"], columns=["within_one", "chance"]).astype(float).mean(skipna=False)
                low, high = row["correlation_interval"]
                told = {
                    "model": model,
                    "rival": row["rival"],
                    "boundaries": _places(row["boundaries"], row["intervals"]),
                }
                told |= {"reliability": row["reliability"], "correlation": row["correlation"]}
                told |= {"correlation_low": low, "correlation_high": high}
                rows.append(told | {"within_one": near["within_one"], "by_chance": near["chance"]})
        return frame(rows)

    @property
    def _watched(self) -> dict[str, tuple[xr.Dataset, xr.Dataset]]:
        """Results and rivals of the trained models on the first corpus, where rivals were watched."""
        trained = {model: run for model, run in self.at_home.items() if not is_random(model)}
        return {model: (run.data, run.rivals) for model, run in trained.items() if run.rivals is not None}

    @cached_property
    def rival_pairs(self) -> pd.DataFrame:
        """Which readings of depth agree with each other beyond chance, over all trained models on the first corpus."""
        return rival_agreement(self._watched, seed=self.study.config.seed)

    def _evidence(self, count: Count) -> pd.DataFrame | None:
        """Return effects of trained models whose scales are theirs: cut at two boundaries that count."""
        models = {model.name for model in self.trained if not model.counting(count).reason}
        chosen = self.effects[self.effects["model"].isin(models)] if not self.effects.empty else self.effects
        return None if chosen.empty else chosen

    @cached_property
    def judged(self) -> dict[str, tuple[Judgement, ...]]:
        """Predictions of every shipped set, judged on boundaries that are supported and then on all that were found."""
        found = {}
        for count in COUNTS:
            models = tuple(model.counting(count) for model in self.located)
            counted = {model.name for model in models if not model.reason}
            measurements = self.measurements[self.measurements["model"].isin(counted)].drop(columns="p")
            evidence = Evidence(
                models,
                self._evidence(count),
                None if measurements.empty else measurements,
                name=f"boundaries {count}",
            )
            found[count] = tuple(one for name in SETS for one in judge(load_set(name), evidence))
        return found

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row a prediction: the verdict on supported boundaries, and what the estimates alone would say."""
        names = [name for name in SETS for _ in load_set(name).predictions]
        rows = []
        for set_name, strict, loose in zip(names, self.judged["supported"], self.judged["found"], strict=True):
            estimates = [
                f"{g.name} {g.found.value:.3g}"
                + (f" [{g.found.low:.3g}, {g.found.high:.3g}]" if math.isfinite(g.found.low) else "")
                for g in loose.groups
                if g.point is not None
            ]
            rows.append(
                {
                    "set": set_name,
                    "id": strict.prediction.id,
                    "claim": strict.prediction.claim,
                    "verdict": strict.verdict,
                    "verdict, all found": loose.verdict,
                    "at its word": loose.point_verdict,
                    "estimates": "; ".join(estimates),
                    "n": loose.n,
                    "chance": loose.chance,
                    "reason": strict.reason or "; ".join(dict.fromkeys(g.reason for g in strict.groups if g.reason)),
                    "further": strict.further,
                }
            )
        return frame(rows)

    @cached_property
    def progress(self) -> pd.DataFrame:
        """Every step with what it came to."""
        rows = []
        for step in self.steps:
            outcome = self.study.outcomes.get(step.name, Outcome(step.name, math.nan, "not run yet"))
            row = {"stage": step.stage, "model": step.model, "corpus": step.corpus}
            rows.append(row | {"state": outcome.reason or "finished", "seconds": outcome.seconds, "folder": step.name})
        return frame(rows)

    @cached_property
    def inputs(self) -> pd.DataFrame:
        """What every model is and what it read, by its weights' and its texts' hashes: enough to see it is the same."""
        rows = []
        for (corpus, model), detection in self.detections.items():
            identity = detection.manifest["identity"]
            own, entry = identity["model"], self._entry(model)
            rows.append(
                {
                    "model": model,
                    "family": self.family(model),
                    "blocks": own["n_layers"],
                    "d_model": own["d_model"],
                    "weights": own["sha256"] or own.get("parameters_sha256") or f"random, seed {own['random_seed']}",
                    "corpus": corpus,
                    "sentences": detection.manifest["notes"].get("sentences", math.nan),
                    "text": identity["corpus"]["sha256"],
                    "treebank": identity["treebank"]["name"],
                    "trees": identity["treebank"]["train"],
                    "labels": identity["treebank"]["sha256"],
                    "nulls": ", ".join(detection.nulls),
                    "stages": ", ".join(entry.stages),
                    "version": detection.manifest["packages"].get("mspgt-tl", ""),
                }
            )
        return frame(rows)


BOUNDARY_COLUMNS = [
    *("corpus", "model", "family", "random", "n_layers", "boundary", "gap", "depth"),
    *("low", "high", "p", "presence", "grade", "verdict", "published"),
]
THEORY_COLUMNS = ["scale", "blocks", "sensitivity", "closure_float32", "closure_float64", "beta", "hvib_rate"]


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return rows as a table; with columns, an empty one has them, too."""
    import pandas as pd

    return pd.DataFrame(rows, columns=None if columns is None else list(columns))


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _kl_effects(sweep: Intervention, model: str, family: str) -> pd.DataFrame:
    effects, rows = sweep.effects, []
    for scale in SCALES:
        if scale not in effects["target"].values:
            continue
        for level in effects["level"].values:
            own = effects.sel(target=scale, level=level)
            row = {"metric": NEXT_TOKEN_KL, "scale": scale, "effect": float(own["kl"]), "low": float(own["kl_low"])}
            row |= {"high": float(own["kl_high"]), "model": model, "family": family}
            rows.append(row | {"dose": f"{effects.attrs['dose']}={level:g}"})
    return frame(rows)


def _places(gaps: Sequence[int], intervals: Sequence[Sequence[float]]) -> str:
    told = (f"{gap} {interval_text(np.array(interval))}" for gap, interval in zip(gaps, intervals, strict=True))
    return ", ".join(told) or "none"
