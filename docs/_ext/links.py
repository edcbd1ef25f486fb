"""Follows every link of the built pages: each leads to a file and a place in it, and no page asks another machine."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("source", "srcset"),
    ("video", "src"),
}
"""What a browser fetches unasked."""
NAMED = ("canonical", "search", "index", "prev", "next")
"""Links of a page's head that are followed by nobody."""


class Page(HTMLParser):
    """The places of a page that can be linked to, and the links on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := given.get(name))}
        for name in ("href", "src", "srcset"):
            if value := given.get(name):
                is_loaded = (tag, name) in LOADED and given.get("rel") not in NAMED
                self.links.append((value, is_loaded))


def find_pages(folder: Path) -> list[Path]:
    """Return the pages, without a template that the theme leaves among its files."""
    return [path for path in sorted(folder.rglob("*.html")) if path.name != "webpack-macros.html"]


def find_faults(folder: Path) -> list[str]:
    """Return one line for each link that leads nowhere and for each thing that is fetched from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in find_pages(folder)}
    faults = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for link, is_loaded in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if is_loaded and parts.scheme != "data":
                    faults.append(f"{name}: fetches {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                faults.append(f"{name}: no file at {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                faults.append(f"{name}: no such place: {link}")
    return sorted(set(faults))


def check(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    for fault in find_faults(Path(app.outdir)):
        logger.warning(fault, type="links")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", check, priority=900)  # when everything is written
    return {"parallel_read_safe": True, "parallel_write_safe": True}
