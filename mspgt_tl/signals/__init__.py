"""Signals: curves over depth whose peaks may be boundaries. Importing the package fills the registry of signals."""

from importlib import import_module
from pkgutil import iter_modules

# One class in one file is a signal: no list names it.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from mspgt_tl.signals.cached import cka_curve, jsd_curve, probe_curve  # noqa: E402

__all__ = ["cka_curve", "jsd_curve", "probe_curve"]
