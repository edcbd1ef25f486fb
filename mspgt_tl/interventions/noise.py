"""Noise on the residual stream after chosen blocks, as plain TransformerLens hooks (docs/method.md; eq. 7, P).

Each hook adds σ·s·ε to `blocks.{l}.hook_resid_post`, ε ~ N(0, I) a pure function of (seed, sample id, layer, absolute
position, channel): the same whatever else is in the batch, however it is padded, and with or without a KV cache. Rows
with the same sample id get the same ε, so conditions that differ in σ alone are paired; ε is then drawn once for all of
them. A row with σ = 0 is left as it is, bit for bit.

A hook sees a tensor, not where in the text it lies. That is told by `positions`: a tensor for a single forward pass, or
a `Positions`, which moves on as decoding does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mspgt_tl.config import StreamConfig
from mspgt_tl.contracts import CausalModel, TextCorpus
from mspgt_tl.errors import ConfigError, CorpusError, DataError, unknown_name
from mspgt_tl.interventions import philox
from mspgt_tl.passes.corpus import stream, usable_sentences
from mspgt_tl.passes.folds import Blocks

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int
    from torch import Tensor

Hook: TypeAlias = tuple[str, Callable[..., Any]]
Scale: TypeAlias = "Literal['token'] | float | Mapping[int, float]"

MAX_LAYER = 0xFFFF
MANTISSA_BITS = 10
"""Of a norm's float32 pattern, as many decide its bin: bins are at most 0.1 % wide."""


class Positions:
    """Absolute positions of the tokens in the current forward pass; -1 marks padding.

    It starts with the prompts and stays there until told to move on, so a hook list made with it works over the prompt
    and then over every decoding step:

        positions = Positions.from_mask(mask)
        hooks = noise_hooks(model, layers, sigma, seed=0, sample_ids=ids, positions=positions)
        with model.hooks(fwd_hooks=hooks):
            model(prompts, attention_mask=mask, past_kv_cache=cache)
            positions.advance()
            model(next_tokens, attention_mask=ones, past_kv_cache=cache)

    Where the loop is not your own (`model.generate`), put `positions.hook()` before the others: it moves on at the
    second and every later forward pass. `reset` goes back to the prompts.
    """

    def __init__(self, prompts: Int[Tensor, "batch pos"]) -> None:
        import torch

        if prompts.ndim != 2 or prompts.dtype.is_floating_point or not prompts.numel() or int(prompts.min()) < -1:
            raise DataError(
                "Positions are whole numbers [batch, pos], -1 on padding; "
                f"got {prompts.dtype} of shape {list(prompts.shape)}."
            )
        self._prompts = prompts.to(torch.int64)
        self.reset()

    @classmethod
    def from_mask(cls, mask: Int[Tensor, "batch pos"]) -> Positions:
        """Count the tokens of each row from 0; padding may lie on either side."""
        kept = mask.long()
        return cls((kept.cumsum(-1) - 1).masked_fill(kept == 0, -1))

    @property
    def current(self) -> Int[Tensor, "batch pos"]:
        """Positions in the current forward pass; the same object until they change."""
        return self._current

    @property
    def next(self) -> Int[Tensor, "batch"]:
        """Position of the token that follows the current ones."""
        return self._current.amax(-1) + 1

    def advance(self, n_new: int = 1) -> None:
        """Move on to a forward pass over the next `n_new` tokens."""
        import torch

        self._current = self.next[:, None] + torch.arange(n_new, device=self._current.device)

    def reset(self) -> None:
        """Go back to the prompts."""
        self._current, self._awaits_prompts = self._prompts, True

    def hook(self) -> Hook:
        """Return a hook that moves on by itself, at the start of every forward pass but the first after a reset."""
        # Not `hook_embed`: TransformerLens's own `generate` embeds outside the forward pass.
        return "blocks.0.hook_resid_pre", self._follow

    def _follow(self, resid: Tensor, hook: Any) -> None:
        if not self._awaits_prompts:
            self.advance(resid.shape[1])
        self._awaits_prompts = False


