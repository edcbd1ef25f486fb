"""What the stages cost on a real model, in bare forward passes of the same texts.

    python benchmarks/real.py MODEL [--text FILE] [--treebank FOLDER] [--sentences 220] [--trees 120] [--json]

MODEL is a folder, such as `mspgt fetch smollm2-135m` makes. A bare pass is Hugging Face's own forward pass to the last
block, without logits, over the same batches. All times are of the processor and taken in one process on one thread, so
that ratios stand on a busy machine; sizes are small by default (five minutes for SmolLM2-135M on one quiet core), and
every ratio but that of a whole detection hardly depends on them: what a detection does once (report, bootstrap) weighs
less the longer the text.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

from mspgt_tl import detect, intervene, load
from mspgt_tl.audit import audit_signals
from mspgt_tl.config import DetectConfig, ProbeConfig, SignalConfig, StreamConfig
from mspgt_tl.contracts import CausalModel, StreamSignal, Tree
from mspgt_tl.evidence import make_signals
from mspgt_tl.interventions.next_token import next_token_effects
from mspgt_tl.interventions.noise import noise_hooks
from mspgt_tl.models.placement import has_bfloat16
from mspgt_tl.models.pretrained import encode
from mspgt_tl.models.tokens import pad
from mspgt_tl.passes.batches import batch_by_length
from mspgt_tl.passes.corpus import observe_corpus, which_usable
from mspgt_tl.passes.folds import assign_folds, assign_trees
from mspgt_tl.passes.words import word_vectors
from mspgt_tl.pipeline.inputs import open_corpus, open_treebank
from mspgt_tl.profile import PROFILE, StreamProfile
from mspgt_tl.signals.probe_fitting import ProbeData, fit_probes

EFFECT_LEVELS, EFFECT_TARGETS = (0.05, 0.1), 6


def timed(call: Any, *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Return processor seconds and the result."""
    start = process_time()
    result = call(*arguments, **options)
    return process_time() - start, result


def bare(reference: Any, model: CausalModel, texts: Sequence[str], config: StreamConfig, *, logits: bool) -> float:
    """Return processor seconds of Hugging Face's forward pass over these texts, in the batches that we would make."""
    import torch

    ids = encode(model, list(texts), bos=config.bos, max_length=config.max_length).ids
    body, seconds = reference if logits else reference.base_model, 0.0
    for rows in batch_by_length([len(row) for row in ids], config.batch_positions):
        tokens, mask = pad([ids[row] for row in rows], side="right", pad_id=0)
        with torch.inference_mode():
            seconds += timed(body, input_ids=tokens, attention_mask=mask, use_cache=False)[0]
    return seconds


def plain_text(reference: Any, model: CausalModel, prompts: Sequence[str], conditions: int, new: int) -> float:
    """Return processor seconds of Hugging Face's `generate` for all conditions, one after the other."""
    import torch

    ids = [row[:16] for row in encode(model, list(prompts)).ids]
    tokens, mask = pad(ids, side="left", pad_id=0)
    with torch.inference_mode():
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "pad_token_id": 0}
        return conditions * timed(reference.generate, tokens, attention_mask=mask, **options)[0]


