"""The stages of a theory run in order: each estimator of `mspgt_tl.theory` on one model and one text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mspgt_tl.config import TheoryConfig, json_values, make_config, settings_of, to_plain
from mspgt_tl.contracts import CURVE, FROM_ABOVE, MIN_TEXTS, SCALES, CausalModel, Progress, TextCorpus, layer_target
from mspgt_tl.errors import CorpusError, DataError
from mspgt_tl.interventions.units import activation_units
from mspgt_tl.models.names import pinned_name
from mspgt_tl.models.pretrained import Backend, encode, load
from mspgt_tl.passes.corpus import count_cut, usable_sentences
from mspgt_tl.passes.readout import unembed
from mspgt_tl.pipeline.checks import check_folder
from mspgt_tl.pipeline.detection import Detection
from mspgt_tl.pipeline.inputs import Loading, identify, open_corpus, reading_notes
from mspgt_tl.pipeline.scales import THIRDS, Scales, choose_scales, choose_source
from mspgt_tl.pipeline.shell import Kind, quick_folder, register, stage
from mspgt_tl.pipeline.theory_cost import TheoryCost, read_duration
from mspgt_tl.progress import Told, telling
from mspgt_tl.store import MANIFEST, Run
from mspgt_tl.theory import labelled
from mspgt_tl.theory.closure import copy_as, measure_closure
from mspgt_tl.theory.findings import findings
from mspgt_tl.theory.fisher import measure_fisher
from mspgt_tl.theory.mutual_information import channel_information, refuse_beyond, spectrum, v_information
from mspgt_tl.theory.noise_effects import measure_noise
from mspgt_tl.theory.rate_distortion import conditional_rate, rank_test, rate_distortion
from mspgt_tl.theory.streams import Streams, collect_streams, split_texts
from mspgt_tl.theory.texts import Texts, read_texts

if TYPE_CHECKING:
    import xarray as xr

STAGES = ("units", "fisher", "closure", "closure-float64", "information", "rates", "bottleneck")


@dataclass(frozen=True)
class Theory:
    """The result of `run_theory`."""

    parts: Mapping[str, xr.Dataset]
    """Labelled numbers by stage."""
    manifest: Mapping[str, Any]
    folder: Path | None

    @property
    def scales(self) -> dict[str, range]:
        """Blocks of the three scales."""
        return {name: range(first, last + 1) for name, (first, last) in self.manifest["identity"]["scales"].items()}

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The gaps between the scales; empty where they are mere thirds."""
        if self.manifest["identity"]["scales_from"] == THIRDS:
            return ()
        return tuple(blocks.start for blocks in self.scales.values())[1:]

    @property
    def doubt(self) -> str:
        """What is wrong with the boundaries that the scales are cut at; empty if nothing is, or there are none."""
        return str(self.manifest["notes"].get("scales_doubt", ""))

    @property
    def reasons(self) -> list[str]:
        """Why something is nan or left out."""
        return [why for part in self.parts.values() for why in json.loads(part.attrs.get("reasons", "[]"))]


