"""Trains a small causal language model from a recipe, resumable at any point.

The learning rate is held constant and only decays in the last `decay_share` of the run, so a resumed run may be
given fewer or more tokens than it started with. Cosine decay was set aside for that reason.

On a CPU, attention is computed step by step: transformers' fused kernel spends more time there than all matrix
products together (measured: 0.92 s a step with it, 0.61 s without, one thread, bfloat16).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mspgt_tl.contracts import Progress
from mspgt_tl.corpora.lines import read_lines
from mspgt_tl.errors import ConfigError, CorpusError
from mspgt_tl.models.cards import CardTexts, model_card
from mspgt_tl.models.checkpoints import no_progress_bars
from mspgt_tl.models.packed import PackedSequences
from mspgt_tl.models.recipes import Recipe, TrainingPlan, TrainingRun

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

BOS, EOS = "<s>", "</s>"
MIN_CHARS = 40
"""Shorter lines are headings and list items, not prose."""
EVALUATED_TOKENS = 100_000
"""Held-out tokens of the evaluations during training; the card's loss is over all of them."""


def read_paragraphs(path: Path) -> Iterator[str]:
    """Yield the prose lines of a text file (`.xz` is decompressed), without headings and short lines."""
    for _, line in read_lines(path):
        text = line.strip()
        if len(text) >= MIN_CHARS and not text.startswith("= "):
            yield text


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that prepends `<s>`, as Llama's tokenizers do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=EOS)


