"""A server on this machine that stands in for the Hugging Face hub, with one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ID, COMMIT = "tue-mps/videomt-dinov2-small-ytvis2019", "5" * 40


class Hub:
    """One repository, in the protocol of the Hugging Face hub: the tree of a revision, and its files."""

    def __init__(self, files):
        self.files, self.requests = files, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(body=True)

            def do_HEAD(self):
                self._answer(body=False)

            def log_message(self, *_):
                pass

            def _answer(self, body):
                outer.requests.append((self.command, self.path))
                status, headers, content = outer.answer(self.path.partition("?")[0])
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path):
        if path in (f"/api/models/{ID}", f"/api/models/{ID}/revision/main"):
            facts = {"id": ID, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(facts).encode()
        if path in (f"/api/models/{ID}/tree/main", f"/api/models/{ID}/tree/{COMMIT}"):
            entries = [
                {"type": "file", "path": name, "oid": "1" * 40, "size": len(content)}
                for name, content in self.files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
        for revision in ("main", COMMIT):
            name = path.removeprefix(f"/{ID}/resolve/{revision}/")
            if name in self.files:
                content, headers = self.files[name], {"X-Repo-Commit": COMMIT}
                if name.endswith(".safetensors"):  # a large file: its tag is its sum
                    headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
                    headers["X-Linked-Size"] = str(len(content))
                headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
                return 200, headers, content
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def standing_in(files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's library asks a `Hub` with these files, and keeps what it gets in `cache`."""
    found = Hub(dict(files))
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    try:
        yield found
    finally:
        found.close()
