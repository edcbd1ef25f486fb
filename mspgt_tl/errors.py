"""Every exception the package raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MspgtError(Exception):
    """Base of every error the package raises on purpose: the command line prints it on one line and exits with code 2.

    Example:
        >>> import mspgt_tl
        >>> try:
        ...     mspgt_tl.load("llama2-mimi")
        ... except mspgt_tl.MspgtError as error:
        ...     print("llama2-mini" in str(error))
        True
    """


class ConfigError(MspgtError):
    """An option, a config file or an argument is not usable."""


class ModelError(MspgtError):
    """A model cannot be loaded, trained or run."""


class UnknownModelError(ModelError):
    """The name is neither an embedded model, a folder, nor known to the hub."""


class ActivationError(ModelError):
    """A forward pass gave values that no statistic can use, or did not fit into memory."""


class CorpusError(MspgtError):
    """A text or a treebank cannot be read, or holds nothing usable."""


class StoreError(MspgtError):
    """A run folder is missing, damaged or belongs to another run."""


class WorkerError(MspgtError):
    """A worker process or a node of a cluster died again and again on one item of work."""


class DataError(MspgtError, ValueError):
    """An array passed to a function has the wrong shape or unusable values."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the closest known one first.

    >>> unknown_name("signal", "cak", ["cka", "probe"])
    "Unknown signal 'cak'. Did you mean 'cka'? Known: cka, probe."
    """
    names = sorted(known)
    return f"Unknown {kind} '{name}'.{closest(name, names)} Known: {', '.join(names) or 'none'}."


def closest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean '…'?" with the known name closest to `name`, or nothing where none is close.

    >>> closest("cak", ["cka", "probe"])
    " Did you mean 'cka'?"
    """
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    return f" Did you mean '{close[0]}'?" if close else ""
