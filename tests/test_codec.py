"""Dataclasses survive being stored; what an older file lacks is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mspgt_tl.boundaries import Boundaries, find_boundaries
from mspgt_tl.codec import pack, stored, unpack


@dataclass(frozen=True)
class Toy:
    """A field of every kind."""

    gaps: tuple[int, ...] = field(metadata=stored("found", name="gap"))
    ties: tuple[int | None, ...] = field(metadata=stored("found"))
    names: tuple[str, ...] = field(metadata=stored("found"))
    flat: tuple[bool, ...] = field(metadata=stored("signal", long_name="left out"))
    limit: float = field(metadata=stored())
    curve: np.ndarray = field(metadata=stored("signal", "x"))
    seed: int
    rule: str
    reasons: tuple[str, ...]


@pytest.mark.parametrize("n", [0, 2])
def test_every_kind_of_field_comes_back(n: int, tmp_path: Path) -> None:
    """Through netCDF, empty tuples and missing ties included; names and axes are those of the metadata."""
    toy = Toy(
        (3, 8)[:n], (None, 4)[:n], ("a", "no, b")[:n], (True, False), 0.5, np.eye(2), 7, "paper", ("why", "x")[:n]
    )
    variables, attributes = pack(toy)
    xr.Dataset(variables, attrs=attributes).to_netcdf(tmp_path / "toy.nc")
    with xr.open_dataset(tmp_path / "toy.nc") as opened:
        again = unpack(Toy, opened.load())
    assert opened["gap"].dims == ("found",) and opened["flat"].attrs["long_name"] == "left out"
    np.testing.assert_array_equal(again.curve, toy.curve)
    for name in ("gaps", "ties", "names", "flat", "limit", "seed", "rule", "reasons"):
        assert getattr(again, name) == getattr(toy, name), name


def test_what_a_file_lacks_is_given() -> None:
    """A field that no variable holds takes the value given; one that is there wins over it."""
    toy = Toy((1,), (2,), ("a",), (True,), 0.5, np.ones((1, 2)), 7, "paper", ())
    variables, attributes = pack(toy)
    del variables["limit"]
    again = unpack(Toy, xr.Dataset(variables, attrs=attributes), limit=2.0, gaps=(9,))
    assert (again.limit, again.gaps) == (2.0, (1,))


def test_resampled_peaks_are_stored_as_they_were_picked() -> None:
    """Boundaries hold every resample's own peaks, which `presence` and the counts were computed from."""
    rng = np.random.default_rng(0)
    curves = 0.02 * rng.random((3, 11))
    curves[:, [3, 8]] += 1
    found = find_boundaries(curves, resampled=curves + 0.2 * rng.standard_normal((200, 3, 11)), n_null=100)
    again = unpack(Boundaries, xr.Dataset(*pack(found)[:1], attrs=pack(found)[1]))
    np.testing.assert_array_equal(again.peaks, found.peaks)
    counted = np.bincount(np.isfinite(again.peaks).sum(axis=1), minlength=3) / 200
    np.testing.assert_allclose(counted, found.peak_counts)
    assert again.boundaries == found.boundaries and again.verdicts == found.verdicts
