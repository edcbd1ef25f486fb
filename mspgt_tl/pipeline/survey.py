"""One table of all embedded models: how well each was trained, what can be read from it, and what a detection found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.cards import MISSING, markdown, number
from mspgt_tl.contracts import TASK, TASKS
from mspgt_tl.errors import StoreError
from mspgt_tl.models.embedded import list_embedded
from mspgt_tl.pipeline.detection import Detection, load_run
from mspgt_tl.store import MANIFEST

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

TWIN = "@random:"


def survey_models(runs: Path) -> pd.DataFrame:
    """Join the model cards with the detections found in the subfolders of `runs`.

    Columns: `model`, `tokens`, `loss`, `bigram`, `unigram` (nats per token), `bits/byte`; for every probe task the
    macro-F1 of the best layer and its gain over the best layer of a random-weight twin of the same architecture;
    `boundaries` with 95 % intervals, p-values and verdicts. What no run says is None.

    Raises:
        StoreError: no finished detection of an embedded model is there.
    """
    import pandas as pd

    found = _read_runs(runs)
    cards = list_embedded()
    if not any(card["name"] in found for card in cards):
        raise StoreError(
            f"{runs} holds no finished detection of an embedded model. `mspgt detect NAME --out {runs}/NAME`."
        )
    rows = []
    for card in cards:
        row: dict[str, Any] = {"model": card["name"], "tokens": card["tokens"], "loss": card["validation_loss"]}
        row |= {"bigram": card["bigram_loss"], "unigram": card["unigram_loss"], "bits/byte": card["bits_per_byte"]}
        own = found.get(card["name"])
        twin = _find_twin(found, card["architecture"])
        for task in TASKS:
            f1, chance = best_f1(None if own is None else own.data, task), best_f1(twin, task)
            row[f"F1 {task}"] = f1
            row[f"gain {task}"] = None if f1 is None or chance is None else f1 - chance
        rows.append(row | {"boundaries": None if own is None else _describe(own)})
    twins = [
        {"model": name, **{f"F1 {task}": best_f1(run.data, task) for task in TASKS}, "boundaries": _describe(run)}
        for name, run in sorted(found.items())
        if TWIN in name
    ]
    return pd.DataFrame([*rows, *twins])


def _read_runs(runs: Path) -> dict[str, Detection]:
    found = {}
    for folder in sorted(path.parent for path in Path(runs).glob(f"*/{MANIFEST}")):
        try:
            run = load_run(folder)
        except StoreError:
            continue  # unfinished, or of another kind
        found[run.manifest["identity"]["model"]["name"]] = run
    return found


def _find_twin(found: Mapping[str, Detection], architecture: str) -> xr.Dataset | None:
    """Return the result of a random twin of the architecture: a run of its own, or a null beside a model's run."""
    for name, run in found.items():
        if name.startswith(f"{architecture}{TWIN}"):
            return run.data
    for name, run in found.items():
        if name.partition("@")[0] == architecture:
            for null, data in run.nulls.items():
                if null.startswith("random-"):
                    return data
    return None


def best_f1(data: xr.Dataset | None, task: str) -> float | None:
    """Return the MLP probes' highest macro-F1 over layers; None without a result, or without a score for the task."""
    if data is None or task not in data[TASK].values:
        return None
    f1 = data["f1"].sel({TASK: task}).sel(kind="mlp").values
    return float(np.nanmax(f1)) if np.isfinite(f1).any() else None


def _describe(run: Detection) -> str:
    found = run.found
    places = []
    for i, gap in enumerate(found.boundaries):
        interval, p = found.intervals[i], found.p_values[i]
        where = f"{gap} [{interval[0]:.0f}, {interval[1]:.0f}]" if np.isfinite(interval).all() else str(gap)
        chance = f" (p = {p:.2f})" if np.isfinite(p) else ""
        places.append(f"{where}{chance}: {found.verdicts[i]}")
    return "; ".join(places) or "none"


def as_markdown(table: pd.DataFrame) -> str:
    """Return the survey as two Markdown tables: training and probes, and boundaries."""
    quality = ["model", "tokens", "loss", "bigram", "unigram", "bits/byte"]
    probes = ["model", *(f"F1 {task}" for task in TASKS), *(f"gain {task}" for task in TASKS)]
    trained = table[table["tokens"].notna()]
    return "\n\n".join(
        [_markdown(trained[quality]), _markdown(table[probes]), _markdown(table[["model", "boundaries"]])]
    )


def _markdown(table: pd.DataFrame) -> str:
    rows = ([_cell(str(name), value) for name, value in row.items()] for row in table.to_dict("records"))
    return markdown(map(str, table.columns), rows)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if name == "tokens":
        return number(value / 1e6, ".1f") + " M" if value == value else MISSING
    return number(value, "+.2f" if name.startswith("gain") else ".2f" if name.startswith("F1") else ".3f")
