"""Training from a recipe: learning, resuming, cards, baselines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError, ModelError
from mspgt_tl.models import embedded
from mspgt_tl.models.cards import add_to_zoo
from mspgt_tl.models.ngram import ngram_losses
from mspgt_tl.models.pretrained import load
from mspgt_tl.models.training import Recipe, TrainingRun, load_recipe, train

RECIPE = """
name = "tiny"
namesake = "nothing"
[architecture]
model_type = "llama"
num_hidden_layers = 2
hidden_size = 32
intermediate_size = 64
num_attention_heads = 2
num_key_value_heads = 1
tie_word_embeddings = true
[training]
vocab_size = 300
sequence_length = 32
batch_sequences = 8
tokens = 40_960
learning_rate = 1e-2
warmup_share = 0.1
decay_share = 0.25
weight_decay = 0.1
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training and a held-out text of generated sentences."""
    folder = tmp_path_factory.mktemp("texts")
    for name, seed in (("train", 10), ("valid", 11)):
        sentences = generated_corpus(seed=seed, limit=1500).sentences
        lines = (" ".join(sentences[i : i + 6]) for i in range(0, len(sentences), 6))
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def run_of(texts: Path, out: Path, **changes: int) -> TrainingRun:
    """Return a run of the tiny recipe."""
    recipe = load_recipe(str(texts / "recipe.toml"))
    return TrainingRun(recipe, texts / "train.txt", texts / "valid.txt", out, licence="none needed", **changes)


@pytest.fixture(scope="module")
def finished(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of 160 steps."""
    return train(run_of(texts, tmp_path_factory.mktemp("trained")), save_every=40, evaluate_every=80)


def test_the_model_learns(finished: Path) -> None:
    """Held-out loss falls well below the uniform and the unigram loss."""
    card = json.loads((finished / "card.json").read_text(encoding="utf-8"))
    assert card["validation_loss"] < card["unigram_loss"] < math.log(300)
    assert card["steps"] == 160
    assert card["tokens_seen"] == 160 * 8 * 32
    assert card["data"]["licence"] == "none needed"
    assert [step for step, _ in card["eval_curve"]] == [80, 160]


@pytest.mark.slow
def test_interrupted_training_resumes_to_the_same_weights(texts: Path, finished: Path, tmp_path: Path) -> None:
    """A run stopped at step 60 continues from step 40 and ends with the weights of an undisturbed run."""
    import torch
    from safetensors.torch import load_file

    class Stop(Exception):
        pass

    def stop(_: str, done: float, __: float) -> None:
        if done == 60:
            raise Stop

    with pytest.raises(Stop):
        train(run_of(texts, tmp_path), save_every=40, evaluate_every=80, progress=stop)
    resumed = load_file(train(run_of(texts, tmp_path), save_every=40, evaluate_every=80) / "model.safetensors")
    for name, weights in load_file(finished / "model.safetensors").items():
        assert torch.equal(weights, resumed[name]), name


def test_finished_run_is_not_trained_further(texts: Path, finished: Path) -> None:
    """Calling it again changes neither weights nor card."""
    before = (finished / "model.safetensors").read_bytes(), (finished / "card.json").read_bytes()
    assert train(run_of(texts, finished.parent), save_every=40, evaluate_every=80) == finished
    assert before == ((finished / "model.safetensors").read_bytes(), (finished / "card.json").read_bytes())


def test_finished_model_enters_the_zoo_and_loads(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, card with hash, shared tokenizer and a readable card; then it loads by name."""
    monkeypatch.setattr(embedded, "ZOO", tmp_path)
    home = add_to_zoo(finished, zoo=tmp_path)
    assert "interpolated bigram" in (home / "README.md").read_text(encoding="utf-8")
    assert load("tiny").cfg.n_layers == 2
    assert embedded.list_embedded()[0]["name"] == "tiny"
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="another tokenizer"):
        add_to_zoo(finished, zoo=tmp_path)


def test_unfinished_model_does_not_enter_the_zoo(tmp_path: Path) -> None:
    """What is missing is named."""
    with pytest.raises(ModelError, match=r"lacks config.json"):
        add_to_zoo(tmp_path, zoo=tmp_path / "zoo")


def test_embedded_recipes_are_sound() -> None:
    """Every shipped recipe parses and fits its stated size."""
    recipe = load_recipe("llama2-mini")
    assert isinstance(recipe, Recipe)
    assert recipe.architecture["num_hidden_layers"] == 12
    assert recipe.architecture["hidden_size"] == 128
    assert recipe.training.steps * 16 * 256 >= recipe.training.tokens


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (("llama", "lama"), ConfigError, "cannot build"),
        (("warmup_share = 0.1", ""), ConfigError, "not a recipe.*warmup_share"),
        (("[training]", "[training"), ConfigError, "not a recipe"),
    ],
)
def test_bad_recipes_are_named(
    texts: Path, tmp_path: Path, spoil: tuple[str, str], error: type[Exception], message: str
) -> None:
    """A broken recipe says what is wrong with which file."""
    path = tmp_path / "bad.toml"
    path.write_text(RECIPE.replace(*spoil), encoding="utf-8")
    with pytest.raises(error, match=message):
        train(TrainingRun(load_recipe(str(path)), texts / "train.txt", texts / "valid.txt", tmp_path / "out"))


def test_too_little_text_is_named(texts: Path, tmp_path: Path) -> None:
    """A text shorter than one sequence cannot train anything."""
    short = tmp_path / "short.txt"
    short.write_text("One single line of text that is only just long enough.\n", encoding="utf-8")
    (tmp_path / "long.toml").write_text(RECIPE.replace("length = 32", "length = 256"), encoding="utf-8")
    run = TrainingRun(load_recipe(str(tmp_path / "long.toml")), texts / "train.txt", short, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"longer than one sequence.*short.txt"):
        train(run)


def test_missing_text_is_refused_before_anything_is_written(texts: Path, tmp_path: Path) -> None:
    """No run folder is left behind."""
    run = TrainingRun(load_recipe("llama2-mini"), texts / "train.txt", tmp_path / "none.txt", tmp_path / "out")
    with pytest.raises(CorpusError, match=r"none\.txt is not a file"):
        train(run)
    assert not (tmp_path / "out").exists()


def test_bigram_is_exact_on_a_known_chain() -> None:
    """For a two-state Markov chain the bigram loss tends to the chain's entropy rate, the unigram's to its entropy."""
    rng = np.random.default_rng(0)
    stay = 0.9
    states = np.cumsum(rng.random(200_000) > stay) % 2
    tokens = states.astype(np.uint16)
    losses = ngram_losses(tokens[:150_000], tokens[150_000:], 2)
    assert losses.bigram == pytest.approx(-stay * math.log(stay) - 0.1 * math.log(0.1), abs=0.01)
    assert losses.unigram == pytest.approx(math.log(2), abs=0.01)
    assert sum(losses.weights) == pytest.approx(1)


def test_bigram_gains_nothing_on_independent_tokens() -> None:
    """On independent tokens interpolation keeps the bigram from doing worse than the unigram."""
    tokens = np.random.default_rng(0).integers(0, 50, 30_000).astype(np.uint16)
    losses = ngram_losses(tokens[:20_000], tokens[20_000:], 50)
    assert losses.bigram == pytest.approx(losses.unigram, abs=0.01)


def test_ngrams_need_tokens() -> None:
    """Too few tokens are an error, not a number."""
    with pytest.raises(DataError, match="1,000 training"):
        ngram_losses(np.zeros(10, np.uint16), np.zeros(10, np.uint16), 5)
