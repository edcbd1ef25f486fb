"""Logits of some tokens are those of all, wherever the vocabulary is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mspgt_tl.models.pretrained import load
from mspgt_tl.passes.readout import unembed


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_logits_of_some_ids_are_columns_of_all(tiny_folder: Path, backend: Any) -> None:
    """With final normalisation and bias, on both backends."""
    model = load(str(tiny_folder), backend=backend)
    resid = torch.randn(2, 3, int(model.cfg.d_model), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([7, 0, 3])
    with torch.inference_mode():
        torch.testing.assert_close(unembed(model, resid, ids), unembed(model, resid)[..., ids])


def test_the_soft_cap_is_that_of_all(tiny_folder: Path) -> None:
    """As Gemma limits its logits."""
    model = load(str(tiny_folder))
    model.cfg.output_logits_soft_cap = 0.5
    resid = 9 * torch.randn(4, int(model.cfg.d_model), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = unembed(model, resid, torch.tensor([1, 4]))
        torch.testing.assert_close(found, unembed(model, resid)[:, [1, 4]])
    assert found.abs().max() <= 0.5
