"""Dataclasses as labelled arrays and back: every field says once over which axes and under which name it is stored.

Tuples become arrays, `None` among numbers nan; texts and settings become attributes of the whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

T = TypeVar("T")
AXES, NAME, TOLD = "axes", "name", "told"


def stored(*axes: str, name: str = "", **told: str) -> dict[str, Any]:
    """Return the metadata of a field that is stored as an array over these axes, by default under its own name.

    Args:
        told: what the array says of itself: `long_name`, `units`.
    """
    return {AXES: axes, NAME: name, TOLD: told}


def pack(value: Any) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """Return the variables of an xarray dataset, and its attributes: the fields that name no axes."""
    variables, attributes = {}, {}
    for field in dataclasses.fields(value):
        found, name = getattr(value, field.name), field.metadata.get(NAME) or field.name
        if AXES not in field.metadata:
            attributes[name] = json.dumps(found) if isinstance(found, tuple) else found
            continue
        variables[name] = (field.metadata[AXES], _as_array(found, str(field.type)), dict(field.metadata[TOLD]))
    return variables, attributes


def pack_all(axis: str, values: Iterable[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the variables of several values of one kind, stacked over an axis of their own."""
    packed = [pack(value)[0] for value in values]
    return {
        name: ((axis, *axes), np.stack([one[name][1] for one in packed]), told)
        for name, (axes, _, told) in packed[0].items()
    }


def unpack(kind: type[T], dataset: xr.Dataset, **given: Any) -> T:
    """Return the dataclass that a dataset holds; `given` stands in for fields that it lacks."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        name, written = field.metadata.get(NAME) or field.name, str(field.type)
        if AXES not in field.metadata and name in dataset.attrs:
            found = dataset.attrs[name]
            is_tuple = written.startswith("tuple[")
            values[field.name] = tuple(json.loads(found)) if is_tuple else int(found) if written == "int" else found
        elif name in dataset:
            values[field.name] = _as_value(dataset[name].to_numpy(), written)
    return kind(**(given | values))


def _as_array(value: Any, written: str) -> np.ndarray:
    if written.startswith("tuple[int | None"):
        return np.array([np.nan if item is None else item for item in value], dtype=np.float64)
    kinds = {"tuple[int": np.int64, "tuple[str": str, "tuple[bool": bool}
    return np.asarray(value, dtype=next((kind for start, kind in kinds.items() if written.startswith(start)), None))


def _as_value(array: np.ndarray, written: str) -> Any:
    if written.startswith("tuple[int | None"):
        return tuple(None if np.isnan(item) else int(item) for item in array)
    return tuple(array.tolist()) if written.startswith("tuple[") else float(array) if written == "float" else array
