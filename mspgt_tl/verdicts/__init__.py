"""Agreement across models, and predictions judged: supported, refuted or undecided, beside what chance would pass."""

from mspgt_tl.verdicts.comparison import Comparison, compare
from mspgt_tl.verdicts.dependence import Dependence, Observed, compare_corpora
from mspgt_tl.verdicts.effects import read_effects, sweep_effects
from mspgt_tl.verdicts.families import FamilyRow, cv_interval, family_table, label_permutation
from mspgt_tl.verdicts.judging import Judgement, judge
from mspgt_tl.verdicts.measuring import Evidence, chance_rate, paper_evidence, read_measurements
from mspgt_tl.verdicts.positions import Located, read_runs
from mspgt_tl.verdicts.reference import paper_positions, paper_tables, recomputed_table3
from mspgt_tl.verdicts.registry import SETS, Prediction, PredictionSet, load_set, read_predictions

__all__ = [
    "SETS",
    "Comparison",
    "Dependence",
    "Evidence",
    "FamilyRow",
    "Judgement",
    "Located",
    "Observed",
    "Prediction",
    "PredictionSet",
    "chance_rate",
    "compare",
    "compare_corpora",
    "cv_interval",
    "family_table",
    "judge",
    "label_permutation",
    "load_set",
    "paper_evidence",
    "paper_positions",
    "paper_tables",
    "read_effects",
    "read_measurements",
    "read_predictions",
    "read_runs",
    "recomputed_table3",
    "sweep_effects",
]
