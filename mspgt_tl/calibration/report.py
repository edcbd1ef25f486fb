"""The published page `docs/calibration.md`: tables between fixed words, so that one command regenerates it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mspgt_tl.calibration.tables import check_targets, to_markdown

if TYPE_CHECKING:
    import pandas as pd

BEGIN, END = "<!-- tables: made by mspgt calibrate -->", "<!-- end of tables -->"


def render_tables(table: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Return all tables as Markdown."""
    identity, effort = manifest["identity"], manifest["identity"]["effort"]
    cells = table.drop_duplicates("cell")
    whole = cells[cells["group"].isin(["no boundary", "planted"])]
    targets = check_targets(table)
    states = [target.state for target in targets]
    missed = [
        f"- {t.what}, {t.cell}: {100 * t.value:.1f} % [{100 * t.low:.0f}, {100 * t.high:.0f}], "
        f"limit {100 * t.limit:.0f} %"
        for t in targets
        if t.state == "missed"
    ]
    parts = [
        f"Grid `{identity['grid']}`, seed {identity['seed']}: {int(whole['cases'].sum())} of "
        f"{int(whole['wanted'].sum())} models measured, each on {effort['sentences']} sentences, "
        f"{effort['train_trees']} + {effort['dev_trees']} trees, tasks {', '.join(effort['tasks'])}, "
        f"{effort['resamples']} resamples. Brackets: 95 % interval of the Monte-Carlo error.",
        f"Targets: {states.count('met')} met, {states.count('unclear')} on the wrong side but within Monte-Carlo "
        f"error, {states.count('missed')} missed.",
        "\n".join(missed) or "None missed.",
        "### Models without a boundary: share of cases with any claim\n\n" + to_markdown(table, "no boundary"),
        "### Models with planted boundaries\n\nRivals: share found (share of cases with a false claim).\n\n"
        + to_markdown(table, "planted"),
        "### Simulated curves without a boundary\n\n" + to_markdown(table, "simulated, no boundary"),
        "### Simulated curves with boundaries\n\n" + to_markdown(table, "simulated"),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def replace_tables(page: str, tables: str) -> str:
    """Return the page with what stands between its two marks replaced.

    >>> replace_tables(f"a\\n{BEGIN}\\nold\\n{END}\\nb", "new\\n").splitlines()[2:4]
    ['', 'new']
    """
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables}\n{END}{tail}"
