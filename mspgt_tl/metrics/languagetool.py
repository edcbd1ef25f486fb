"""Asks a LanguageTool server how many mistakes texts hold, and outlives the server.

`language-tool-python` speaks to the server; three things are ours. Its client waits 300 s and tries twice, so we set
the time limit and repeat ourselves. Starting a local server, it tries over 900 ports at up to 15 s each when Java or
the archive is broken, and first downloads about 250 MB unasked; so we start the server with its command, on one free
port, and download only on request. It fails in many ways (`requests` errors, `LanguageToolError` and its kin,
`ModuleNotFoundError` without Java, `SystemError` with an old one, even `SystemExit` with one whose version it cannot
read); here all of them become a reason.

Every text is a request of its own, since LanguageTool has rules that look across paragraphs: texts sent as one would
change each other's counts. A batch is what is sent at the same time.
"""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mspgt_tl.escape import describe_error

START_LIMIT_S = 60
"""A local server starts in 2 to 10 s; a loaded machine may take longer."""
_FAILURES = (Exception, SystemExit)


@dataclass(frozen=True)
class Service:
    """Which server is asked, and how."""

    language: str = "en-US"
    remote_server: str | None = None
    """URL of a running server; None starts a local one, which needs Java 17 and an installed LanguageTool."""
    download: bool = False
    """Whether a local LanguageTool that is not installed may be downloaded (about 250 MB)."""
    timeout_s: float = 30
    """Seconds a server may take for one text."""
    batch: int = 8
    """Texts sent at the same time."""


@dataclass
class Checker:
    """Counts of mistakes by text, kept for the life of the process, and the server they come from."""

    service: Service
    software: str = "LanguageTool, version unknown"
    """Name and version the server gives itself."""
    _counts: dict[bytes, int] = field(default_factory=dict)
    _client: Any = None
    _stop_server: Any = None
    _lock: Any = field(default_factory=threading.Lock)

    def count(self, texts: Sequence[str]) -> tuple[list[int | None], str | None]:
        """Return the matches in each text, and what went wrong where one is None."""
        with self._lock:
            keys = [_hash(text) for text in texts]
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._counts}
            reason = self._ask_all(list(missing.values()))
            return [self._counts.get(key) for key in keys], reason

    def close(self) -> None:
        """End a local server; the counts stay."""
        with self._lock:
            self._disconnect()

    def _ask_all(self, texts: Sequence[str]) -> str | None:
        """Ask batch by batch; give up on a server that has answered nothing in a whole batch."""
        reason = None
        for start in range(0, len(texts), self.service.batch):
            batch = texts[start : start + self.service.batch]
            failed = self._ask(batch)
            if not failed:
                continue
            lost = len(failed) == len(batch)
            # Once more, with a new connection and a new server if it is ours: it may have died.
            self._disconnect()
            first, *others = failed
            again = self._ask([first])
            if again and lost:
                return again[first]
            again |= self._ask(others)
            reason = next(iter(again.values()), reason)
        return reason

    def _ask(self, texts: Sequence[str]) -> dict[str, str]:
        """Send texts at the same time and keep their counts; return those that failed, and why."""
        if not texts:
            return {}
        try:
            if self._client is None:
                self._client = self._connect()
        except _FAILURES as error:
            self._disconnect()
            return dict.fromkeys(texts, describe_error(error))
        with ThreadPoolExecutor(len(texts)) as pool:
            answers = list(pool.map(self._check, texts))
        self.software = self._client.software
        self._counts |= {_hash(t): n for t, n in zip(texts, answers, strict=True) if isinstance(n, int)}
        return {t: why for t, why in zip(texts, answers, strict=True) if isinstance(why, str)}

    def _check(self, text: str) -> int | str:
        try:
            return len(self._client.check(text))
        except _FAILURES as error:
            return describe_error(error)

    def _connect(self) -> Any:
        if self.service.remote_server is not None:
            return _make_client(self.service.remote_server, self.service)
        url, process = _start_server(download=self.service.download)
        # Runs at the latest when the interpreter ends.
        self._stop_server = weakref.finalize(self, _stop, process)
        return _await_client(url, process, self.service)

    def _disconnect(self) -> None:
        self._client = None
        if self._stop_server is not None:
            self._stop_server()
            self._stop_server = None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _make_client(url: str, service: Service, proxies: dict[str, str] | None = None) -> Any:
    """Return a client; building it asks the server for its languages."""
    from language_tool_python import LanguageTool
    from language_tool_python.exceptions import LanguageToolError

    class Client(LanguageTool):
        _TIMEOUT = service.timeout_s  # pyright: ignore[reportAssignmentType]
        software = "LanguageTool, version unknown"

        def _query_server(self, url: str, params: Any = None, num_tries: int = 1, method: Any = "get") -> Any:
            reply = super()._query_server(url, params, num_tries=1, method=method)
            if method == "post":
                if not isinstance(reply, Mapping) or "matches" not in reply:
                    raise LanguageToolError(f"{url}: a reply without matches: {str(reply)[:200]}")
                warnings = reply.get("warnings")
                if isinstance(warnings, Mapping) and warnings.get("incompleteResults"):
                    # The server gave up half-way: its matches are too few, and none would pass for a good text.
                    why = warnings.get("incompleteResultsReason") or "no reason given"
                    raise LanguageToolError(f"{url}: incomplete results: {str(why)[:200]}")
                named = reply.get("software", {})
                if named:
                    self.software = f"{named.get('name')} {named.get('version')}"
            return reply

    return Client(service.language, remote_server=server_root(url), proxies=proxies)


def server_root(url: str) -> str:
    """Return a server's URL without the end of its API, which the client adds, and with the slash that it needs.

    >>> server_root("http://localhost:8081/v2/check"), server_root("https://example.org/lt")
    ('http://localhost:8081/', 'https://example.org/lt/')
    """
    return re.sub(r"(/v2(/check)?)?/*$", "/", url.strip(), count=1)


def _start_server(*, download: bool) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a local server on a free port and return its URL; it is not ready yet."""
    from language_tool_python.download_lt import LocalLanguageTool
    from language_tool_python.exceptions import PathError

    local = LocalLanguageTool.from_version_name()
    if local not in local.get_installed_versions() and not download:
        raise PathError(
            f"LanguageTool {local.version_name} is not installed. Give remote_server, or download=True to fetch "
            "about 250 MB once; 'harper' needs neither."
        )
    local.download()  # checks Java, and fetches nothing that is there
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        local.get_server_cmd(port), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return f"http://127.0.0.1:{port}", process


def _await_client(url: str, process: subprocess.Popen[bytes], service: Service) -> Any:
    from language_tool_python.exceptions import LanguageToolError, ServerError

    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            # A proxy set for the whole machine cannot reach its loopback.
            return _make_client(url, service, proxies={"http": ""})
        except LanguageToolError as error:
            if process.poll() is not None:
                raise ServerError(f"the local server ended with code {process.returncode}") from error
            if time.monotonic() > deadline:
                raise ServerError(f"the local server was not ready after {START_LIMIT_S} s") from error
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
