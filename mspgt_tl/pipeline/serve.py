"""Serves the pages of many runs from one address on this machine alone, detections with all others to lay over.

It answers only GET, only on 127.0.0.1, and only requests whose Host header names that address: a foreign page that
lets its own name point here (DNS rebinding) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from mspgt_tl.dashboard.sheet import PLOTLY_FILE, Section, Sheet, Table, plotly_source, render_sheet
from mspgt_tl.errors import MspgtError
from mspgt_tl.files import open_own
from mspgt_tl.pipeline.runs import RunInfo

if TYPE_CHECKING:
    import xarray as xr

ADDRESS = "127.0.0.1"


class Pages:
    """The pages by their paths; a detection's is drawn on its first visit and kept."""

    def __init__(self, runs: Sequence[RunInfo]) -> None:
        self.runs, self._drawn = list(runs), dict[int, str]()

    def page(self, path: str) -> tuple[str, str] | None:
        """Return content type and text of a path; None where there is nothing."""
        if path == "/":
            return "text/html", self._index()
        if path == f"/{PLOTLY_FILE}":
            return "text/javascript", plotly_source()
        found = re.fullmatch(r"/run/(\d+)", path)
        if not found or not 1 <= int(found[1]) <= len(self.runs):
            return None
        return "text/html", self._run(int(found[1]))

    def _run(self, number: int) -> str:
        run = self.runs[number - 1]
        if run.command != "detect":
            # A folder that came from elsewhere may hold a link to any file of this machine.
            with open(run.page, encoding="utf-8", opener=open_own) as page:
                return page.read()
        if number not in self._drawn:
            from mspgt_tl.dashboard import render_report
            from mspgt_tl.pipeline.detection import load_run

            own = load_run(run.folder)
            page = render_report(
                own.data, own.manifest, own.nulls, own.rivals, others=self._others(number), plotly=f"/{PLOTLY_FILE}"
            )
            self._drawn[number] = page
        return self._drawn[number]

    def _others(self, number: int) -> dict[str, xr.Dataset]:
        """Return the other finished detections by a name that tells them apart; what cannot be read is not offered."""
        from mspgt_tl.pipeline.detection import load_run

        found = {}
        for run in (r for i, r in enumerate(self.runs, 1) if i != number and r.command == "detect" and r.finished):
            with suppress(MspgtError):
                found[f"{run.title}: {run.model} on {run.corpus}"] = load_run(run.folder).data
        return found

    def _index(self) -> str:
        from markupsafe import Markup

        rows = []
        for number, run in enumerate(self.runs, 1):
            link = Markup('<a href="/run/{}">{}</a>').format(number, run.title) if run.finished else run.title
            rows.append(
                [link, run.command, run.model, run.corpus, run.verdict, run.created[:10], f"{run.size / 1e6:.1f} MB"]
            )
        columns = ("run", "command", "model", "corpus", "what it found", "made", "size")
        lead = "Open a detection to touch it; every other one can be laid over it there."
        section = Section("Runs", lead, tables=[Table(f"{len(rows)} runs", columns, rows)])
        heading = f"{len(rows)} runs, {sum(run.finished for run in self.runs)} finished"
        return render_sheet(Sheet("Runs", "mspgt dashboard", heading, [], "", [section], []), plotly=f"/{PLOTLY_FILE}")


def make_server(runs: Sequence[RunInfo], port: int = 0) -> ThreadingHTTPServer:
    """Return a server of these runs on 127.0.0.1; port 0 takes any that is free. `serve_forever` starts it.

    Raises:
        OSError: the port is taken.
    """
    pages = Pages(runs)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here = self.connection.getsockname()[1]
            if self.headers.get("Host") not in (f"{ADDRESS}:{here}", f"localhost:{here}"):
                self.send_error(HTTPStatus.FORBIDDEN, "Unknown host")
                return
            try:
                found = pages.page(self.path.partition("?")[0])
            except (MspgtError, OSError, UnicodeDecodeError) as error:  # altered or removed since the list was made
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "This run cannot be shown", str(error))
                return
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            kind, body = found[0], found[1].encode("utf-8", "replace")
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("Cache-Control", "max-age=86400" if kind == "text/javascript" else "no-cache")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the terminal to the address alone."""

    return ThreadingHTTPServer((ADDRESS, port), Handler)
