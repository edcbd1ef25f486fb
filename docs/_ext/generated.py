"""Parts of pages that are made from the package itself: the glossary, the commands, the notebooks, the public names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


class Made(SphinxDirective):
    """A directive whose content is Markdown that Python writes."""

    def markdown(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)


class Terms(Made):
    """The glossary that the pages of runs explain their words with."""

    def markdown(self) -> str:
        from mspgt_tl.dashboard.glossary import GLOSSARY

        terms = sorted(GLOSSARY.items(), key=lambda item: item[0].casefold())
        return ":::{glossary}\n" + "\n\n".join(f"{term}\n  {meaning}" for term, meaning in terms) + "\n:::\n"


class Commands(Made):
    """Every command with its options, as `--help` has them."""

    def markdown(self) -> str:
        import typer
        from typer.cli import get_docs_for_click
        from typer.main import get_command

        from mspgt_tl.cli import app

        command = get_command(app)
        text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="mspgt"), name="mspgt")
        return text.partition("\n")[2].replace("&#x27;", "'")


def copy_notebooks(app: Sphinx) -> None:
    """Put the notebooks among the pages; they lie beside `docs`, where a reader of the repository looks for them."""
    target = Path(app.srcdir) / "notebooks"
    target.mkdir(exist_ok=True)
    wanted = {path.name: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    for old in target.glob("*.ipynb"):
        if old.name not in wanted:
            old.unlink()
    for name, path in wanted.items():
        copy = target / name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("terms", Terms)
    app.add_directive("commands", Commands)
    app.connect("builder-inited", copy_notebooks, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
