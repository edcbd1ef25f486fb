"""Where a model lives and in which number format, and what is said when memory runs out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from mspgt_tl.errors import ConfigError, ModelError, unknown_name

if TYPE_CHECKING:
    import torch

MEMORY_SHARE = 0.25
"""Share of the machine's memory that a run takes for what a file could hold, too, unless told otherwise. Not of
what is free: how layers are grouped moves the last digits, and equal runs should agree to the bit."""
_UNITS = {"": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device.

    Raises:
        ConfigError: there is no such device here.
    """
    import torch

    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"Unknown device '{device}'; use cpu, cuda or cuda:N.") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"Device '{device}' is not there: torch sees {torch.cuda.device_count()} CUDA devices.")
    return place


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype, by default float32 on the CPU and bfloat16 elsewhere."""
    import torch

    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(unknown_name("dtype", name, _DTYPES))
    return getattr(torch, name)


def memory_budget(memory: str | float | None = None) -> float:
    """Return bytes from a number or a text such as `8GB`; None takes a quarter of what the machine has.

    Raises:
        ConfigError: it is no size above 0.

    >>> memory_budget("1.5 GB")
    1500000000.0
    """
    import psutil

    if memory is None:
        return MEMORY_SHARE * psutil.virtual_memory().total
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]I?B|)\s*", str(memory), re.IGNORECASE)
    try:
        size = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    except (ValueError, KeyError):
        size = 0.0
    if not size > 0:
        raise ConfigError(f"A size of memory is a number of bytes, or a text such as 8GB or 500MB; got {memory!r}.")
    return size


@cache
def has_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 matrices itself (AVX512-BF16 or AMX) and torch uses that.

    Measured, `torch.bmm`: 2.5 times the rate of float32 with AVX512-BF16, 5 times with AMX. Elsewhere torch widens
    every number first, which is slower than float32. Asked once a process.
    """
    import torch

    known = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on the CPU or on an accelerator."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU allocator raises a plain RuntimeError, worded by platform.
    wordings = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in wordings)


@contextmanager
def memory_errors(name: str) -> Iterator[None]:
    """Turn running out of memory into a `ModelError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"'{name}' does not fit into memory. Use dtype='bfloat16', a smaller model, or another device."
        ) from error
