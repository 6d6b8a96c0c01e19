"""What is written: files byte for byte, whole or not at all, and what is refused."""

import hashlib
import json

import pytest

from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.artifacts.records import EngineOptions
from l2g.artifacts.sidecar import check_file, read_sidecar
from l2g.contract import GraphContract
from l2g.errors import L2GError
from l2g.files import locked
from l2g.serving.options import ServingOptions
from l2g.serving.repository import write_repository
from tests.runtime.fake_gpu import fake_engine
from tests.serving.graphs import tiny_graph


def _sum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "my cam.onnx"
    path.write_bytes(tiny_graph().read_bytes())
    return path


def test_in_the_python_backend(graph, tmp_path):
    (served,) = write_repository([graph], tmp_path / "models")
    assert (served.name, served.folders, served.max_batch) == ("my_cam", (tmp_path / "models/my_cam",), 4)
    assert _tree(tmp_path / "models") == [
        "my_cam/1/model.py",
        "my_cam/1/my cam.onnx",
        "my_cam/config.pbtxt",
        "my_cam/warmup/true",
    ]
    assert _sum(tmp_path / "models/my_cam/1/my cam.onnx") == _sum(graph)
    assert (tmp_path / "models/my_cam/warmup/true").read_bytes() == b"\x01"


def test_in_a_backend_of_the_server(graph, tmp_path):
    (served,) = write_repository([graph], tmp_path / "models", ServingOptions(backend="onnxruntime"))
    assert [folder.name for folder in served.folders] == ["my_cam", "my_cam_graph"]
    assert _tree(tmp_path / "models") == [
        "my_cam/1/contract.json",
        "my_cam/1/model.py",
        "my_cam/config.pbtxt",
        "my_cam_graph/1/model.onnx",
        "my_cam_graph/config.pbtxt",
    ]
    assert _sum(tmp_path / "models/my_cam_graph/1/model.onnx") == _sum(graph)
    contract = GraphContract.from_json((tmp_path / "models/my_cam/1/contract.json").read_text())
    assert (contract.height, contract.output_kind) == (json.loads(contract.to_json())["height"], "raw")


def test_a_further_version_joins_the_first(graph, tmp_path):
    write_repository([graph], tmp_path / "models", ServingOptions(warm_up=False))
    assert not (tmp_path / "models/my_cam/warmup").exists()
    before = _sum(tmp_path / "models/my_cam/1/my cam.onnx")
    with pytest.raises(L2GError, match="version 1 is there already; give --version 2"):
        write_repository([graph], tmp_path / "models", ServingOptions(streams=2))
    assert "max_batch_size: 4" in (tmp_path / "models/my_cam/config.pbtxt").read_text()
    write_repository([graph], tmp_path / "models", ServingOptions(streams=2, version=2, versions="2"))
    assert {path.name for path in (tmp_path / "models/my_cam").iterdir()} == {"1", "2", "config.pbtxt", "warmup"}
    assert "max_batch_size: 2" in (tmp_path / "models/my_cam/config.pbtxt").read_text()
    assert _sum(tmp_path / "models/my_cam/1/my cam.onnx") == before


def test_versions_that_are_served_together_are_of_one_kind(graph, tmp_path):
    """They share one configuration, from which clients read the classes."""
    from tests.exported import edited, set_contract

    def write(path, version, versions):
        return write_repository([path], tmp_path / "models", ServingOptions(version=version, versions=versions))

    contract = json.loads(read_contract(read_model(graph), graph).to_json())
    names = [name.upper() for name in contract["class_names"]]
    (tmp_path / "new").mkdir()
    other = edited(graph, set_contract(json.dumps(contract | {"class_names": names})), tmp_path / "new" / graph.name)
    write(graph, 5, "latest")
    before = (tmp_path / "models/my_cam/config.pbtxt").read_text()
    for version, versions in ((6, "all"), (6, "2"), (4, "latest")):
        with pytest.raises(L2GError, match=r"version 5 would be served too.* but differs in class names; give"):
            write(other, version, versions)
    assert (tmp_path / "models/my_cam/config.pbtxt").read_text() == before
    assert _tree(tmp_path / "models/my_cam/5") == ["model.py", "my cam.onnx"]
    write(graph, 6, "all")
    write(other, 7, "latest")
    assert json.dumps(names[0])[1:-1] in (tmp_path / "models/my_cam/config.pbtxt").read_text()


