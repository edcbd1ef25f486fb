"""Several detections side by side, with figures and a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mspgt_tl import comparison
from mspgt_tl.comparison.positions import Count, Located
from mspgt_tl.errors import ConfigError, StoreError, unknown_name
from mspgt_tl.pipeline.detection import Detection, load_run

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

View = Literal["boundaries", "evidence"]


class ModelComparison(comparison.Comparison):
    """What `compare` returns: the tables of a `Comparison`, drawn."""

    def plot(self, kind: View = "boundaries") -> go.Figure:
        """Return the models on relative depth as an interactive figure.

        Args:
            kind: `boundaries` with their intervals, or the fused `evidence` of every model.

        Raises:
            ConfigError: an unknown kind, or models without curves.
        """
        from mspgt_tl.dashboard.comparison import evidence_by_depth, places_figure

        if kind not in get_args(View):
            raise ConfigError(unknown_name("kind of figure", str(kind), get_args(View)))
        if kind == "evidence" and all(model.result is None for model in self.located):
            raise ConfigError("These models were given without their detections, so there is no evidence to draw.")
        return places_figure(self.located) if kind == "boundaries" else evidence_by_depth(self.located)

    def save(self, page: str | Path) -> Path:
        """Write the comparison as one HTML page that works offline, and return its path.

        Raises:
            StoreError: it cannot be written there.
        """
        from mspgt_tl.dashboard.comparison import render_comparison

        path = Path(page)
        path = path / "comparison.html" if path.is_dir() or not path.suffix else path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render_comparison(self), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"The page cannot be written to {path}: {error}.") from error
        return path


def compare(
    runs: Sequence[str | Path | Detection | Located],
    *,
    families: Mapping[str, str] | None = None,
    architectures: Mapping[str, str] | None = None,
    effects: str | Path | pd.DataFrame | None = None,
    count: Count = "found",
    seed: int = 0,
) -> ModelComparison:
    """Compare the boundaries of two or more detections, or of those in these folders; see `comparison.compare`.

    Raises:
        StoreError: a folder holds no finished detection; else as `comparison.compare`.

    See Also:
        detect: makes what is compared.
        load_run: reads a run again.

    Example:
        Two runs that lie in the repository; a detection goes, too:

        >>> compare(["docs/runs/planted", "docs/runs/smollm2-135m"]).models["gap"].astype(int).tolist()
        [4, 9, 1, 29]
    """
    options: dict[str, Any] = {"families": families, "architectures": architectures, "effects": effects}
    given: Any = runs
    if isinstance(runs, Iterable) and not isinstance(runs, str) and len(given := list(runs)) > 1:
        given = [load_run(run) if isinstance(run, str | Path) else run for run in given]
    found = comparison.compare(given, count=count, seed=seed, **options)
    return ModelComparison(**vars(found))
