"""The stages of a run in order, each reading and writing the run's folder."""

from mspgt_tl.pipeline.detection import REPORT, Detection, detect, load_run, write_report
from mspgt_tl.pipeline.intervention import Intervention, intervene, load_intervention
from mspgt_tl.pipeline.measuring import measure

__all__ = [
    "REPORT",
    "Detection",
    "Intervention",
    "detect",
    "intervene",
    "load_intervention",
    "load_run",
    "measure",
    "write_report",
]
