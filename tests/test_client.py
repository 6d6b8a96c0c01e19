"""The client that is not ours: it knows the graph from its contract alone and gives what our backend gives."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx

from l2g.artifacts.onnx_file import read_contract
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tests.exported import edited, set_contract, small_graph
from tests.exported_videomt import videomt_graph
from tests.modeling.small import frames

CLIENT = Path(__file__).parents[1] / "examples" / "onnxruntime_client.py"
# Importing anything but NumPy, ONNX Runtime and what they need themselves fails as on a machine that has neither.
BLOCK = """
import importlib.abc, runpy, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("l2g", "torch", "cv2", "av", "scipy", "onnx"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def client(*arguments):
    command = [sys.executable, "-c", BLOCK, str(CLIENT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")


@pytest.fixture(scope="module")
def video():
    """uint8 [5, 2, H, W, 3]"""
    return np.stack([frames(2, seed=time).numpy() for time in range(5)])


@pytest.mark.parametrize("top_k", [None, 4])
def test_the_client_gives_what_the_backend_gives(tmp_path, video, top_k):
    np.save(tmp_path / "frames.npy", video)
    done = client(small_graph(top_k), tmp_path / "frames.npy", tmp_path / "outputs.npz", 3)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "outputs.npz")
    backend = OnnxRuntimeBackend(small_graph(top_k), threads=1)
    assert set(found.files) == {spec.name for spec in backend.contract.outputs}
    for time, pictures in enumerate(video):
        expected = backend.step(pictures, np.full(2, time in (0, 3)))
        for name, array in vars(expected).items():
            if array is None:  # weights, of models of things and stuff alone
                assert name not in found.files
            elif array.dtype == np.uint8:
                assert np.abs(found[name][time].astype(int) - array).max() <= 1
            else:
                np.testing.assert_allclose(found[name][time], array, atol=1e-5, err_msg=f"{name}, frame {time}")


def test_a_model_of_another_family_is_driven_alike(tmp_path):
    """Contract version 2: one state and no boxes. Frames of the second stream are those of the first."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, 96, 96, 3), dtype=np.uint8).repeat(2, axis=1)
    np.save(tmp_path / "frames.npy", frames)
    assert client(videomt_graph(), tmp_path / "frames.npy", tmp_path / "outputs.npz").returncode == 0
    found = np.load(tmp_path / "outputs.npz")
    backend = OnnxRuntimeBackend(videomt_graph(), threads=1)
    for time in range(3):
        expected = backend.step(frames[time], np.full(2, time == 0))
        np.testing.assert_allclose(found["logits"][time], expected.logits, atol=1e-5)
    np.testing.assert_allclose(found["logits"][:, 0], found["logits"][:, 1], atol=1e-5)


def test_every_frame_of_an_image_model_is_a_first_frame(tmp_path, video):
    """As `VideoSession` has it. The graph is one that looks at a state, so that the contract's word is what counts."""
    contract = json.loads(read_contract(onnx.load(small_graph()), "").to_json()) | {"association": "embedding"}
    graph = edited(small_graph(), set_contract(json.dumps(contract)), tmp_path / "graph.onnx", summed=False)
    np.save(tmp_path / "frames.npy", video)
    assert client(graph, tmp_path / "frames.npy", tmp_path / "outputs.npz").returncode == 0
    found = np.load(tmp_path / "outputs.npz")["logits"]
    backend = OnnxRuntimeBackend(small_graph(), threads=1)
    for logits, pictures in zip(found, video, strict=True):
        np.testing.assert_allclose(logits, backend.step(pictures, np.ones(2, bool)).logits, atol=1e-5)


def test_the_reset_is_one(tmp_path, video):
    """The comparison above sees a reset: without it the frame after it differs."""
    np.save(tmp_path / "frames.npy", video)
    for name, resets in (("with", [3]), ("without", [])):
        assert client(small_graph(), tmp_path / "frames.npy", tmp_path / f"{name}.npz", *resets).returncode == 0
    one, other = np.load(tmp_path / "with.npz")["logits"], np.load(tmp_path / "without.npz")["logits"]
    np.testing.assert_allclose(one[:3], other[:3], atol=1e-6)
    assert np.abs(one[3] - other[3]).max() > 1e-3


@pytest.mark.parametrize(("version", "code"), [(3, 0), (4, 0), (5, 1)])
def test_every_version_of_the_contract_is_driven_and_no_later_one(version, code, tmp_path, video):
    """3: of models of things and stuff; 4: of masks of any size. What the loop reads is the same."""
    contract = json.loads(read_contract(onnx.load(small_graph()), "").to_json()) | {"schema_version": version}
    graph = edited(small_graph(), set_contract(json.dumps(contract)), tmp_path / "graph.onnx", summed=False)
    np.save(tmp_path / "frames.npy", video)
    done = client(graph, tmp_path / "frames.npy", tmp_path / "outputs.npz")
    assert done.returncode == code
    assert ("version 5 found, 1 to 4 expected" in done.stderr) == (code == 1)


def test_frames_off_the_canvas_are_named(tmp_path, video):
    np.save(tmp_path / "frames.npy", video[:, :, :, :64])
    done = client(small_graph(), tmp_path / "frames.npy", tmp_path / "outputs.npz")
    assert done.returncode == 1
    assert "frames are [2, 64, 64, 3], expected ['B', 64, 96, 3]" in done.stderr


def test_it_is_short_and_imports_two_libraries():
    text = CLIENT.read_text()
    assert len(text.splitlines()) <= 60
    modules = {alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names}
    assert modules - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(ast.parse(text)))


def test_the_block_works():
    done = subprocess.run([sys.executable, "-c", BLOCK, "/dev/null"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    blocked = BLOCK.replace("sys.argv = sys.argv[1:]", "import l2g")
    done = subprocess.run([sys.executable, "-c", blocked, "/dev/null"], capture_output=True, text=True, timeout=60)
    assert "No module named 'l2g'" in done.stderr
