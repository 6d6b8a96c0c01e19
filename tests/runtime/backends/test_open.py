"""Which backend opens what, and what is said when none does."""

import os
import sys

import pytest

from l2g.errors import CheckpointError, L2GError
from l2g.runtime.backends.open import open_backend


@pytest.mark.parametrize("name", ["model.tflite", "model.onnx.zip", "video.mp4"])
def test_unknown_suffixes_are_refused(name):
    with pytest.raises(L2GError, match=r"no backend opens this.*\.safetensors"):
        open_backend(name)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(L2GError, match="no backend opens this"):
        open_backend(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_missing_checkpoint_is_named(tmp_path, suffix):
    with pytest.raises(CheckpointError, match=f"model{suffix}: no such file"):
        open_backend(tmp_path / f"model{suffix}")


def test_canvas_must_be_multiples_of_32():
    with pytest.raises(L2GError, match="canvas 480x850 found, multiples of 32"):
        open_backend("l2g_tiny", canvas=(480, 850))


def test_without_torch_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "m.pth").write_bytes(b"x")
    for name in [name for name in sys.modules if name.split(".")[0] == "torch" or name.startswith("l2g.checkpoint")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(L2GError, match=r"pip install 'l2g\[eager\]'"):
        open_backend(tmp_path / "m.pth")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_checkpoint_goes_where_a_gpu_is(device, monkeypatch):
    torch = pytest.importorskip("torch")
    moved = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, where: moved.append(where.type) or self)
    open_backend("l2g_tiny")
    assert moved == [device]


@pytest.mark.parametrize(("theirs", "expected"), [(None, "3000"), ("7", "7")])
def test_threads_that_wait_do_not_spin_for_long(theirs, expected, monkeypatch):
    """Said before PyTorch is loaded, where nobody has said otherwise."""
    pytest.importorskip("torch")
    monkeypatch.setenv("GOMP_SPINCOUNT", theirs or "")
    if theirs is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    open_backend("l2g_tiny")
    assert os.environ["GOMP_SPINCOUNT"] == expected
