"""Checkpoints come from the hub: through a mirror, once, with their sums checked. A local server stands in for it."""

import dataclasses

import numpy as np
import pytest
import torch

import l2g
from l2g.errors import CheckpointError
from l2g.public import hub
from l2g.public.hub import is_hub_checkpoint
from l2g.public.table import public_models
from l2g.runtime.backends.open import open_backend
from tests.modeling.videomt.small import NAMES, dinov3_authors_tensors, dinov3_network, network
from tests.public.stand_in import ID, standing_in


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    network(seed=5).save_pretrained(folder)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    return whole | {"video_preprocessor_config.json": b"{}", "README.md": b"# words", "evil.py": b"1/0"}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    with standing_in(files, tmp_path / "cache", monkeypatch) as found:
        yield found


def downloads(server):
    return [path.rpartition("/")[2] for method, path in server.requests if method == "GET" and "/resolve/" in path]


def test_a_name_of_the_table_is_fetched_once_and_runs(server):
    backend = open_backend("videomt-s-ytvis2019", top_k=3)
    assert backend.contract.class_names == NAMES
    found = backend.step(np.zeros((1, 96, 96, 3), np.uint8), np.ones(1, bool))
    assert found.slots.shape == (1, 3)
    # What is not needed, code above all, is not even asked for.
    assert sorted(downloads(server)) == ["config.json", "model.safetensors", "video_preprocessor_config.json"]
    l2g.load_checkpoint(ID)
    assert len(downloads(server)) == 3


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
    assert "hf download tue-mps/nothing --include '*config.json' '*.safetensors' --local-dir FOLDER" in message


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


def test_a_file_of_the_authors_is_fetched_once_with_the_names_of_its_classes(server, tmp_path, monkeypatch):
    """Such a file tells no names; those of its data set stand beside it in the table."""
    name, kept = "videomt-l-dinov3-ytvis2019", tmp_path / "torch"
    network = dinov3_network(hidden_size=64, num_attention_heads=1, id2label=dict(enumerate(map(str, range(40)))))
    torch.save({"model": dinov3_authors_tensors(network)}, tmp_path / "file.pth")
    server.files["yt_2019.pth"] = (tmp_path / "file.pth").read_bytes()
    entry = dataclasses.replace(public_models()[name], url=f"{server.address}/{ID}/resolve/main/yt_2019.pth")
    for where in ("l2g.checkpoint", "l2g.public.table"):
        monkeypatch.setattr(f"{where}.public_models", lambda: {name: entry})
    monkeypatch.setenv("TORCH_HOME", str(kept))
    for _ in range(2):
        model = l2g.load_checkpoint(name)
        assert model.config.class_names[:3] == ("person", "giant_panda", "lizard")
    assert downloads(server) == ["yt_2019.pth"]
    assert l2g.load_checkpoint(kept / "hub/checkpoints/yt_2019.pth").config.class_names[0] == "person"
    assert l2g.load_checkpoint(tmp_path / "file.pth").config.class_names[0] == "LABEL_0"
    server.close()
    (kept / "hub/checkpoints/yt_2019.pth").unlink()
    with pytest.raises(CheckpointError, match=r"is not to be had .*give its path here or copy it to"):
        l2g.load_checkpoint(name)


def test_the_table_is_whole():
    models = public_models()
    assert {model.family for model in models.values()} == {"VidEoMT", "Mask DINO"}
    for name, model in models.items():
        assert name == model.name
        assert (model.hub is None) != (model.url is None)
        assert model.place.startswith("https://")
        assert model.source.startswith("https://")
        assert model.score is None or 0 < model.score < 100
        assert model.class_names is None or len(set(model.class_names)) == model.classes
    assert sum(model.family == "Mask DINO" for model in models.values()) == 8  # all that its authors link
    inits = {name: model.box_init for name, model in models.items() if model.box_init is not None}
    assert inits == {"maskdino-r50-hid1024": "bitmask", "maskdino-swin-l-no-mask-enhance": "no"}
    assert models["videomt-s-ytvis2019"].score == 52.8
    assert models["videomt-s-ytvis2019"].place == f"https://huggingface.co/{ID}"
