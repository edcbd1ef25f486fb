"""Models of few blocks and short contexts: what they cannot do is said before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import mspgt_tl
from mspgt_tl.errors import ConfigError, ModelError


@pytest.fixture
def llama(tmp_path: Path, tiny_folder: Path) -> Callable[..., Path]:
    """A function that writes a random Llama of some blocks and positions with the tiny model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    def make(blocks: int, positions: int = 128) -> Path:
        folder = tmp_path / f"llama-{blocks}-{positions}"
        config = LlamaConfig.from_pretrained(tiny_folder)
        config.num_hidden_layers, config.max_position_embeddings = blocks, positions
        with torch.random.fork_rng():
            torch.manual_seed(0)
            LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
        return folder

    return make


SHORT = {
    "samples": 4,
    "levels": (0.1,),
    "effect_sentences": 10,
    "unit_sentences": 20,
    "dose_sentences": 10,
    "resamples": 100,
    "new_tokens": 4,
    "metrics": ("self_bleu",),
}


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_few_blocks_have_no_boundaries(llama: Callable[..., Path], tmp_path: Path, blocks: int) -> None:
    """The refusal names the least number and writes nothing."""
    with pytest.raises(ModelError, match=f"at least 4 blocks; .* has {blocks}"):
        mspgt_tl.detect(llama(blocks), sentences=300, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_block_cannot_be_compared(llama: Callable[..., Path], tmp_path: Path) -> None:
    """Noise in the only block has no control."""
    with pytest.raises(ModelError, match=r"at least 2 blocks; .* has 1"):
        mspgt_tl.intervene(llama(1), scales="0", out=tmp_path / "run", **SHORT)
    assert not (tmp_path / "run").exists()


def test_two_blocks_can_be_disturbed(llama: Callable[..., Path]) -> None:
    """A scale of one block and that block on its own are two targets."""
    sweep = mspgt_tl.intervene(llama(2), scales="0,1", **SHORT)
    groups = sweep.effects["group"].values.tolist()
    assert (groups.count("scale"), groups.count("layer")) == (2, 2)


def test_a_short_context_is_found_before_the_work(llama: Callable[..., Path], tmp_path: Path) -> None:
    """The message names an option that exists, with a value that works."""
    folder = llama(4, positions=20)
    with pytest.raises(ConfigError, match=r"context has 20.*--set decode\.new_tokens=(\d+)") as refused:
        mspgt_tl.intervene(folder, scales="0,1,2", out=tmp_path / "run", **SHORT | {"new_tokens": 8})
    assert not (tmp_path / "run").exists()
    fits = int(str(refused.value).rpartition("=")[2].rstrip(")."))
    assert mspgt_tl.intervene(folder, scales="0,1,2", **SHORT | {"new_tokens": fits}).statistics is not None
