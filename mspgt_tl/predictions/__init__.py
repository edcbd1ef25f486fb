"""Predictions judged: supported, refuted or undecided, beside what chance would pass."""

from mspgt_tl.predictions.judging import Judgement, judge
from mspgt_tl.predictions.measuring import Evidence, chance_rate, paper_evidence, read_measurements
from mspgt_tl.predictions.registry import SETS, Prediction, PredictionSet, load_set, read_predictions

__all__ = [
    "SETS",
    "Evidence",
    "Judgement",
    "Prediction",
    "PredictionSet",
    "chance_rate",
    "judge",
    "load_set",
    "paper_evidence",
    "read_measurements",
    "read_predictions",
]
