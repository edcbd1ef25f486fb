"""Times a sweep of noise against the plain ways of generating the same amount of text.

    python benchmarks/intervene.py [--repeats N] [--conditions N] [--prompts N] [--tokens N] [--json]

One random-weight Llama of 12 blocks, d_model 192, on one thread; ten conditions × 32 prompts × 48 tokens. Three sides
take turns in one process, and a ratio is that of the medians of their processor times:

- ours: all conditions decoded together with a per-row σ, noise in four blocks;
- Hugging Face: one plain `generate` call per condition, without any hook;
- TransformerLens: one `generate` call per condition under our noise hooks.

Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from time import process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy and torch read them
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from models import random_llama  # noqa: E402

VOCABULARY, WIDTH, N_LAYERS, PROMPT = 4096, 192, 12, 32
LAYERS = range(4, 8)


def make_sides(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return the three ways, each generating the same number of tokens, sampled at temperature 1."""
    import torch

    import mspgt_tl

    reference, model = random_llama(d_model=WIDTH, n_layers=N_LAYERS, n_heads=6, vocabulary=VOCABULARY)
    prompts = torch.randint(3, VOCABULARY, (options.prompts, PROMPT), generator=torch.Generator().manual_seed(1))
    mask, sigmas = torch.ones_like(prompts), torch.linspace(0, 0.5, options.conditions, dtype=torch.float64)
    rows = [row for row in prompts.tolist() for _ in sigmas]
    ids = [i for i in range(len(prompts)) for _ in sigmas]
    n_layers = int(model.cfg.n_layers)
    untouched = [LAYERS[0] if sigma > 0 else n_layers for _ in prompts for sigma in sigmas.tolist()]

    def ours() -> Any:
        def hooks(part: Any) -> Any:
            sigma = sigmas[part.index % len(sigmas)]
            where = {"sample_ids": part.sample_ids, "positions": part.positions}
            return mspgt_tl.noise_hooks(model, LAYERS, sigma, seed=0, **where)

        return mspgt_tl.generate(
            model, rows, max_new_tokens=options.tokens, sample_ids=ids, seed=0, hooks=hooks, untouched=untouched
        )

    def hugging_face() -> None:
        for _ in sigmas:
            reference.generate(
                prompts,
                attention_mask=mask,
                max_new_tokens=options.tokens,
                min_new_tokens=options.tokens,
                do_sample=True,
                pad_token_id=1,
            )

    def transformerlens() -> None:
        for sigma in sigmas.tolist():
            at = mspgt_tl.Positions.from_mask(mask)
            numbers = list(range(len(prompts)))
            hooks = mspgt_tl.noise_hooks(model, LAYERS, sigma, seed=0, sample_ids=numbers, positions=at)
            with model.hooks(fwd_hooks=[at.hook(), *hooks]):
                model.generate(prompts, max_new_tokens=options.tokens, stop_at_eos=False, verbose=False)

    return {"ours": ours, "Hugging Face": hugging_face, "TransformerLens": transformerlens}


def main() -> None:
    """Time the sides in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description="Time a sweep of noise.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--conditions", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sides = make_sides(options)
    seconds = {name: list[float]() for name in sides}
    for repeat in range(options.repeats + 1):
        for name, call in sides.items():
            start = process_time()
            call()
            if repeat:  # the first round warms up
                seconds[name].append(process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    tokens = options.conditions * options.prompts * options.tokens
    found = {
        "seconds": medians,
        "all seconds": seconds,
        "tokens/s": {name: tokens / value for name, value in medians.items()},
        "ours over Hugging Face (target at most 1.0)": medians["ours"] / medians["Hugging Face"],
        "TransformerLens over ours (target at least 1.8)": medians["TransformerLens"] / medians["ours"],
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in medians.items():
        print(f"{name:<16} {value:7.2f} s  {tokens / value:8,.0f} tokens/s")
    for name, value in list(found.items())[-2:]:
        print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
