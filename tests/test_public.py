"""`import l2g`: what it offers, what it costs, and what it does on a small model."""

import ast
import inspect
import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import l2g

PUBLIC = [
    *("Tracker", "process_video", "open_backend", "VideoSession", "FrameResult", "load_checkpoint", "save_checkpoint"),
    *("build_model", "ModelConfig", "Local2Global", "FrameOutput", "FrameState", "export_onnx", "build_engine"),
    *("quantize", "evaluate", "run_parity", "L2GError", "__version__"),
]
# Those through which arrays come and go, and what of them takes or gives the arrays.
WITH_ARRAYS = {
    "Tracker": ["update", "update_many", "check"],
    "FrameResult": ["boxes", "scores", "labels", "track_ids", "masks", "to_supervision"],
    "VideoSession": ["step"],
    "Local2Global": ["step"],
    "FrameOutput": [],
    "FrameState": [],
    "export_onnx": [],
}
SHAPE = re.compile(r"\[[A-Z0-9][^\]]*\]")


def _python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names():
    assert sorted(l2g.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(l2g))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_there(name):
    pytest.importorskip("torch")
    assert getattr(l2g, name) is getattr(l2g, name)
    namespace = {}
    exec(f"from l2g import {name}", namespace)
    assert namespace[name] is getattr(l2g, name)


