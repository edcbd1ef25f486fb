"""A sweep: which conditions there are, and the text that a model writes under all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mspgt_tl.config import DecodeConfig, InterveneConfig
from mspgt_tl.contracts import CausalModel
from mspgt_tl.interventions.dose import solve_dose
from mspgt_tl.interventions.generation import Rows, generate
from mspgt_tl.interventions.hooks import Hook
from mspgt_tl.interventions.next_token import CleanPass, HookMaker
from mspgt_tl.interventions.scales import control_blocks, describe_blocks

if TYPE_CHECKING:
    import xarray as xr

CLEAN = "clean"
NAN = float("nan")


@dataclass(frozen=True)
class Condition:
    """One way in which every sample is continued."""

    name: str
    scale: str
    """The scale that is disturbed, or that this is the control of; `clean` for the reference."""
    blocks: tuple[int, ...] = ()
    dose: str = ""
    level: float = 0.0
    """What was asked for, in the unit of the dose."""
    sigma: float = 0.0
    """What the hooks get; `nan` where no σ gives the level."""
    realised: float = NAN
    """For solved doses, what was measured at that σ."""
    is_control: bool = False
    reason: str = ""
    """Why there is no σ."""

    @property
    def label(self) -> str:
        """What is disturbed, without how much."""
        span = range(self.blocks[0], self.blocks[-1] + 1) if self.blocks else range(0)
        return f"{self.scale} control, {describe_blocks(span)}" if self.is_control else self.scale


def plan_conditions(scales: Mapping[str, range], n_layers: int, config: InterveneConfig) -> list[Condition]:
    """List the reference, every scale at every level, and at one level other doses and controls; σ is still open."""
    level = config.compared_level
    found = [Condition(CLEAN, CLEAN)]
    for name, blocks in scales.items():
        found += [_open(name, blocks, config.dose, one) for one in config.levels]
    for dose in config.other_doses:
        if dose != config.dose:
            found += [_open(name, blocks, dose, level) for name, blocks in scales.items()]
    for name, blocks in scales.items():
        for other in control_blocks(blocks, n_layers, count=config.controls, seed=config.seed):
            found.append(_open(name, other, config.dose, level, is_control=True))
    return found


def _open(scale: str, blocks: range, dose: str, level: float, *, is_control: bool = False) -> Condition:
    found = Condition("", scale, tuple(blocks), dose, level, NAN, is_control=is_control)
    return replace(found, name=f"{found.label}, {dose} {level:g}")


def name_controls(effects: xr.Dataset) -> xr.Dataset:
    """Return effects that say of every control which scale it belongs to; earlier versions named it alone."""
    if "control_of" in effects.coords:
        return effects
    pairs = zip(effects["target"].values, effects["group"].values, strict=True)
    of = [str(name).partition(" control, ")[0] if group == "control" else "" for name, group in pairs]
    return effects.assign_coords(control_of=("target", of))


def solve_conditions(
    model: CausalModel,
    conditions: Sequence[Condition],
    clean: Sequence[CleanPass],
    make_hooks: HookMaker,
    *,
    largest: float,
    progress: Callable[[int, int], None] | None = None,
) -> list[Condition]:
    """Return the conditions with their σ; one that has none says why."""
    solved = []
    for number, condition in enumerate(conditions):
        if condition.blocks:
            dose: Any = condition.dose
            found = solve_dose(model, clean, condition.blocks, dose, condition.level, make_hooks, largest=largest)
            condition = replace(condition, sigma=found.sigma, realised=found.realised, reason=found.reason or "")
        solved.append(condition)
        if progress:
            progress(number + 1, len(conditions))
    return solved


def condition_hooks(conditions: Sequence[Condition], make_hooks: HookMaker) -> Callable[[Rows], list[Hook]]:
    """Return a function from `Rows` to hooks that give row i the σ of condition i modulo their number."""
    import torch

    stretches = sorted({c.blocks for c in conditions if c.blocks and c.sigma > 0})

    def hooks(rows: Rows) -> list[Hook]:
        which = (rows.index % len(conditions)).tolist()
        made: list[Hook] = []
        for blocks in stretches:
            sigmas = [conditions[c].sigma if conditions[c].blocks == blocks else 0.0 for c in which]
            own = torch.tensor(sigmas, dtype=torch.float64)
            if own.any():
                made += make_hooks(blocks, own, rows.sample_ids, rows.positions)
        return made

    return hooks


def decode_samples(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    sample_ids: Sequence[int],
    conditions: Sequence[Condition],
    make_hooks: HookMaker,
    *,
    seed: int,
    config: DecodeConfig,
    progress: Callable[[int], None] | None = None,
) -> list[list[list[int]]]:
    """Return the new ids of every sample under every condition, decoded as one batch, `[sample][condition]`."""
    n = len(conditions)
    n_layers = int(model.cfg.n_layers)
    eos = getattr(model.tokenizer, "eos_token_id", None)
    flat = generate(
        model,
        [prompt for prompt in prompts for _ in conditions],
        max_new_tokens=config.new_tokens,
        sample_ids=[i for i in sample_ids for _ in conditions],
        seed=seed,
        hooks=condition_hooks(conditions, make_hooks),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        stop_tokens=() if eos is None else (eos,),
        untouched=[min(c.blocks, default=n_layers) for _ in prompts for c in conditions],
        progress=progress,
    )
    return [flat[start : start + n] for start in range(0, len(flat), n)]
