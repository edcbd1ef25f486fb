"""The mistakes that `make mutants` makes can be made: their sources and tests are where they are said to be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_named_mistakes_are_found_in_the_source(monkeypatch) -> None:
    """A line that has moved on is told here, not after an hour; so is a test that is gone."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / ".ci/mutants.py")
    assert spec is not None and spec.loader is not None
    mutants = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", mutants)
    spec.loader.exec_module(mutants)
    found = mutants.named()
    assert len(found) == len(mutants.NAMED)
    for mistake in found:
        for test in map(str, mistake.tests):
            path, _, name = test.partition("::")
            assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), mistake.what
    for module, others in mutants.MODULES.items():
        assert mutants.tests_of(mutants.locate(module), others)
