"""Trains a small causal language model from a recipe, in a run folder that resumes at any point.

A checkpoint counts once the run's manifest holds the hashes of its files; what a kill left of another is removed, and
training goes on from the newest whole one, to the bit. The learning rate is held constant and only decays in the last
`decay_share` of the run, so that snapshots before that are of one regime; cosine decay was set aside for that reason.

On a CPU, attention is computed step by step: transformers' fused kernel spends more time there than all matrix
products together (measured: 0.92 s a step with it, 0.61 s without, one thread, bfloat16).
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mspgt_tl.contracts import Progress
from mspgt_tl.corpora.lines import read_lines
from mspgt_tl.errors import ConfigError, CorpusError
from mspgt_tl.files import PARTIAL, hash_file, refusal, remove_tree
from mspgt_tl.models.cards import CardTexts, model_card
from mspgt_tl.models.checkpoints import no_chatter
from mspgt_tl.models.packed import PackedSequences
from mspgt_tl.models.recipes import Recipe, TrainingPlan, TrainingRun
from mspgt_tl.store import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

BOS, EOS = "<s>", "</s>"
MODEL, TOKENIZER, CHECKPOINTS = "model", "tokenizer", "checkpoints"
"""Folders of a run."""
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


def encode_corpus(run: Run, name: str, path: Path, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Encode every paragraph as `<s> … </s>`, concatenated, kept in the run and read back from there next time."""
    if not run.has(name):
        chunks, texts = [], read_paragraphs(path)
        while batch := list(islice(texts, 2000)):
            for ids in tokenizer(batch, add_special_tokens=True)["input_ids"]:
                chunks.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.uint16))
        file = BytesIO()
        np.save(file, np.concatenate(chunks))
        run.keep(name, file.getvalue())
    return np.load(run.folder / name, mmap_mode="r")


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
    """Train `run.recipe` in `run.out`, resuming from the newest whole checkpoint there; write the model and its card.

    Args:
        save_every: steps from one checkpoint to the next; they cost disk and time, and change no weight.

    Returns:
        The folder of the finished Hugging Face checkpoint, `run.out / "model"`; snapshots are `run.out / "step-N"`.

    Raises:
        CorpusError: a text is missing, or holds no paragraph, or too little.
        ConfigError: the recipe's architecture is not one that transformers can build, or there is no such tokenizer.
        StoreError: `run.out` holds another run or something else, or cannot be written.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer

    plan, out = run.recipe.training, run.out
    if run.tokens is not None:
        plan = replace(plan, tokens=run.tokens)
    precision = run.precision or ("bfloat16" if torch.cuda.is_available() else "float32")
    store = Run.create(out, _identity(run, plan, precision))
    if MODEL in store.manifest["stages"]:
        return out / MODEL
    store.require_same_versions()
    if run.tokenizer is None and TOKENIZER not in store.manifest["stages"]:
        train_tokenizer(read_paragraphs(run.text), plan.vocab_size).save_pretrained(out / TOKENIZER)
        store.keep_folder(TOKENIZER, out / TOKENIZER)
    tokenizer = AutoTokenizer.from_pretrained(run.tokenizer or out / TOKENIZER, trust_remote_code=False)
    tokens = encode_corpus(store, "train.npy", run.text, tokenizer)
    valid = encode_corpus(store, "valid.npy", run.valid, tokenizer)
    if min(len(tokens), len(valid)) <= plan.sequence_length:
        raise CorpusError(
            f"Texts must be longer than one sequence of {plan.sequence_length} tokens; "
            f"{run.text.name} has {len(tokens)}, {run.valid.name} {len(valid)}."
        )
    model = build_model(run.recipe, tokenizer, seed=run.seed)
    snapshots = {math.ceil(share * plan.steps): f"step-{math.ceil(share * plan.steps)}" for share in run.snapshots}
    checkpoint = _newest_checkpoint(store, snapshots)
    trainer = Trainer(
        model=model,
        args=_training_arguments(plan, out, run.seed, precision, save_every, evaluate_every),
        train_dataset=cast(Any, PackedSequences(tokens, plan.sequence_length)),
        eval_dataset=cast(Any, PackedSequences(valid[:EVALUATED_TOKENS], plan.sequence_length)),
        callbacks=[_step_callback(store, progress, snapshots)],
    )
    trainer.remove_callback(PrinterCallback)
    with no_chatter(), _said_where(out):
        model, log = _finish_training(trainer, checkpoint, plan.steps)
        texts = CardTexts(tokens, valid, sum(len(text.encode()) for text in read_paragraphs(run.valid)))
        _save_as_shipped(model, out / MODEL)
        for step, name in {**snapshots, plan.steps: MODEL}.items():
            # Measured on the weights as they ship, rounded to bfloat16, in float32 arithmetic.
            shipped = AutoModelForCausalLM.from_pretrained(out / name, dtype=torch.float32, trust_remote_code=False)
            card = model_card(run, plan, shipped, tokenizer, texts, log, step=step, precision=precision)
            tokenizer.save_pretrained(out / name)
            (out / name / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
            store.keep_folder(name, out / name)
    return out / MODEL


def _identity(run: TrainingRun, plan: TrainingPlan, precision: str) -> dict[str, Any]:
    """Return everything that the weights and the card depend on.

    Raises:
        CorpusError: a text cannot be read, or holds no paragraph.
        ConfigError: there is no such tokenizer.
    """
    for path in (run.text, run.valid):
        if next(read_paragraphs(path), None) is None:
            raise CorpusError(
                f"{path} holds no paragraph: lines of {MIN_CHARS} or more characters are needed, headings (= …) do not "
                "count."
            )
    tokenizer = None if run.tokenizer is None else run.tokenizer / "tokenizer.json"
    if tokenizer is not None and not tokenizer.is_file():
        raise ConfigError(f"{run.tokenizer} holds no tokenizer.json.")
    return {
        "command": "train",
        "recipe": {
            "name": run.recipe.name,
            "namesake": run.recipe.namesake,
            "architecture": run.recipe.architecture,
            "training": asdict(plan),
        },
        "seed": run.seed,
        "text": {"name": run.text.name, "sha256": hash_file(run.text)},
        "valid": {"name": run.valid.name, "sha256": hash_file(run.valid)},
        "tokenizer": "of the text" if tokenizer is None else hash_file(tokenizer),
        "licence": run.licence,
        "precision": precision,
        "snapshots": list(run.snapshots),
    }


def _newest_checkpoint(store: Run, snapshots: Mapping[int, str]) -> Path | None:
    """Return the newest checkpoint that is whole, with every earlier snapshot; remove those that are not."""
    stages, found = store.manifest["stages"], []
    for folder in (store.folder / CHECKPOINTS).glob("checkpoint-*"):
        stage, step = f"{CHECKPOINTS}/{folder.name}", folder.name.rpartition("-")[2]
        lost = [one for one, name in snapshots.items() if step.isdigit() and one <= int(step) and name not in stages]
        if stage in stages and not lost:
            found.append((int(step), folder))
            continue
        if stage in stages:
            store.forget(stage)
        remove_tree(folder)
    return max(found)[1] if found else None


@contextmanager
def _said_where(out: Path) -> Iterator[None]:
    """Turn what transformers, torch and safetensors raise when they cannot write into one line.

    The latter two have no error of the system's: torch says that its writer failed, safetensors quotes the reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise refusal(out, error) from error
    except Exception as error:
        if not any(sign in str(error) for sign in ("PytorchStreamWriter", "No space left on device")):
            raise
        raise refusal(out, OSError(errno.ENOSPC, "")) from error


