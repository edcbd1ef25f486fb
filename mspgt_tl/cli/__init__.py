"""The `mspgt` command: parses arguments, calls the pipeline, prints.

Each module registers its commands on the app as it is imported; no list names them. Heavy imports wait until a command
runs, so that `mspgt --help` answers at once.
"""

from importlib import import_module
from pkgutil import iter_modules

from mspgt_tl.cli.console import app, main

for _module in iter_modules(__path__):
    if _module.name != "__main__":
        import_module(f"{__name__}.{_module.name}")

__all__ = ["app", "main"]
