"""The streaming pass: every sentence once, pads and BOS never data, batches change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspgt_tl.activations import (
    SINK_NORM,
    as_read,
    assign_blocks,
    data_tokens,
    observe_corpus,
    stream,
    usable_sentences,
    word_vectors,
)
from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.corpora.treebank import align_words
from mspgt_tl.errors import ActivationError, CorpusError
from mspgt_tl.models.pretrained import encode, load
from mspgt_tl.signals.attention_jsd import AttentionDrift
from mspgt_tl.signals.cka import CkaChange

SENTENCES = generated_corpus(seed=3, limit=220).sentences
BOTH = frozenset({"resid", "pattern"})


@pytest.fixture(scope="module", params=["hooked", "bridge"])
def model(request: pytest.FixtureRequest, tiny_folder: Path) -> CausalModel:
    """The same contract holds for both backends."""
    return load(tiny_folder, backend=request.param)


def test_blocks_are_equal_and_disjoint() -> None:
    """Blocks hold each sentence at most once, and leave out fewer than fill a block."""
    blocks = assign_blocks(1013, seed=0)
    assert len(set(blocks.order.tolist())) == len(blocks.order) == blocks.count * blocks.size
    assert 1013 - len(blocks.order) < blocks.size
    assert np.array_equal(blocks.order, assign_blocks(1013, seed=0).order)
    assert assign_blocks(10_000, seed=0).count == 80


def test_whole_documents_stay_in_one_block() -> None:
    """No document is in two blocks, each block has two or more, no sentence is lost, sizes are nearly equal."""
    documents = np.repeat(np.arange(60), np.random.default_rng(0).integers(5, 40, 60)).tolist()
    blocks = assign_blocks(len(documents), seed=0, documents=documents)
    assert sorted(blocks.order.tolist()) == list(range(len(documents)))
    held = [set(np.array(documents)[part]) for part in np.split(blocks.order, np.cumsum(blocks.sizes)[:-1])]
    assert sum(map(len, held)) == 60 and min(map(len, held)) >= 2
    assert blocks.count == 30 and blocks.sizes.max() <= 1.5 * blocks.sizes.min()
    assert blocks.rule == "60 documents"
    other = assign_blocks(len(documents), seed=1, documents=documents)
    assert not np.array_equal(blocks.order, other.order)


@pytest.mark.parametrize("lengths", [[300] * 5, [900, *[1] * 20], [250], [700, 200, 100]])
def test_few_documents_are_dealt_out_in_contiguous_pieces(lengths: list[int]) -> None:
    """Neighbouring sentences stay together, and the rule says that documents were cut and why."""
    documents = np.repeat(np.arange(len(lengths)), lengths).tolist()
    blocks = assign_blocks(len(documents), seed=0, documents=documents)
    assert blocks.count >= 8 and blocks.sizes.min() >= 8
    assert sorted(blocks.order.tolist()) == list(range(len(documents)))
    block_of = np.empty(len(documents), dtype=int)
    block_of[blocks.order] = np.repeat(np.arange(blocks.count), blocks.sizes)
    cuts = (np.diff(block_of) != 0).sum()
    assert cuts < len(documents) / 3  # by chance nearly every two neighbours would be in different blocks
    assert "contiguous pieces" in blocks.rule and f"{len(lengths)} documents" in blocks.rule


def test_a_giant_document_is_cut_and_the_others_are_not() -> None:
    """A block compares all of its rows, so a book among articles goes in pieces, which the rule tells."""
    documents = np.repeat(np.arange(31), [3000, *[40] * 30]).tolist()
    blocks = assign_blocks(len(documents), seed=0, documents=documents)
    assert blocks.rule == "31 documents, 1 of them in contiguous pieces of at most 500 sentences"
    block_of = np.empty(len(documents), dtype=int)
    block_of[blocks.order] = np.repeat(np.arange(blocks.count), blocks.sizes)
    assert all(len(set(block_of[np.array(documents) == d])) == 1 for d in range(1, 31))


def test_sentences_that_are_documents_of_their_own_are_dealt_as_ever() -> None:
    """Generated sentences give the blocks that they gave before documents were known."""
    one, other = assign_blocks(1013, seed=3), assign_blocks(1013, seed=3, documents=range(1013))
    assert np.array_equal(one.order, other.order) and one.size == other.size


def test_uneven_blocks_stream_like_even_ones(model: CausalModel) -> None:
    """Every sentence passes once and carries its block; chunks hold whole blocks."""
    documents = np.repeat(np.arange(20), 11).tolist()
    blocks = assign_blocks(220, seed=0, documents=documents)
    config = StreamConfig(batch_positions=256, chunk_sentences=50)
    block_of = dict(zip(blocks.order.tolist(), np.repeat(np.arange(blocks.count), blocks.sizes), strict=True))
    seen = list[int]()
    for batch in stream(model, SENTENCES, needs=BOTH, blocks=blocks, seed=0, config=config):
        assert batch.block.tolist() == [block_of[i] for i in batch.sentence.tolist()]
        seen += batch.sentence.tolist()
    assert sorted(seen) == list(range(220))
    signals = {"cka": CkaChange()}
    sums = observe_corpus(model, SENTENCES, signals, blocks=blocks, seed=0, config=config)["cka"]["hsic"]
    assert sums.shape == (blocks.count, 8, 8) and (np.einsum("bll->bl", sums) > 0).all()


def test_too_short_a_corpus_is_refused() -> None:
    """The error says how many sentences are needed."""
    with pytest.raises(CorpusError, match="At least 200 usable sentences"):
        assign_blocks(199, seed=0)


def test_every_sentence_passes_once_with_pads_and_bos_masked(model: CausalModel) -> None:
    """Without massive activations, data are exactly the tokens of a sentence but the first."""
    blocks, seen = assign_blocks(len(SENTENCES), seed=1), []
    lengths = [len(ids) for ids in encode(model, SENTENCES).ids]
    for batch in stream(model, SENTENCES, needs=BOTH, blocks=blocks, seed=0, config=StreamConfig(batch_positions=256)):
        seen += batch.sentence.tolist()
        assert batch.is_data.sum(1).tolist() == [lengths[i] - 1 for i in batch.sentence]
        assert not batch.is_data[:, 0].any()
        drawn = batch.drawn
        assert batch.is_data[torch.arange(len(drawn)), drawn].all()
        assert batch.tokens.numel() <= 256 or len(batch.tokens) == 1
        assert len(batch.resid) == len(batch.pattern) == 8
        assert torch.allclose(batch.pattern[3][batch.is_data.unsqueeze(1).expand(-1, 4, -1)].sum(-1), torch.tensor(1.0))
    assert sorted(seen) == sorted(blocks.order.tolist())


def test_a_token_massive_at_any_layer_is_no_data_at_all() -> None:
    """First tokens and tokens over the limit at one layer go; padding neither counts nor moves the median."""
    resid = [torch.ones(2, 6, 4) for _ in range(3)]
    resid[1][0, 3] = 1.1 * SINK_NORM
    resid[2][1, 2] = 0.9 * SINK_NORM
    is_token = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    resid[0][1, 4:] = 1e6
    found = data_tokens(resid, is_token)
    assert found.tolist() == [[False, True, True, False, True, True], [False, True, True, True, False, False]]


def test_a_sentence_never_loses_all_its_tokens() -> None:
    """Two tokens, each massive at another layer: both stay."""
    resid = [torch.ones(1, 3, 4), torch.ones(1, 3, 4)]
    resid[0][0, 1] = resid[1][0, 2] = 100.0
    assert data_tokens(resid, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[False, True, True]]


def test_rows_are_read_as_the_norm_reads_them() -> None:
    """Root mean square 1 for RMSNorm; mean 0 and variance 1 for LayerNorm; zero stays zero."""
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) + 3
    assert torch.allclose(as_read(rows, centred=False).square().mean(-1), torch.ones(5))
    assert torch.allclose(as_read(rows, centred=True), torch.nn.functional.layer_norm(rows, (8,), eps=0), atol=1e-5)
    assert (as_read(torch.zeros(2, 3), centred=True) == 0).all()


def test_all_tokens_come_back_on_request(tiny_folder: Path) -> None:
    """With tokens="all" only padding is left out."""
    blocks, config = assign_blocks(len(SENTENCES), seed=1), StreamConfig(tokens="all")
    for batch in stream(load(tiny_folder), SENTENCES, needs=BOTH, blocks=blocks, seed=0, config=config):
        assert torch.equal(batch.is_data, batch.is_token)


def test_batches_match_single_sentences(model: CausalModel) -> None:
    """Activations and patterns of a padded batch equal those of each sentence alone."""
    blocks = assign_blocks(len(SENTENCES), seed=1)
    batch = next(stream(model, SENTENCES, needs=BOTH, blocks=blocks, seed=0, config=StreamConfig()))
    for row in (0, len(batch.tokens) - 1):
        ids = batch.tokens[row, batch.is_token[row]][None]
        _, cache = model.run_with_cache(ids)
        n = ids.shape[1]
        assert torch.allclose(cache["blocks.7.hook_resid_post"][0], batch.resid[7][row, :n], atol=1e-4)
        assert torch.allclose(cache["blocks.4.attn.hook_pattern"][0], batch.pattern[4][row, :, :n, :n], atol=1e-5)


def sums_of(model: CausalModel, sentences: Sequence[str], config: StreamConfig) -> dict[str, dict[str, np.ndarray]]:
    """Run both streamed signals over the sentences."""
    signals = {"cka": CkaChange(), "attention_jsd": AttentionDrift()}
    blocks = assign_blocks(len(sentences), seed=1)
    return {
        name: dict(sums)
        for name, sums in observe_corpus(model, sentences, signals, blocks=blocks, seed=0, config=config).items()
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
    model = load(tiny_folder)
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
        next(stream(model, SENTENCES, needs=BOTH, blocks=assign_blocks(220, seed=0), seed=0, config=StreamConfig()))


def test_a_massive_channel_is_not_constancy(tiny_folder: Path) -> None:
    """Beside a channel 10,000 times as large as the others, all of them alike at every token, the rest still counts."""
    model: Any = load(tiny_folder, dtype="bfloat16")
    shift = torch.zeros(32, dtype=torch.bfloat16)
    shift[3] = 1e4
    model.blocks[7].hook_resid_post.register_forward_hook(lambda _module, _inputs, value: value + shift)
    assert next(stream(model, SENTENCES, needs=BOTH, blocks=assign_blocks(220, seed=0), seed=0, config=StreamConfig()))


def test_out_of_memory_says_what_to_lower(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation failure becomes one line with the batch's size and the option."""
    model = load(tiny_folder)

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "run_with_cache", fail)
    with pytest.raises(ActivationError, match="Lower --batch-positions"):
        sums_of(model, SENTENCES, StreamConfig())


def test_sentences_without_words_are_left_out(tiny_folder: Path) -> None:
    """A sentence of fewer than two tokens shows nothing between words."""
    assert usable_sentences(load(tiny_folder), ["", "a", "The dog sleeps ."], StreamConfig()) == ["The dog sleeps ."]


def test_word_vectors_are_those_of_the_last_sub_token(model: CausalModel, tmp_path: Path) -> None:
    """Every word's row equals the residual stream at its last sub-token in the sentence alone."""
    trees = generate_treebank(seed=2, train=40, dev=1).train
    words = word_vectors(model, trees, config=StreamConfig(batch_positions=200), store=tmp_path / "words.npy")
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
