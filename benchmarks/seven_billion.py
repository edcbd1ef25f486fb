"""The paper's two experiments at the exact shapes of Llama-2-7B and Qwen2.5-7B, with random weights.

    python benchmarks/seven_billion.py MODEL --out FOLDER [--device cuda] [--slice 540]   # again until it is done
    python benchmarks/seven_billion.py --predict                                  # limits of cards, nothing is run
    python benchmarks/seven_billion.py tiny --out FOLDER                          # the same protocol in a minute

MODEL is llama-2-7b, qwen2.5-7b or tiny. What a run costs does not depend on the weights' values. One detection over
10,000 sentences with 1,000 resamples, then a sweep of 1,000 samples under 16 conditions (three scales at five levels,
and none). A slice ends by itself after so many seconds, and the same command goes on: stages and chunks of samples that
have finished are kept, and time lost with an unfinished one counts. The report is written to FOLDER/report.json.

A card's limit is the larger of two times: matrix products at its peak rate of dense bfloat16, and bytes at its
bandwidth (weights once a batch or decoding step, activations that are kept, the KV cache at every step).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from mspgt_tl.config import DetectConfig, InterveneConfig, MetricConfig, ProbeConfig
from mspgt_tl.corpora.grammar import generate_treebank, generated_corpus
from mspgt_tl.models.shape import Shape
from mspgt_tl.study.planner import Text, work

SHAPES = {
    "llama-2-7b": Shape("llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096, True, 6_738_415_616),
    "qwen2.5-7b": Shape("qwen2.5-7b", 28, 3584, 28, 4, 128, 18944, 152064, 32768, True, 7_615_616_512),
    "tiny": Shape("tiny", 6, 48, 4, 2, 12, 96, 4096, 512, True, 500_000),
}
CARDS = {"A100 80 GB": (312e12, 2.0e12), "H100 SXM": (989e12, 3.35e12), "H200": (989e12, 4.8e12)}
"""Peak dense bfloat16 FLOP/s and bytes/s, from the makers' data sheets."""
PAPER_HOURS = 400 / 4
"""GPU-hours that the paper reports, for one of its four models."""
TOKENS_A_WORD = 1.45
DECODED_TOGETHER = 25


class SliceEnded(BaseException):
    """The time of a slice is over; not an `Exception`, so that no stage takes it for a failure of its own."""


class Clock:
    """Adds up wall time by what is under way, over slices, and ends one when its time is over."""

    def __init__(self, file: Path, limit: float) -> None:
        self.file, self.limit, self.begun = file, limit, time.perf_counter()
        self.last = self.begun
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}

    def __call__(self, stage: str, done: float, total: float) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now
        if now - self.begun > self.limit:
            raise SliceEnded

    def close(self) -> None:
        """Keep what has been counted."""
        self.file.write_text(json.dumps(self.seconds, indent=1))


def settings(tiny: bool) -> tuple[DetectConfig, InterveneConfig]:
    """Return the settings of both experiments."""
    detect = DetectConfig()
    intervene = InterveneConfig(
        levels=(0.02, 0.05, 0.1, 0.2, 0.5),
        other_doses=(),
        controls=0,
        metrics=MetricConfig(names=("self_bleu", "mattr", "repetition_rate", "perplexity")),
    )
    intervene = replace(intervene, decode=replace(intervene.decode, chunk_samples=DECODED_TOGETHER))
    if tiny:
        probe = ProbeConfig(epochs=2, repeats=1, min_items=5)
        detect = replace(detect, sentences=240, train_trees=60, probe=probe)
        detect = replace(detect, boundaries=replace(detect.boundaries, resamples=100, null_curves=100))
        decode = replace(intervene.decode, prompt_tokens=4, new_tokens=4, chunk_samples=2)
        few: dict[str, Any] = {"unit_sentences": 20, "effect_sentences": 8, "dose_sentences": 4, "resamples": 100}
        intervene = replace(intervene, samples=4, decode=decode, **few)
    return detect, intervene


