"""`mspgt report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mspgt_tl.cli.calibrate import print_calibration
from mspgt_tl.cli.console import JsonFlag, app
from mspgt_tl.cli.detection import print_detection
from mspgt_tl.cli.intervene import print_intervention
from mspgt_tl.cli.theory import print_theory


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished detection, sweep, calibration or theory run.")],
    as_json: JsonFlag = False,
) -> None:
    """Draw a run's dashboard anew and print its result."""
    from mspgt_tl.pipeline import calibration, detection, intervention, theory
    from mspgt_tl.store import Run

    command = Run.read(run).manifest["identity"].get("command")
    if command == "intervene":
        sweep = intervention.load_intervention(run)
        intervention.write_intervention_report(sweep)
        print_intervention(sweep, as_json=as_json)
    elif command == "theory":
        tested = theory.load_theory(run)
        theory.write_theory_report(tested)
        print_theory(tested, as_json=as_json)
    elif command == "calibrate":
        identity = Run.read(run).manifest["identity"]
        size, seed, model = identity["grid"], identity["seed"], identity["model"]["name"]
        judged = calibration.calibrate(size, out=run, seed=seed, model=model, measure=False)
        print_calibration(judged, as_json=as_json)
    else:
        found = detection.load_run(run)
        detection.write_report(found)
        print_detection(found, as_json=as_json)
