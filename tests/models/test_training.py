"""Training from a recipe: learning, resuming, cards, baselines."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspgt_tl.corpora.grammar import generated_corpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError, ModelError, StoreError
from mspgt_tl.models import embedded
from mspgt_tl.models.cards import add_to_zoo
from mspgt_tl.models.ngram import ngram_losses
from mspgt_tl.models.pretrained import load
from mspgt_tl.models.recipes import Recipe, TrainingRun, load_recipe
from mspgt_tl.models.training import read_paragraphs, train
from mspgt_tl.store import Run

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


def run_of(texts: Path, out: Path, **changes: Any) -> TrainingRun:
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


@pytest.mark.parametrize("name", ["llama2-mini", "llama3-mini", "qwen1.5-mini", "qwen2.5-mini"])
def test_embedded_recipes_are_sound(name: str) -> None:
    """Every shipped recipe parses, and they differ in architecture alone."""
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.training == load_recipe("llama2-mini").training
    assert (recipe.architecture["num_hidden_layers"], recipe.architecture["hidden_size"]) == (12, 128)
    assert recipe.training.steps * 16 * 256 >= recipe.training.tokens >= 12_000_000
    assert recipe.architecture["model_type"] == ("llama" if name.startswith("llama") else "qwen2")
    assert recipe.architecture["num_key_value_heads"] == (2 if name in ("llama3-mini", "qwen2.5-mini") else 4)


@pytest.mark.parametrize("name", [row["name"] for row in embedded.list_embedded()])
def test_embedded_models_are_what_their_cards_say(name: str) -> None:
    """They load with their hash checked, fit the size limit, and a finished one beats the bigram model."""
    row = next(row for row in embedded.list_embedded() if row["name"] == name)
    model = load(name)
    assert sum(p.numel() for n, p in model.named_parameters() if not n.startswith("b_") and ".b_" not in n) > 3e6
    assert row["bytes"] <= 6.5e6
    if "@step:" not in name:
        assert row["tokens"] >= 12_000_000
        assert row["validation_loss"] < row["bigram_loss"] - 0.5 < row["unigram_loss"]


def test_all_weights_together_are_small_enough() -> None:
    """Shipped as package data: at most 80 MB."""
    assert sum(row["bytes"] for row in embedded.list_embedded()) <= 80e6


def test_snapshots_are_models_of_their_own(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a share of the run has made is kept beside the finished model, and enters the zoo under its step."""
    monkeypatch.setattr(embedded, "ZOO", tmp_path / "zoo")
    finished = train(run_of(texts, tmp_path / "run", seed=3, snapshots=(0.25,)), save_every=40, evaluate_every=40)
    snapshot = tmp_path / "run" / "step-40"
    early, late = (json.loads((folder / "card.json").read_text("utf-8")) for folder in (snapshot, finished))
    assert (early["steps"], early["finished"], late["finished"]) == (40, False, True)
    assert early["validation_loss"] > late["validation_loss"]
    assert early["tokens_seen"] == late["tokens_seen"] // 4
    assert [step for step, _ in early["eval_curve"]] == [40]
    for folder in (snapshot, finished):
        add_to_zoo(folder, zoo=tmp_path / "zoo")
    names = [row["name"] for row in embedded.list_embedded()]
    assert names == ["tiny@seed:3", "tiny@seed:3@step:40"]
    assert "after 40 of 160 steps" in (tmp_path / "zoo" / "tiny@seed-3@step-40" / "README.md").read_text("utf-8")
    assert all(load(name).cfg.n_layers == 2 for name in names)