def test_type_checkers_see_what_is_loaded():
    """The imports under TYPE_CHECKING name the same module for each name as the lazy table."""
    tree = ast.parse(Path(l2g.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == l2g._LAZY
    assert {*seen, "L2GError", "__version__"} == set(PUBLIC)


def test_importing_loads_nothing_heavy():
    heavy = ["numpy", "torch", "cv2", "av", "scipy", "onnx", "onnxruntime", "pycocotools", "tqdm", "supervision"]
    assert _python(f"import sys, l2g; print([n for n in {heavy} if n in sys.modules])") == "[]"
    assert _python("import sys, l2g; dir(l2g); print('numpy' in sys.modules)") == "False"


def test_the_tracker_on_a_graph_loads_neither_torch_nor_scipy_optimize(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from tests.exported import small_graph

    code = f"""
import sys, numpy as np, l2g
with l2g.Tracker({str(small_graph())!r}) as tracker:
    for _ in range(2):
        tracker.update(np.zeros((48, 64, 3), np.uint8))
print([n for n in ("torch", "onnx", "scipy.optimize", "tqdm", "l2g.data", "l2g.modeling") if n in sys.modules])
"""
    assert _python(code) == "[]"


def test_an_unknown_name_and_a_missing_library():
    with pytest.raises(AttributeError, match="no attribute 'tracker_of_dreams'"):
        l2g.tracker_of_dreams  # noqa: B018
    code = """
import sys
sys.modules["torch"] = None
import l2g
try:
    l2g.load_checkpoint
except ModuleNotFoundError as error:
    print(error)
"""
    assert _python(code) == "l2g.load_checkpoint needs 'torch', which is not installed; pip install 'l2g[eager]'"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_name_is_documented(name):
    pytest.importorskip("torch")
    assert len(inspect.getdoc(getattr(l2g, name)) or "") > 40
    # A dataclass without words of its own has its signature for a docstring.
    assert not inspect.getdoc(getattr(l2g, name)).startswith(f"{name}(")


@pytest.mark.parametrize(
    "path", [f"{name}.{part}" if part else name for name, parts in WITH_ARRAYS.items() for part in parts or [""]]
)
def test_whatever_takes_arrays_says_their_shapes(path):
    pytest.importorskip("torch")
    target = l2g
    for part in path.split("."):
        target = getattr(target, part)
    text = inspect.getdoc(target)
    assert SHAPE.search(text), f"l2g.{path} says no shape:\n{text}"
    assert re.search(r"uint8|float32|int64|int32|bool", text), f"l2g.{path} says no dtype"


def test_every_public_function_that_takes_arrays_is_listed():
    """No one adds an array to a signature and forgets its shape."""
    pytest.importorskip("torch")
    for name in PUBLIC:
        value = getattr(l2g, name)
        members = {name: value} if inspect.isfunction(value) else {}
        if inspect.isclass(value):
            public = [(key, part) for key, part in vars(value).items() if not key.startswith("_")]
            members = {key: getattr(part, "fget", part) for key, part in public}
            members = {key: part for key, part in members.items() if inspect.isfunction(part)}
        for key, part in members.items():
            if re.search("ndarray|Tensor", str(inspect.signature(part))) and value is not l2g.Local2Global:
                assert key in WITH_ARRAYS[name], f"{name}.{key}"


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from tests.exported import exported_model, small_checkpoint, small_graph

    return exported_model(), small_checkpoint(), small_graph()


@pytest.fixture(scope="module")
def dataset():
    from l2g.data.registry import load_dataset

    return load_dataset("synthetic:val", videos=2)


def test_export_takes_a_path_or_a_model(models, tmp_path):
    model, checkpoint, graph = models
    from l2g.artifacts.onnx_file import read_contract, read_model

    exported = l2g.export_onnx(checkpoint, tmp_path / "a.onnx", top_k=3)
    contract = read_contract(read_model(tmp_path / "a.onnx"), "a.onnx")
    assert (exported.path, contract.output_kind) == (tmp_path / "a.onnx", "detections")
    assert contract.build.checkpoint == checkpoint.name
    l2g.export_onnx(model, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == graph.read_bytes()
    with pytest.raises(l2g.L2GError, match=r"option 'presicion' found, one of height, .*precision"):
        l2g.export_onnx(model, tmp_path / "c.onnx", presicion="fp16")
    with pytest.raises(l2g.L2GError, match="num_heads given with a loaded model"):
        l2g.export_onnx(model, tmp_path / "c.onnx", num_heads=4)
    with pytest.raises(l2g.L2GError, match=r"gone\.pth: no such file"):
        l2g.export_onnx("gone.pth", tmp_path / "c.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_evaluate_takes_a_path_or_a_backend(models, dataset):
    model, checkpoint, graph = models
    by_path = l2g.evaluate(graph, dataset, videos=1)
    with closing(l2g.open_backend(graph, top_k=None)) as backend:
        by_backend = l2g.evaluate(backend, "synthetic:val", videos=1)
        assert backend.contract  # still open
    assert by_path.to_json() == by_backend.to_json()
    assert by_path.results == by_backend.results
    assert len(by_path.results) == min(100, model.config.num_queries * model.config.num_classes)
    assert {len(entry["segmentations"]) for entry in by_path.results} == {dataset.videos[0].length}
    with pytest.raises(l2g.L2GError, match="0 videos"):
        l2g.evaluate(checkpoint, dataset, videos=0)


def test_parity_passes_for_the_graph_and_fails_for_another_model(models, dataset, tmp_path):
    _, checkpoint, graph = models
    from tests.exported import edited, scale_one_weight

    # Random weights find no object with confidence: all slots count.
    how = {"videos": 1, "confidence": 0.0, "ap": False}
    report = l2g.run_parity(checkpoint, graph, dataset, **how)
    assert report.passed
    assert (report.reference, report.candidate) == (str(checkpoint), str(graph))
    spoilt = edited(graph, scale_one_weight, tmp_path / "spoilt.onnx")
    with closing(l2g.open_backend(graph)) as reference, closing(l2g.open_backend(spoilt)) as candidate:
        with pytest.raises(l2g.L2GError, match="second instance"):
            l2g.run_parity(reference, candidate, dataset)
        with closing(l2g.open_backend(spoilt)) as forced:
            report = l2g.run_parity(reference, candidate, dataset, forced=forced, **how)
    assert not report.passed
    with pytest.raises(l2g.L2GError, match="opened twice"):
        l2g.run_parity(graph, graph, dataset, forced=object())


@pytest.mark.parametrize("name", ["synthetic:train", "synthetic_panoptic:train"])
def test_a_data_set_without_an_end_is_refused(name, tmp_path):
    """Unless so many of its videos are asked for; before a model is opened, so that none is needed here."""
    from l2g.data.registry import load_dataset

    for call in (
        lambda data: l2g.evaluate("gone.onnx", data),
        lambda data: l2g.run_parity("gone.onnx", "gone.onnx", data),
        lambda data: l2g.quantize("gone.onnx", data, tmp_path / "out.onnx"),
    ):
        for data in (name, load_dataset(name)):
            with pytest.raises(l2g.L2GError, match=rf"data set '{name}' has no end"):
                call(data)
    with pytest.raises(l2g.L2GError, match=r"gone\.onnx"):
        l2g.evaluate("gone.onnx", name, videos=1)


def test_process_video_takes_a_path_or_what_is_open(tmp_path):
    pytest.importorskip("torch")
    from l2g.runtime.video.source import Selection, open_source

    clip = Path(__file__).parents[1] / "examples/demo/clip.mp4"
    counted = []
    how = {"end": 0.5, "stride": 2, "on_frame": lambda: counted.append(1)}
    one = l2g.process_video("l2g_tiny", clip, tmp_path / "one", **how)
    assert one.frames == len(counted) > 2
    assert sorted(path.name for path in one.files) == ["frames.jsonl", "overlay.mp4", "results.json"]
    selection = Selection(end=0.5, stride=2)
    with closing(l2g.open_backend("l2g_tiny", top_k=None)) as backend, open_source(clip, selection) as source:
        two = l2g.process_video(backend, source, str(tmp_path / "two"), overlay=False)
        frames = np.zeros((1, backend.contract.height, backend.contract.width, 3), np.uint8)
        backend.step(frames, np.array([True]))  # still open
    assert sorted(path.name for path in two.files) == ["frames.jsonl", "results.json"]
    lines = [(tmp_path / folder / "frames.jsonl").read_text() for folder in ("one", "two")]
    assert lines[0] == lines[1]
    assert sum(len(json.loads(line)["tracks"]) for line in lines[0].splitlines()) > 0
    with open_source(clip) as source, pytest.raises(l2g.L2GError, match="start, end or stride"):
        l2g.process_video("l2g_tiny", source, tmp_path / "three", stride=2)
    with pytest.raises(l2g.L2GError, match=r"gone\.mp4"):
        l2g.process_video("l2g_tiny", tmp_path / "gone.mp4", tmp_path / "three")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("height", "width", "aspect", "upright"),
    [(576, 480, "8/5", False), (96, 64, None, True), (64, 96, None, False), (64, 80, "1/2", True), (0, 0, None, False)],
)
def test_process_video_turns_the_canvas_for_what_looks_upright(height, width, aspect, upright, tmp_path, monkeypatch):
    """The first is SVCD, whose pixels are wider than high; of the last, not there yet, no size is known."""
    from l2g.runtime.video.source import Selection, VideoSource, open_source
    from tests.runtime.clips import write_clip

    class Away(VideoSource):
        is_open = False

        def _decode(self):
            raise NotImplementedError

    class OpenedError(Exception):
        pass

    def opened(model, *, portrait, **_):
        raise OpenedError(portrait)

    monkeypatch.setattr("l2g.api.open_backend", opened)
    if height:
        clip = write_clip(tmp_path / "a.mp4", [np.zeros((height, width, 3), np.uint8)], pixel_aspect=aspect)
        source = open_source(clip)
    else:
        source = Away("camera", Selection())
    with source, pytest.raises(OpenedError) as found:
        l2g.process_video("m", source, tmp_path / "out")
    assert found.value.args == (upright,)


def test_quantize_writes_a_graph_and_its_report(models, dataset, tmp_path):
    _, checkpoint, graph = models
    how = {"ap_budget": None, "max_trials": 0, "method": "max", "search_videos": 1, "probe_frames": 1}
    from l2g.calibration.recording import RecordingOptions

    recording = RecordingOptions(videos=1, frames=2, span=4)
    output = tmp_path / "small.int8.onnx"
    done = l2g.quantize(graph, dataset, output, videos=1, recording=recording, **how)
    assert done.path == output
    from l2g.artifacts.onnx_file import read_contract, read_model

    assert read_contract(read_model(output), output).build.precision == "int8"
    assert (tmp_path / "small.int8.report.md").read_text() == done.report.table()
    assert json.loads((tmp_path / "small.int8.report.json").read_text())
    with pytest.raises(l2g.L2GError, match="in a folder that exists"):
        l2g.quantize(checkpoint, dataset, tmp_path / "none" / "a.onnx")
    with pytest.raises(l2g.L2GError, match="0 videos asked for, at least 1 expected"):
        l2g.quantize(graph, dataset, tmp_path / "a.onnx", videos=0)
    with pytest.raises(l2g.L2GError, match="give the checkpoint"):
        l2g.quantize(output, dataset, tmp_path / "a.onnx", top_k=3)


def test_build_engine_refuses_before_it_builds(models, tmp_path):
    with pytest.raises(l2g.L2GError, match="option 'worksapce'"):
        l2g.build_engine(models[2], tmp_path / "a.engine", worksapce=1 << 30)
    with pytest.raises(l2g.L2GError):
        l2g.build_engine(tmp_path / "none.onnx", tmp_path / "a.engine", library="tensorrt-rtx")
    assert not list(tmp_path.iterdir())
