"""What a theory run will take, told before it starts, and settings that make it fit into a given time.

One forward pass is timed; everything else is counted in such passes. The counts were measured (benchmarks/README.md) or
follow from the number of multiplications. Aim: within a factor of two.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mspgt_tl.config import TheoryConfig
from mspgt_tl.contracts import MIN_TEXTS, CausalModel
from mspgt_tl.errors import ConfigError
from mspgt_tl.progress import duration
from mspgt_tl.theory.texts import Texts, text_batches

FISHER, NOISED, WIDE = 2.6, 1.3, 2.5
"""A draw of labels with its pass, and a disturbed pass with its comparison, over the forward passes that they need;
float64 over float32."""
SOFTMAX_EPOCHS, RIDGE = 5, 1.6
"""Of the readouts, as `theory.mutual_information` fits them."""
UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

Seconds = Mapping[str, float]


def read_duration(given: str | float) -> float:
    """Return seconds from a number or a text such as `90s`, `10min` or `1.5h`.

    Raises:
        ConfigError: it is no time above 0.

    >>> read_duration("10min")
    600.0
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", str(given).lower())
    seconds = float(found[1]) * UNITS.get(found[2], 0.0) if found else 0.0
    if not seconds > 0:
        raise ConfigError(f"A time is a number of seconds, or a text such as 90s, 10min or 2h; got {given!r}.")
    return seconds


@dataclass(frozen=True)
class TheoryCost:
    """What a position of text takes in one model, and how large both are."""

    seconds: float
    """A position in a forward pass with logits."""
    logits: float
    """Share of the unembedding in it, by multiplications."""
    n_layers: int
    d_model: int
    positions: float
    """Mean length of a text."""
    texts: int
    alphabet: float = 1.0
    """Share of the ids that readouts and bottleneck tell apart."""

    @classmethod
    def measure(cls, model: CausalModel, texts: Texts) -> TheoryCost:
        """Time a pass over a few texts."""
        import torch

        cfg = model.cfg
        anything: Any = model
        n_layers, d_model = int(cfg.n_layers), int(cfg.d_model)
        batch = next(iter(text_batches(model, texts.first(8), "timing", positions=256)))
        with torch.inference_mode():
            anything.forward(batch.tokens[:1])  # what comes up once
            started = time.perf_counter()
            anything.forward(batch.tokens)
        taken = (time.perf_counter() - started) / batch.tokens.numel()
        unembedding = d_model * int(cfg.d_vocab)
        blocks = sum(part.numel() for part in anything.parameters()) - 2 * unembedding
        share = unembedding / (unembedding + max(blocks, unembedding / 10))
        chosen = texts.alphabet(int(cfg.d_vocab))
        apart = 1.0 if chosen is None else len(chosen) / int(cfg.d_vocab)
        return cls(taken, share, n_layers, d_model, sum(map(len, texts.ids)) / len(texts), len(texts), apart)

    def stages(self, settings: TheoryConfig) -> dict[str, float]:
        """Return seconds by stage."""
        one = self.seconds * self.positions
        read, closed = min(settings.sentences, self.texts) * one, settings.closure_texts * one
        # Scales and layers begin in the middle on average.
        disturbed = NOISED * ((1 - self.logits) / 2 + self.logits)
        alone = self.n_layers if settings.closure_layers is None else settings.closure_layers
        fisher = closed * FISHER * settings.closure_samples
        # A step of Adam is three products of every layer's readout, and 60 % of the tokens are fitted on.
        logits = self.logits * self.alphabet
        readouts = self.n_layers * logits * (SOFTMAX_EPOCHS * 0.6 * 3 + RIDGE / 2)
        hvib = settings.hvib
        steps = len(hvib.betas) * hvib.steps * hvib.batch * self.seconds * logits
        every = (self.n_layers + 3) * disturbed
        found = {
            "units": read * (1 - self.logits),
            "fisher": read * FISHER * settings.label_samples,
            "closure": closed * (alone + 3) * disturbed * len(settings.closure_sigmas) * settings.noise_draws + fisher,
            "information": read * (1 + readouts),
            "rates": settings.rate_texts * one * every * len(settings.rate_sigmas),
            "bottleneck": steps * 3 * 3,
        }
        if settings.exact_draws:
            found["closure-float64"] = WIDE * (closed * (alone + 3) * disturbed * settings.exact_draws + fisher)
        return found

    def fit(self, settings: TheoryConfig, limit: float) -> TheoryConfig:
        """Take less of what takes longest, until the run is expected to fit or nothing is left to take less of."""
        economies = self._economies()
        while sum((stages := self.stages(settings)).values()) > limit:
            for stage in sorted(stages, key=lambda name: -stages[name]):
                tried = [step(settings) for step in economies.get(stage, ())]
                cheaper = [other for other in tried if self.stages(other)[stage] < stages[stage]]
                if cheaper:
                    settings = cheaper[0]
                    break
            else:
                return settings
        return settings

    def _economies(self) -> Mapping[str, tuple[Callable[[TheoryConfig], TheoryConfig], ...]]:
        """Return by stage what may be taken less of, the least harmful first; each may be taken again."""
        enough = max(MIN_TEXTS, round(1.2 * 10 * self.d_model / max(self.positions - 1, 1)))

        def fewer(name: str, least: int) -> Callable[[TheoryConfig], TheoryConfig]:
            return lambda s: replace(s, **{name: max(least, getattr(s, name) // 2)})

        def sentences(s: TheoryConfig) -> TheoryConfig:
            return replace(s, sentences=min(s.sentences, max(enough, min(s.sentences, self.texts) // 2)))

        def half(name: str, least: int) -> Callable[[TheoryConfig], TheoryConfig]:
            return lambda s: replace(s, **{name: v[::2] if len(v := getattr(s, name)) >= 2 * least else v})

        def layers(s: TheoryConfig) -> TheoryConfig:
            held = self.n_layers if s.closure_layers is None else s.closure_layers
            return replace(s, closure_layers=max(min(4, self.n_layers), held // 2))

        def steps(s: TheoryConfig) -> TheoryConfig:
            return replace(s, hvib=replace(s.hvib, steps=max(50, s.hvib.steps // 2)))

        def betas(s: TheoryConfig) -> TheoryConfig:
            return replace(s, hvib=replace(s.hvib, betas=s.hvib.betas[:: len(s.hvib.betas) - 1]))

        draws = fewer("closure_samples", 8), fewer("noise_draws", 2)
        return {
            "fisher": (fewer("label_samples", 1), sentences),
            "closure": (*draws, half("closure_sigmas", 2), layers, fewer("closure_texts", 6)),
            "closure-float64": (fewer("exact_draws", 4), *draws[:1], layers, fewer("closure_texts", 6)),
            "information": (sentences,),
            "rates": (half("rate_sigmas", 2), fewer("rate_texts", MIN_TEXTS)),
            "bottleneck": (steps, betas),
            "units": (sentences,),
        }

    def describe(self, settings: TheoryConfig, limit: float | None) -> str:
        """Say what the stages will take."""
        stages = self.stages(settings)
        total = sum(stages.values())
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items())
        told = f"About {duration(total)}: {parts}."
        if limit is not None:
            fits = "fits into" if total <= limit else "does not fit, even with the least of everything, into"
            told += f" That {fits} {duration(limit)}."
        return told
