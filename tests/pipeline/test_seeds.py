"""Which seed a run takes: the one given, else that of its config, else 0."""

from __future__ import annotations

import pytest

from mspgt_tl import detect
from mspgt_tl.config import BoundaryConfig, DetectConfig, InterveneConfig, ProbeConfig, SignalConfig, TheoryConfig
from mspgt_tl.errors import ConfigError
from mspgt_tl.pipeline import intervention, theory


@pytest.mark.parametrize("seed", [5, 2**64 - 1])
def test_a_config_keeps_its_seed(seed):
    """The largest goes through every generator. The readout of rivals must bear a model without normalisation."""
    config = DetectConfig(
        seed=seed,
        sentences=220,
        train_trees=100,
        signals=SignalConfig(tasks=("pos",)),
        probe=ProbeConfig(epochs=1, repeats=1),
        boundaries=BoundaryConfig(resamples=100, null_curves=50),
    )
    found = detect("planted:8:3,5", config=config, rivals=True)
    assert found.data.attrs["seed"] == found.manifest["identity"]["config"]["seed"] == seed
    assert found.rivals is not None and "logit_lens_entropy" in found.rivals["rival"].values


@pytest.mark.parametrize(
    ("module", "run", "config"),
    [(intervention, "intervene", InterveneConfig), (theory, "run_theory", TheoryConfig)],
)
@pytest.mark.parametrize(("given", "expected"), [({}, 5), ({"seed": 3}, 3)])
def test_other_commands_keep_it(module, run, config, given, expected, monkeypatch):
    """A seed that is given goes before the config's."""
    seen, real = [], module.settings_of

    def spy(*args, **options):
        seen.append(real(*args, **options))
        raise ConfigError("stop here")

    monkeypatch.setattr(module, "settings_of", spy)
    with pytest.raises(ConfigError, match="stop here"):
        getattr(module, run)("planted:8:3,5", config=config(seed=5), **given)
    assert seen[0].seed == expected
