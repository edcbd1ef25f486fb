"""Keeps what the notebooks gave when the tests ran them, so that the site shows it and need not run them again."""

from __future__ import annotations

import os
from pathlib import Path

from nbmake.nb_result import NotebookResult
from nbmake.nb_run import NotebookRun

KEPT = Path(__file__).parents[1] / "docs/_build/notebooks"
os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"  # figures as data, without 5 MB of plotly.js in each notebook

_execute = NotebookRun.execute


def _execute_and_keep(run: NotebookRun) -> NotebookResult:
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    result = _execute(run)
    if result.error is None:
        for cell in result.nb.cells:
            cell.metadata.pop("execution", None)  # times, which would make it another notebook to the cache
        bundle = CacheBundleIn(nb=result.nb, uri=str(run.filename))
        get_cache(KEPT).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return result


NotebookRun.execute = _execute_and_keep
