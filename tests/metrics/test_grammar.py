"""Tests of grammaticality: LanguageTool against a loopback server that speaks its API, and Harper itself.

Run as a program, this file is that server; a shell script named `java` starts it where a local LanguageTool is wanted.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mspgt_tl.errors import ConfigError
from mspgt_tl.metrics import grammar, languagetool
from mspgt_tl.metrics.base import Sample
from mspgt_tl.metrics.grammar import HarperMistakes, LanguageToolMistakes


class Loopback(ThreadingHTTPServer):
    """Finds every `teh` in a text, and misbehaves on request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0, *, version: str = "6.8") -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.version = version
        self.languages, self.checked = 0, []
        self.drop: set[int] = set()
        """Checks, counted from 1, whose connection is closed without an answer."""
        self.dies_at = float("inf")
        """Check that closes the server."""
        self.status, self.body, self.delay_s = 200, None, 0.0
        self.poison = ""
        """Texts with this are answered with status 500."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """A client that went away is part of the game."""


class Handler(BaseHTTPRequestHandler):
    server: Loopback

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.languages += 1
        self.reply(200, json.dumps([{"name": "English (US)", "code": "en", "longCode": "en-US"}]))

    def do_POST(self) -> None:
        server = self.server
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        text = form["text"][0]
        server.checked.append(text)
        number = len(server.checked)
        if number >= server.dies_at:
            server.socket.close()
            server._BaseServer__shutdown_request = True
        if number >= server.dies_at or number in server.drop:
            self.connection.close()
            return
        time.sleep(server.delay_s)
        if server.poison and server.poison in text:
            self.reply(500, "Error: Internal Error")
        elif server.body is not None:
            self.reply(server.status, server.body)
        else:
            self.reply(200, json.dumps(answer(text, server.version)))

    def reply(self, status: int, body: str) -> None:
        raw = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def answer(text: str, version: str) -> dict:
    found = [i for i in range(len(text)) if text.startswith("teh", i)]
    match = {
        "message": "Possible spelling mistake found.",
        "replacements": [{"value": "the"}],
        "length": 3,
        "context": {"text": text, "offset": 0, "length": 3},
        "sentence": text,
        "rule": {"id": "MORFOLOGIK", "issueType": "misspelling", "category": {"id": "TYPOS", "name": "Typo"}},
    }
    return {
        "software": {"name": "LanguageTool", "version": version},
        "matches": [match | {"offset": i} for i in found],
    }


if __name__ == "__main__":
    Loopback(int(sys.argv[sys.argv.index("-p") + 1])).serve_forever()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    loopback = Loopback()
    thread = threading.Thread(target=loopback.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield loopback
    loopback.shutdown()
    thread.join()
    loopback.server_close()


@pytest.fixture(autouse=True)
def forget():
    """Every test starts without servers and without checked texts."""
    grammar._checker.cache_clear()


def samples(*texts: str) -> list[Sample]:
    return [Sample("A prompt.", text) for text in texts]


def assert_missing(result, n_samples: int) -> None:
    assert math.isnan(result.value)
    assert len(result.per_sample) == n_samples
    assert result.reason


def test_matches_are_counted_per_100_words(server):
    """One mistake in four words is 25, none is 0; a text without words has no value."""
    result = LanguageToolMistakes(remote_server=server.url).measure(samples("teh cat sat down", "a cat", "?!", ""))
    np.testing.assert_array_equal(result.per_sample, [25, 0, np.nan, np.nan])
    assert result.value == 12.5
    assert result.n == 2
    assert result.reason == "2 of 4 samples have no words."


def test_the_server_says_what_it_is(server):
    """Name and version in the details are the server's own."""
    server.version = "9.9-test"
    details = LanguageToolMistakes(remote_server=server.url).measure(samples("a cat")).details
    assert details["tool"] == "LanguageTool 9.9-test"
    assert details["client"].startswith("language-tool-python 3.")


