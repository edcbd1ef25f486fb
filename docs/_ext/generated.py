"""Parts of pages that are made from the package itself: the glossary, the commands, the notebooks, the public names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

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


class Picture(SphinxDirective):
    """One of the pictures of `make figures`, as it looks on the page's theme."""

    required_arguments = 1
    option_spec: ClassVar = {"alt": str}

    def run(self) -> list[nodes.Node]:
        name, alt = self.arguments[0], self.options["alt"]
        made = []
        for ending, theme in (("", "only-light"), ("-dark", "only-dark")):
            path = f"/figures/{name}{ending}.svg"
            self.env.note_dependency(str(Path(self.env.srcdir) / path[1:]))
            made.append(nodes.image("", uri=path, alt=alt, classes=[theme, "picture"]))
        return made


class Report(SphinxDirective):
    """The page of a committed run, live."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        up = "../" * self.env.docname.count("/")
        address = f"{up}_static/reports/{name}.html"
        html = (
            f'<iframe class="report" title="The page of a run: {name}" src="{address}"></iframe>'
            f'<p><a href="{address}">The same page on its own</a></p>'
        )
        return [nodes.raw("", html, format="html")]


def write_reports(app: Sphinx, exception: Exception | None) -> None:
    """Draw the pages of the committed runs, with the plotly.js that the other pages have."""
    if exception or app.builder.format != "html":
        return
    from mspgt_tl.dashboard.sheet import share_plotly
    from mspgt_tl.pipeline.shell import kind_of

    static = Path(app.outdir) / "_static"
    (static / "reports").mkdir(exist_ok=True)
    for folder in sorted((ROOT / "docs/runs").iterdir()):
        kind = kind_of(folder)
        page = kind.draw(kind.load(folder))
        (static / "reports" / f"{folder.name}.html").write_text(page, encoding="utf-8")
    share_plotly(static)


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


def drop_old_names(app: Sphinx) -> None:
    """Remove pages of names that api.md no longer lists; Sphinx makes new ones and leaves the old."""
    listed = set((Path(app.srcdir) / "api.md").read_text(encoding="utf-8").split())
    for page in (Path(app.srcdir) / "api").glob("*.rst"):
        if page.stem.rpartition(".")[2] not in listed:
            page.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("terms", Terms)
    app.add_directive("commands", Commands)
    app.add_directive("picture", Picture)
    app.add_directive("report", Report)
    app.connect("builder-inited", copy_notebooks, priority=100)
    app.connect("builder-inited", drop_old_names, priority=100)
    app.connect("build-finished", write_reports)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
