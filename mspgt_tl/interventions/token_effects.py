"""Where in a text a disturbance is felt: the KL at every single token, as readers of CircuitsVis know it (N)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mspgt_tl.contracts import CausalModel
from mspgt_tl.interventions.next_token import HookMaker, clean_passes, compare_tokens, disturb
from mspgt_tl.interventions.sweep import Condition
from mspgt_tl.passes.batches import LENGTH, POSITIONS

if TYPE_CHECKING:
    import xarray as xr


def token_kl(
    model: CausalModel,
    texts: Sequence[str],
    conditions: Sequence[Condition],
    make_hooks: HookMaker,
    *,
    max_length: int = LENGTH,
    batch_positions: int = POSITIONS,
) -> xr.Dataset:
    """Measure KL(clean ‖ disturbed) of the prediction of every token of some texts, under every condition.

    Returns:
        `kl`, `[condition, sample, pos]` in nats, nan on the first token (nothing predicts it) and after the text's end;
        `token`, `[sample, pos]`, as text, "" after the end.

    Raises:
        CorpusError: no text has two tokens.
    """
    import xarray as xr

    disturbed = [c for c in conditions if c.blocks and np.isfinite(c.sigma)]
    kl = np.full((len(disturbed), len(texts), max_length), np.nan, dtype=np.float32)
    tokens = np.full((len(texts), max_length), "", dtype=object)
    longest = 1
    passes = clean_passes(model, texts, max_length=max_length, batch_positions=batch_positions)
    for clean in passes:
        with passes.fitting():
            row, column = (axis.cpu().numpy() for axis in clean.is_scored.nonzero(as_tuple=True))
            sample = clean.ids.numpy()[row]
            longest = max(longest, int(column.max()) + 2)
            for i, ids in zip(clean.ids.tolist(), clean.tokens.tolist(), strict=True):
                end = int(column[sample == i].max()) + 2
                tokens[i, :end] = [model.tokenizer.decode([token]) for token in ids[:end]]
            for number, condition in enumerate(disturbed):
                last = disturb(model, clean, condition.blocks, condition.sigma, make_hooks)
                kl[number, sample, column + 1] = compare_tokens(model, clean, [last])["kl"][0]
        del clean  # or it would stay while the next one is made
    return xr.Dataset(
        {
            "kl": (("condition", "sample", "pos"), kl[:, :, :longest], {"unit": "nats"}),
            "token": (("sample", "pos"), tokens[:, :longest].astype(str)),
        },
        coords={"condition": [c.name for c in disturbed]},
    )
