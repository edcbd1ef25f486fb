"""Noise on the residual stream after chosen blocks, as plain TransformerLens hooks (docs/method.md; eq. 7, P).

Each hook adds σ·s·ε to `blocks.{l}.hook_resid_post`, ε ~ N(0, I) a pure function of (seed, sample id, layer, absolute
position, channel): the same whatever else is in the batch, however it is padded, and with or without a KV cache. Rows
with the same sample id get the same ε, so conditions that differ in σ alone are paired; ε is then drawn once for all of
them. A row with σ = 0 is left as it is, bit for bit.

Where in the text a pass lies is found in the pass itself; see `hooks`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from mspgt_tl.contracts import SCALES, CausalModel, check_seed
from mspgt_tl.errors import ConfigError, unknown_name
from mspgt_tl.interventions import philox
from mspgt_tl.interventions.hooks import Batch, HookList, Positions
from mspgt_tl.interventions.scales import describe_blocks, parse_scales

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Unit: TypeAlias = "Literal['token'] | float | Mapping[int, float]"
Layers: TypeAlias = Iterable[int] | str


class HasScales(Protocol):
    """What has boundaries to cut the blocks at; a `Detection` is one."""

    def scales(self) -> Mapping[str, Iterable[int]]: ...


Scales: TypeAlias = Mapping[str, Iterable[int]] | HasScales

MAX_LAYER = 0xFFFF


def noise_hooks(
    model: CausalModel,
    layers: Layers,
    sigma: float | Sequence[float] | Float[Tensor, "batch"],
    *,
    seed: int = 0,
    sample_ids: Sequence[int] | Int[Tensor, "batch"] | None = None,
    positions: Positions | Int[Tensor, "batch pos"] | None = None,
    unit: Unit = "token",
    scales: Scales | None = None,
    roots: Mapping[int, Float[Tensor, "d_model d_model"]] | None = None,
) -> HookList:
    """Return hooks that add σ·s·ε after every block in `layers`, at every token that is not padding.

    The list is as good as one written by hand: for `model.run_with_hooks(tokens, fwd_hooks=…)`,
    `model.hooks(fwd_hooks=…)` around a pass or around `model.generate`, and `mspgt_tl.generate(…, hooks=…)`; alone or
    together with other hooks, in any order.

    Args:
        layers: blocks to disturb, such as `range(4, 9)`, `"4-8"` or `result.scales()["global"]`; or the name of one of
            `scales`.
        sigma: relative size of the noise, one for all rows or one for each; 0 leaves a row alone.
        sample_ids: which sample each row is, its number in the batch by default. Rows with equal ids get equal ε.
        positions: where the tokens of a pass lie, padding being -1. None: found in every pass, whether it is padded
            or goes on over a KV cache; see `Positions` for when to give them.
        unit: what σ is relative to. `token`: the token's own ‖h‖/√d_model, the root mean square of its entries. A
            number, or one for each layer as from `activation_units`: the same for all tokens.
        scales: a detection with two boundaries, or stretches of blocks by name, if `layers` is a name.
        roots: one matrix for each layer, by which ε is multiplied: `ActivationBank.roots` gives the noise the
            directions of the activations themselves instead of all directions alike (N).

    Raises:
        ConfigError: a layer does not exist, or sigma, unit or seed is unusable.
        DataError: sample ids or positions do not fit the rows; or `scales` has no supported boundaries. In the pass
            itself: positions cannot be found there.

    See Also:
        disturbance_hooks: other kinds than Gaussian noise.
        activation_units: for `unit`.
        generate: decodes with hooks.

    Example:
        >>> import mspgt_tl
        >>> model = mspgt_tl.load("planted:8:3,6")
        >>> tokens = model.tokenizer(["The river flows."], return_tensors="pt")["input_ids"]
        >>> hooks = noise_hooks(model, range(3, 6), sigma=0.1)
        >>> bool((model.run_with_hooks(tokens, fwd_hooks=hooks) == model(tokens)).all())
        False
    """
    chosen = check_layers(layers, int(model.cfg.n_layers), scales)
    batch = Batch(model, chosen, sample_ids, positions)
    noise = _Noise(batch, sigma, seed, _check_unit(unit, chosen), _check_roots(roots, chosen))
    told = f"noise of {describe_sigma(sigma)} {describe_layers(chosen)}, seed {seed}"
    after = [(f"blocks.{layer}.hook_resid_post", partial(noise.add, layer=layer)) for layer in chosen]
    return HookList([*batch.hooks(), *after], [told])


class _Noise:
    """What the hooks of one list share: who the rows are, where they are, and how much noise each gets."""

    def __init__(
        self,
        batch: Batch,
        sigma: Any,
        seed: int,
        unit: Literal["token"] | dict[int, float],
        roots: Mapping[int, Tensor] | None,
    ) -> None:
        check_seed(seed)
        self.batch, self.seed, self.unit, self.roots = batch, seed, unit, roots
        self._asked, self.n_rows = check_sigma(sigma, batch.n_rows), -1
        self._drawn_for: Tensor | None = None

    def add(self, resid: Float[Tensor, "batch pos d_model"], hook: Any, *, layer: int) -> Tensor:
        """Return the stream with noise; the hook function."""
        import torch

        # What is kept for later passes must serve one with gradients too.
        with torch.inference_mode(False):
            self._seat(resid)
            if not len(self.rows):
                return resid
            self._locate(resid, self.batch.positions(resid, layer))
        everyone = len(self.rows) == self.n_rows
        exact = torch.promote_types(resid.dtype, torch.float32)
        clean = (resid if everyone else resid[self.rows]).to(exact)
        n_pos, width = resid.shape[1:]
        epsilon = philox.normal(
            self.seed, sample_ids=self._ids, layer=layer, positions=self._at, width=width, dtype=exact
        ).view(-1, n_pos, width)
        if self.roots is not None:
            epsilon = epsilon @ self.roots[layer].to(epsilon)
        if self._shared:
            epsilon = epsilon[self.group]
        size = self.sigma.to(exact)
        if isinstance(self.unit, str):
            size = size * (torch.linalg.vector_norm(clean, dim=-1, keepdim=True) / math.sqrt(width))
        else:
            size = size * self.unit[layer]
        # Padding may hold anything, so it is not multiplied by zero but left out.
        noised = torch.where(self._real, torch.addcmul(clean, size, epsilon), clean).to(resid.dtype)
        if everyone:
            return noised
        out = resid.clone()
        out[self.rows] = noised
        return out

    def _seat(self, resid: Tensor) -> None:
        """Find out once per batch which rows get noise, and which of them share it."""
        import torch

        if len(resid) == self.n_rows and self.rows.device == resid.device:
            return
        ids = self.batch.sample_ids(resid)
        sigmas = spread_sigma(self._asked, len(resid))
        self.n_rows, self._drawn_for = len(resid), None
        rows = sigmas.nonzero()[:, 0]
        ids = ids[rows]
        # Rows of one sample at one position share their noise: draw it for any one of them, hand it to all.
        unique, group = ids.unique(return_inverse=True)
        leader = torch.empty_like(unique).scatter_(0, group, torch.arange(len(ids)))
        self.rows, self.sigma, self.ids, self.group, self.leader = (
            part.to(resid.device) for part in (rows, sigmas[rows, None, None], ids, group, leader)
        )

    def _locate(self, resid: Tensor, given: Int[Tensor, "batch pos"]) -> None:
        """Find out once per forward pass where its tokens lie and whether rows of one sample lie alike."""
        import torch

        if given is self._drawn_for:
            return
        here = given.to(resid.device)[self.rows]
        self._shared = len(self.leader) < len(self.ids) and torch.equal(here, here[self.leader][self.group])
        drawn = self.leader if self._shared else torch.arange(len(self.ids), device=resid.device)
        self._real = (here >= 0)[:, :, None]
        self._at = here[drawn].clamp(min=0).flatten()
        self._ids = self.ids[drawn, None].expand(-1, here.shape[1]).flatten()
        self._drawn_for = given


def check_hooked(model: CausalModel, purpose: str) -> None:
    """Raise unless the model can be stopped before its unembedding and started between blocks."""
    from transformer_lens import HookedTransformer

    if not isinstance(model, HookedTransformer):
        kind = type(model).__name__
        raise ConfigError(f"{purpose} needs a HookedTransformer, not {kind}: load(…, backend='hooked').")


def check_layers(layers: Layers, n_layers: int, scales: Scales | None = None) -> list[int]:
    given = list(_read_layers(layers, n_layers, scales)) if isinstance(layers, Iterable) else [layers]
    try:
        chosen = [operator.index(layer) for layer in given if not isinstance(layer, bool)]
    except TypeError:
        chosen = []
    if not chosen or len(chosen) < len(given) or not 0 <= min(chosen) <= max(chosen) < n_layers:
        raise ConfigError(f"Layers are whole numbers from 0 to {n_layers - 1}, at least one; got {given}.")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"Each layer can be named once, got {chosen}.")
    if max(chosen) > MAX_LAYER:
        raise ConfigError(f"Layers beyond {MAX_LAYER} have no place in the noise's counter.")
    return chosen


def _read_layers(layers: Layers, n_layers: int, scales: Scales | None) -> Iterable[int]:
    """Return the blocks that a name or a stretch such as `4-8` stands for."""
    if not isinstance(layers, str):
        return layers
    if scales is not None:
        named = scales if isinstance(scales, Mapping) else scales.scales()
        if layers.lower() not in named:
            raise ConfigError(unknown_name("scale", layers, tuple(named)))
        return named[layers.lower()]
    if layers.lower() in SCALES:
        raise ConfigError(
            f"Which blocks are '{layers}' is for a detection to say: give scales=result, "
            f"layers=result.scales()['{layers.lower()}'], or blocks such as range(4, 9)."
        )
    return [block for blocks in parse_scales(layers, n_layers).values() for block in blocks]


def describe_layers(layers: Sequence[int]) -> str:
    """Return `after blocks 4-8`, or `after block 3`; blocks that are no stretch, one by one."""
    listed = sorted(layers)
    if listed == list(range(listed[0], listed[-1] + 1)):
        return f"after {describe_blocks(range(listed[0], listed[-1] + 1))}"
    return f"after blocks {', '.join(map(str, listed))}"


def describe_sigma(sigma: Any) -> str:
    """Return `σ = 0.1`, or the range of several."""
    import torch

    found = torch.as_tensor(sigma)
    low, high = float(found.min()), float(found.max())
    return f"σ = {low:g}" if low == high else f"σ = {low:g} … {high:g} by row"


def _check_roots(roots: Mapping[int, Tensor] | None, layers: Sequence[int]) -> Mapping[int, Tensor] | None:
    if roots is not None and (missing := [layer for layer in layers if layer not in roots]):
        raise ConfigError(f"The roots lack layers {missing}.")
    return roots


def _check_unit(unit: Any, layers: Sequence[int]) -> Literal["token"] | dict[int, float]:
    if isinstance(unit, str):
        if unit != "token":
            raise ConfigError(unknown_name("unit", unit, ("token",)) + " Numbers and mappings from layers also go.")
        return "token"
    if isinstance(unit, Mapping):
        missing = [layer for layer in layers if layer not in unit]
        if missing:
            raise ConfigError(f"The units lack layers {missing}. Measure them with activation_units.")
        found: dict[int, Any] = {layer: unit[layer] for layer in layers}
    else:
        found = dict.fromkeys(layers, unit)
    try:
        numbers = {layer: float(value) for layer, value in found.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"A unit is 'token', a number or a mapping from layers to numbers, got {unit!r}.") from None
    if not all(math.isfinite(value) and value > 0 for value in numbers.values()):
        raise ConfigError(f"Units are finite and above 0, got {list(numbers.values())}.")
    return numbers


def check_sigma(sigma: Any, n_rows: int | None) -> Float[Tensor, "*batch"]:
    """Return σ as one number, or as one for each of the rows, however many there will be."""
    import torch

    try:
        found = torch.as_tensor(sigma, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"sigma is a number or one number for each row, got {sigma!r}.") from None
    if found.ndim > 1 or not found.numel():
        raise ConfigError(f"sigma is a number or one number for each row, got shape {list(found.shape)}.")
    if not bool((torch.isfinite(found) & (found >= 0)).all()):
        raise ConfigError(f"sigma is finite and not negative, got {found.tolist() if found.ndim else float(found)}.")
    if n_rows is not None:
        spread_sigma(found, n_rows)
    return found.clone()


def spread_sigma(sigma: Float[Tensor, "*batch"], n_rows: int) -> Float[Tensor, "batch"]:
    """Return one σ for each row."""
    if sigma.ndim and len(sigma) != n_rows:
        raise ConfigError(f"sigma is a number or one number for each of {n_rows} rows, got shape {list(sigma.shape)}.")
    return sigma.expand(n_rows)
