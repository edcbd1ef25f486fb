"""Model cards: what a training gave, measured and written down, and how a finished model enters the package."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mspgt_tl.errors import ModelError
from mspgt_tl.models.embedded import ZOO, folder_name
from mspgt_tl.models.packed import mean_loss
from mspgt_tl.models.recipes import TrainingPlan, TrainingRun
from mspgt_tl.models.weight_files import find_weights, hash_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MODEL_FILES = ("config.json", "model.safetensors")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
CONTINUATIONS, PROMPT_TOKENS, CONTINUATION_TOKENS = 5, 12, 40
"""How many samples a card shows, and how long they are."""


def add_to_zoo(folder: Path, *, zoo: Path | None = None) -> Path:
    """Copy a trained model into the package, with its card and the hash of its weights, and return its new folder.

    All embedded models share one tokenizer, so that they differ by architecture and seed alone.

    Raises:
        ModelError: the folder is no finished training, or its tokenizer differs from the one in the zoo.
    """
    zoo = zoo or ZOO
    missing = [name for name in (*MODEL_FILES, *TOKENIZER_FILES, "card.json") if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} is no finished training: it lacks {', '.join(missing)}.")
    shared = zoo / "tokenizer"
    for name in TOKENIZER_FILES:
        shared.mkdir(parents=True, exist_ok=True)
        if not (shared / name).exists():
            shutil.copyfile(folder / name, shared / name)
    if (shared / "tokenizer.json").read_bytes() != (folder / "tokenizer.json").read_bytes():
        raise ModelError(
            f"{folder} was trained with another tokenizer than the embedded models; pass --tokenizer {shared}."
        )
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["sha256"] = hash_files(find_weights(folder))
    step = None if card.get("finished", True) else card["steps"]
    home = zoo / folder_name(card["name"], card["seed"], step)
    home.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(folder / name, home / name)
    (home / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (home / "README.md").write_text(render_card(card), encoding="utf-8")
    return home


def render_card(card: dict[str, Any]) -> str:
    """Return a card as Markdown for a reader."""
    shape, plan, data = card["architecture"], card["training"], card["data"]
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    when = "" if card.get("finished", True) else f", after {card['steps']:,} of {TrainingPlan(**plan).steps:,} steps"
    bits = card.get("bits_per_byte")
    samples = "\n".join(
        f"- {sample['prompt']} **{sample['continuation']}**" for sample in map(_one_line, card["samples"])
    )
    return f"""# {card["name"]}, seed {card["seed"]}{when}

A miniature of {card["namesake"]}: {shape["num_hidden_layers"]} blocks, d_model {shape["hidden_size"]}, \
{shape["num_attention_heads"]} heads, {shape["num_key_value_heads"]} key-value heads, {card["parameters"]:,} parameters.

| held-out loss, nats/token | |
| --- | --- |
| this model | {card["validation_loss"]:.3f} |
| interpolated bigram, same tokens | {card["bigram_loss"]:.3f} |
| unigram, same tokens | {card["unigram_loss"]:.3f} |

That is {bits:.3f} bits per byte of held-out text.

- Data: `{data["text"]}`, {data["corpus_tokens"]:,} tokens; held out: {card["validation_tokens"]:,} tokens.
- Licence of the text: {data["licence"]}.
- Training: {card["tokens_seen"]:,} tokens, {card["steps"]:,} steps of {plan["batch_sequences"]} sequences of \
{plan["sequence_length"]}, AdamW, peak learning rate {plan["learning_rate"]}, \
the last {plan["decay_share"]:.0%} decaying to zero; matrix products in {card["precision"]}.
- Weights: bfloat16, sha256 `{card.get("sha256", "not recorded")}`.
- Versions: {versions}.

{_render_curve(card["eval_curve"])}\
Openings of held-out paragraphs and what it **writes** after them (temperature 0.8, top-k 50):

{samples}

