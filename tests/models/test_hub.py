"""Models from the hub, against a loopback server that speaks as much of its API as a download needs."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from mspgt_tl.errors import ModelError, UnknownModelError
from mspgt_tl.models.pretrained import describe, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name, each a folder; what was asked of them; and how the server misbehaves."""

    repos: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    cut_after: dict[str, int] = field(default_factory=dict)
    """Bytes after which the connection breaks, by file name; once each."""
    gets: list[tuple[str, str | None]] = field(default_factory=list)
    """File name and Range header of every download."""
    server: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def start(self) -> Hub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            parts = parts[2:] if is_api else parts
            repo, rest = "/".join(parts[:2]), parts[2:]
            if repo not in hub.repos:
                return self.refuse(404, "RepoNotFound", "Repository not found")
            if repo in hub.gated:
                return self.refuse(401, "GatedRepo", f"Access to model {repo} is restricted.")
            if len(rest) > 1 and rest[1] not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            folder = hub.repos[repo]
            if not is_api:
                return self.send_file(folder / "/".join(rest[2:]), body=body)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            if rest[:1] == ["tree"]:
                tree = [
                    {"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size, "oid": _etag(p)}
                    for p in files
                ]
                return self.send_json(tree)
            siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
            return self.send_json({"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})

        def refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_json(self, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def send_file(self, path: Path, *, body: bool) -> None:
            if not path.is_file():
                return self.refuse(404, "EntryNotFound", "Entry not found")
            content = path.read_bytes()
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and body else 0
            if body:
                hub.gets.append((path.name, asked))
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{_etag(path)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if not body:
                return None
            cut = hub.cut_after.pop(path.name, None)
            self.wfile.write(content[start : start + cut] if cut else content[start:])
            if cut:
                self.close_connection = True
                self.connection.close()
            return None

    return Handler


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:40]


REPO = "someone/tiny"


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    """A hub with one model, beside code that nobody must fetch, and an empty cache."""
    from huggingface_hub import constants

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "served"))
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code was run')")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    server = Hub({REPO: folder}).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.stop()


def test_a_cold_load_fetches_no_code_and_records_commit_and_hash(hub):
    """And gives the same model as the folder does."""
    facts = describe(load(REPO))
    weights = hub.repos[REPO] / "model.safetensors"
    assert facts["revision"] == COMMIT
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["name"] == REPO
    fetched = {name for name, _ in hub.gets}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not fetched & {"modeling_tiny.py", "pytorch_model.bin"}


def test_a_cached_model_is_fetched_once(hub):
    load(REPO)
    before = list(hub.gets)
    load(REPO)
    assert hub.gets == before


def test_a_cached_model_loads_offline(hub, monkeypatch):
    first = describe(load(REPO))
    hub.stop()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert describe(load(REPO)) == first
    assert describe(load(f"{REPO}@revision:{COMMIT}"))["sha256"] == first["sha256"]


def test_nothing_cached_and_offline_is_one_clear_error(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (REPO, "gpt2-small"):
        with pytest.raises(ModelError, match=rf"'{name}' .*could not be fetched.*give its folder"):
            load(name)


def test_an_unreachable_hub_is_one_clear_error(hub):
    hub.stop()
    with pytest.raises(ModelError, match="could not be fetched from the Hugging Face hub"):
        load(REPO)


def test_a_gated_model_says_what_to_do(hub):
    hub.gated.add(REPO)
    with pytest.raises(ModelError, match=r"is gated: accept its licence.*HF_TOKEN"):
        load(REPO)


def test_a_missing_model_is_unknown(hub):
    with pytest.raises(UnknownModelError, match="Unknown model 'someone/tinny'"):
        load("someone/tinny")


def test_a_missing_revision_is_named(hub):
    with pytest.raises(ModelError, match="has no revision 'nowhere'"):
        load(f"{REPO}@revision:nowhere")


def test_an_interrupted_download_goes_on_where_it_stopped(hub, monkeypatch):
    """The connection breaks within the weights: what came is kept, and the rest asked for."""
    weights = hub.repos[REPO] / "model.safetensors"
    chunk = 64 * 1024  # the client keeps whole chunks
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", chunk)
    hub.cut_after[weights.name] = 2 * chunk + 100
    facts = describe(load(REPO))
    asked = [span for name, span in hub.gets if name == weights.name]
    assert asked[0] is None
    assert int(asked[-1].removeprefix("bytes=").removesuffix("-")) >= 2 * chunk
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_an_unsupported_architecture_is_refused_before_its_weights_are_fetched(hub):
    path = hub.repos[REPO] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "stablelm"}))
    with pytest.raises(ModelError, match="type 'stablelm'"):
        load(REPO)
    assert "model.safetensors" not in {name for name, _ in hub.gets}


def test_a_twin_needs_no_weights(hub):
    facts = describe(load(f"{REPO}@random:3"))
    assert (facts["random_seed"], facts["sha256"], facts["revision"]) == (3, None, COMMIT)
    assert "model.safetensors" not in {name for name, _ in hub.gets}


def test_an_adapter_on_the_hub_is_refused(hub):
    (hub.repos[REPO] / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="merge_and_unload"):
        load(REPO)


def test_the_tokenizer_of_an_object_comes_from_the_hub(hub):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hub.repos[REPO])
    model.name_or_path = REPO
    assert load(model).tokenizer is not None
    assert "model.safetensors" not in {name for name, _ in hub.gets}
