"""The stages of a run in order, each reading and writing the run's folder."""

from mspgt_tl.pipeline.comparing import ModelComparison, compare
from mspgt_tl.pipeline.detection import Detection, detect, load_run
from mspgt_tl.pipeline.intervention import Intervention, intervene, load_intervention
from mspgt_tl.pipeline.measuring import measure
from mspgt_tl.pipeline.shell import REPORT, kind_of

__all__ = [
    "REPORT",
    "Detection",
    "Intervention",
    "ModelComparison",
    "compare",
    "detect",
    "intervene",
    "kind_of",
    "load_intervention",
    "load_run",
    "measure",
]
