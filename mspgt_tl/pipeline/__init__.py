"""The stages of a run in order, each reading and writing the run's folder."""

from mspgt_tl.pipeline.detection import REPORT, Detection, detect, load_run, write_report

__all__ = ["REPORT", "Detection", "detect", "load_run", "write_report"]