def test_a_text_is_sent_once(server):
    """Equal texts share a request, and a later measurement sends only what is new."""
    metric = LanguageToolMistakes(remote_server=server.url)
    metric.measure(samples("one cat", "teh cat", "one cat"))
    again = LanguageToolMistakes(remote_server=server.url).measure(samples("teh cat", "a new one"))
    assert sorted(server.checked) == ["a new one", "one cat", "teh cat"]
    assert again.per_sample.tolist() == [50, 0]
    assert server.languages == 1


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_batches_change_nothing(server, batch):
    """However many texts are sent at the same time, each has its own count."""
    texts = [" ".join(["teh"] * (i % 5) + ["cat"] * 5) + str(i) for i in range(20)]
    result = LanguageToolMistakes(remote_server=server.url, batch=batch).measure(samples(*texts))
    assert result.per_sample.tolist() == [100 * (i % 5) / (i % 5 + 5) for i in range(20)]


def test_a_dropped_connection_is_tried_again(server):
    """Lost answers are asked for once more, over a new connection."""
    server.drop = {2, 5}
    result = LanguageToolMistakes(remote_server=server.url, batch=1).measure(samples(*(f"cat {i}" for i in range(6))))
    assert result.value == 0
    assert result.n == 6
    assert server.languages == 3


def test_a_server_that_dies_midway_costs_the_value_only(server):
    """What it had counted stays per sample; the value is nan and the reason says how many are missing."""
    server.dies_at = 4
    result = LanguageToolMistakes(remote_server=server.url, batch=1).measure(samples(*(f"cat {i}" for i in range(9))))
    assert_missing(result, 9)
    assert np.isfinite(result.per_sample).tolist() == [True] * 3 + [False] * 6
    assert result.reason.startswith("LanguageTool did not check 6 of 9 texts: LanguageToolError: http://127.0.0.1")


def test_a_measurement_goes_on_where_the_last_one_broke_off(server):
    """After a failure the texts that were counted are not sent again."""
    metric = LanguageToolMistakes(remote_server=server.url, batch=1)
    server.drop = {3, 4}
    assert_missing(metric.measure(samples("cat 1", "cat 2", "cat 3")), 3)
    assert metric.measure(samples("cat 1", "cat 2", "cat 3")).value == 0
    assert server.checked.count("cat 1") == 1


def test_a_slow_server_is_not_waited_for(server):
    """Beyond the time limit the value is nan; the rest of the texts is not even tried."""
    server.delay_s = 2
    start = time.monotonic()
    metric = LanguageToolMistakes(remote_server=server.url, timeout_s=0.2, batch=4)
    result = metric.measure(samples(*(f"cat {i}" for i in range(40))))
    assert_missing(result, 40)
    assert "timed out" in result.reason
    assert time.monotonic() - start < 2
    assert len(server.checked) == 5


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, "Error: Internal Error", "Internal Error"),
        (500, '{"error": "busy"}', "a reply without matches"),
        (200, "[]", "a reply without matches"),
        (426, "slow down", "rate limit"),
        (200, '{"matches": [1]}', "TypeError"),
    ],
)
def test_a_reply_that_is_no_answer_is_a_reason(server, status, body, reason):
    """Errors, wrong JSON and refusals give nan, and the reason quotes them."""
    server.status, server.body = status, body
    result = LanguageToolMistakes(remote_server=server.url).measure(samples("one cat", "two cats"))
    assert_missing(result, 2)
    assert reason in result.reason


@pytest.mark.parametrize("why", ["Results are incomplete: text checking took longer than allowed", None])
def test_incomplete_results_are_not_no_mistakes(server, why):
    """A server that ran out of time says so beside its matches; such a text has no count."""
    warnings = {"incompleteResults": True} | ({"incompleteResultsReason": why} if why else {})
    server.body = json.dumps({"matches": [], "warnings": warnings})
    result = LanguageToolMistakes(remote_server=server.url).measure(samples("one cat", "two cats"))
    assert math.isnan(result.value)
    assert "incomplete results" in result.reason


