"""Vectors of words: the last sub-token, nothing beyond the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.corpora.treebank import align_words
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.passes.words import word_vectors


@pytest.fixture(scope="module", params=["hooked", "bridge"])
def model(request: pytest.FixtureRequest, tiny_folder: Path) -> CausalModel:
    """The same contract holds for both backends."""
    return load(tiny_folder, backend=request.param)


def test_word_vectors_are_those_of_the_last_sub_token(model: CausalModel, tmp_path: Path) -> None:
    """Every word's row equals the residual stream at its last sub-token in the sentence alone."""
    trees = generate_treebank(seed=2, train=40, dev=1).train
    words = word_vectors(model, trees, config=StreamConfig(batch_positions=200), store=tmp_path)
    for number in (0, 17, 39):
        encoding = encode(model, [trees[number].text])
        _, cache = model.run_with_cache(torch.tensor(encoding.ids))
        positions = align_words(trees[number], encoding.offsets[0])
        for layer in (0, 7):
            expected = cache[f"blocks.{layer}.hook_resid_post"][0, list(positions)]
            assert np.allclose(words.features[words.rows[number], layer], expected.numpy(), atol=1e-4)


def test_words_beyond_the_length_limit_have_no_row(tiny_folder: Path) -> None:
    """Truncated words are marked, not given another word's vector."""
    tree = max(generate_treebank(seed=2, train=40, dev=1).train, key=lambda tree: len(tree.words))
    words = word_vectors(load(tiny_folder), [tree], config=StreamConfig(max_length=8))
    assert words.rows[0][-1] == -1
    assert (words.rows[0] >= 0).sum() == len(words.features) > 0
