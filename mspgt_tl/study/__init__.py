"""A whole study as one resumable command: models, corpora and stages from one file, and one report of them all."""

from mspgt_tl.study.conclusions import conclusions
from mspgt_tl.study.findings import Findings
from mspgt_tl.study.plan import SHIPPED, Step, StudyConfig, make_steps, read_study
from mspgt_tl.study.planner import Cost, Estimate, estimate_study, plan_model
from mspgt_tl.study.report import load_study, write_study_report
from mspgt_tl.study.run import Outcome, Study, run_study

__all__ = [
    "SHIPPED",
    "Cost",
    "Estimate",
    "Findings",
    "Outcome",
    "Step",
    "Study",
    "StudyConfig",
    "conclusions",
    "estimate_study",
    "load_study",
    "make_steps",
    "plan_model",
    "read_study",
    "run_study",
    "write_study_report",
]