def test_complete_results_may_say_so(server):
    """The warning is there in complete answers, too, and false."""
    server.body = json.dumps({"matches": [], "warnings": {"incompleteResults": False}})
    assert LanguageToolMistakes(remote_server=server.url).measure(samples("a cat")).value == 0


@pytest.mark.parametrize("end", ["/", "/v2", "/v2/", "/v2/check", "/v2/check/"])
def test_a_url_may_end_in_the_api(server, end):
    """The address of the API, as servers print it, is the server's address."""
    assert LanguageToolMistakes(remote_server=server.url + end).measure(samples("teh cat")).value == 50


def test_one_text_that_the_server_cannot_take_does_not_stop_the_others(server):
    """The others keep their values; the mean is nan, since the worst text is missing."""
    server.poison = "xyzzy"
    result = LanguageToolMistakes(remote_server=server.url, batch=2).measure(
        samples("cat 1", "xyzzy", "teh cat", "cat 2", "cat 3")
    )
    assert_missing(result, 5)
    np.testing.assert_array_equal(result.per_sample, [0, np.nan, 50, 0, 0])
    assert "1 of 5" in result.reason


def test_nobody_there_is_a_reason(monkeypatch):
    """A dead remote raises LanguageToolError in the client's constructor."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    gone = Loopback()
    gone.server_close()
    result = LanguageToolMistakes(remote_server=gone.url).measure(samples("one cat"))
    assert_missing(result, 1)
    assert "LanguageToolError" in result.reason


def test_an_unknown_language_is_a_reason(server):
    """The server says which languages it knows."""
    result = LanguageToolMistakes(remote_server=server.url, language="tlh").measure(samples("nuqneH tlhIngan"))
    assert_missing(result, 1)
    assert "unsupported language" in result.reason


@pytest.mark.parametrize(
    "error",
    [
        "requests.ConnectionError",
        "language_tool_python.exceptions.LanguageToolError",
        "language_tool_python.exceptions.ServerError",
        "language_tool_python.exceptions.PathError",
        "language_tool_python.exceptions.JavaError",
        "ModuleNotFoundError",
        "SystemError",
        "SystemExit",
    ],
)
def test_every_way_to_fail_is_a_reason(monkeypatch, error):
    """Whatever starting a server raises, the run goes on."""
    module, _, name = error.rpartition(".")
    kind = getattr(pytest.importorskip(module or "builtins"), name)

    def fail(**options):
        raise kind("no luck\nwith details")

    monkeypatch.setattr(languagetool, "_start_server", fail)
    result = LanguageToolMistakes().measure(samples("one cat", "two cats"))
    assert_missing(result, 2)
    assert result.reason == f"LanguageTool did not check 2 of 2 texts: {name}: no luck"


@pytest.mark.parametrize(("timeout_s", "batch"), [(0, 1), (float("nan"), 1), (1, 0)])
def test_limits_are_checked(timeout_s, batch):
    """A time limit and a batch of nothing are refused."""
    with pytest.raises(ConfigError, match="timeout_s"):
        LanguageToolMistakes(timeout_s=timeout_s, batch=batch)


@pytest.fixture
def local(tmp_path, monkeypatch):
    """An installed LanguageTool whose Java is a script that starts this file's server."""
    from language_tool_python.download_lt import LTP_DOWNLOAD_VERSION

    home = tmp_path / f"LanguageTool-{LTP_DOWNLOAD_VERSION}"
    home.mkdir()
    (home / "languagetool-server.jar").touch()
    java = tmp_path / "java"
    java.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        """if [ "$1" = -version ]; then echo 'openjdk version "17.0.9" 2023-10-17'; exit 0; fi\n"""
        f"if [ -e {tmp_path}/broken ]; then exit 7; fi\n"
        f"echo $$ >> {tmp_path}/pids\n"
        f'exec {sys.executable} {__file__} "$@"\n'
    )
    java.chmod(0o755)
    monkeypatch.setenv("LTP_PATH", str(tmp_path))
    monkeypatch.delenv("LTP_JAR_DIR_PATH", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    yield tmp_path
    LanguageToolMistakes().close()


def pids(folder) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


def test_a_local_server_is_started_once_restarted_when_killed_and_ended(local):
    """Two measurements share a server; killed, it is replaced; closed, it is gone."""
    metric = LanguageToolMistakes()
    assert metric.measure(samples("teh cat")).value == 50
    assert metric.measure(samples("one cat")).value == 0
    (first,) = pids(local)
    os.kill(first, signal.SIGKILL)
    result = metric.measure(samples("teh big cat sat", "teh cat", "a dog"))
    assert result.per_sample.tolist() == [25, 50, 0]
    assert result.details["server"] == "local"
    _, second = pids(local)
    metric.close()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_a_proxy_does_not_stand_between_us_and_a_local_server(local, monkeypatch):
    """A machine-wide HTTP_PROXY is for what lies outside."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(languagetool, "START_LIMIT_S", 5)
    assert LanguageToolMistakes().measure(samples("teh cat")).value == 50


def test_a_local_server_that_will_not_start_is_a_reason_at_once(local):
    """The client alone would try more than 900 ports."""
    (local / "broken").touch()
    start = time.monotonic()
    result = LanguageToolMistakes().measure(samples(*(f"cat {i}" for i in range(30))))
    assert_missing(result, 30)
    assert "ServerError: the local server ended with code 7" in result.reason
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("version", "reason"), [("1.8.0_2", "SystemError: Detected java 1.8"), ("?", "SystemExit: Could not parse")]
)
def test_an_old_or_odd_java_is_a_reason(local, version, reason):
    """Java 8 raises SystemError, an unreadable version SystemExit."""
    java = local / "java"
    java.write_text(f"""#!/bin/sh\necho 'openjdk version "{version}"'\n""")
    result = LanguageToolMistakes().measure(samples("one cat"))
    assert_missing(result, 1)
    assert reason in result.reason


def test_no_java_is_a_reason(local, monkeypatch):
    """Without Java on the PATH the client raises ModuleNotFoundError."""
    monkeypatch.setenv("PATH", "")
    result = LanguageToolMistakes().measure(samples("one cat"))
    assert_missing(result, 1)
    assert "ModuleNotFoundError: No java" in result.reason


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    """Not installed, the metric says so, what to do, and opens no connection."""
    monkeypatch.setenv("LTP_PATH", str(tmp_path))
    monkeypatch.setattr("requests.get", lambda *a, **k: pytest.fail("a download was tried"))
    result = LanguageToolMistakes().measure(samples("one cat"))
    assert_missing(result, 1)
    assert "is not installed. Give remote_server, or download=True" in result.reason


def test_a_download_without_network_is_a_reason(local, monkeypatch):
    """Asked for, a download that fails raises a bare requests error in the client."""
    import requests

    def refuse(*args, **options):
        raise requests.ConnectionError("no network")

    (local / "empty").mkdir()
    monkeypatch.setenv("LTP_PATH", str(local / "empty"))
    monkeypatch.setattr("requests.get", refuse)
    result = LanguageToolMistakes(download=True).measure(samples("one cat"))
    assert_missing(result, 1)
    assert result.reason.endswith("ConnectionError: no network")


def test_harper_finds_mistakes_and_gives_its_own_name():
    """A wrong agreement is found, a good sentence is clean, and the tool is never called LanguageTool."""
    pytest.importorskip("harper", reason="harper-py is not installed (extra 'harper')")
    result = HarperMistakes().measure(samples("She go to the the store.", "She went to the store.", "", "She went."))
    assert result.per_sample[0] > 16
    assert result.per_sample[1] == result.per_sample[3] == 0
    assert np.isnan(result.per_sample[2])
    assert result.details["tool"].startswith("harper-py 0.")
    assert "LanguageTool" not in HarperMistakes.title


def test_harper_that_is_not_installed_is_a_reason(monkeypatch):
    """It is an optional extra."""
    monkeypatch.setitem(sys.modules, "harper", None)
    result = HarperMistakes().measure(samples("one cat"))
    assert_missing(result, 1)
    assert "extra 'harper'" in result.reason
