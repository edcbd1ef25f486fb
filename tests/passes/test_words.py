"""Vectors of words: the last sub-token, nothing beyond the limit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.corpora.treebank import align_words
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.passes.words import Vectors, bytes_of_word_vectors, word_vectors


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
            found = words.features.at(layer, words.rows[number])
            # Rounded to eight bits, of the distance from the midst of all words.
            away = (expected - torch.from_numpy(words.features.midst[layer])).abs()
            assert ((found - expected).abs() <= away / 256 + 1e-4).all()


def test_words_beyond_the_length_limit_have_no_row(tiny_folder: Path) -> None:
    """Truncated words are marked, not given another word's vector."""
    tree = max(generate_treebank(seed=2, train=40, dev=1).train, key=lambda tree: len(tree.words))
    words = word_vectors(load(tiny_folder), [tree], config=StreamConfig(max_length=8))
    assert words.rows[0][-1] == -1
    assert (words.rows[0] >= 0).sum() == len(words.features) > 0


def test_rounding_is_relative_to_the_midst_of_a_channel() -> None:
    """A massive channel whose words differ by a thousandth of its mean keeps their differences."""
    exact = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    exact[:, 2] += 1000
    midst = exact[:20].mean(0)[None].numpy()
    vectors = Vectors(np.zeros((1, 50, 6), np.uint16), midst)
    vectors.fill(0, np.arange(50), exact)
    assert (vectors.shape, len(vectors)) == ((50, 1, 6), 50)
    away = (exact - torch.from_numpy(midst[0])).abs()
    assert ((vectors.at(0) - exact).abs() <= away / 256 + 1e-4).all()
    torch.testing.assert_close(vectors.at(0, slice(3, 9)), vectors.at(0)[3:9])


def test_size_is_known_before_anything_is_read(tiny_folder: Path) -> None:
    """What `bytes_of_word_vectors` says is what the vectors take."""
    trees = generate_treebank(seed=2, train=5, dev=1).train
    words = word_vectors(load(tiny_folder), trees, config=StreamConfig())
    n_words = sum(len(tree.words) for tree in trees)
    assert words.features.codes.nbytes == bytes_of_word_vectors(n_words, *words.features.shape[1:])


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_nothing_on_the_disk(tmp_path: Path, signal_number: int) -> None:
    """A process that is ended while its vectors lie in a file leaves no file behind, whatever ends it."""
    program = (
        "import sys, time, pathlib, numpy as np; from mspgt_tl.files import scratch_array;"
        "array = scratch_array(pathlib.Path(sys.argv[1]), (1000, 1000), np.uint16); array[:] = 1;"
        "print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal_number)
        assert process.wait(timeout=30) != 0
    assert not list(tmp_path.iterdir())
