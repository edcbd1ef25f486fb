"""How a detection shows itself: in one line, as tables, as figures, as a card, and as something to touch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mspgt_tl.cards import card, thumbnail
from mspgt_tl.contracts import GAP, SIGNAL
from mspgt_tl.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

    from mspgt_tl.dashboard.widget import DetectionExplorer
    from mspgt_tl.pipeline.detection import Detection

Kind = Literal["evidence", "signals", "contrast", "weights", "probes", "cka", "audit"]
Weights = Mapping[str, float] | Sequence[float]


class Shown:
    """What `Detection` can do with itself besides being saved."""

    data: xr.Dataset
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model's name, without its folder."""
        return Path(self.manifest.get("identity", {}).get("model", {}).get("name", "a model")).name

    @property
    def quick(self) -> str:
        """What a quick look leaves out; empty for a full run."""
        return str(self.manifest.get("notes", {}).get("quick", ""))

    def __repr__(self) -> str:
        from mspgt_tl.dashboard.words import verdict_words

        look = "Quick look. " if self.quick else ""
        return f"{look}Detection of {self.name} ({self.data.attrs['n_layers']} blocks): {verdict_words(self.data)[0]}"

    def _repr_html_(self) -> str:
        from mspgt_tl.dashboard.words import verdict_words

        headline, _ = verdict_words(self.data)
        end = "explore() opens it, plot() draws it, summary() and to_dataframe() are its tables."
        lines = [self.quick, end] if self.quick else [end]
        picture = thumbnail(self.data["fused"].values, map(int, self.data["boundary"].values))
        return card(f"{self.name}: {headline}", lines, self.summary(), picture)

    def summary(self) -> pd.DataFrame:
        """Return one row a boundary: its place, how sure that is, whether it is there, and what the audit says."""
        from mspgt_tl.evidence import read_boundaries

        table = read_boundaries(self.data).summary()
        table.insert(1, "depth", table["gap"] / int(self.data.attrs["n_layers"]))
        table["grade"] = self.data["grade"].values.astype(object) if "grade" in self.data else None
        return table.assign(quick=True) if self.quick else table

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a gap: every signal in its unit and as fused, the fused evidence, and its contrast."""
        import pandas as pd

        data = self.data
        columns: dict[str, Any] = {"depth": data[GAP].values / int(data.attrs["n_layers"])}
        for i, name in enumerate(data[SIGNAL].values):
            columns[str(name)] = data["curve"].values[i]
        for i, name in enumerate(data[SIGNAL].values):
            columns[f"{name}_fused"] = data["normalised"].values[i]
        low, high = data["fused_interval"].values
        columns |= {"evidence": data["fused"].values, "evidence_low": low, "evidence_high": high}
        columns |= {"contrast": data["contrast"].values}
        columns |= {"is_boundary": np.isin(data[GAP].values, data["boundary"].values)}
        return pd.DataFrame(columns, index=pd.Index(data[GAP].values, name=GAP))

    def reweigh(
        self, weights: Weights | None = None, *, prominence: float | None = None, rule: str | None = None
    ) -> Detection:
        """Fuse the same signals anew and return the result; the model is not run again. Takes some milliseconds.

        Args:
            weights: by signal's name, those not named having none, or one number a signal; as they were by default.
            prominence: smallest prominence of a peak, in (0, 1]; the paper's 0.3 by default.
            rule: `mspgt` or `paper`; as it was by default.

        Raises:
            ConfigError: an unknown signal or rule, or weights or a prominence that cannot be used.
        """
        from dataclasses import replace

        from mspgt_tl.boundaries import PROMINENCE
        from mspgt_tl.evidence import reweigh

        asked = self.manifest["identity"]["config"]["boundaries"]
        names = [str(name) for name in self.data[SIGNAL].values]
        chosen = asked["weights"] if weights is None else _in_order(weights, names)
        picked: dict[str, Any] = {
            "weights": chosen,
            "rule": rule or self.data.attrs["rule"],
            "prominence": float(self.data.attrs.get("prominence", PROMINENCE)) if prominence is None else prominence,
        }
        data = reweigh(self.data, n_null=asked["null_curves"], **picked)
        identity = dict(self.manifest["identity"])
        identity["config"] = {**identity["config"], "boundaries": {**asked, **picked}}
        changed: Any = self
        return replace(changed, data=data, manifest={**self.manifest, "identity": identity}, nulls={}, folder=None)

    def plot(
        self,
        kind: Kind = "evidence",
        *,
        weights: Weights | None = None,
        compare: Detection | str | Path | None = None,
        task: str = "",
    ) -> go.Figure:
        """Return an interactive figure.

        Args:
            kind: `evidence`, `signals`, `contrast`, `weights` (the map over all of them, three signals only), `probes`,
                `cka` (all pairs of layers) or `audit`.
            weights: draw the result under other weights; see `reweigh`.
            compare: another detection, or its folder, laid over the evidence or the contrast, on the same relative
                depth.
            task: of `probes`; the first that was probed by default.

        Raises:
            ConfigError: no such kind or task, this result has nothing of the kind, or `compare` is no detection.
        """
        from mspgt_tl.dashboard import audit, curves, layers

        if kind not in get_args(Kind):
            raise ConfigError(unknown_name("kind of figure", kind, get_args(Kind)))
        if compare is not None and kind not in ("evidence", "contrast"):
            raise ConfigError(f"Another detection is laid over 'evidence' or 'contrast', not over '{kind}'.")
        data = self.data if weights is None else self.reweigh(weights).data
        if kind == "audit" and ("grade" not in data or not data.sizes["found"]):
            raise ConfigError("There is no audit: no boundary was found, or the weights are not those it was made for.")
        if kind == "weights" and data.sizes[SIGNAL] != 3:
            raise ConfigError(
                f"The map of weights is a triangle of three signals; this result has {data.sizes[SIGNAL]}."
            )
        tasks = layers.probed_tasks(data)
        if kind == "probes" and (task or (tasks or [""])[0]) not in tasks:
            raise ConfigError(unknown_name("task", task, tasks))
        draw: dict[str, Callable[[], go.Figure]] = {
            "evidence": lambda: curves.evidence_figure(data),
            "signals": lambda: curves.signals_figure(data),
            "contrast": lambda: curves.contrast_figure(data),
            "weights": lambda: layers.weight_figure(data, 0),
            "probes": lambda: layers.probe_figure(data, task or tasks[0]),
            "cka": lambda: layers.cka_figure(data),
            "audit": lambda: audit.audit_figure(data),
        }
        figure = draw[kind]()
        if compare is not None:
            other = _detection(compare) if weights is None else _detection(compare).reweigh(weights)
            curves.lay_over(figure, data, other.data, other.name, "fused" if kind == "evidence" else "contrast")
        return figure

    def explore(self, *others: Detection | str | Path) -> DetectionExplorer:
        """Return the explorer: sliders for weights and prominence, and what lies behind every gap on a click.

        It works in JupyterLab, VS Code, Colab and marimo, without a network; `others`, detections or
        their folders, can be laid over this result.

        Raises:
            ConfigError: anywidget is not installed, or another is no detection.
        """
        try:
            from mspgt_tl.dashboard.widget import make_explorer
        except ModuleNotFoundError as error:
            if error.name not in ("anywidget", "traitlets"):
                raise
            raise ConfigError(
                "explore() needs anywidget: pip install 'mspgt-tl[notebook]'. report.html has the same explorer."
            ) from error
        named = {
            f"{other.name} ({i})" if other.name == self.name else other.name: other.data
            for i, other in enumerate(map(_detection, others), 1)
        }
        return make_explorer(self.data, self.manifest, named)


def _detection(other: Detection | str | Path) -> Detection:
    from mspgt_tl.pipeline.detection import as_detection

    if (found := as_detection(other)) is None:
        raise ConfigError(f"A detection or its folder is needed, to lay over this one, got {other!r}.")
    return found


def _in_order(weights: Weights, names: Sequence[str]) -> tuple[float, ...]:
    if isinstance(weights, Mapping):
        if unknown := [name for name in weights if name not in names]:
            raise ConfigError(unknown_name("signal", unknown[0], names))
        weights = [weights.get(name, 0.0) for name in names]
    try:
        return tuple(float(weight) for weight in weights)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Weights are numbers, by signal's name or one a signal, got {weights!r}.") from error
