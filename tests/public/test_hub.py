"""Checkpoints come from the hub: through a mirror, once, with their sums checked. A local server stands in for it."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import l2g
from l2g.errors import CheckpointError
from l2g.public import hub
from l2g.public.hub import is_hub_checkpoint
from l2g.public.table import public_models
from l2g.runtime.backends.open import open_backend
from tests.modeling.videomt.small import NAMES, network

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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    network(seed=5).save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()} | {"README.md": b"# words", "evil.py": b"1/0"}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    found = Hub(dict(files))
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield found
    found.close()


def downloads(server):
    return [path.rpartition("/")[2] for method, path in server.requests if method == "GET" and "/resolve/" in path]


def test_a_name_of_the_table_is_fetched_once_and_runs(server):
    backend = open_backend("videomt-s-ytvis2019", top_k=3)
    assert backend.contract.class_names == NAMES
    found = backend.step(np.zeros((1, 96, 96, 3), np.uint8), np.ones(1, bool))
    assert found.slots.shape == (1, 3)
    # What is not needed, code above all, is not even asked for.
    assert sorted(downloads(server)) == ["config.json", "model.safetensors"]
    l2g.load_checkpoint(ID)
    assert len(downloads(server)) == 2


def test_what_is_cached_needs_no_network(server):
    l2g.load_checkpoint(ID)
    server.close()
    assert l2g.load_checkpoint(ID).config.class_names == NAMES


def test_a_file_with_another_sum_is_refused(server, tmp_path):
    l2g.load_checkpoint(ID)
    (blob,) = [file for file in (tmp_path / "cache").rglob("blobs/*") if len(file.name) == 64]
    content = bytearray(blob.read_bytes())
    content[-5] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not have the SHA-256 that the hub gives for it"):
        l2g.load_checkpoint(ID)


def test_a_hub_that_lacks_it_is_one_error(server):
    with pytest.raises(CheckpointError) as error:
        l2g.load_checkpoint("tue-mps/nothing")
    message = str(error.value)
    assert f"neither a path here nor to be had from {server.address}" in message
    assert "hf download tue-mps/nothing --include config.json '*.safetensors' --local-dir FOLDER" in message


def test_without_a_network_the_error_says_which_files_to_put_where(server):
    server.close()
    with pytest.raises(CheckpointError) as error:
        l2g.load_checkpoint("videomt-s-ytvis2019")
    assert "copy FOLDER here and give its path" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_repository_without_a_config_is_refused(server):
    del server.files["config.json"]
    with pytest.raises(CheckpointError, match=r"the repository has no config\.json"):
        l2g.load_checkpoint(ID)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "3", "[" * 100_000, '{"model_type": ', "\0"], ids=lambda text: text[:9]
)
def test_a_config_that_says_nothing_is_named(tmp_path, text):
    (tmp_path / hub.CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: no configuration of a Hugging Face model"):
        hub.model_type(tmp_path)


def test_what_looks_like_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "model").mkdir()
    assert is_hub_checkpoint("tue-mps/videomt-dinov2.1")
    for path in ("l2g_tiny", "a/b/c", "/a/b", "./a/b", "weights/model.pth", "runs/model", "model", "a/", "../b"):
        assert not is_hub_checkpoint(path), path
    (tmp_path / "model" / hub.CONFIG).write_text("{}")
    assert is_hub_checkpoint("model")


def test_the_table_is_whole():
    models = public_models()
    assert {model.family for model in models.values()} == {"VidEoMT", "Mask DINO"}
    for name, model in models.items():
        assert name == model.name
        assert (model.hub is None) != (model.url is None)
        assert model.place.startswith("https://")
        assert model.source.startswith("https://")
        assert model.score is None or 0 < model.score < 100
    assert models["videomt-s-ytvis2019"].score == 52.8
    assert models["videomt-s-ytvis2019"].place == f"https://huggingface.co/{ID}"
