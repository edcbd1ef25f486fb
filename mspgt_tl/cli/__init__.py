"""The `mspgt` command: parses arguments, calls the pipeline, prints.

Each module registers its commands on the app as it is imported. Heavy imports wait until a command runs, so that
`mspgt --help` answers at once.
"""

from mspgt_tl.cli import (
    calibrate,
    compare,
    detection,
    intervene,
    models,
    plan,
    predictions,
    report,
    runs,
    study,
    theory,
    treebank,
)
from mspgt_tl.cli.console import app, main

__all__ = [
    "app",
    "calibrate",
    "compare",
    "detection",
    "intervene",
    "main",
    "models",
    "plan",
    "predictions",
    "report",
    "runs",
    "study",
    "theory",
    "treebank",
]
