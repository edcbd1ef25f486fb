"""The streaming pass: every sentence once, pads and BOS never data, batches change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ActivationError
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.passes.corpus import observe_corpus, stream, usable_sentences
from mspgt_tl.passes.folds import assign_folds
from mspgt_tl.signals.attention_jsd import AttentionDrift
from mspgt_tl.signals.cka import CkaChange

SENTENCES = generated_corpus(seed=3, limit=220).sentences
BOTH = frozenset({"resid", "pattern"})


@pytest.fixture(scope="module", params=["hooked", "bridge"])
def model(request: pytest.FixtureRequest, tiny_folder: Path) -> CausalModel:
    """The same contract holds for both backends."""
    return load(tiny_folder, backend=request.param)


def test_uneven_folds_stream_like_even_ones(model: CausalModel) -> None:
    """Every sentence passes once and carries its fold; chunks hold whole folds."""
    documents = np.repeat(np.arange(20), 11).tolist()
    folds = assign_folds(220, seed=0, documents=documents)
    config = StreamConfig(batch_positions=256, chunk_sentences=50)
    fold_of = dict(zip(folds.order.tolist(), np.repeat(np.arange(folds.count), folds.sizes), strict=True))
    seen = list[int]()
    for batch in stream(model, SENTENCES, needs=BOTH, folds=folds, seed=0, config=config):
        assert batch.fold.tolist() == [fold_of[i] for i in batch.sentence.tolist()]
        seen += batch.sentence.tolist()
    assert sorted(seen) == list(range(220))
    signals = {"cka": CkaChange()}
    sums = observe_corpus(model, SENTENCES, signals, folds=folds, seed=0, config=config)["cka"]["hsic"]
    assert sums.shape == (folds.count, 8, 8) and (np.einsum("bll->bl", sums) > 0).all()


def test_every_sentence_passes_once_with_pads_and_bos_masked(model: CausalModel) -> None:
    """Without massive activations, data are exactly the tokens of a sentence but the first."""
    folds, seen = assign_folds(len(SENTENCES), seed=1), []
    lengths = [len(ids) for ids in encode(model, SENTENCES).ids]
    for batch in stream(model, SENTENCES, needs=BOTH, folds=folds, seed=0, config=StreamConfig(batch_positions=256)):
        seen += batch.sentence.tolist()
        assert batch.is_data.sum(1).tolist() == [lengths[i] - 1 for i in batch.sentence]
        assert not batch.is_data[:, 0].any()
        drawn = batch.drawn
        assert batch.is_data[torch.arange(len(drawn)), drawn].all()
        assert batch.tokens.numel() <= 256 or len(batch.tokens) == 1
        assert len(batch.resid) == len(batch.pattern) == 8
        assert torch.allclose(batch.pattern[3][batch.is_data.unsqueeze(1).expand(-1, 4, -1)].sum(-1), torch.tensor(1.0))
    assert sorted(seen) == sorted(folds.order.tolist())


def test_all_tokens_come_back_on_request(tiny_folder: Path) -> None:
    """With tokens="all" only padding is left out."""
    folds, config = assign_folds(len(SENTENCES), seed=1), StreamConfig(tokens="all")
    for batch in stream(load(tiny_folder), SENTENCES, needs=BOTH, folds=folds, seed=0, config=config):
        assert torch.equal(batch.is_data, batch.is_token)


def test_batches_match_single_sentences(model: CausalModel) -> None:
    """Activations and patterns of a padded batch equal those of each sentence alone."""
    folds = assign_folds(len(SENTENCES), seed=1)
    batch = next(stream(model, SENTENCES, needs=BOTH, folds=folds, seed=0, config=StreamConfig()))
    for row in (0, len(batch.tokens) - 1):
        ids = batch.tokens[row, batch.is_token[row]][None]
        _, cache = model.run_with_cache(ids)
        n = ids.shape[1]
        assert torch.allclose(cache["blocks.7.hook_resid_post"][0], batch.resid[7][row, :n], atol=1e-4)
        assert torch.allclose(cache["blocks.4.attn.hook_pattern"][0], batch.pattern[4][row, :, :n, :n], atol=1e-5)


def sums_of(model: CausalModel, sentences: Sequence[str], config: StreamConfig) -> dict[str, dict[str, np.ndarray]]:
    """Run both streamed signals over the sentences."""
    signals = {"cka": CkaChange(), "attention_jsd": AttentionDrift()}
    folds = assign_folds(len(sentences), seed=1)
    return {
        name: dict(sums)
        for name, sums in observe_corpus(model, sentences, signals, folds=folds, seed=0, config=config).items()
    }


def test_batch_size_and_chunks_change_nothing(model: CausalModel) -> None:
    """Sums agree within rounding for small and large batches and chunks."""
    small = sums_of(model, SENTENCES, StreamConfig(batch_positions=64, chunk_sentences=30))
    large = sums_of(model, SENTENCES, StreamConfig(batch_positions=8192))
    for name, sums in small.items():
        for key, array in sums.items():
            assert np.allclose(array, large[name][key], rtol=1e-3, atol=1e-5), (name, key)


def test_backends_agree(tiny_folder: Path) -> None:
    """HookedTransformer and TransformerBridge give the same curves."""
    curves = []
    for backend in ("hooked", "bridge"):
        sums = sums_of(load(tiny_folder, backend=backend), SENTENCES, StreamConfig())
        ones = np.ones((1, len(sums["cka"]["hsic"])))
        curves.append([CkaChange().curves(sums["cka"], ones), AttentionDrift().curves(sums["attention_jsd"], ones)])
    assert np.allclose(curves[0], curves[1], atol=1e-4)


def test_nan_activations_name_the_block(tiny_folder: Path) -> None:
    """Damaged weights are reported with the first block that shows it."""
    model: Any = load(tiny_folder)
    with torch.no_grad():
        model.blocks[5].mlp.W_out[0, 0] = float("nan")
    with pytest.raises(ActivationError, match="from block 5 on"):
        sums_of(model, SENTENCES, StreamConfig())


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda value: value * 0, "zero"),
        (lambda value: value * 0 + 3, "the same"),
        (lambda value: value[:1, :1] + 0 * value, "the same"),
    ],
)
@pytest.mark.parametrize("block", [0, 5, 7])
def test_activations_that_tell_no_tokens_apart_name_the_block(
    tiny_folder: Path, block: int, change: Any, kind: str
) -> None:
    """Zero, one number, or one vector at every token: nothing can be measured from that block on."""
    model: Any = load(tiny_folder)
    model.blocks[block].hook_resid_post.register_forward_hook(lambda _module, _inputs, value: change(value))
    with pytest.raises(ActivationError, match=f"{kind}.* from block {block} on"):
        next(stream(model, SENTENCES, needs=BOTH, folds=assign_folds(220, seed=0), seed=0, config=StreamConfig()))


def test_a_massive_channel_is_not_constancy(tiny_folder: Path) -> None:
    """Beside a channel 10,000 times as large as the others, all of them alike at every token, the rest still counts."""
    model: Any = load(tiny_folder, dtype="bfloat16")
    shift = torch.zeros(32, dtype=torch.bfloat16)
    shift[3] = 1e4
    model.blocks[7].hook_resid_post.register_forward_hook(lambda _module, _inputs, value: value + shift)
    assert next(stream(model, SENTENCES, needs=BOTH, folds=assign_folds(220, seed=0), seed=0, config=StreamConfig()))


def test_sentences_without_words_are_left_out(tiny_folder: Path) -> None:
    """A sentence of fewer than two tokens shows nothing between words."""
    assert usable_sentences(load(tiny_folder), ["", "a", "The dog sleeps ."], StreamConfig()) == ["The dog sleeps ."]
