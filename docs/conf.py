"""How the site is built: `make docs`. Nothing is fetched while it is built or read."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"  # figures as data; the page draws them with the one plotly.js it has

project = "MSPGT-TL"
author = "The MSPGT-TL authors"
version = release = version_of("mspgt-tl")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "offline",
    "generated",
    "links",
]
# Names in backticks, as docstrings have them, lead to their pages where there are such.
default_role = "py:obj"
exclude_patterns = ["_build", "_ext", "_static", "_templates", "runs", "data", "jupyter_execute"]
suppress_warnings = [
    "mystnb.unknown_mime_type",  # a figure has other forms beside the one that is shown
]

# Pages
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "MSPGT-TL"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_show_search_summary = False  # it fetches the pages it found, which a browser does not allow in a folder of files
WIDE = ["howto/report", *(f"notebooks/{path.stem}" for path in (HERE.parent / "notebooks").glob("*.ipynb"))]
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    # Explorers need the room.
    "secondary_sidebar_items": {"**": ["page-toc"], **{page: [] for page in WIDE}},
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copyright = "MIT licence"

# Notebooks. Executed once and kept in a cache beside the pages, as long as neither they nor the package change.
nb_execution_mode = os.environ.get("NOTEBOOKS", "cache")
nb_execution_cache_path = str(HERE / "_build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # the default comes from a content network

# Reference
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
