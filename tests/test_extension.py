"""A new signal is one class in one file: registered from outside, it goes through a detection to the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

from mspgt_tl import detect
from mspgt_tl.contracts import SIGNALS, Batch, StreamSignal
from mspgt_tl.dashboard.layers import weight_figure
from mspgt_tl.errors import DataError
from mspgt_tl.pipeline.detection import load_run
from mspgt_tl.signals.sums import MeanSums, jumps


class _Norms(MeanSums):
    def observe(self, batch: Batch) -> None:
        norms = torch.stack([(r.norm(dim=-1) * batch.is_data).sum(1) for r in batch.resid], dim=1)
        self.add(batch.fold, norms, batch.is_data.sum(1))


@dataclass(frozen=True)
class NormJump(StreamSignal):
    """How far the mean norm of the stream moves."""

    name: ClassVar[str] = "toy_norm"
    title: ClassVar[str] = "Norm jumps"
    unit: ClassVar[str] = "length"
    source: ClassVar[str] = "a test; N"
    role: ClassVar[Literal["fused", "rival", "audit"]] = "fused"
    needs: ClassVar[frozenset[str]] = frozenset({"resid"})

    def start(self, *, n_layers, fold_sizes):
        return _Norms(len(fold_sizes), n_layers)

    def curves(self, sums, weights):
        return jumps(MeanSums.mean(sums, weights))


@pytest.mark.parametrize("role", ["fused", "rival"])
def test_a_signal_needs_one_class(role, tiny_folder, tmp_path, monkeypatch):
    """Fused as a fourth or held beside the three, it reaches boundaries, store and page."""
    monkeypatch.setattr(SIGNALS, "_known", dict(SIGNALS._known))
    monkeypatch.setattr(NormJump, "role", role)
    SIGNALS.register(NormJump)
    quick = {"sentences": 220, "probe.epochs": 1, "probe.repeats": 1, "train_trees": 100, "tasks": ("pos",)}
    fused = ["cka", "probe", "attention_jsd"] + ["toy_norm"] * (role == "fused")
    weights = (1.0,) * len(fused)
    detect(tiny_folder, out=tmp_path / "run", rivals=True, weights=weights, resamples=100, null_curves=50, **quick)
    found = load_run(tmp_path / "run")
    assert list(found.data["signal"].values) == fused
    assert found.rivals is not None and ("toy_norm" in found.rivals["rival"].values) == (role == "rival")
    if role == "fused":
        with pytest.raises(DataError, match="three signals"):
            weight_figure(found.data, 0)
    own = found.curves.sel(signal="toy_norm") if role == "fused" else found.rivals["curve"].sel(rival="toy_norm")
    assert np.isfinite(own).all()
    assert "toy_norm" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