def _save_as_shipped(model: PreTrainedModel, folder: Path) -> None:
    """Write weights in bfloat16 without touching the model's own; a folder appears whole or not at all."""
    import torch

    partial = folder.with_name(folder.name + PARTIAL)
    remove_tree(partial)  # of a killed process
    state = {name: weights.to(torch.bfloat16) for name, weights in model.state_dict().items()}
    model.save_pretrained(partial, state_dict=state)
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    (partial / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}, indent=2) + "\n", encoding="utf-8")
    remove_tree(folder)
    partial.rename(folder)


def _finish_training(
    trainer: Trainer, checkpoint: Path | None, steps: int
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train to the last step and return the model and its log; a finished run is read, for Trainer would add a step."""
    from transformers import AutoModelForCausalLM, TrainerState

    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= steps:
            return AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False), state.log_history
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return cast("PreTrainedModel", trainer.model), trainer.state.log_history


def _training_arguments(
    plan: TrainingPlan, out: Path, seed: int, precision: str, save_every: int, evaluate_every: int
) -> TrainingArguments:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
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
        # A checkpoint forgets the loss since the last log: resumed in between, the next one would be of fewer steps.
        logging_steps=math.gcd(50, save_every),
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


def _step_callback(store: Run, progress: Progress | None, snapshots: Mapping[int, str]) -> TrainerCallback:
    from transformers import TrainerCallback

    class AfterStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if name := snapshots.get(state.global_step):
                _save_as_shipped(parts["model"], store.folder / name)
                store.keep_folder(name, store.folder / name)
            if progress:
                progress("training steps", state.global_step, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            """Put a checkpoint that is whole on record, and take those off it that made room."""
            for stage in [one for one in store.manifest["stages"] if one.startswith(f"{CHECKPOINTS}/")]:
                if not (store.folder / stage).is_dir():
                    store.forget(stage)
            name = f"{CHECKPOINTS}/checkpoint-{state.global_step}"
            store.keep_folder(name, store.folder / name)

    return AfterStep()