def test_nothing_is_written_where_one_of_two_is_refused(graph, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(graph.read_bytes()[:-5000])
    with pytest.raises(L2GError, match=r"broken\.onnx"):
        write_repository([graph, broken], tmp_path / "models")
    twin = tmp_path / "my-cam" / "my cam.onnx"
    twin.parent.mkdir()
    twin.write_bytes(graph.read_bytes())
    with pytest.raises(L2GError, match="two models named 'my_cam'"):
        write_repository([graph, twin], tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_graph_that_was_changed_is_refused(graph, tmp_path):
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(L2GError, match="was changed after its export"):
        write_repository([graph], tmp_path / "models")


def test_a_folder_that_takes_nothing(graph, tmp_path, monkeypatch):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(L2GError, match="models"):
        write_repository([graph], tmp_path / "models")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(L2GError, match="No space left"):
        write_repository([graph], tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_what_a_killed_writer_left_is_removed(graph, tmp_path):
    """The server would take it for a model."""
    left = [tmp_path / "models/.my_cam.0123456789abcdef.part", tmp_path / "models/my_cam/.1.0123456789abcdef.part"]
    kept = [tmp_path / "models/.mine.part", tmp_path / "models/other/1"]
    for folder in (*left, *kept):
        (folder / "1").mkdir(parents=True)
    write_repository([graph], tmp_path / "models")
    assert [folder.exists() for folder in (*left, *kept)] == [False, False, True, True]
    with locked(tmp_path / "models"), pytest.raises(L2GError, match="another run writes there now"):
        write_repository([graph], tmp_path / "models", ServingOptions(version=2))


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("m.safetensors", {}, "l2g export --ckpt"),
        ("m.onnx", {"backend": "tensorrt"}, "l2g build --onnx"),
        ("m.engine", {"backend": "onnxruntime"}, "an engine found, and ONNX Runtime runs an .onnx"),
        ("m.engine", {}, "m.engine"),
        ("m.onnx", {}, "no such file"),
    ],
)
def test_a_file_that_does_not_fit_the_backend(name, how, said, tmp_path):
    with pytest.raises(L2GError, match=said):
        write_repository([tmp_path / name], tmp_path / "models", ServingOptions(**how))


def test_an_engine_in_either_backend(tmp_path):
    """Byte for byte, its sidecar beside it; no larger batch than it was built for."""
    options = EngineOptions((1, 2, 3))
    engine = fake_engine(tmp_path / "gate.engine", tiny_graph(), library="tensorrt", options=options)
    (own,) = write_repository([engine], tmp_path / "own", ServingOptions(backend="tensorrt", gpu=True, streams=9))
    (here,) = write_repository([engine], tmp_path / "here", ServingOptions(gpu=True, streams=2))
    assert (own.strategy, own.max_batch, here.strategy, here.max_batch) == ("oldest", 3, "direct", 2)
    plan = tmp_path / "own/gate_graph/1/model.plan"
    assert _tree(plan.parent) == ["model.plan", "model.plan.json"]
    assert _sum(plan) == _sum(engine)
    assert read_sidecar(plan).engine.options == options
    check_file(tmp_path / "here/gate/1/gate.engine", read_sidecar(tmp_path / "here/gate/1/gate.engine"))
    for how, said in (
        ({"backend": "tensorrt", "gpu": True, "batch": 4}, "the engine was built for at most 3 streams"),
        ({"backend": "tensorrt"}, "an engine runs on a GPU; add --gpu"),
        ({"gpu": True, "library": "onnxruntime"}, "library given, which only an .onnx takes"),
    ):
        with pytest.raises(L2GError, match=said):
            write_repository([engine], tmp_path / "none", ServingOptions(**how))
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(L2GError, match="truncated"):
        write_repository([engine], tmp_path / "none", ServingOptions(backend="tensorrt", gpu=True))
    portable = fake_engine(tmp_path / "portable.engine", tiny_graph())
    with pytest.raises(L2GError, match="built by tensorrt-rtx, which Triton's TensorRT backend does not run"):
        write_repository([portable], tmp_path / "none", ServingOptions(backend="tensorrt", gpu=True))
    assert not (tmp_path / "none").exists()
