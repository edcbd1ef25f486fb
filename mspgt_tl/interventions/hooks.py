"""What hook lists share: how they show themselves, whose the rows of a pass are, and where its tokens lie.

A hook sees a tensor, not where in the text it lies. So a list finds out by itself: beside its other hooks it has one on
the attention scores of its first block, which look at no key that is padding and have as many keys as the text has
tokens so far. That serves single passes, padded on either side, and decoding over a KV cache, by whatever loop. Where
the caller knows the positions, `positions` saves the look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mspgt_tl.cards import card
from mspgt_tl.contracts import CausalModel
from mspgt_tl.errors import DataError
from mspgt_tl.interventions import philox

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

Hook: TypeAlias = tuple[str, Callable[..., Any]]

USES = "for model.run_with_hooks(…, fwd_hooks=…), model.hooks(fwd_hooks=…) and mspgt_tl.generate(…, hooks=…)"


class HookList(list[Hook]):
    """An ordinary list of TransformerLens hooks that can tell what it does; added to other lists, it still can."""

    def __init__(self, hooks: Iterable[Hook], told: Sequence[str]) -> None:
        super().__init__(hooks)
        self.told = tuple(told)
        """What the hooks do, a line each."""

    def __add__(self, other: list[Any]) -> HookList:
        return HookList([*self, *other], [*self.told, *_tell(other)])

    def __radd__(self, other: list[Any]) -> HookList:
        return HookList([*other, *self], [*_tell(other), *self.told])

    def __repr__(self) -> str:
        return f"HookList of {len(self)} hooks, {USES}:\n" + "\n".join(f"  {line}" for line in self.told)

    def _repr_html_(self) -> str:
        return card(f"{len(self)} hooks {USES}", [f"· {line}" for line in self.told])


def _tell(hooks: list[Any]) -> Sequence[str]:
    if isinstance(hooks, HookList):
        return hooks.told
    return [f"one's own at {name}" if isinstance(name, str) else "one's own" for name, _ in hooks]


class Positions:
    """Absolute positions of the tokens in the current forward pass; -1 marks padding.

    Hook lists find these by themselves. Give them where your own loop knows them, which saves the look, or where a pass
    does not go through the attention of the list's first block. They start with the prompts and stay there until told
    to move on, so a hook list made with them works over the prompt and then over every decoding step::

        positions = Positions.from_mask(mask)
        hooks = noise_hooks(model, layers, sigma, positions=positions)
        with model.hooks(fwd_hooks=hooks):
            model(prompts, attention_mask=mask, past_kv_cache=cache)
            positions.advance()
            model(next_tokens, attention_mask=ones, past_kv_cache=cache)

    Where the loop is not your own, `positions.hook()` before the others moves on at the second and every later forward
    pass. `reset` goes back to the prompts.

    See Also:
        noise_hooks: takes them as `positions`.

    Example:
        >>> import torch
        >>> Positions.from_mask(torch.tensor([[0, 1, 1], [1, 1, 1]])).current
        tensor([[-1,  0,  1],
                [ 0,  1,  2]])
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
        return cls(_count(mask.bool()))

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


