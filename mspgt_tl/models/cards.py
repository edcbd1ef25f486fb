"""Model cards, and how a finished model enters the package."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from mspgt_tl.errors import ModelError
from mspgt_tl.models.embedded import ZOO, folder_name
from mspgt_tl.models.weight_files import hash_weights

MODEL_FILES = ("config.json", "model.safetensors")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


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
    card["sha256"] = hash_weights(folder)
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
    when = "" if card.get("finished", True) else f", after {card['steps']:,} of {_all_steps(plan):,} steps"
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


def _all_steps(plan: dict[str, Any]) -> int:
    return math.ceil(plan["tokens"] / (plan["sequence_length"] * plan["batch_sequences"]))


def _one_line(sample: dict[str, str]) -> dict[str, str]:
    """Return a sample as text that Markdown takes literally."""
    return {name: re.sub(r"([\\*_`\[\]<>#])", r"\\\1", " ".join(text.split())) for name, text in sample.items()}