def test_card_figures_agree_with_each_other(finished: Path, texts: Path) -> None:
    """Bits per byte follow from the loss, and five samples continue openings of the held-out text."""
    card = json.loads((finished / "card.json").read_text("utf-8"))
    n_bytes = sum(len(text.encode()) for text in read_paragraphs(texts / "valid.txt"))
    nats = card["validation_loss"] * card["validation_tokens"]
    assert card["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes)
    held_out = (texts / "valid.txt").read_text("utf-8")
    assert len(card["samples"]) == 5
    assert all(sample["prompt"].strip() in held_out and sample["continuation"] for sample in card["samples"])


def test_bfloat16_trains_about_as_well(texts: Path, finished: Path, tmp_path: Path) -> None:
    """Half of the digits in matrix products, and 160 steps at a high rate: another path to about the same loss."""
    cards = [
        json.loads((folder / "card.json").read_text("utf-8"))
        for folder in (finished, train(run_of(texts, tmp_path, precision="bfloat16")))
    ]
    assert cards[1]["precision"] == "bfloat16"
    assert cards[1]["validation_loss"] == pytest.approx(cards[0]["validation_loss"], rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snapshots": (0.5, 1.5)}, "between 0 and 1; got 1.5"),
        ({"precision": "float16"}, "Unknown precision 'float16'"),
    ],
)
def test_bad_run_settings_are_named(texts: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        run_of(texts, tmp_path, **changes)


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


@pytest.mark.parametrize("damaged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_of_a_checkpoint_resumes_to_the_same_weights(
    texts: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """The half checkpoint is removed; training goes on from the newest whole one, or the one before if that is bad."""
    from transformers import Trainer

    class Killed(BaseException):
        pass

    save = Trainer._save_rng_state

    def kill(self: Any, folder: str) -> None:
        if folder.endswith("checkpoint-120"):
            raise Killed
        save(self, folder)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_rng_state", kill)
        with pytest.raises(Killed):
            train(run_of(texts, tmp_path), save_every=40, evaluate_every=80)
    if damaged:
        weights = tmp_path / "checkpoints" / "checkpoint-80" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="made again: it was altered") if damaged else contextlib.nullcontext():
        resumed = train(run_of(texts, tmp_path), save_every=40, evaluate_every=80)
    assert (resumed / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    assert json.loads((resumed / "card.json").read_text("utf-8")) == json.loads(
        (finished / "card.json").read_text("utf-8")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "seed: 0 there, 7 now"),
        ({"tokens": 20_480}, "recipe.training.tokens: 40960 there, 20480 now"),
        ({"licence": "MIT"}, "licence: 'none needed' there, 'MIT' now"),
    ],
)
def test_another_run_in_a_used_folder_is_refused(
    texts: Path, finished: Path, changes: dict[str, Any], message: str
) -> None:
    """A card never tells of another run than the one that made the weights."""
    before = (finished / "card.json").read_bytes()
    run = run_of(texts, finished.parent)
    with pytest.raises(StoreError, match=f"holds another run .*{message}"):
        train(replace(run, **changes))
    with pytest.raises(StoreError, match=r"holds another run .*text.name: 'train.txt' there, 'valid.txt' now"):
        train(replace(run, text=texts / "valid.txt"))
    assert (finished / "card.json").read_bytes() == before


def test_a_folder_of_something_else_is_not_trained_into(texts: Path, tmp_path: Path) -> None:
    """Neither a detection's nor anybody's."""
    Run.create(tmp_path / "detection", {"command": "detect"})
    with pytest.raises(StoreError, match="command: 'detect' there, 'train' now"):
        train(run_of(texts, tmp_path / "detection"))
    (tmp_path / "thesis.tex").write_text("…", encoding="utf-8")
    with pytest.raises(StoreError, match="is no run folder"):
        train(run_of(texts, tmp_path))


@pytest.mark.parametrize("which", ["text", "valid"])
def test_a_text_without_a_paragraph_is_named(texts: Path, tmp_path: Path, which: str) -> None:
    """Headings and short lines alone train nothing, and no folder is made."""
    (tmp_path / "headings.txt").write_text(
        "= A heading that is quite long enough to be a paragraph =\nShort.\n", "utf-8"
    )
    run = replace(run_of(texts, tmp_path / "out"), **{which: tmp_path / "headings.txt"})
    with pytest.raises(CorpusError, match=r"headings.txt holds no paragraph: lines of 40"):
        train(run)
    assert not (tmp_path / "out").exists()


def test_an_altered_model_is_made_again_from_its_checkpoint(texts: Path, tmp_path: Path) -> None:
    """Without a further step."""
    run = run_of(texts, tmp_path, tokens=5_120)
    weights = train(run, save_every=10, evaluate_every=10) / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + b"x")
    with pytest.warns(UserWarning, match=r"model.safetensors is made again: it was altered"):
        train(run, save_every=10, evaluate_every=10)
    assert weights.read_bytes() == before


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
