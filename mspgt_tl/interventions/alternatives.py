"""Other ways to disturb a block than isotropic noise, with the same interface (N): does the kind of damage matter?

- `covariance`: Gaussian noise of the same total power, along the directions in which activations themselves vary.
- `resample`: a token's stream moves by the share σ towards that of another token of the corpus; at σ = 1 it is replaced
  (resample ablation). The donor is a pure function of seed, sample id and position, and the same at every layer.
- `skip`: the share σ of what each block adds is taken away; at σ = 1 the block is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel, check_seed
from mspgt_tl.errors import ConfigError, CorpusError, unknown_name
from mspgt_tl.interventions import philox
from mspgt_tl.interventions.hooks import Batch, Hook, HookList, Positions
from mspgt_tl.interventions.noise import (
    Layers,
    Scales,
    Unit,
    check_layers,
    check_sigma,
    describe_layers,
    describe_sigma,
    noise_hooks,
    spread_sigma,
)
from mspgt_tl.passes.corpus import stream, usable_sentences

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """One way to disturb a block."""

    make: Callable[..., HookList]
    """Makes the hooks from what `disturbance_hooks` is given, its own `kind` aside."""
    largest: float = math.inf
    """The largest σ: 1 where it is a share, infinity where it is relative to the activation unit."""
    needs_bank: bool = False


KINDS: dict[str, Kind] = {}
"""By name; an entry is all that a new kind of noise needs."""
DONORS = 1024
"""Tokens of the corpus kept for resampling."""


@dataclass(frozen=True)
class ActivationBank:
    """What the kinds beyond plain noise need to know of a corpus."""

    roots: dict[int, Float[Tensor, "d_model d_model"]]
    """Symmetric square root of every layer's activation covariance, scaled to a mean variance of 1."""
    donors: Float[Tensor, "layer donor d_model"]
    """The stream at tokens drawn from the corpus, one a sentence."""


def measure_activations(
    model: CausalModel, sentences: Sequence[str], *, seed: int, config: StreamConfig | None = None
) -> ActivationBank:
    """Measure covariances over all tokens, BOS left out, and keep up to `DONORS` tokens of as many sentences.

    Raises:
        CorpusError: no sentence has two tokens.

    See Also:
        disturbance_hooks: takes the result as `bank`.

    Example:
        >>> import mspgt_tl
        >>> bank = measure_activations(mspgt_tl.load("planted:8:3,6"), mspgt_tl.sample_sentences(20), seed=0)
        >>> len(bank.roots), bank.donors.shape[:2]
        (8, torch.Size([8, 20]))
    """
    import torch

    settings = config or StreamConfig()
    usable = usable_sentences(model, list(sentences), settings)
    if not usable:
        raise CorpusError("No sentence of the corpus has two tokens, so there is no activation to measure.")
    n_layers, width = int(model.cfg.n_layers), int(model.cfg.d_model)
    count, total = 0, torch.zeros(n_layers, width, dtype=torch.float64)
    squares = torch.zeros(n_layers, width, width, dtype=torch.float64)
    kept = set(np.random.default_rng([seed, 5]).permutation(len(usable))[:DONORS].tolist())
    donors: list[tuple[int, Tensor]] = []
    for batch in stream(model, usable, seed=seed, config=settings):
        rows = [row for row, sentence in enumerate(batch.sentence) if int(sentence) in kept]
        for row in rows:
            at = int(batch.drawn[row])
            donors.append((int(batch.sentence[row]), torch.stack([resid[row, at].cpu() for resid in batch.resid])))
        for layer, resid in enumerate(batch.resid):
            vectors = resid[batch.is_data].double()
            total[layer] += vectors.sum(0).cpu()
            squares[layer] += (vectors.T @ vectors).cpu()
        count += int(batch.is_data.sum())
    mean = total / count
    covariance = squares / count - mean[:, :, None] * mean[:, None, :]
    # In the order of the corpus, so that neither batch size nor length decides which donor has which number.
    stacked = torch.stack([vectors for _, vectors in sorted(donors, key=lambda pair: pair[0])], 1)
    return ActivationBank({layer: _root(matrix) for layer, matrix in enumerate(covariance)}, stacked)


def _root(covariance: Float[Tensor, "d_model d_model"]) -> Float[Tensor, "d_model d_model"]:
    import torch

    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    return (vectors * (values / values.mean()).sqrt()) @ vectors.T