def random_weights(shape: Shape, device: str, dtype: str) -> Any:
    """Return a model of this shape whose weights are drawn where they will lie, in the number format they will have."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from mspgt_tl.models.embedded import ZOO
    from mspgt_tl.models.pretrained import load
    from mspgt_tl.models.tokenizer_files import read_tokenizer

    config = LlamaConfig(
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        vocab_size=shape.d_vocab,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_key_value_heads,
        head_dim=shape.d_head,
        max_position_embeddings=min(shape.n_ctx, 1024),
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.5 / shape.d_model**0.5,
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        drawn = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return load(drawn, device=device, dtype=dtype, tokenizer=read_tokenizer(ZOO / "tokenizer"), parity=False)


def thirds(n_layers: int) -> dict[str, range]:
    """Return three scales of about equal depth."""
    edges = [round(i * n_layers / 3) for i in range(4)]
    return {name: range(edges[i], edges[i + 1]) for i, name in enumerate(("local", "intermediate", "global"))}


def limits(shape: Shape, detect: DetectConfig, intervene: InterveneConfig) -> dict[str, tuple[float, float]]:
    """Return FLOP and bytes of each timed part."""
    trees = generate_treebank(seed=0)
    text = Text.of(generated_corpus(seed=1, limit=detect.sentences), trees)
    long = replace(text, words=text.words * TOKENS_A_WORD, words_per_tree=text.words_per_tree * TOKENS_A_WORD)
    found, swept = work(shape, detect, long), work(shape, intervene, long)
    weights, batch = 2 * shape.parameters, detect.stream.batch_positions
    kept = 2 * shape.n_layers * (2 * shape.d_model + 2 * shape.n_heads * long.words)  # written and read again
    positions = detect.sentences * long.words
    in_trees = (min(text.train, detect.train_trees) + text.dev) * long.words_per_tree
    new, prompt = intervene.decode.new_tokens, intervene.decode.prompt_tokens
    steps = -(-intervene.samples // intervene.decode.chunk_samples) * new
    conditions = 1 + 3 * len(intervene.levels)
    cache = 2 * 2 * shape.n_layers * shape.n_key_value_heads * shape.d_head * (prompt + new / 2)
    texts = intervene.samples * conditions
    moved = {
        "signals": positions / batch * weights + 2 * positions * kept,
        "probes": in_trees / batch * weights + 3 * in_trees * 2 * shape.n_layers * shape.d_model,
        "effects": swept["effects"][0] / shape.block_parameters / shape.n_layers / batch * weights,
        "tokens": steps * weights + texts * new * cache,
        "perplexity": texts * (prompt + new) / batch * weights,
    }
    flop = {
        "signals": found["signals"][0],
        "probes": found["probes"][0],
        "effects": swept["effects"][0],
        "tokens": swept["texts"][0],
        "perplexity": swept["perplexity"][0],
    }
    return {part: (2 * flop[part], moved[part]) for part in flop}


def least_seconds(amount: tuple[float, float], card: tuple[float, float]) -> float:
    """Return the time that a card cannot go below.

    >>> least_seconds((989e12, 1e12), CARDS["H200"])
    1.0
    """
    return max(amount[0] / card[0], amount[1] / card[1])


def predict() -> list[dict[str, Any]]:
    """Return, by model and card, the limit of every part and of both experiments, in seconds."""
    rows = []
    for name in ("llama-2-7b", "qwen2.5-7b"):
        parts = limits(SHAPES[name], *settings(False))
        for card, rates in CARDS.items():
            seconds = {part: least_seconds(amount, rates) for part, amount in parts.items()}
            rows.append({"model": name, "card": card, **seconds, "all": sum(seconds.values())})
    return rows


def run(name: str, folder: Path, device: str, limit: float) -> dict[str, Any]:
    """Run as much as a slice allows and return the report; `finished` says whether that was all."""
    import psutil
    import torch

    import mspgt_tl

    folder.mkdir(parents=True, exist_ok=True)
    shape, (detect, intervene) = SHAPES[name], settings(name == "tiny")
    on_card, peaks = device.startswith("cuda"), folder / "peak.json"
    clock = Clock(folder / "seconds.json", limit)
    finished, before = False, json.loads(peaks.read_text()) if peaks.is_file() else 0
    try:
        model = random_weights(shape, device, "bfloat16" if on_card else "float32")
        clock("loading", 1, 1)
        mspgt_tl.detect(model, out=folder / "detect", config=detect, progress=clock)
        clock("boundaries and page", 1, 1)
        scales = thirds(shape.n_layers)
        mspgt_tl.intervene(model, scales=scales, out=folder / "intervene", config=intervene, progress=clock)
        finished = True
    except SliceEnded:
        pass
    clock.close()
    used = torch.cuda.max_memory_allocated() if on_card else psutil.Process().memory_info().rss
    peaks.write_text(json.dumps(max(used, before)))
    return report(shape, detect, intervene, clock.seconds, max(used, before), finished, device, folder)


def report(
    shape: Shape,
    detect: DetectConfig,
    intervene: InterveneConfig,
    seconds: dict[str, float],
    peak: int,
    finished: bool,
    device: str,
    folder: Path,
) -> dict[str, Any]:
    """Return what was measured, and write it beside the runs."""
    import torch

    place = torch.cuda.get_device_name() if device.startswith("cuda") else f"{os.cpu_count()} cores"
    card = next((rates for name, rates in CARDS.items() if name.split()[0] in place), None)
    probes = sum(value for stage, value in seconds.items() if stage.startswith(("words", "probes")))
    measured = {**seconds, "probes": probes, "effects": seconds.get("next-token effects", 0.0)}
    whole = sum(seconds.values())
    words = generated_corpus(seed=1, limit=detect.sentences).sentences
    positions = TOKENS_A_WORD * sum(len(sentence.split()) for sentence in words)
    texts = intervene.samples * (1 + 3 * len(intervene.levels)) * intervene.decode.new_tokens
    shares = {
        part: least_seconds(amount, card) / measured[part]
        for part, amount in limits(shape, detect, intervene).items()
        if card and measured.get(part)
    }
    found = {
        "model": shape.name,
        "device": place,
        "finished": finished,
        "seconds": whole,
        "seconds_by_stage": seconds,
        "tokens_per_second": {
            "read": positions / seconds["signals"] if seconds.get("signals") else None,
            "written": texts / seconds["tokens"] if seconds.get("tokens") and finished else None,
        },
        "peak_bytes": peak,
        "share_of_limit": shares or None,
        "why_no_share": "" if card else f"no peak rates are known of {place}",
        "paper_over_ours": PAPER_HOURS * 3600 / whole if finished and shape.name != "tiny" else None,
    }
    (folder / "report.json").write_text(json.dumps(found, indent=1))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a slice, or print the limits; 3 says that there is more to do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", choices=list(SHAPES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--slice", type=float, default=540.0, help="seconds after which this call ends")
    parser.add_argument("--predict", action="store_true", help="print the limits of cards and run nothing")
    options = parser.parse_args(arguments)
    if options.predict:
        rows = predict()
        print("| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(v if isinstance(v, str) else f"{v:.1f}" for v in row.values()) + " |")
        return 0
    if options.model is None or options.out is None:
        parser.error("MODEL and --out FOLDER are needed, or --predict")
    found = run(options.model, options.out, options.device, options.slice)
    print(json.dumps(found, indent=1))
    print(
        "Done." if found["finished"] else "The slice has ended: run the same command again to go on.", file=sys.stderr
    )
    return 0 if found["finished"] else 3


if __name__ == "__main__":
    sys.exit(main())