def run_theory(
    model: str | Path | CausalModel | Detection,
    corpus: str | Path | TextCorpus | Sequence[str] | None = None,
    *,
    scales: str | Mapping[str, range] | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    config: TheoryConfig | Mapping[str, Any] | None = None,
    quick: bool = False,
    backend: Backend = "hooked",
    device: str | None = None,
    dtype: str | None = None,
    parity: bool = True,
    trust_remote_code: bool = False,
    budget: str | float | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Theory:
    """Run every estimator of the theory on a model (docs/theory.md).

    Args:
        model: anything `load` takes, a `Detection`, or the folder of one, whose two boundaries then cut the scales.
        corpus: as for `detect`; generated sentences by default.
        scales: three ranges of blocks such as `"0-3,4-8,9-11"`, without gaps, or `"thirds"`. Without them and
            without two detected boundaries the blocks are cut into equal thirds, and nothing is tested at boundaries;
            the result says so.
        seed: of everything random; None takes the config's, which is 0 unless told.
        out: folder of the run; a run that was killed resumes there. None keeps nothing on disk.
        quick: a first answer with few sentences and draws, as for `detect`.
        backend, device, dtype, parity, trust_remote_code: as for `load`.
        config: a `TheoryConfig`, or nested settings as in a TOML file.
        budget: seconds, or a text such as `10min`: fewer draws, σ, layers and sentences are taken until the run is
            expected to fit (docs/theory.md); the result's config says what was taken.
        progress: as for `detect`.
        options: settings by dotted or plain name, such as `sentences=200`.

    Raises:
        MspgtError: bad input of any kind, with what was needed, what came and what to do.
    """
    settings = settings_of(TheoryConfig, config, {"seed": seed, **options}, quick=quick)
    limit = None if budget is None else read_duration(budget)
    given, detection = choose_source(model, scales, three=True)
    loading = Loading(backend, device, dtype, parity, trust_remote_code)
    place = quick_folder(out) if quick else out
    asked = {} if limit is None else {"budget": limit, "asked": to_plain(settings)}
    wanted = settings.sentences
    begun = _settings_begun(place, asked)
    settings = begun or settings
    check_folder(place, {"command": "theory", "config": to_plain(settings)})
    with telling(progress) as told:
        with told.doing("reading"):
            text = open_corpus(corpus, wanted)
        with told.doing("loading"):
            hooked = loading.load(given, least=len(SCALES), purpose="A theory run")
        chosen = choose_scales(scales, detection, int(hooked.cfg.n_layers), three=True)
        return _run(hooked, text, chosen, settings, place, told, quick=quick, asked=asked, is_begun=begun is not None)


def _run(
    hooked: CausalModel,
    text: TextCorpus,
    chosen: Scales,
    settings: TheoryConfig,
    out: str | Path | None,
    told: Told,
    *,
    quick: bool,
    asked: Mapping[str, Any],
    is_begun: bool,
) -> Theory:
    sentences = usable_sentences(hooked, text.sentences, settings.stream)
    texts = _read_texts(hooked, sentences, settings)
    with told.doing("timing one pass"):
        cost = TheoryCost.measure(hooked, texts)
    limit = asked.get("budget")
    if limit is not None:
        settings = settings if is_begun else cost.fit(settings, limit)
        sentences = sentences[: settings.sentences]
        texts = texts.first(settings.sentences)
    _check_size(texts, int(hooked.cfg.d_model), settings)  # refuses too short a corpus before anything is written
    identity = {
        "config": to_plain(settings),
        **asked,
        "model": identify(hooked),
        "corpus": {"name": text.name, "sha256": text.sha256, "sentences": len(text.sentences)},
        "scales": chosen.ends,
        "scales_from": chosen.origin,
        **({"quick": True} if quick else {}),
    }
    words = (
        f"A quick look: {len(sentences):,} sentences, {settings.closure_texts} of them for closure, few draws. Errors "
        "are larger; the full run answers."
    )

    def work(run: Run) -> None:
        cut = count_cut(hooked, text.sentences, settings.stream)
        run.note(scales_doubt=chosen.doubt, **reading_notes(text, cut=cut), **({"quick": words} if quick else {}))
        _Stages(run, hooked, sentences, texts, chosen, settings, told).run_all()

    cfg = hooked.cfg
    plan = (
        f"Theory: {cfg.n_layers} blocks of {cfg.d_model} dimensions, vocabulary {cfg.d_vocab:,}; "
        f"{len(sentences):,} sentences. {cost.describe(settings, limit)}"
    )
    return KIND.make(out, identity, work, told, plan)


def _settings_begun(out: str | Path | None, asked: Mapping[str, Any]) -> TheoryConfig | None:
    """Return the settings that a run asked for alike began with in this folder: another timing must not change them."""
    if not asked or out is None or not (Path(out) / MANIFEST).is_file():
        return None
    identity = Run.read(Path(out)).manifest["identity"]
    if any(identity.get(name) != value for name, value in asked.items()):
        return None
    return make_config(identity["config"], TheoryConfig)


def _read(run: Run) -> Theory:
    return Theory({name: _read_part(run, name) for name in STAGES}, run.manifest, run.folder)


def _read_part(run: Run, name: str) -> xr.Dataset:
    """Return the arrays of a stage; those of earlier versions as this one names them."""
    if name == "units" and name not in run.manifest["stages"]:
        return run.arrays("scales").rename(scale="unit")
    part = run.arrays(name)
    if name == "information" and "readout" not in part:
        told = [str(curve).split(", ")[1].split() for curve in part[CURVE].values]  # "ridge readout", "sigma 0.5"
        part["readout"] = CURVE, [first if last == "readout" else "" for first, last in told]
        part["channel_sigma"] = CURVE, [np.nan if last == "readout" else float(last) for _, last in told]
    return part


def _is_finished(run: Run) -> bool:
    there = set(run.manifest["stages"])
    return there >= {*STAGES} or there >= {"scales", *STAGES[1:]}


def _draw(theory: Theory) -> str:
    from mspgt_tl.dashboard.theory import render_theory

    return render_theory(theory.parts, theory.manifest)


KIND = register(Kind("theory", "theory run", _is_finished, _read, _draw))


def load_theory(folder: str | Path) -> Theory:
    """Read a finished theory run from its folder.

    Raises:
        StoreError: no theory run is there, or it has not finished.
    """
    return KIND.load(folder)


def spread(n_layers: int, wanted: int) -> list[int]:
    """Return so many layers at most, evenly spaced, the first and the last among them.

    >>> spread(30, 4)
    [0, 10, 19, 29]
    """
    return sorted({round(place) for place in np.linspace(0, n_layers - 1, min(wanted, n_layers)).tolist()})


def _read_texts(model: CausalModel, sentences: Sequence[str], settings: TheoryConfig) -> Texts:
    if len(sentences) < MIN_TEXTS:
        raise CorpusError(f"At least {MIN_TEXTS} sentences of two tokens are needed, got {len(sentences)}.")
    stream = settings.stream
    length = min(stream.max_length, int(model.cfg.n_ctx))
    ids = encode(model, sentences, bos=stream.bos, max_length=length).ids
    return read_texts(model, ids, every_token=stream.tokens == "all", batch_positions=stream.batch_positions)


def _check_size(texts: Texts, width: int, settings: TheoryConfig) -> None:
    """Raise unless there are tokens enough for the covariances and the fits."""
    pairs = texts.predictions
    fit = int(split_texts(np.repeat(np.arange(len(texts)), pairs), seed=settings.seed).fit.sum())
    needed = {10 * width: int(pairs.sum()), max(2 * width, settings.hvib.batch, 10 * settings.hvib.width): fit}
    for least, found in needed.items():
        if found < least:
            where = "in all" if found == pairs.sum() else "in the 60 % of the text that is fitted on"
            raise CorpusError(
                f"A stream of {width} dimensions and these settings need {least} tokens {where}, got {found}. "
                "Use more sentences, or a longer text."
            )


@dataclass(frozen=True)
class _Stages:
    """The estimators on one model and text, each a stage of the run."""

    run: Run
    model: CausalModel
    sentences: Sequence[str]
    texts: Texts
    """The sentences as token ids."""
    scales: Scales
    settings: TheoryConfig
    told: Told

    def run_all(self) -> None:
        """Run every stage that is not finished yet."""
        self.units()
        self.fisher()
        self.closure()
        self.closure_float64()
        self.information()
        self.rates()
        self.bottleneck()

    @property
    def blocks(self) -> Mapping[str, range]:
        return self.scales.blocks

    @cached_property
    def unit_of(self) -> dict[int, float]:
        """Activation unit s_l of every layer."""
        return dict(enumerate(self.units()["unit"].values.tolist()))

    @cached_property
    def streams(self) -> Streams:
        """The stream at every token that another one follows, on disk."""
        with self.run.timed("pass over the text"):
            return collect_streams(
                self.model,
                self.texts,
                store=self.run.folder,
                batch_positions=self.settings.stream.batch_positions,
                progress=self.told,
            )

    @cached_property
    def alphabet(self) -> Any:
        """Ids that readouts and bottleneck tell apart, `[id]`; None for all."""
        return self.texts.alphabet(int(self.model.cfg.d_vocab))

    @cached_property
    def following(self) -> Any:
        """What follows every token of the streams, as a place in the alphabet, `[token]`."""
        ids = self.streams.following
        return ids if self.alphabet is None else np.searchsorted(self.alphabet, ids)

    def _unembed(self, vectors: Any) -> Any:
        import torch

        cfg = self.model.cfg
        chosen = None if self.alphabet is None else torch.from_numpy(self.alphabet).to(cfg.device)
        return unembed(self.model, vectors.to(device=cfg.device, dtype=cfg.dtype), chosen)

    @stage("units")
    def units(self) -> xr.Dataset:
        """Return the activation unit of every layer."""
        found = activation_units(self.model, list(self.sentences), config=self.settings.stream)
        return labelled.label_units(found, self.texts)

    @stage("fisher")
    def fisher(self) -> xr.Dataset:
        """Return Fisher traces and sensitivities."""
        found = measure_fisher(
            self.model,
            self.texts,
            seed=self.settings.seed,
            samples=self.settings.label_samples,
            batch_positions=self.settings.stream.batch_positions,
            progress=self.told,
        )
        return labelled.label_fisher(found, self.unit_of, self.blocks, resamples=self.settings.resamples)

    @stage("closure")
    def closure(self) -> xr.Dataset:
        """Return how far noise does what its prediction says, in float32 at least: bfloat16 rounds more than that."""
        import torch

        is_narrow = torch.finfo(self.model.cfg.dtype).bits < torch.finfo(torch.float32).bits
        model = self._in("float32") if is_narrow else self.model
        return self._close(model, self.settings.closure_sigmas, self.settings.noise_draws, "closure")

    @stage("closure-float64")
    def closure_float64(self) -> xr.Dataset:
        """Return the same in float64, at the smallest σ."""
        sigmas, draws = self.settings.closure_sigmas[:1], self.settings.exact_draws
        if not draws:
            why = "Closure in float64 was not asked for: --set exact_draws=32 measures it."
            return labelled.label_unmeasured([*self._every_layer, *self.blocks], sigmas, "float64", why)
        return self._close(self._in("float64"), sigmas, draws, "closure (float64)")

    @property
    def _every_layer(self) -> dict[str, int]:
        return {layer_target(layer): layer for layer in range(int(self.model.cfg.n_layers))}

    def _in(self, dtype: Literal["float32", "float64"]) -> CausalModel:
        """Return the model in a wider dtype."""
        origin = self.run.manifest["identity"]["model"]
        if origin["backend"] == "bridge":
            trusted = origin.get("trust_remote_code", False)
            place = {"device": origin["device"], "dtype": dtype}
            return load(pinned_name(origin), backend="bridge", **place, trust_remote_code=trusted)
        return copy_as(self.model, dtype)

    def _close(self, model: CausalModel, sigmas: Sequence[float], draws: int, stage: str) -> xr.Dataset:
        every, wanted = self._every_layer, self.settings.closure_layers
        chosen = spread(len(every), len(every) if wanted is None else wanted)
        found = measure_closure(
            model,
            self.texts.first(self.settings.closure_texts),
            self.unit_of,
            seed=self.settings.seed,
            layers=chosen,
            sets=self.blocks,
            sigmas=sigmas,
            samples=self.settings.closure_samples,
            draws=draws,
            batch_positions=self.settings.stream.batch_positions,
            progress=self.told,
            stage=stage,
        )
        told = labelled.label_closure(found)
        if len(chosen) == len(every):
            return told
        why = f"Closure was measured at {len(chosen)} of {len(every)} layers (closure_layers)."
        reasons = json.dumps([*json.loads(told.attrs["reasons"]), why])
        return told.reindex({labelled.SET: [*every, *self.blocks]}).assign_attrs(reasons=reasons)

    @stage("information")
    def information(self) -> xr.Dataset:
        """Return what can be read from every layer about the next token, and the Gaussian channel's bound."""
        seed, streams = self.settings.seed, self.streams
        every, alphabet = int(self.model.cfg.d_vocab), self.alphabet
        n_classes = every if alphabet is None else len(alphabet)
        common = {"n_classes": n_classes, "seed": seed, "resamples": self.settings.resamples}
        found = {}
        for readout in ("ridge", "softmax"):
            found[readout] = v_information(
                streams.vectors,
                self.following,
                streams.row,
                readout=readout,
                decode=self._unembed if readout == "ridge" else None,
                progress=self.told,
                **common,
            )
        channel = {sigma: self._channel(sigma) for sigma in self.settings.channel_sigmas}
        bounded = self.scales.origin != THIRDS
        boundaries = [part.start for part in self.blocks.values()][1:] if bounded else []
        told = [] if alphabet is None else [_alphabet_words(n_classes, every, len(streams.following))]
        return labelled.label_information(found, channel, boundaries, seed=seed, told=told)

    @cached_property
    def spectra(self) -> dict[int, Any]:
        """Eigenvalues of every layer's covariance."""
        return {layer: spectrum(self.streams.vectors[layer]) for layer in self.unit_of}

    def _channel(self, sigma: float) -> tuple[np.ndarray, list[str]]:
        values = np.array([channel_information(self.spectra[i], sigma * unit) for i, unit in self.unit_of.items()])
        return refuse_beyond(values, len(self.streams.following))

    @stage("rates")
    def rates(self) -> xr.Dataset:
        """Return rate, distortion and the slope β."""
        settings = self.settings
        sets = {layer_target(layer): (layer,) for layer in self.unit_of} | dict(self.blocks)
        effects = measure_noise(
            self.model,
            self.texts.first(settings.rate_texts),
            sets,
            settings.rate_sigmas,
            self.unit_of,
            seed=settings.seed,
            batch_positions=settings.stream.batch_positions,
            progress=self.told,
            stage="rates",
        )
        found = rate_distortion(effects, self.spectra, self.unit_of, resamples=settings.resamples)
        vectors, resolution = self.streams.vectors, float(found.beta_sigmas[found.operating_step])
        left = [
            conditional_rate(vectors[layer], vectors[layer - 1], resolution * unit) if layer else np.nan
            for layer, unit in self.unit_of.items()
        ]
        beta = found.beta[: len(self.unit_of), found.operating_step]
        try:
            test, why = rank_test(beta, np.array(left), seed=settings.seed), ""
        except DataError as error:
            test, why = None, f"No comparison of β with conditional entropy: {error}"
        return labelled.label_rates(found, np.array(left), test, why)

    @stage("bottleneck")
    def bottleneck(self) -> xr.Dataset:
        """Return what the hierarchical bottleneck keeps at every scale."""
        from mspgt_tl.theory.bottleneck import fit_bottleneck  # imports torch, which refusals need not wait for

        streams, config = self.streams, self.settings.hvib
        found = fit_bottleneck(
            {name: streams.vectors[self.blocks[name][-1]] for name in FROM_ABOVE},
            streams.vectors[-1],
            self.following,
            streams.row,
            self._unembed,
            config,
            seed=self.settings.seed,
            resamples=self.settings.resamples,
            progress=self.told,
        )
        return labelled.label_bottleneck(found, config.width)


def _alphabet_words(n: int, every: int, tokens: int) -> str:
    return (
        f"Information about the next token, and the bottleneck, are of the {n:,} ids that follow in this text, for its "
        f"{tokens:,} predictions cannot tell all {every:,} apart."
    )


def summarise(theory: Theory) -> dict[str, Any]:
    """Return a run's figures as plain values: by layer, by scale, findings in words, reasons for what is missing."""
    parts, identity = theory.parts, theory.manifest["identity"]
    n_layers = int(identity["model"]["n_layers"])
    by_layer = [_row(parts, layer_target(layer)) for layer in range(n_layers)]
    fisher, info = parts["fisher"], parts["information"]
    for layer, row in enumerate(by_layer):
        row |= {
            "layer": layer,
            "trace": fisher["trace"].values[layer],
            "sensitivity": fisher["sensitivity"].values[layer],
            "sensitivity_interval": fisher["sensitivity_interval"].values[:, layer],
            "information": info["information"].values[0, layer],
        }
    by_scale = []
    for i, (name, blocks) in enumerate(theory.scales.items()):
        place = FROM_ABOVE.index(name)
        by_scale.append(
            {
                "scale": name,
                "blocks": f"{blocks[0]}-{blocks[-1]}",
                "sensitivity": fisher["scale_sensitivity"].values[i],
                "sensitivity_interval": fisher["scale_interval"].values[i],
                "hvib_rate": parts["bottleneck"]["rate"].values[-1, place],
            }
            | _row(parts, name)
        )
    return json_values(
        {
            "model": identity["model"]["name"],
            "tokens": int(fisher.attrs["tokens"]),
            "scales_from": identity["scales_from"],
            "layers": by_layer,
            "scales": by_scale,
            "findings": findings(parts),
            "reasons": theory.reasons,
        }
    )


def _row(parts: Mapping[str, xr.Dataset], name: str) -> dict[str, Any]:
    """Return closure and beta of one layer or scale."""
    narrow, wide, rates = (parts[stage].sel(set=name) for stage in ("closure", "closure-float64", "rates"))
    step = int(parts["rates"].attrs["operating_step"])
    return {
        "closure_float32": narrow["ratio"].values[0],
        "closure_float64": wide["ratio"].values[0],
        "exit_sigma": narrow["exit_sigma"].item(),
        "beta": rates["beta"].values[step],
    }
