"""Find, test and question the layer boundaries between processing scales of causal language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mspgt_tl.boundaries import Boundaries, find_boundaries
    from mspgt_tl.config import DetectConfig
    from mspgt_tl.errors import MspgtError
    from mspgt_tl.interventions import Positions, activation_scales, generate, noise_hooks
    from mspgt_tl.models.embedded import list_embedded
    from mspgt_tl.models.pretrained import load
    from mspgt_tl.pipeline import Detection, detect, load_run

__all__ = [
    "Boundaries",
    "DetectConfig",
    "Detection",
    "MspgtError",
    "Positions",
    "activation_scales",
    "detect",
    "find_boundaries",
    "generate",
    "list_embedded",
    "load",
    "load_run",
    "noise_hooks",
]

_HOME = {
    "Boundaries": "boundaries",
    "DetectConfig": "config",
    "Detection": "pipeline",
    "MspgtError": "errors",
    "Positions": "interventions",
    "activation_scales": "interventions",
    "detect": "pipeline",
    "find_boundaries": "boundaries",
    "generate": "interventions",
    "list_embedded": "models.embedded",
    "load": "models.pretrained",
    "load_run": "pipeline",
    "noise_hooks": "interventions",
}


_PARTS = ("boundaries", "corpora", "dashboard", "errors", "interventions", "metrics", "models", "signals")


def __getattr__(name: str) -> Any:
    # Lazy, so that `import mspgt_tl` stays under a second: torch and TransformerLens take 4 to 9 s.
    if name in _PARTS:
        return import_module(f"mspgt_tl.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'mspgt_tl' has no attribute '{name}'")
    return getattr(import_module(f"mspgt_tl.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, *_PARTS]