class Batch:
    """Whose the rows of a pass are, and where its tokens lie: as given, or found in the pass itself."""

    def __init__(
        self,
        model: CausalModel,
        layers: Sequence[int],
        sample_ids: Sequence[int] | Int[Tensor, "batch"] | None,
        positions: Positions | Int[Tensor, "batch pos"] | None,
    ) -> None:
        self.given_ids = None if sample_ids is None else philox.read_ids(sample_ids)
        self.given = positions if isinstance(positions, Positions | None) else Positions(positions)
        known = [len(rows) for rows in (self.given_ids, self.given and self.given.current) if rows is not None]
        if len(set(known)) > 1:
            raise DataError(f"{known[0]} sample ids came with positions of {known[1]} rows.")
        self.n_rows = known[0] if known else None
        """How many rows every pass has to have; None where any number will do."""
        self.first = min(layers)
        self.is_windowed = bool(getattr(model.cfg, "use_local_attn", False)) or bool(
            getattr(model.cfg, "sliding_window", None)
        )
        self._is_token: Tensor | None = None
        self._found: Tensor | None = None
        self._last = self.first

    def hooks(self) -> list[Hook]:
        """Return the hook that looks at the attention scores; none where positions were given."""
        return [] if self.given is not None else [(f"blocks.{self.first}.attn.hook_attn_scores", self._look)]

    def sample_ids(self, resid: Float[Tensor, "batch pos d_model"]) -> Int[Tensor, "batch"]:
        """Return the id of every row, its number in the batch unless given.

        Raises:
            DataError: there are more or fewer rows than ids.
        """
        import torch

        if self.n_rows not in (None, len(resid)):
            raise DataError(f"Hooks made for {self.n_rows} rows met a batch of {len(resid)} rows.")
        return torch.arange(len(resid)) if self.given_ids is None else self.given_ids

    def positions(self, resid: Float[Tensor, "batch pos d_model"], layer: int) -> Int[Tensor, "batch pos"]:
        """Return where the tokens of this pass lie, the same object throughout the pass.

        Raises:
            DataError: they do not fit this pass, or it did not go through the first block.
        """
        if self.given is None:
            if self._found is None or layer <= self._last:
                raise DataError(
                    f"Where this pass lies in the text is read off block {self.first}'s attention scores, and the pass "
                    "did not go through them. Start at or below that block, or give positions=Positions.from_mask(…)."
                )
            self._last = layer
        here = self._found if self.given is None else self.given.current
        if here is None or here.shape != resid.shape[:2]:
            raise DataError(
                f"Positions are {[] if here is None else list(here.shape)}, the forward pass is "
                f"{list(resid.shape[:2])}. Positions that are given have to be advanced with every step."
            )
        return here

    def _look(self, scores: Float[Tensor, "batch head query key"], hook: Any) -> None:
        """Find positions anew at the start of a pass."""
        import torch

        n_new, n_keys = scores.shape[2:]
        # What is kept for later passes must serve one with gradients too.
        with torch.inference_mode(False):
            if n_new < n_keys and self.is_windowed:
                self._is_token = self._go_on(scores)
            else:
                self._is_token = self._see_tokens(scores)
            self._found, self._last = _count(self._is_token)[:, -n_new:], -1

    def _see_tokens(self, scores: Float[Tensor, "batch head query key"]) -> Bool[Tensor, "batch key"]:
        """Return which keys are looked at by any query of any head. Padding is looked at by none."""
        import torch

        floor = torch.finfo(scores.dtype).min / 2
        highest = scores.detach().amax((1, 2))
        if scores.shape[2] > 1 and bool((scores[..., 0, -1] > floor).any()):
            raise DataError(
                f"Block {self.first} shows its attention without the mask, so padding cannot be told from tokens: "
                "give positions=Positions.from_mask(mask)."
            )
        return ~(highest <= floor)  # nan, which damaged activations give, is no padding

    def _go_on(self, scores: Float[Tensor, "batch head query key"]) -> Bool[Tensor, "batch key"]:
        """Return the tokens of earlier passes and the new ones: a sliding window does not show all of them."""
        import torch

        (n_rows, _, n_new, n_keys), known = scores.shape, self._is_token
        if known is None or len(known) != n_rows or known.shape[1] + n_new < n_keys:
            raise DataError(
                f"This pass goes on after {n_keys - n_new} tokens that these hooks have not seen, and attention with a "
                "sliding window does not show all of them: use the hooks from the prompt on, or give positions=…"
            )
        return torch.cat([known.to(scores.device), known.new_ones(n_rows, n_new, device=scores.device)], 1)


def _count(is_token: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    return (is_token.long().cumsum(-1) - 1).masked_fill(~is_token, -1)