def disturbance_hooks(
    model: CausalModel,
    layers: Layers,
    sigma: float | Sequence[float] | Float[Tensor, "batch"],
    *,
    kind: str = "gaussian",
    seed: int = 0,
    sample_ids: Sequence[int] | Int[Tensor, "batch"] | None = None,
    positions: Positions | Int[Tensor, "batch pos"] | None = None,
    unit: Unit = "token",
    scales: Scales | None = None,
    bank: ActivationBank | None = None,
) -> HookList:
    """Return hooks of any kind, as `noise_hooks` returns those of the first; see there for the arguments.

    Args:
        bank: from `measure_activations`; `covariance` and `resample` need one.

    Raises:
        ConfigError: unknown kind, the bank is missing, or a share above 1 (`resample`, `skip`).

    See Also:
        noise_hooks: plain noise.
        measure_activations: makes the `bank`.

    Example:
        A block that is skipped entirely leaves the stream as it was:

        >>> import mspgt_tl
        >>> model = mspgt_tl.load("planted:8:3,6")
        >>> tokens = model.tokenizer(["The river flows."], return_tensors="pt")["input_ids"]
        >>> with model.hooks(fwd_hooks=disturbance_hooks(model, [4], 1.0, kind="skip")):
        ...     _, cache = model.run_with_cache(tokens)
        >>> bool((cache["resid_post", 4] - cache["resid_pre", 4]).abs().max() < 1e-4)
        True
    """
    if find_kind(kind).needs_bank and bank is None:
        raise ConfigError(f"'{kind}' needs bank=measure_activations(model, sentences, seed=…).")
    options: dict[str, Any] = {"seed": seed, "sample_ids": sample_ids, "positions": positions}
    return KINDS[kind].make(model, layers, sigma, unit=unit, scales=scales, bank=bank, **options)


def find_kind(name: str) -> Kind:
    """Return a kind of noise.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in KINDS:
        raise ConfigError(unknown_name("kind of intervention", str(name), KINDS))
    return KINDS[name]


def _along_activations(
    model: CausalModel, layers: Layers, sigma: Any, *, bank: ActivationBank, **options: Any
) -> HookList:
    """Return hooks of noise along the directions in which activations vary."""
    return noise_hooks(model, layers, sigma, roots=bank.roots, **options)


def _plain(model: CausalModel, layers: Layers, sigma: Any, *, bank: Any, **options: Any) -> HookList:
    return noise_hooks(model, layers, sigma, **options)


def _share_hooks(
    model: CausalModel,
    layers: Layers,
    sigma: Any,
    *,
    kind: str,
    seed: int,
    sample_ids: Any,
    positions: Any,
    scales: Scales | None,
    bank: ActivationBank | None,
    **_: Any,
) -> HookList:
    """Return hooks that move the stream by the share σ: to a donor (`resample`), or back to what came in (`skip`)."""
    chosen = check_layers(layers, int(model.cfg.n_layers), scales)
    batch = Batch(model, chosen, sample_ids, positions)
    share = _Share(batch, sigma, kind, bank, seed)
    told = [f"{kind} with {describe_sigma(sigma)} {describe_layers(chosen)}, seed {seed}"]
    after: list[Hook] = [(f"blocks.{layer}.hook_resid_post", partial(share.move, layer=layer)) for layer in chosen]
    if kind == "resample":
        return HookList([*batch.hooks(), *after], told)
    before: list[Hook] = [(f"blocks.{layer}.hook_resid_pre", partial(share.remember, layer=layer)) for layer in chosen]
    return HookList(before + after, told)


class _Share:
    """Moves the stream by a share of the way to something else: a donor, or what entered the block."""

    def __init__(self, batch: Batch, sigma: Any, kind: str, bank: ActivationBank | None, seed: int) -> None:
        check_seed(seed)
        self.batch, self.seed = batch, seed
        self.sigma = check_sigma(sigma, batch.n_rows)
        if bool((self.sigma > 1).any()):
            raise ConfigError(f"For '{kind}', sigma is a share from 0 to 1; got {float(self.sigma.max()):g}.")
        self.donors = bank.donors if kind == "resample" and bank is not None else None
        self.entered: dict[int, Tensor] = {}

    def remember(self, resid: Float[Tensor, "batch pos d_model"], hook: Any, *, layer: int) -> None:
        """Keep what enters a block; a hook function."""
        self.entered[layer] = resid

    def move(self, resid: Float[Tensor, "batch pos d_model"], hook: Any, *, layer: int) -> Tensor:
        """Return the stream moved; a hook function."""
        import torch

        sample_ids = self.batch.sample_ids(resid)
        if self.donors is None:
            target = self.entered.pop(layer)
        else:
            target = self._donors(resid, layer, sample_ids, self.batch.positions(resid, layer))
        exact = torch.promote_types(resid.dtype, torch.float32)
        share = spread_sigma(self.sigma, len(resid)).to(resid.device, exact)[:, None, None]
        moved = torch.lerp(resid.to(exact), target.to(exact), share).to(resid.dtype)
        # Rows left alone stay so, bit for bit; padding may hold anything.
        return torch.where(share > 0, moved, resid)

    def _donors(self, resid: Tensor, layer: int, sample_ids: Tensor, here: Tensor) -> Tensor:
        assert self.donors is not None
        drawn = philox.uniform(
            self.seed,
            sample_ids=sample_ids[:, None].expand(here.shape).flatten(),
            positions=here.cpu().clamp(min=0).flatten(),
            use=philox.DONOR,
        )
        n_donors = self.donors.shape[1]
        index = (drawn * n_donors).long().clamp(max=n_donors - 1)
        return self.donors[layer][index].view(resid.shape).to(resid.device)


KINDS["gaussian"] = Kind(_plain)
KINDS["covariance"] = Kind(_along_activations, needs_bank=True)
KINDS["resample"] = Kind(partial(_share_hooks, kind="resample"), largest=1.0, needs_bank=True)
KINDS["skip"] = Kind(partial(_share_hooks, kind="skip"), largest=1.0)
