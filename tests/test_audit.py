"""The artefact audit: variants against slow obvious versions, grades on planted and massive-onset models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mspgt_tl import detect
from mspgt_tl.audit import ROBUST, audit, grade
from mspgt_tl.boundaries import find_boundaries, weight_map
from mspgt_tl.codec import pack
from mspgt_tl.config import BoundaryConfig, SignalConfig
from mspgt_tl.corpora.grammar import generate_treebank
from mspgt_tl.dashboard import render_report
from mspgt_tl.models.synthetic import Nuisances, PlantedModel
from mspgt_tl.pipeline import Detection
from mspgt_tl.signals.cka import linear_cka
from mspgt_tl.signals.cka_variants import massive_channels, whiten

QUICK: dict[str, Any] = {
    "sentences": 400,
    "signals": {"tasks": ["pos"]},
    "probe": {"epochs": 6, "hidden": 16, "batch": 64, "repeats": 1},
    "boundaries": {"resamples": 200, "null_curves": 500},
}


def detected(plan: PlantedModel, seed: int, config: dict[str, Any] = QUICK) -> Detection:
    """Return the whole detection of a planted model."""
    return detect(plan.build(seed=seed), None, generate_treebank(seed=0, train=150, dev=150), config=config)


def test_masking_removes_what_massive_rows_do_to_cka() -> None:
    """Two massive rows in a shared channel make independent data look alike; masked, they are independent again."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 100, 64, generator=generator)
    rows[:, [3, 50], 7] = 100.0
    assert linear_cka(rows[0], rows[1]) > 0.8
    masked = rows * ~massive_channels(rows)
    assert (masked[:, :, 7] == 0).all()
    assert torch.equal(masked[:, :, :7], rows[:, :, :7])
    assert abs(linear_cka(masked[0], masked[1])) < 0.1


def test_whitening_forgets_the_scale_of_strong_directions() -> None:
    """A direction a hundred times stronger than the rest counts like the rest; the kernel is G (G + λ)⁻¹."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(1, 40, 8, generator=generator).double()
    rows[..., 0] *= 100
    features = whiten(rows)[0]
    x = rows[0] - rows[0].mean(dim=0)
    gram = x @ x.T
    ridge = gram.trace() / len(gram)
    assert torch.allclose(features @ features.T, gram @ torch.linalg.inv(gram + ridge * torch.eye(40)), atol=1e-6)
    assert torch.linalg.eigvalsh(features @ features.T).max() <= 1


def test_grades_follow_their_rule() -> None:
    """Massive channels decide where they make the change; else a lost boundary is fragile; one layer off is kept."""
    kept = {"massive masked": 0.0, "whitened": -1.0, "without cka": 1.0}
    assert grade(kept, 0.9) == "robust"
    assert grade(kept, 0.5) == "fragile"
    assert grade(kept | {"without cka": 2.0}, 0.9) == "fragile"
    assert grade(kept | {"whitened": np.nan}, 0.9) == "fragile"
    assert grade(kept | {"massive masked": np.nan}, 0.9) == "fragile"
    assert grade(kept | {"massive masked": np.nan}, 0.9, massive_share=0.9) == "artefact"
    assert grade(kept, 0.9, massive_share=0.9, masked_p=0.5) == "artefact"
    assert grade(kept, 0.9, massive_share=0.9, masked_p=0.01) == "robust"
    assert grade(kept, 0.9, massive_share=np.nan) == "robust"


@pytest.mark.slow
def test_planted_boundaries_are_no_artefacts() -> None:
    """All three signals planted: every variant is reported, and no boundary is called an artefact."""
    result = detected(PlantedModel(10, (3, 7)), seed=3)
    assert result.boundaries == (3, 7)
    assert "artefact" not in result.data["grade"].values
    variants = set(result.data["variant"].values.tolist())
    assert variants >= {
        "massive masked",
        "whitened",
        "another token",
        "last token",
        "first token kept",
        "raw rows",
        "sinks kept",
    }
    assert variants >= {"without cka", "without probe", "without attention_jsd"}
    masked = result.data.sel(variant="massive masked")["audit_gap"].values
    assert masked.tolist() == [3, 7]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_massive_onset_is_called_an_artefact(seed: int) -> None:
    """With raw rows of all tokens and nothing planted, the peak at a massive onset is an artefact, never supported."""
    raw = QUICK | {"signals": QUICK["signals"] | {"rows": "raw"}, "stream": {"tokens": "all"}}
    result = detected(PlantedModel(10, (), nuisances=Nuisances(massive_onset=5)), seed=seed, config=raw)
    assert "supported" not in result.verdicts
    graded = dict(zip(result.boundaries, result.data["grade"].values.tolist(), strict=True))
    assert graded[5] == "artefact"
    page = render_report(result.data, result.manifest, {})
    assert "Could it be an artefact?" in page
    assert "Gap 5: artefact." in page


def test_each_boundary_is_sought_under_every_choice() -> None:
    """From sums to table: kept where a variant peaks alike, moved where it peaks elsewhere, nan where nothing peaks."""
    rng, names = np.random.default_rng(0), ["cka", "probe", "attention_jsd"]

    def bumps(*gaps: int) -> np.ndarray:
        return 0.3 * np.isin(np.arange(1, 12), gaps) + 0.01 * rng.random(11)

    curves = np.stack([bumps(4, 9) for _ in names])
    resampled = curves + 0.005 * rng.standard_normal((200, *curves.shape))
    found = find_boundaries(curves, resampled=resampled, names=names, n_null=200)
    assert found.boundaries == (4, 9)
    variables, attrs = pack(found)
    parts = {"curve": (("signal", "gap"), curves), "resampled": (("resample", "signal", "gap"), resampled)}
    coords = {"signal": names, "gap": np.arange(1, 12)}
    result = xr.Dataset({**variables, **pack(weight_map(found.normalised))[0], **parts}, coords=coords, attrs=attrs)

    def cka_sums(curve: np.ndarray) -> np.ndarray:
        sums = np.ones((40, 2, 12))
        sums[:, 1, 1:] = 1 - curve
        return sums + 1e-6 * rng.standard_normal((40, 1, 1))

    flat = np.full(11, 0.2)
    shapes = dict.fromkeys(("whitened", "another token", "last token", "first token kept"), curves[0])
    shapes |= {"massive masked": np.where(np.arange(1, 12) == 9, 0.03, curves[0]), "raw rows": flat}
    drift = {"divergence": np.tile(curves[2][:, None, None], (40, 1, 1, 1)), "rows": np.ones(40)}
    sums = {"audit-cka": {name: cka_sums(curve) for name, curve in shapes.items()}, "audit-attention": drift}
    told = audit(result, sums, SignalConfig(), BoundaryConfig())
    assert told["audit_gap"].sel(variant=["whitened", "sinks kept", "without probe"]).values.tolist() == [[4, 9]] * 3
    assert told["audit_signal"].values.tolist() == ["cka"] * 6 + ["attention_jsd"] + [""] * 3
    np.testing.assert_allclose(told["audit_curve"].sel(variant="whitened"), curves[0], atol=1e-5)
    assert told["massive_share"].values == pytest.approx([0, 1 - 0.03 / curves[0, 8]], abs=1e-3)
    assert (told["audit_p_value"].sel(variant="whitened") < 0.05).all()
    assert told["weight_agreement"].values.tolist() == [1.0, 1.0]
    assert told["grade"].values[0] == ROBUST
