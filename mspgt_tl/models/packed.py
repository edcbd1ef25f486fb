"""Windows of one long array of tokens, to train on and to measure a loss on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class PackedSequences:
    """A dataset of consecutive windows of one long token array."""

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        import torch

        # One token more than the length: the model shifts labels itself, so `length` positions carry a loss.
        start = index * self.length
        window = torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))
        return {"input_ids": window, "labels": window}


def mean_loss(model: PreTrainedModel, tokens: np.ndarray, length: int, *, batch: int = 32) -> float:
    """Return the mean next-token loss over non-overlapping windows, in nats per token."""
    import torch

    windows, total, count = PackedSequences(tokens, length), 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(windows), batch):
            rows = [windows[i]["input_ids"] for i in range(start, min(start + batch, len(windows)))]
            ids = torch.stack(rows).to(model.device)
            logits = model(ids[:, :-1]).logits.float()
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            total, count = total + losses.item(), count + ids[:, 1:].numel()
    return total / count
