"""Whatever is wrong with what the three commands are given: one line on stderr, exit code 2, nothing written."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from l2g.cli.making import quantize  # noqa: E402
from l2g.cli.running import evaluate, parity  # noqa: E402
from l2g.cli.running import run as run_video  # noqa: E402
from l2g.data.synthetic.dataset import write_synthetic  # noqa: E402
from tests.data.layouts import write_youtube_vis, youtube_vis_json  # noqa: E402
from tests.exported import edited, set_contract, small_checkpoint, small_graph  # noqa: E402
from tests.modeling.small import HEIGHT, WIDTH  # noqa: E402
from tests.runtime.clips import moving_scenes, write_clip  # noqa: E402


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a data set, a clip, and the files that are wrong."""
    folder = tmp_path_factory.mktemp("given")
    write_synthetic(folder / "val", "val", videos=1, frames=2, size=(HEIGHT, WIDTH))
    write_youtube_vis(folder / "three_classes", youtube_vis_json())
    (folder / "empty").mkdir()
    write_clip(folder / "clip.mp4", moving_scenes(3))
    (folder / "text.onnx").write_text("not a graph")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "cut.onnx").write_bytes(small_graph().read_bytes()[:5000])
    (folder / "text.mp4").write_text("no video")
    edited(small_graph(), set_contract(None), folder / "bare.onnx")
    (folder / "detections.onnx").write_bytes(small_graph(4).read_bytes())
    onnx.save(_add_one(), folder / "foreign.onnx")
    return folder


def _add_one():
    tensor = onnx.helper.make_tensor_value_info
    one = onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")
    node = onnx.helper.make_node("Add", ["x", "one"], ["y"])
    x, y = (tensor(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y], [one]), opset_imports=opset, ir_version=8
    )


GRAPHS = {
    "absent.onnx": "no such file",
    "text.onnx": "ONNX Runtime cannot open it",
    "empty.onnx": "ONNX Runtime cannot open it",
    "cut.onnx": "ONNX Runtime cannot open it",
    "bare.onnx": "carries no 'l2g.contract'",
    "foreign.onnx": "carries no 'l2g.contract'",
    "val": "no backend opens this",
}
DATA = {
    "synthetic:train": "has no end",
    "synthetic_panoptic:train": "has no end",
    "nowhere": "no data set",
    "empty": "empty",
    "ovis:{}/nowhere": "nowhere",
    "synthetic:best": "best",
    "three_classes": "classes",
}


def commands(given, output, model=None, data=None, split="valid"):
    """The three command lines, with `model` or `data` in the place of what is right."""
    model, data = str(model or small_graph()), str(data or given / "val")
    scored = ["--dataset", data, "--split", split, "--report", str(output)]
    return {
        "run_video": (run_video.main, ["--model", model, "--input", str(given / "clip.mp4"), "--output", str(output)]),
        "evaluate": (evaluate.main, ["--model", model, *scored]),
        "parity": (
            parity.main,
            ["--reference", str(small_checkpoint()), "--candidate", model, *scored],
        ),
    }


def refused(command, arguments, capsys, *texts):
    assert command(arguments) == 2
    captured = capsys.readouterr()
    error = captured.err
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    assert all(text in error for text in texts), error
    assert "Traceback" not in error + captured.out


@pytest.mark.parametrize("name", ["run_video", "evaluate", "parity"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_wrong_graphs(given, tmp_path, capsys, name, graph):
    command, arguments = commands(given, tmp_path / "out", model=given / graph)[name]
    refused(command, arguments, capsys, graph, GRAPHS[graph])
    assert not (tmp_path / "out").is_file()
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("name", ["evaluate", "parity"])
@pytest.mark.parametrize("data", DATA)
def test_wrong_data_sets(given, tmp_path, capsys, name, data):
    where = given / data if (given / data).is_dir() else data.format(given)
    split = "train" if data == "three_classes" else "valid"
    command, arguments = commands(given, tmp_path / "out", data=where, split=split)[name]
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert DATA[data] in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["evaluate", "parity"])
def test_chosen_detections_cannot_be_scored(given, tmp_path, capsys, name):
    command, arguments = commands(given, tmp_path / "out", model=given / "detections.onnx")[name]
    refused(command, arguments, capsys, "--outputs raw")


@pytest.mark.parametrize("name", ["evaluate", "parity"])
def test_no_video_is_nothing_to_score(given, tmp_path, capsys, name):
    command, arguments = commands(given, tmp_path / "out")[name]
    refused(command, [*arguments, "--videos", "-1"], capsys, "--videos -1 found, at least 1 expected")


def test_no_video_is_nothing_to_judge_on(given, tmp_path, capsys):
    """Of -1 all videos but the last were taken."""
    arguments = ["--ckpt", str(small_graph()), "--output", str(tmp_path / "a.onnx"), "--verdict-videos", "-1"]
    refused(
        quantize.main, [*arguments, "--dataset", str(given / "val")], capsys, "-1 videos asked for, at least 1 expected"
    )


def test_wrong_videos(given, tmp_path, capsys):
    for path, text in ((given / "absent.mp4", "absent.mp4"), (given / "text.mp4", "text.mp4")):
        arguments = ["--model", str(small_graph()), "--input", str(path), "--output", str(tmp_path / "out")]
        refused(run_video.main, arguments, capsys, text)


def test_a_graph_that_is_asked_for_another_canvas(given, tmp_path, capsys):
    command, arguments = commands(given, tmp_path / "out")["run_video"]
    refused(command, [*arguments, "--size", "96x160"], capsys, "the graph's is fixed at", "l2g export --height 96")
