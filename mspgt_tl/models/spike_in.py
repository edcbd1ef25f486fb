"""A change of known size and place in a trained model: power on real weights, and a null on them at strength 0.

Between two blocks, everything that the three signals read changes for all blocks that follow:

- the stream of half of the vocabulary is turned by an orthogonal map of a share of its dimensions, and turned back
  where the next block reads it. So the model computes what it always did, as if weights after the gap had absorbed the
  map, while what is seen of the stream is another geometry; probes, which must now read labels off two geometries,
  fall. (A map of all tokens alike would be invisible: CKA does not see rotations.)
- attention looks one token further back with a share of its mass. This is not undone: the blocks that follow work with
  it, as blocks do.

Set aside: turning without turning back. Blocks that read what they were not trained on change more at every later gap
than at the gap itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MOVED_MASS = 1.0
"""Attention mass that looks one token further back at strength 1."""


@contextmanager
def spiked(model: CausalModel, gap: int, strength: float, *, seed: int) -> Iterator[CausalModel]:
    """Let a model change at a gap while the context is open.

    Args:
        model: a `HookedTransformer` (hooks of the stream before and after every block are needed).
        gap: in 1 … n_layers − 1; blocks `gap` and after show the change.
        strength: in [0, 1]: share of the dimensions that are turned, and of `MOVED_MASS`; 0 changes nothing.
        seed: of the half of the vocabulary and of the map.

    Raises:
        ConfigError: no such gap, or a strength outside of [0, 1].
    """
    n_layers = int(model.cfg.n_layers)
    if not 1 <= gap < n_layers:
        raise ConfigError(f"Gaps of {n_layers} blocks are 1 … {n_layers - 1}, got {gap}.")
    if not 0 <= strength <= 1:
        raise ConfigError(f"Strength must lie in 0 … 1, got {strength}.")
    if strength == 0:
        yield model
        return
    with model.hooks(fwd_hooks=_Spike(model, strength, seed).hooks(gap, n_layers)):
        yield model


class _Spike:
    def __init__(self, model: Any, strength: float, seed: int) -> None:
        import torch

        rng, weights = np.random.default_rng(seed), model.W_E
        self.strength = strength
        self.direction = torch.from_numpy(rng.standard_normal(weights.shape[1])).to(weights)
        self.middle = (weights @ self.direction).median()
        self.turn = torch.from_numpy(orthogonal_map(weights.shape[1], strength, rng)).to(weights)
        self.turned: Tensor | None = None

    def hooks(self, gap: int, n_layers: int) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = [("hook_embed", self._choose)]
        for layer in range(gap, n_layers):
            found.append((f"blocks.{layer}.attn.hook_pattern", self._look_back))
            found.append((f"blocks.{layer}.hook_resid_post", partial(self._apply, self.turn)))
            if layer + 1 < n_layers:
                found.append((f"blocks.{layer + 1}.hook_resid_pre", partial(self._apply, self.turn.T)))
        return found

    def _choose(self, embedded: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
        self.turned = (embedded @ self.direction > self.middle)[..., None]

    def _apply(self, by: Float[Tensor, "d d"], resid: Float[Tensor, "batch pos d"], hook: Any) -> Tensor:
        import torch

        assert self.turned is not None
        return torch.where(self.turned, resid @ by, resid)

    def _look_back(self, pattern: Float[Tensor, "batch head query key"], hook: Any) -> Tensor:
        import torch

        # The first key has none before it and keeps its mass.
        back = torch.cat([pattern[..., :1] + pattern[..., 1:2], pattern[..., 2:], 0 * pattern[..., :1]], dim=-1)
        share = MOVED_MASS * self.strength
        return (1 - share) * pattern + share * back if pattern.shape[-1] > 1 else pattern


def orthogonal_map(d: int, share: float, rng: np.random.Generator) -> Float[np.ndarray, "d d"]:
    """Return an orthogonal matrix that turns a random subspace of a share of all dimensions, and nothing else."""
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    k = max(2, round(share * d))
    inner = np.linalg.qr(rng.standard_normal((k, k)))[0]
    turned = np.eye(d)
    turned[:k, :k] = inner
    return basis @ turned @ basis.T
