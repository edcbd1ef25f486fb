"""Where work happens: sizes of memory, and what the processor can do."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
import torch

from mspgt_tl.errors import ConfigError
from mspgt_tl.models.placement import has_bfloat16, memory_budget


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """The processor is asked once a process; these tests ask again, and leave no answer behind."""
    has_bfloat16.cache_clear()
    yield
    has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("given", "expected"), [("8GB", 8e9), ("500 MB", 5e8), ("1.5gib", 1.5 * 2**30), ("1000", 1e3), (2e9, 2e9)]
)
def test_sizes_are_read_with_their_units(given: str | float, expected: float) -> None:
    """Powers of ten for GB, of two for GiB, bytes without a unit."""
    assert memory_budget(given) == expected


@pytest.mark.parametrize("given", ["8 apples", "GB", "-1GB", "0", "1.2.3GB", 0, -5, float("nan"), ""])
def test_what_is_no_size_is_refused(given: str | float) -> None:
    """The message says what a size looks like."""
    with pytest.raises(ConfigError, match="such as 8GB"):
        memory_budget(given)


def test_default_does_not_depend_on_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the machine's, so that equal runs group layers alike."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 8e9, "available": 1e9}))
    assert memory_budget() == 2e9


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("known", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False)],
)
def test_bfloat16_is_for_processors_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], expected: bool
) -> None:
    """Elsewhere torch would widen every number first."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert has_bfloat16() is expected