def noise_hooks(
    model: CausalModel,
    layers: Iterable[int],
    sigma: float | Sequence[float] | Float[Tensor, "batch"],
    *,
    seed: int,
    sample_ids: Sequence[int] | Int[Tensor, "batch"],
    positions: Positions | Int[Tensor, "batch pos"] | None = None,
    scale: Scale = "token",
    roots: Mapping[int, Float[Tensor, "d_model d_model"]] | None = None,
) -> list[Hook]:
    """Return hooks that add σ·s·ε after every block in `layers`, at every token that is not padding.

    The list is as good as one written by hand: for `model.run_with_hooks(tokens, fwd_hooks=…)`,
    `model.hooks(fwd_hooks=…)` and decoding, alone or together with other hooks. It belongs to one batch of rows.

    Args:
        layers: blocks to disturb, such as `range(4, 9)`.
        sigma: relative size of the noise, one for all rows or one for each; 0 leaves a row alone.
        sample_ids: which sample each row is. Rows with equal ids get equal ε.
        positions: see `Positions`. None: every forward pass starts at position 0, which holds for single passes
            without padding or with padding on the right (whose values no token ever sees).
        scale: what σ is relative to. `token`: the token's own ‖h‖/√d_model, the root mean square of its entries. A
            number, or one for each layer as from `activation_scales`: the same for all tokens.
        roots: one matrix for each layer, by which ε is multiplied: `ActivationBank.roots` gives the noise the
            directions of the activations themselves instead of all directions alike (N).

    Raises:
        ConfigError: a layer does not exist, or sigma, scale or seed is unusable.
        DataError: sample ids or positions do not fit the rows.
    """
    chosen = check_layers(layers, int(model.cfg.n_layers))
    noise = _Noise(sigma, seed, sample_ids, positions, _check_scale(scale, chosen), _check_roots(roots, chosen))
    return [(f"blocks.{layer}.hook_resid_post", partial(noise.add, layer=layer)) for layer in chosen]


class _Noise:
    """What the hooks of one list share: who the rows are, where they are, and how much noise each gets."""

    def __init__(
        self,
        sigma: Any,
        seed: int,
        sample_ids: Any,
        positions: Positions | Tensor | None,
        scale: Literal["token"] | dict[int, float],
        roots: Mapping[int, Tensor] | None,
    ) -> None:
        import torch

        philox.check_seed(seed)
        ids = philox.read_ids(sample_ids)
        self.seed, self.scale, self.roots, self.n_rows = seed, scale, roots, len(ids)
        self.positions = positions if isinstance(positions, Positions | None) else Positions(positions)
        if self.positions is not None and len(self.positions.current) != self.n_rows:
            raise DataError(f"{self.n_rows} sample ids came with positions of {len(self.positions.current)} rows.")
        sigmas = check_sigma(sigma, self.n_rows)
        self.rows = sigmas.nonzero()[:, 0]
        self.sigma = sigmas[self.rows, None, None]
        self.ids = ids[self.rows]
        # Rows of one sample at one position share their noise: draw it for any one of them, hand it to all.
        unique, self.group = self.ids.unique(return_inverse=True)
        self.leader = torch.empty_like(unique).scatter_(0, self.group, torch.arange(len(self.ids)))
        self._drawn_for: Tensor | None = None
        self._passes = SinglePasses(self.n_rows)

    def add(self, resid: Float[Tensor, "batch pos d_model"], hook: Any, *, layer: int) -> Tensor:
        """Return the stream with noise; the hook function."""
        import torch

        if resid.shape[0] != self.n_rows:
            raise DataError(f"Noise hooks made for {self.n_rows} sample ids met a batch of {resid.shape[0]} rows.")
        if not len(self.rows):
            return resid
        # What is kept for later passes must serve one with gradients too.
        with torch.inference_mode(False):
            self._locate(resid)
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
        if isinstance(self.scale, str):
            size = size * (torch.linalg.vector_norm(clean, dim=-1, keepdim=True) / math.sqrt(width))
        else:
            size = size * self.scale[layer]
        # Padding may hold anything, so it is not multiplied by zero but left out.
        noised = torch.where(self._real, torch.addcmul(clean, size, epsilon), clean).to(resid.dtype)
        if everyone:
            return noised
        out = resid.clone()
        out[self.rows] = noised
        return out

    def _locate(self, resid: Tensor) -> None:
        """Find out once per forward pass where its tokens lie and which rows share their noise."""
        import torch

        if self.rows.device != resid.device:
            for name in ("rows", "sigma", "ids", "group", "leader"):
                setattr(self, name, getattr(self, name).to(resid.device))
        given = self._passes.positions(resid) if self.positions is None else self.positions.current
        if given.shape != resid.shape[:2]:
            raise DataError(
                f"Positions are {list(given.shape)}, the forward pass is {list(resid.shape[:2])}. "
                "When decoding, give positions=Positions(...) and advance it with every step."
            )
        if given is self._drawn_for:
            return
        here = given.to(resid.device)[self.rows]
        self._shared = len(self.leader) < len(self.ids) and torch.equal(here, here[self.leader][self.group])
        drawn = self.leader if self._shared else torch.arange(len(self.ids), device=resid.device)
        self._real = (here >= 0)[:, :, None]
        self._at = here[drawn].clamp(min=0).flatten()
        self._ids = self.ids[drawn, None].expand(-1, here.shape[1]).flatten()
        self._drawn_for = given


