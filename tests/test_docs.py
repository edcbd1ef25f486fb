"""What README and pages say is so: commands, files, names, and the numbers that are made from committed runs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

import mspgt_tl
from mspgt_tl.models.embedded import list_embedded

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("[a-z]*.md")),
    *sorted((ROOT / "docs/howto").glob("*.md")),
]
MADE_BY_SPHINX = re.compile(r"^(\.\./)?notebooks/")
"""Notebooks are copied among the pages when the site is built."""


@pytest.fixture(scope="module")
def figures() -> Any:
    """The module that makes pictures and numbers."""
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "docs/make_figures.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_picture_is_stale(figures: Any) -> None:
    """Every picture shows what the committed runs and tables hold; `make figures` draws them anew."""
    drawn = json.loads((figures.PICTURES / "drawn.json").read_text(encoding="utf-8"))
    assert drawn == {name: figures.digest(make()) for name, make in figures.FIGURES.items()}
    wanted = {f"{name}{ending}.svg" for name in figures.FIGURES for ending in ("", "-dark")}
    assert {path.name for path in figures.PICTURES.glob("*.svg")} == wanted


def test_no_number_is_stale(figures: Any) -> None:
    """What stands between the comments is what `make figures` writes there."""
    for page in figures.PAGES:
        text = page.read_text(encoding="utf-8")
        assert figures.fill(text) == text, f"{page.name}: run `make figures`"
        assert text.count("<!-- made by make figures") == text.count("<!-- end -->") > 0


def test_losses_of_the_embedded_models_are_those_of_their_cards() -> None:
    """The table of docs/models.md, row by row."""
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    for card in list_embedded():
        losses = (card["validation_loss"], card["bigram_loss"], card["unigram_loss"], card["bits_per_byte"])
        row = [card["name"], f"{card['tokens'] / 1e6:.1f} M", *(f"{loss:.3f}" for loss in losses)]
        assert f"| {' | '.join(row)} |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_sources_lead_somewhere(page: Path) -> None:
    """Read in the repository, without the site, every relative link is a file, and its place a heading."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"", text):
        target, _, place = (link[0] or link[1]).partition("#")
        if "://" in target or MADE_BY_SPHINX.match(target):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name}: {target}"
        if place and path.suffix == ".md":
            assert place in headings(path), f"{page.name}: {target}#{place}"


def headings(path: Path) -> set[str]:
    """Return the places of a page as GitHub and the site name them."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def test_every_page_is_in_the_contents() -> None:
    """Each page of the site is listed by another one, or the site would not build."""
    listed = {
        (page.parent / line.strip()).resolve()
        for page in PAGES
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.splitlines()
    }
    for page in (page for page in PAGES if ROOT / "docs" in page.parents and page.name != "index.md"):
        assert page.with_suffix("").resolve() in listed, f"{page.name} is in no toctree"


def test_notebooks_that_pages_link_to_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"notebooks/([\w]+\.ipynb)", page.read_text(encoding="utf-8")):
            assert (ROOT / "notebooks" / name).exists(), f"{page.name}: {name}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, f"{page.name}: {named - targets}"


def commands() -> dict[str, Any]:
    from typer.main import get_command

    from mspgt_tl.cli import app

    return get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_pages_show_exist(page: Path) -> None:
    """In every shell example, `mspgt NAME --option` is a command with that option."""
    known = commands()
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if not (found := re.match(r"(?:.*/)?mspgt ([a-z-]+)(.*)", line.partition("#")[0].strip())):
                continue
            assert found[1] in known, line
            options = {option for parameter in known[found[1]].params for option in parameter.opts}
            assert set(re.findall(r"(?<=\s)--[a-z-]+", found[2])) <= options, line


def test_every_public_name_has_a_page() -> None:
    """docs/api.md lists what the package and its parts export; constants aside."""
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   (\w+)$", page, re.MULTILINE))
    for part in (mspgt_tl, mspgt_tl.comparison, mspgt_tl.predictions, mspgt_tl.study):
        assert {name for name in part.__all__ if not name.isupper()} <= listed


def test_every_name_of_the_package_has_neighbours_and_an_example() -> None:
    """See Also and an example that runs; tests/test_docstrings.py runs them."""
    without = {"load_intervention", "Intervention"}  # made by `intervene`, whose example they share
    for name in mspgt_tl.__all__:
        told = getattr(mspgt_tl, name).__doc__
        assert ">>>" in told or name in without, name
        assert "See Also:" in told or name == "MspgtError", name


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_curve_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first lines of Python run as they stand and draw a panel a signal."""
    import plotly.basedatatypes

    shown = []
    monkeypatch.setattr(plotly.basedatatypes.BaseFigure, "show", lambda figure: shown.append(figure))
    exec(python_of(ROOT / "README.md")[0], {})
    assert [trace.xaxis for trace in shown[0].data] == ["x2", "x"]
