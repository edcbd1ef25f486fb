"""Models side by side: positions, families and drift, effects of noise, and what belongs to the corpus."""

from mspgt_tl.comparison.dependence import Dependence, Observed, compare_corpora
from mspgt_tl.comparison.effects import read_effects, sweep_effects
from mspgt_tl.comparison.families import FamilyRow, cv_interval, family_table, label_permutation
from mspgt_tl.comparison.models import Comparison, compare
from mspgt_tl.comparison.positions import Located, read_runs
from mspgt_tl.comparison.reference import paper_positions, paper_tables, recomputed_table3

__all__ = [
    "Comparison",
    "Dependence",
    "FamilyRow",
    "Located",
    "Observed",
    "compare",
    "compare_corpora",
    "cv_interval",
    "family_table",
    "label_permutation",
    "paper_positions",
    "paper_tables",
    "read_effects",
    "read_runs",
    "recomputed_table3",
    "sweep_effects",
]
