"""Sentences that are longer than what the model reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import TextCorpus
from mspgt_tl.models.pretrained import load
from mspgt_tl.passes.corpus import count_cut
from mspgt_tl.pipeline.inputs import reading_notes


@pytest.mark.parametrize(("max_length", "length"), [(10, 10), (1000, 128)])
def test_sentences_that_are_cut_are_counted(tiny_folder: Path, max_length: int, length: int) -> None:
    """By the setting or by the model's context, whichever is shorter; a text that fits has no such note."""
    model = load(tiny_folder, parity=False)
    config = replace(StreamConfig(), max_length=max_length)
    cut = count_cut(model, ["Ann saw it.", "word " * 400, "more " * 300], config)
    assert cut == {f"sentences cut at {length} tokens": 2}
    assert count_cut(model, ["A."], config) == {}
    notes = reading_notes(TextCorpus("text", ("A.",), "0" * 64), cut=cut)
    assert notes == {"reading_corpus": {f"sentences cut at {length} tokens": 2}}
