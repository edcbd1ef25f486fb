"""`mspgt theory` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

QUICK = [
    "--sentences=60",
    *(
        f"--set={pair}"
        for pair in (
            "closure_texts=3",
            "closure_sigmas=[0.001,0.1]",
            "closure_samples=2",
            "noise_draws=2",
            "exact_draws=2",
            "rate_texts=20",
            "rate_sigmas=[0.2,0.5]",
            "resamples=100",
            "hvib.betas=[0.1,1.0]",
            "hvib.width=2",
            "hvib.steps=3",
            "hvib.batch=64",
        )
    ),
]


def test_theory_prints_tables_findings_and_page(tiny_folder: Path, tmp_path: Path, mspgt: Any) -> None:
    """Tables for people, JSON for machines, from the same folder without computing again."""
    run = tmp_path / "run"
    human = mspgt("theory", str(tiny_folder), "--out", str(run), *QUICK)
    assert human.returncode == 0, human.stderr
    assert "equal thirds" in human.stdout
    assert "Page:" in human.stdout
    assert (run / "report.html").exists()
    again = mspgt("theory", str(tiny_folder), "--out", str(run), "--json", *QUICK)
    summary = json.loads(again.stdout)
    assert len(summary["layers"]) == 8
    assert summary["layers"][0]["closure_float64"] == pytest.approx(1, abs=0.6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lama2-mini"], "Did you mean"),
        (["llama2-mini", "--scales", "0-3"], "Three scales"),
        (["llama2-mini", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (["llama2-mini", "--set", "closure_texts"], "NAME=VALUE"),
        (["llama2-mini", "--set", "closure_text=3"], "Did you mean 'closure_texts'"),
        (["llama2-mini", "--sentences", "30"], "more sentences"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], message: str, mspgt: Any) -> None:
    """Exit code 2, one line after those of what was read, and no folder."""
    found = mspgt("theory", *arguments, "--out", str(tmp_path / "run"))
    assert found.returncode == 2
    assert message in found.stderr
    told = [line for line in found.stderr.splitlines() if ": done in " not in line]
    assert len(told) == 1 and told[0].startswith("Error:")
    assert not (tmp_path / "run").exists()
