"""Random numbers as a pure function of where they are used: Philox-4x32-10 (Salmon et al. 2011) in torch.

A generator without state maps a counter of four 32-bit words, under a key of two, to four random words. What a number
is for is written into its counter, so nothing depends on batch size, order, padding, KV cache, workers or resume:

    key        seed (low 32 bits), seed (high 32 bits)
    counter 0  channel // 4 (noise); 0 (sampling, donors)
    counter 1  absolute position
    counter 2  sample id
    counter 3  use << 16 | layer

`use` is `NOISE`, `SAMPLING` or `DONOR`, so that no two uses ever share a counter, whatever else they share.

Torch has no unsigned 32-bit arithmetic on every device. Words are kept in int64: the product of two words wraps modulo
2^64 in two's complement, so its low and high halves are exact after a shift and a mask. The words are the same bits on
every device; the normals are float64 inside, and what one device's logarithm or cosine rounds differently is lost when
they are cast (except for about one float32 in 10^8).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mspgt_tl.errors import DataError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

NOISE, SAMPLING, DONOR = 1, 2, 3
"""What a random number is for; part of its counter."""

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
STRETCH = 512
"""Ids that a CDF is summed over at a time."""
CHUNK = {"cpu": 1 << 14, "other": 1 << 22}
"""Counters worked on at once: on a CPU, as many as stay in its second-level cache."""


def philox4x32(counter: Int[Tensor, "4 *shape"], key: tuple[int, int]) -> Int[Tensor, "4 *shape"]:
    """Return the four random words of every counter.

    >>> import torch
    >>> [f"{int(word):08x}" for word in philox4x32(torch.zeros(4, dtype=torch.int64), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    import torch

    flat = counter.reshape(4, -1)
    even, odd = _rounds(flat[0::2].clone(), flat[1::2].clone(), key)
    return torch.stack([even[0], odd[0], even[1], odd[1]]).reshape(counter.shape)


def normal(
    seed: int,
    *,
    sample_ids: Int[Tensor, "row"],
    layer: int,
    positions: Int[Tensor, "row"],
    width: int,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "row width"]:
    """Return standard normals, one vector over channels for every pair of a sample id and a position.

    By Box–Muller from 32-bit uniforms, two normals from two words; the largest possible |value| is 6.8.
    """
    import torch

    kind, device, rows = dtype or torch.float32, sample_ids.device, len(sample_ids)
    key, groups = _key(seed), -(-width // 4)
    out = torch.empty(rows, groups * 4, dtype=kind, device=device)
    group = torch.arange(groups, device=device)
    chunk = CHUNK["cpu" if device.type == "cpu" else "other"]
    step = max(1, chunk // groups)
    for start in range(0, rows, step):
        rows_now = slice(start, start + step)
        block = out[rows_now].view(-1, groups, 2, 2)
        even = torch.empty(2, len(block), groups, dtype=torch.int64, device=device)
        odd = torch.empty_like(even)
        even[0], even[1] = group, sample_ids[rows_now, None]
        odd[0], odd[1] = positions[rows_now, None], NOISE << 16 | layer
        even, odd = _rounds(even.view(2, -1), odd.view(2, -1), key)
        # 0 < u < 1, so the logarithm is finite and below zero.
        radius = even.double().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = odd.double().add_(0.5).mul_(2 * math.pi * 2.0**-32)
        pairs = block.permute(2, 0, 1, 3).unbind(-1)
        pairs[0].copy_(torch.cos(angle).mul_(radius).view_as(pairs[0]))
        pairs[1].copy_(angle.sin_().mul_(radius).view_as(pairs[1]))
    return out[:, :width]


def uniform(
    seed: int, *, sample_ids: Int[Tensor, "row"], positions: Int[Tensor, "row"], use: int = SAMPLING
) -> Float[Tensor, "row"]:
    """Return one uniform in (0, 1), of 53 bits, for every pair of a sample id and a position."""
    import torch

    zero = torch.zeros_like(sample_ids)
    words = philox4x32(torch.stack([zero, positions, sample_ids, zero + (use << 16)]), _key(seed))
    high, low = words[0] >> 5, words[1] >> 6
    # The last bit is set, so that 0 is never drawn; 2^53 - 1 is the largest odd number, so that 1 is not either.
    return ((high << 26 | low) | 1).double().mul_(2.0**-53)


def read_ids(sample_ids: Sequence[int] | Tensor) -> Int[Tensor, "row"]:
    """Return sample ids as a tensor on the CPU, if every one fits into its counter word."""
    import torch

    try:
        ids = torch.as_tensor(sample_ids).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        ids = torch.zeros(())
    if ids.ndim != 1 or not len(ids) or ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise DataError("Sample ids are whole numbers, one for each row.")
    ids = ids.long()
    if bool(((ids < 0) | (ids > MASK)).any()):
        raise DataError(f"Sample ids lie between 0 and 2^32 - 1, got {ids.tolist()[:8]}.")
    return ids


def _key(seed: int) -> tuple[int, int]:
    return seed & MASK, seed >> 32


def _rounds(
    even: Int[Tensor, "2 counter"], odd: Int[Tensor, "2 counter"], key: tuple[int, int]
) -> tuple[Int[Tensor, "2 counter"], Int[Tensor, "2 counter"]]:
    """Return words 0 and 2, and words 1 and 3; both inputs are overwritten.

    Words 0 and 2 are multiplied together and change places in every round; instead of moving them, each round reads
    them as they lie, so rounds of one parity find them swapped. The low halves are masked once, at the end.
    """
    import torch

    product = torch.empty_like(even)
    for multipliers, keys in _constants(key, even.device):
        torch.mul(even, multipliers, out=product)
        torch.bitwise_right_shift(product, 32, out=even)
        even.bitwise_xor_(keys)
        even[0].bitwise_xor_(odd[1])
        even[1].bitwise_xor_(odd[0])
        even.bitwise_and_(MASK)
        odd, product = product, odd
    return even, odd.bitwise_and_(MASK)


@functools.lru_cache(maxsize=64)
def _constants(key: tuple[int, int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return multipliers and keys of every round as columns: small tensors that would cost as much as the rounds."""
    import torch

    found = []
    for number in range(ROUNDS):
        words = [(word + number * step) & MASK for word, step in zip(key, WEYL, strict=True)]
        # In an even round, row 0 holds word 0; its high half becomes word 2, which takes the second key.
        order = 1 if number % 2 == 0 else -1
        both = torch.tensor([MULTIPLIERS[::order], words[::-order]], device=device)[:, :, None]
        found.append((both[0], both[1]))
    return found


def categorical(shares: Float[Tensor, "row id"], uniforms: Float[Tensor, "row"]) -> Int[Tensor, "row"]:
    """Return one id a row by the inverse CDF: the first whose sum of shares exceeds the uniform's part of all.

    Sums are taken in float64 over stretches of ids, whose own are float32 as the shares are, and then within one
    stretch: a sum over every id in float64 took a third of the time of a vocabulary of 262,144 (measured).
    """
    import torch

    spare = -shares.shape[-1] % STRETCH
    parts = (torch.nn.functional.pad(shares, (0, spare)) if spare else shares).unflatten(-1, (-1, STRETCH))
    upto = parts.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = uniforms[:, None] * upto[:, -1:]  # of the sum, which rounding keeps from being exactly 1
    part = _first_above(upto, wanted)
    before = torch.where(part > 0, upto.gather(1, (part - 1).clamp(min=0)), 0)
    inside = parts[torch.arange(len(parts), device=parts.device), part[:, 0]].cumsum(-1, dtype=torch.float64)
    found = part * STRETCH + _first_above(inside, wanted - before)
    return found[:, 0].clamp(max=shares.shape[-1] - 1)  # shares of nan, told by who decodes, end beyond


def _first_above(sums: Float[Tensor, "row place"], wanted: Float[Tensor, "row 1"]) -> Int[Tensor, "row 1"]:
    """Return the first place whose sum exceeds what is wanted; where rounding leaves none, the last that adds to it."""
    import torch

    last = torch.searchsorted(sums, sums[:, -1:].contiguous())
    found = torch.searchsorted(sums, wanted, right=True).minimum(last)
    return found.clamp(max=sums.shape[1] - 1)  # nan exceeds nothing