It writes plausible short phrases and knows little. Use it to try methods, not to learn about its namesake.
"""


def _render_curve(points: list[list[float]]) -> str:
    if not points:
        return ""
    every = max(1, len(points) // 8)
    curve = {step: loss for step, loss in [*points[::every], *points[-1:]]}
    return f"""Held-out loss during training (first 100,000 held-out tokens):

| step | {" | ".join(f"{step:,}" for step in curve)} |
| --- |{" --- |" * len(curve)}
| nats/token | {" | ".join(f"{loss:.2f}" for loss in curve.values())} |

"""


def _one_line(sample: dict[str, str]) -> dict[str, str]:
    """Return a sample as text that Markdown takes literally."""
    return {name: re.sub(r"([\\*_`\[\]<>#])", r"\\\1", " ".join(text.split())) for name, text in sample.items()}


@dataclass(frozen=True)
class CardTexts:
    """What a card's figures are measured on."""

    train: np.ndarray
    valid: np.ndarray
    valid_bytes: int
    """UTF-8 bytes of the held-out text, for bits per byte."""


def model_card(
    run: TrainingRun,
    plan: TrainingPlan,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: CardTexts,
    log: list[dict[str, float]],
    *,
    step: int,
    precision: str,
) -> dict[str, Any]:
    """Measure a model after `step` steps against its n-gram baselines and describe how it came to be."""
    from mspgt_tl.models.ngram import ngram_losses

    seen = step * plan.sequence_length * plan.batch_sequences
    model.eval()
    baselines = ngram_losses(np.asarray(texts.train[:seen]), np.asarray(texts.valid), plan.vocab_size)
    loss = mean_loss(model, np.asarray(texts.valid), plan.sequence_length)
    return {
        "name": run.recipe.name,
        "namesake": run.recipe.namesake,
        "seed": run.seed,
        "architecture": run.recipe.architecture,
        "training": asdict(plan),
        "precision": precision,
        "data": {
            "text": run.text.name,
            "valid": run.valid.name,
            "licence": run.licence,
            "corpus_tokens": len(texts.train),
        },
        "tokens_seen": seen,
        "steps": step,
        "finished": step == plan.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation_loss": loss,
        "validation_tokens": len(texts.valid),
        "bits_per_byte": loss * len(texts.valid) / texts.valid_bytes / math.log(2),
        "unigram_loss": baselines.unigram,
        "bigram_loss": baselines.bigram,
        "loss_unit": "nats/token",
        "loss_curve": [[entry["step"], entry["loss"]] for entry in log if "loss" in entry and entry["step"] <= step],
        "eval_curve": [
            [entry["step"], entry["eval_loss"]] for entry in log if "eval_loss" in entry and entry["step"] <= step
        ],
        "samples": sample_continuations(model, tokenizer, texts.valid, seed=run.seed),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
    }


def sample_continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tokens: np.ndarray, *, seed: int
) -> list[dict[str, str]]:
    """Continue the openings of held-out paragraphs spread over the text, at temperature 0.8 and top-k 50."""
    import torch

    starts = np.flatnonzero(np.asarray(tokens) == tokenizer.bos_token_id)
    starts = starts[starts + PROMPT_TOKENS < len(tokens)]
    chosen = starts[np.linspace(0, len(starts) - 1, CONTINUATIONS).astype(int)] if len(starts) else []
    generate: Any = cast(Any, model).generate
    sampling = {"do_sample": True, "temperature": 0.8, "top_k": 50, "pad_token_id": tokenizer.pad_token_id}
    samples = []
    for start in chosen:
        prompt = torch.from_numpy(np.asarray(tokens[start : start + PROMPT_TOKENS], dtype=np.int64))[None]
        prompt = prompt.to(model.device)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            found = generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=CONTINUATION_TOKENS, **sampling
            )
        parts = {"prompt": found[0][:PROMPT_TOKENS], "continuation": found[0][PROMPT_TOKENS:]}
        samples.append({name: str(tokenizer.decode(ids, skip_special_tokens=True)) for name, ids in parts.items()})
    return samples
