"""The tables of a sweep: conditions, comparisons with the undisturbed one, and the paper's Table 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mspgt_tl.config import InterveneConfig
from mspgt_tl.interventions.sweep import CLEAN, Condition
from mspgt_tl.stats import PairedEffect, correct_p_values, paired_effect

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

PAPER_METRICS = {
    "self_bleu": "Diversity (Self-BLEU)",
    "sentence_length_variance": "Structure (Var)",
    "type_token_ratio": "Lexical (TTR)",
    "prompt_coherence": "Coherence (SBERT)",
    "languagetool": "Grammaticality (LanguageTool)",
}
"""The paper's five metrics, as its Table 2 heads them; with the scales they make the confirmatory family."""


def compare_conditions(
    conditions: Sequence[Condition], measured: Mapping[str, xr.Dataset], config: InterveneConfig
) -> pd.DataFrame:
    """Compare every condition with the clean one, sample by sample, and correct for the number of tests.

    The confirmatory family is the paper's: its five metrics at each scale, at the compared level of the main dose;
    their permutation p-values are corrected by Holm's method, all others by Benjamini and Hochberg's.
    """
    import pandas as pd

    rows = []
    for name, data in measured.items():
        clean = data.sel(condition=CLEAN)
        for condition in conditions:
            if condition.name == CLEAN:
                continue
            own = data.sel(condition=condition.name)
            effect = paired_effect(
                clean["per_sample"].values, own["per_sample"].values, seed=config.seed, resamples=config.resamples
            )
            reason = " ".join(filter(None, [effect.reason, str(own["reason"].values)]))
            rows.append(
                {
                    "metric": name,
                    "condition": condition.name,
                    "scale": condition.scale,
                    "dose": condition.dose,
                    "level": condition.level,
                    "sigma": condition.sigma,
                    "is_control": condition.is_control,
                    "confirmatory": name in PAPER_METRICS
                    and not condition.is_control
                    and (condition.dose, condition.level) == (config.dose, config.compared_level),
                    **{
                        field: getattr(effect, field)
                        for field in PairedEffect.__dataclass_fields__
                        if field != "reason"
                    },
                    "reason": reason,
                }
            )
    table = pd.DataFrame(rows)
    corrected = np.full(len(table), np.nan)
    confirmatory = table["confirmatory"].to_numpy(dtype=bool)
    p_values = table["permutation_p"].to_numpy(dtype=float)
    corrected[confirmatory] = correct_p_values(p_values[confirmatory], "holm")
    corrected[~confirmatory] = correct_p_values(p_values[~confirmatory], "fdr_bh")
    table["p_corrected"] = corrected
    table["correction"] = np.where(confirmatory, "Holm", "Benjamini-Hochberg")
    return table


def arrange_table_2(statistics: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return the confirmatory changes as the paper's Table 2 lays them out: scales by metrics, in per cent.

    A star marks a corrected p below 0.05; a dash, what could not be computed.
    """
    import pandas as pd

    chosen = statistics[statistics["confirmatory"]]
    cells = {(row["scale"], row["metric"]): _change_text(row) for row in chosen.to_dict("records")}
    scales = list(dict.fromkeys(chosen["scale"]))
    columns = {title: [cells.get((scale, name), "–") for scale in scales] for name, title in PAPER_METRICS.items()}
    table = pd.DataFrame(columns, index=pd.Index([s.capitalize() for s in scales], name="Scale"))
    table.attrs["level"] = level
    return table


def _change_text(row: Mapping[Any, Any]) -> str:
    if not math.isfinite(row["change"]):
        return "–"
    return f"{row['change']:+.2f}%{'*' if row['p_corrected'] < 0.05 else ''}"


def pack_conditions(conditions: Sequence[Condition]) -> xr.Dataset:
    """Return conditions as arrays for the store; blocks as `3-5`."""
    import xarray as xr

    columns = {field: [getattr(c, field) for c in conditions] for field in Condition.__dataclass_fields__}
    columns["blocks"] = [f"{c.blocks[0]}-{c.blocks[-1]}" if c.blocks else "" for c in conditions]
    return xr.Dataset({name: ("condition", values) for name, values in columns.items()})


def conditions_table(data: xr.Dataset) -> pd.DataFrame:
    """Return stored conditions, one row each."""
    table = data.to_dataframe().reset_index(drop=True)
    table["is_control"] = table["is_control"].astype(bool)
    return table


def read_condition(row: Mapping[Any, Any]) -> Condition:
    """Return the condition of a row of `conditions_table`."""
    first, _, last = str(row["blocks"]).partition("-")
    blocks = tuple(range(int(first), int(last) + 1)) if first else ()
    return Condition(**{**row, "blocks": blocks})