class SinglePasses:
    """Positions where none are given: every forward pass starts anew at 0. One that cannot is refused."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows, self._widest = n_rows, 0
        self._last: Tensor | None = None

    def positions(self, resid: Float[Tensor, "batch pos d_model"]) -> Int[Tensor, "batch pos"]:
        """Return positions 0 … n-1, the same object for the same shape.

        Raises:
            DataError: a pass over one token follows a longer one.
        """
        import torch

        n_pos = resid.shape[1]
        if n_pos == 1 and self._widest > 1:
            raise DataError(
                "A pass over one token followed a longer one: it looks like decoding over a KV cache, where positions "
                "go on. Give positions=Positions(...), or make new hooks for a text of one token."
            )
        self._widest = max(self._widest, n_pos)
        if self._last is None or self._last.shape[1] != n_pos:
            self._last = torch.arange(n_pos, device=resid.device).expand(self.n_rows, -1)
        return self._last


def activation_scales(
    model: CausalModel,
    corpus: TextCorpus | Sequence[str],
    kind: Literal["robust", "std"] = "robust",
    *,
    config: StreamConfig | None = None,
) -> dict[int, float]:
    """Measure the activation scale s of every layer on a corpus, for `noise_hooks(scale=…)`.

    Args:
        kind: `robust` (N): the median over tokens, BOS left out, of ‖h‖/√d_model. It is read off a histogram whose bins
            are 0.1 % wide at most, so memory does not grow with the corpus, and it is within 0.1 % of the exact one.
            `std` (P): the standard deviation over all entries of the same tokens; a single outlier dimension sets it.

    Raises:
        ConfigError: unknown kind.
        CorpusError: no sentence has two tokens.
    """
    import numpy as np

    if kind not in ("robust", "std"):
        raise ConfigError(unknown_name("activation scale", str(kind), ("robust", "std")))
    settings = config or StreamConfig()
    given = corpus.sentences if isinstance(corpus, TextCorpus) else corpus
    if isinstance(given, str):
        raise DataError("A sequence of sentences is needed, not one string.")
    sentences = usable_sentences(model, list(given), settings)
    if not sentences:
        raise CorpusError("No sentence of the corpus has two tokens, so there is no activation to measure.")
    n_layers = int(model.cfg.n_layers)
    state = _NormHistogram(n_layers) if kind == "robust" else _Moments(n_layers)
    order = Blocks(np.arange(len(sentences)), 1)
    for batch in stream(model, sentences, needs=frozenset({"resid"}), blocks=order, seed=0, config=settings):
        for layer, resid in enumerate(batch.resid):
            state.observe(layer, resid[batch.is_data])
    return dict(enumerate(state.finish()))


class _NormHistogram:
    """Counts of ‖h‖/√d_model in bins of its leading float32 bits, which order positive numbers as their values do."""

    SHIFT = 23 - MANTISSA_BITS

    def __init__(self, n_layers: int) -> None:
        import numpy as np

        self.counts = np.zeros((n_layers, 1 << (31 - self.SHIFT)), np.int64)

    def observe(self, layer: int, vectors: Float[Tensor, "token d_model"]) -> None:
        import numpy as np

        norms = vectors.float().norm(dim=-1) / math.sqrt(vectors.shape[-1])
        bins, counts = np.unique(norms.cpu().numpy().view(np.int32) >> self.SHIFT, return_counts=True)
        self.counts[layer, bins] += counts

    def finish(self) -> list[float]:
        return [self._median(row) for row in self.counts]

    def _median(self, counts: np.ndarray) -> float:
        """Return the value at half of the count, bins taken as evenly filled."""
        import numpy as np

        total = counts.cumsum()
        half = int(total[-1]) / 2
        where = int(np.searchsorted(total, half))
        low, high = (np.array([where, where + 1], np.int32) << self.SHIFT).view(np.float32).tolist()
        return low + (high - low) * (half - int(total[where] - counts[where])) / int(counts[where])


class _Moments:
    """Sums of entries and of their squares."""

    def __init__(self, n_layers: int) -> None:
        self.sums = [(0, 0.0, 0.0)] * n_layers

    def observe(self, layer: int, vectors: Float[Tensor, "token d_model"]) -> None:
        exact = vectors.double()
        n, first, second = self.sums[layer]
        self.sums[layer] = n + exact.numel(), first + float(exact.sum()), second + float(exact.square().sum())

    def finish(self) -> list[float]:
        return [math.sqrt(max(0.0, second / n - (first / n) ** 2)) for n, first, second in self.sums]


def check_hooked(model: CausalModel, purpose: str) -> None:
    """Raise unless the model can be stopped before its unembedding and started between blocks."""
    from transformer_lens import HookedTransformer

    if not isinstance(model, HookedTransformer):
        kind = type(model).__name__
        raise ConfigError(f"{purpose} needs a HookedTransformer, not {kind}: load(…, backend='hooked').")


def check_layers(layers: Iterable[int], n_layers: int) -> list[int]:
    given = list(layers) if isinstance(layers, Iterable) else [layers]
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


def _check_roots(roots: Mapping[int, Tensor] | None, layers: Sequence[int]) -> Mapping[int, Tensor] | None:
    if roots is not None and (missing := [layer for layer in layers if layer not in roots]):
        raise ConfigError(f"The roots lack layers {missing}.")
    return roots


def _check_scale(scale: Any, layers: Sequence[int]) -> Literal["token"] | dict[int, float]:
    if isinstance(scale, str):
        if scale != "token":
            raise ConfigError(unknown_name("scale", scale, ("token",)) + " Numbers and mappings from layers also go.")
        return "token"
    if isinstance(scale, Mapping):
        missing = [layer for layer in layers if layer not in scale]
        if missing:
            raise ConfigError(f"The scales lack layers {missing}. Measure them with activation_scales.")
        found: dict[int, Any] = {layer: scale[layer] for layer in layers}
    else:
        found = dict.fromkeys(layers, scale)
    try:
        numbers = {layer: float(value) for layer, value in found.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"A scale is 'token', a number or a mapping from layers to numbers, got {scale!r}.") from None
    if not all(math.isfinite(value) and value > 0 for value in numbers.values()):
        raise ConfigError(f"Scales are finite and above 0, got {list(numbers.values())}.")
    return numbers


def check_sigma(sigma: Any, n_rows: int) -> Float[Tensor, "batch"]:
    import torch

    try:
        found = torch.as_tensor(sigma, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"sigma is a number or one number for each row, got {sigma!r}.") from None
    if found.ndim > 1 or (found.ndim and len(found) != n_rows):
        raise ConfigError(f"sigma is a number or one number for each of {n_rows} rows, got shape {list(found.shape)}.")
    if not bool((torch.isfinite(found) & (found >= 0)).all()):
        raise ConfigError(f"sigma is finite and not negative, got {found.tolist() if found.ndim else float(found)}.")
    return found.expand(n_rows).clone()
