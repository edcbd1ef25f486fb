"""The three questions of a study's report, of any run folders: detections and sweeps.

    python benchmarks/questions.py RUN...

Prints what each rule says of every detection and its nulls, then brittleness ratios by dose of every sweep.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from mspgt_tl.pipeline.detection import load_run
from mspgt_tl.pipeline.intervention import load_intervention
from mspgt_tl.store import Run
from mspgt_tl.study.questions import DOSE_COLUMNS, dose_rows, ratio_rows, rule_rows


def main() -> None:
    """Read every run and print its tables."""
    rules, doses = [], []
    for folder in sys.argv[1:]:
        identity = Run.read(Path(folder)).manifest["identity"]
        name = Path(str(identity["model"]["name"])).name
        if identity["command"] == "detect":
            run = load_run(folder)
            rules += rule_rows(name, "random weights" if "@random:" in name else "trained", run.data)
            rules += [row for null, data in run.nulls.items() for row in rule_rows(name, f"null {null}", data)]
        else:
            doses += dose_rows(name, load_intervention(folder))
    if rules:
        table = pd.DataFrame(rules)
        table["chance"] = table["chance"].map("{:.0%}".format)
        print(table.to_string(index=False), "\n")
    if doses:
        table = pd.DataFrame(doses, columns=list(DOSE_COLUMNS))
        print(table.to_string(index=False, float_format="{:.3g}".format), "\n")
        print(pd.DataFrame(ratio_rows(table)).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