def encode_corpus(path: Path, tokenizer: PreTrainedTokenizerFast, out: Path) -> np.ndarray:
    """Encode every paragraph as `<s> … </s>`, concatenated, kept in `out` and read back from there next time."""
    if not out.exists():
        eos, chunks, batch = tokenizer.eos_token_id, [], []

        def flush() -> None:
            for ids in tokenizer(batch, add_special_tokens=True)["input_ids"]:
                chunks.append(np.array([*ids, eos], dtype=np.uint16))
            batch.clear()

        for text in read_paragraphs(path):
            batch.append(text)
            if len(batch) == 2000:
                flush()
        flush()
        if not chunks:
            raise CorpusError(f"{path} holds no line of {MIN_CHARS} or more characters.")
        partial = out.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(chunks))
        partial.rename(out)
    return np.load(out, mmap_mode="r")


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> PreTrainedModel:
    """Return the recipe's architecture with freshly drawn weights.

    Raises:
        ConfigError: the recipe's architecture is not one that transformers can build.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    architecture = dict(recipe.architecture)
    set_seed(seed)
    try:
        config = AutoConfig.for_model(
            architecture.pop("model_type"),
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **architecture,
        )
        attention = "sdpa" if torch.cuda.is_available() else "eager"
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, trust_remote_code=False)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{recipe.source}: transformers cannot build this architecture: {error}") from error


def train(
    run: TrainingRun, *, save_every: int = 100, evaluate_every: int = 500, progress: Progress | None = None
) -> Path:
    """Train `run.recipe`, resuming from the last checkpoint in `run.out`, and write the finished model and its card.

    Returns:
        The folder of the finished Hugging Face checkpoint, `run.out / "model"`; snapshots are `run.out / "step-N"`.

    Raises:
        CorpusError: a text is missing or empty.
        ConfigError: the recipe's architecture is not one that transformers can build.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer
    from transformers.trainer_utils import get_last_checkpoint

    plan, out = run.recipe.training, run.out
    if run.tokens is not None:
        plan = replace(plan, tokens=run.tokens)
    precision = run.precision or ("bfloat16" if torch.cuda.is_available() else "float32")
    for path in (run.text, run.valid):
        next(read_paragraphs(path), None)  # a file that cannot be read is refused before anything is written
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    tokenizer_folder = run.tokenizer or out / "tokenizer"
    if not (tokenizer_folder / "tokenizer.json").exists():
        if run.tokenizer is not None:
            raise ConfigError(f"{run.tokenizer} holds no tokenizer.json.")
        train_tokenizer(read_paragraphs(run.text), plan.vocab_size).save_pretrained(tokenizer_folder)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    tokens = encode_corpus(run.text, tokenizer, out / "train.npy")
    valid = encode_corpus(run.valid, tokenizer, out / "valid.npy")
    if min(len(tokens), len(valid)) <= plan.sequence_length:
        raise CorpusError(
            f"Texts must be longer than one sequence of {plan.sequence_length} tokens; "
            f"{run.text.name} has {len(tokens)}, {run.valid.name} {len(valid)}."
        )
    model = build_model(run.recipe, tokenizer, seed=run.seed)
    trainer = Trainer(
        model=model,
        args=_training_arguments(plan, out, run.seed, precision, save_every, evaluate_every),
        train_dataset=cast(Any, PackedSequences(tokens, plan.sequence_length)),
        eval_dataset=cast(Any, PackedSequences(valid[:EVALUATED_TOKENS], plan.sequence_length)),
        callbacks=[_step_callback(progress, {math.ceil(share * plan.steps) for share in run.snapshots}, out)],
    )
    trainer.remove_callback(PrinterCallback)
    with no_progress_bars():
        model, log = _finish_training(trainer, get_last_checkpoint(str(out / "checkpoints")), plan.steps)
        _save_as_shipped(model, out / "model")
    texts = CardTexts(tokens, valid, sum(len(text.encode()) for text in read_paragraphs(run.valid)))
    folders = {math.ceil(share * plan.steps): out / f"step-{math.ceil(share * plan.steps)}" for share in run.snapshots}
    for step, folder in {**folders, plan.steps: out / "model"}.items():
        # Measured on the weights as they ship, rounded to bfloat16, in float32 arithmetic.
        shipped = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        card = model_card(run, plan, shipped, tokenizer, texts, log, step=step, precision=precision)
        tokenizer.save_pretrained(folder)
        (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return out / "model"


def _save_as_shipped(model: PreTrainedModel, folder: Path) -> None:
    """Write weights in bfloat16 without touching the model's own; a folder appears whole or not at all."""
    import torch

    partial = folder.with_name(folder.name + ".partial")
    state = {name: weights.to(torch.bfloat16) for name, weights in model.state_dict().items()}
    model.save_pretrained(partial, state_dict=state)
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    (partial / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _finish_training(
    trainer: Trainer, checkpoint: str | None, steps: int
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train to the last step and return the model and its log; a finished run is read, for Trainer would add a step."""
    from transformers import AutoModelForCausalLM, TrainerState

    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if state.global_step >= steps:
            return AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False), state.log_history
    trainer.train(resume_from_checkpoint=checkpoint)
    return cast("PreTrainedModel", trainer.model), trainer.state.log_history


def _training_arguments(
    plan: TrainingPlan, out: Path, seed: int, precision: str, save_every: int, evaluate_every: int
) -> TrainingArguments:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch_sequences,
        per_device_eval_batch_size=plan.batch_sequences,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        adam_beta2=0.95,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": int(plan.decay_share * plan.steps), "decay_type": "linear"},
        warmup_steps=int(plan.warmup_share * plan.steps),
        eval_strategy="steps",
        eval_steps=evaluate_every,
        logging_steps=50,
        save_steps=save_every,
        save_total_limit=2,
        seed=seed,
        data_seed=seed,
        report_to=[],
        disable_tqdm=True,
        bf16=precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _step_callback(progress: Progress | None, snapshots: set[int], out: Path) -> TrainerCallback:
    from transformers import TrainerCallback

    class AfterStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step in snapshots:
                _save_as_shipped(parts["model"], out / f"step-{state.global_step}")
            if progress:
                progress("training steps", state.global_step, state.max_steps)

    return AfterStep()
