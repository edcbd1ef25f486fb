"""Find, test and question the layer boundaries between processing scales of causal language models."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mspgt_tl.boundaries import Boundaries, find_boundaries
    from mspgt_tl.config import DetectConfig, InterveneConfig
    from mspgt_tl.corpora.grammar import sample_sentences
    from mspgt_tl.errors import MspgtError
    from mspgt_tl.interventions import (
        Positions,
        activation_units,
        disturbance_hooks,
        generate,
        measure_activations,
        next_token_effects,
        noise_hooks,
    )
    from mspgt_tl.models.embedded import list_embedded
    from mspgt_tl.models.pretrained import load
    from mspgt_tl.pipeline import (
        Detection,
        Intervention,
        compare,
        detect,
        intervene,
        load_intervention,
        load_run,
        measure,
    )

__all__ = [
    "Boundaries",
    "DetectConfig",
    "Detection",
    "InterveneConfig",
    "Intervention",
    "MspgtError",
    "Positions",
    "activation_units",
    "compare",
    "detect",
    "disturbance_hooks",
    "find_boundaries",
    "generate",
    "intervene",
    "list_embedded",
    "load",
    "load_intervention",
    "load_run",
    "measure",
    "measure_activations",
    "next_token_effects",
    "noise_hooks",
    "sample_sentences",
]

_HOME = {
    "Boundaries": "boundaries",
    "DetectConfig": "config",
    "InterveneConfig": "config",
    "MspgtError": "errors",
    "Positions": "interventions",
    "activation_units": "interventions",
    "disturbance_hooks": "interventions",
    "find_boundaries": "boundaries",
    "generate": "interventions",
    "list_embedded": "models.embedded",
    "load": "models.pretrained",
    "measure_activations": "interventions",
    "next_token_effects": "interventions",
    "noise_hooks": "interventions",
    "sample_sentences": "corpora.grammar",
}
"""Where names are defined; the rest are the pipeline's."""


_PARTS = (
    "boundaries",
    "calibration",
    "comparison",
    "config",
    "corpora",
    "dashboard",
    "errors",
    "interventions",
    "metrics",
    "models",
    "passes",
    "predictions",
    "signals",
    "study",
    "theory",
)


def __getattr__(name: str) -> Any:
    # Lazy, so that `import mspgt_tl` stays under a second: torch and TransformerLens take 4 to 9 s.
    if name in _PARTS:
        return import_module(f"mspgt_tl.{name}")
    if name == "__version__":
        return version("mspgt-tl")
    if name not in __all__:
        raise AttributeError(f"module 'mspgt_tl' has no attribute '{name}'")
    return getattr(import_module(f"mspgt_tl.{_HOME.get(name, 'pipeline')}"), name)


def __dir__() -> list[str]:
    return [*__all__, *_PARTS, "__version__"]
