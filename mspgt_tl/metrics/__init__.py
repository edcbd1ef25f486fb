"""Text metrics: what generated continuations look like. Importing the package fills the registry of metrics."""

from importlib import import_module
from pkgutil import iter_modules

# One class in one file is a metric: no list names it.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