def run_probes(model: CausalModel, splits: dict[str, Sequence[Tree]], config: StreamConfig) -> dict[str, float]:
    """Return processor seconds of reading words and of training on them at the default settings."""
    reading, data = 0.0, {}
    for name, trees in splits.items():
        seconds, words = timed(word_vectors, model, trees, config=config)
        reading += seconds
        data[name] = ProbeData(
            words.features, trees, words.rows, assign_trees(trees, seed=0)[0] if name == "dev" else None
        )
    training, _ = timed(fit_probes, data["train"], data["dev"], config=ProbeConfig())
    return {"words": reading, "probes": training}


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, ratios and sizes."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    stream, found = StreamConfig(), dict[str, Any]()
    seconds: dict[str, float] = {"load without the parity check": timed(load, options.model, parity=False)[0]}
    seconds["load"], model = timed(load, options.model)
    reference = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    text = open_corpus(options.text, options.sentences)
    text = text.select(which_usable(model, text.sentences, stream))
    settings = DetectConfig(sentences=options.sentences, train_trees=options.trees)
    trees = open_treebank(options.treebank, settings, skip_bad=False)
    splits = {"train": trees.train, "dev": trees.dev[: max(1, options.trees // 2)]}
    words = [tree.text for split in splits.values() for tree in split]
    bare(reference, model, text.sentences[:2], stream, logits=True)  # warms up
    seconds["bare text"] = bare(reference, model, text.sentences, stream, logits=False)
    seconds["bare trees"] = bare(reference, model, words, stream, logits=False)

    signals = make_signals(SignalConfig())
    watched = {name: s for name, s in signals.items() if isinstance(s, StreamSignal)}
    folds = assign_folds(len(text.sentences), seed=0, documents=text.documents)
    watched |= {**audit_signals(SignalConfig()), PROFILE: StreamProfile()}
    common: dict[str, Any] = {"folds": folds, "seed": 0, "config": stream}
    seconds["signals"] = timed(observe_corpus, model, text.sentences, watched, **common)[0]
    seconds |= run_probes(model, splits, stream)

    few = text.sentences[: options.effect_sentences]
    n_layers = int(model.cfg.n_layers)
    targets = {str(layer): [layer] for layer in range(0, n_layers, max(1, n_layers // EFFECT_TARGETS))}
    whole = bare(reference, model, few, stream, logits=True)
    body = bare(reference, model, few, stream, logits=False)
    # A disturbed pass begins at its block.
    seconds["bare effects"] = whole + len(EFFECT_LEVELS) * sum(
        body * (1 - blocks[0] / n_layers) + whole - body for blocks in targets.values()
    )

    def hooks(layers: Any, sigma: Any, ids: Any, at: Any) -> Any:
        return noise_hooks(model, layers, sigma, seed=0, sample_ids=ids, positions=at)

    seconds["effects"] = timed(next_token_effects, model, few, targets, EFFECT_LEVELS, hooks, seed=0, resamples=100)[0]

    if not options.no_runs:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "detection"
            cut = type(trees)(**{**vars(trees), **splits})
            seconds["detection"], result = timed(
                detect, model, text, cut, out=run, sentences=options.sentences, train_trees=options.trees
            )
            found["disk after a detection, MB"] = sum(f.stat().st_size for f in run.rglob("*")) / 1e6
            found["word vectors"] = result.manifest["notes"]["word_vectors"]
            seconds |= {"bare sweep": 0.0, "sweep": 0.0}
            new, config = 24, {"samples": options.samples, "levels": (0.1,), "other_doses": (), "controls": 1}
            config |= {"effect_sentences": len(few), "scale_sentences": len(few), "dose_sentences": len(few)}
            config |= {"decode": {"new_tokens": new}, "metrics": {"names": ("type_token_ratio",)}}
            third = n_layers // 3
            cuts = f"0-{third - 1},{third}-{2 * third - 1},{2 * third}-{n_layers - 1}"
            seconds["sweep"], swept = timed(intervene, model, text, scales=cuts, config=config)
            written = plain_text(reference, model, text.sentences[: options.samples], len(swept.conditions), new)
            passes = len(swept.effects["target"]) * (body / 2 + whole - body)
            seconds["bare sweep"] = written + passes
    found["bfloat16 products"] = has_bfloat16()
    if has_bfloat16():
        narrow = load(options.model, dtype="bfloat16", parity=False)
        seconds["signals, bfloat16 passes"] = timed(observe_corpus, narrow, text.sentences, watched, **common)[0]
    found["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "ratios": ratios(seconds), **found}


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Return every stage over the bare passes that it needs."""
    both = seconds["bare text"] + seconds["bare trees"]
    parts = {
        "signals over bare passes": ("signals", seconds["bare text"]),
        "signals with bfloat16 passes over float32 ones": ("signals, bfloat16 passes", seconds["signals"]),
        "reading words over bare passes": ("words", seconds["bare trees"]),
        "probes over bare passes": ("probes", seconds["bare trees"]),
        "next-token effects over bare passes": ("effects", seconds["bare effects"]),
        "whole detection over bare passes": ("detection", both),
        "sweep over plain generation and bare passes": ("sweep", seconds.get("bare sweep", 0.0)),
    }
    found = {name: seconds[part] / of for name, (part, of) in parts.items() if part in seconds}
    checked = seconds["load"] - seconds["load without the parity check"]
    return found | {"parity check over a load without it": checked / seconds["load without the parity check"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a folder, or anything that `load` takes and transformers, too")
    parser.add_argument("--text", help="default: generated sentences")
    parser.add_argument("--treebank", help="default: the generated one")
    parser.add_argument("--sentences", type=int, default=220)
    parser.add_argument("--trees", type=int, default=120, help="to train on; half as many to measure on")
    parser.add_argument("--effect-sentences", type=int, default=12)
    parser.add_argument("--samples", type=int, default=8, help="of the sweep")
    parser.add_argument("--no-runs", action="store_true", help="leave out the whole detection and the sweep")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    found = measure_all(options)
    if options.json:
        print(json.dumps({"benchmark": "real", **found}))
        return
    for name, value in found["seconds"].items():
        print(f"{name:<60}{value:8.2f} s")
    for name, value in found["ratios"].items():
        print(f"{name:<60}{value:8.2f}")
    for name, value in found.items():
        if name not in ("seconds", "ratios"):
            print(f"{name:<60}{value}")


if __name__ == "__main__":
    main()
