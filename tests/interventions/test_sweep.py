"""Every row of a sweep gets its own condition, and texts come back in the order of samples and conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mspgt_tl.config import DecodeConfig
from mspgt_tl.interventions import Positions, generate, noise_hooks
from mspgt_tl.interventions.generation import Rows
from mspgt_tl.interventions.sweep import Condition, condition_hooks, decode_samples, name_controls
from mspgt_tl.models.pretrained import load

torch = pytest.importorskip("torch")

CONDITIONS = (
    Condition("clean", "clean"),
    Condition("first", "local", (0, 1), "token", 1.0, 0.5),
    Condition("second", "global", (5, 6), "token", 1.0, 1.5),
    Condition("third", "local", (0, 1), "token", 3.0, 3.0),
)


def test_rows_get_the_sigma_of_their_own_condition() -> None:
    """Row i of the whole sweep is condition i modulo their number, wherever it stands in its batch."""
    seen: dict[tuple[int, ...], list[float]] = {}

    def make_hooks(blocks: tuple[int, ...], sigma: Any, _ids: Any, _positions: Any) -> list[Any]:
        seen[blocks] = sigma.tolist()
        return []

    index = torch.tensor([5, 2, 0, 7, 4, 3])
    positions = Positions.from_mask(torch.ones(6, 1, dtype=torch.long))
    condition_hooks(CONDITIONS, make_hooks)(Rows(index, torch.zeros(6, dtype=torch.long), positions))
    assert seen == {(0, 1): [0.5, 0, 0, 3.0, 0, 3.0], (5, 6): [0, 1.5, 0, 0, 0, 0]}


def test_texts_are_those_of_each_condition_alone(tiny_folder: Path) -> None:
    """Decoded as one batch or one by one: the same ids under the same names; conditions differ."""
    model = load(tiny_folder)
    prompts, ids = [[0, 9, 30, 7], [0, 33, 4]], [11, 12]

    def make_hooks(blocks: tuple[int, ...], sigma: Any, sample_ids: Any, positions: Any) -> list[Any]:
        return noise_hooks(model, blocks, sigma, seed=1, sample_ids=sample_ids, positions=positions)

    config = DecodeConfig(new_tokens=8, temperature=0)
    together = decode_samples(model, prompts, ids, CONDITIONS, make_hooks, seed=0, config=config)
    for sample, (prompt, name) in enumerate(zip(prompts, ids, strict=True)):
        assert len({tuple(text) for text in together[sample]}) == len(CONDITIONS)
        for place, condition in enumerate(CONDITIONS):

            def alone(rows: Rows, one: Condition = condition) -> list[Any]:
                if not one.blocks:
                    return []
                sigma = torch.full((len(rows.index),), one.sigma, dtype=torch.float64)
                return make_hooks(one.blocks, sigma, rows.sample_ids, rows.positions)

            (text,) = generate(
                model,
                [prompt],
                max_new_tokens=8,
                sample_ids=[name],
                seed=0,
                temperature=0,
                hooks=alone,
                stop_tokens=[model.tokenizer.eos_token_id],
            )
            assert together[sample][place] == text


def test_controls_of_earlier_versions_are_told_from_their_names() -> None:
    """Effects that lack `control_of` get it; effects that have it stay as they are."""
    import xarray as xr

    names = ["local", "local control, blocks 2-3", "layer 0"]
    groups = {"group": ("target", ["scale", "control", "layer"])}
    effects = xr.Dataset({"kl": ("target", [1.0, 2.0, 3.0])}, coords={"target": names, **groups})
    named = name_controls(effects)
    assert named["control_of"].values.tolist() == ["", "local", ""]
    assert name_controls(named) is named
