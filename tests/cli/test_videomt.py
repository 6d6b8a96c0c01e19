"""A VidEoMT through the same commands: run, evaluate, parity, inspect, from a folder and from graphs."""

import json

import cv2
import numpy as np
import pytest

import l2g
from l2g.cli.making.inspect import main as inspect
from l2g.cli.running.evaluate import main as evaluate
from l2g.cli.running.parity import main as parity
from l2g.cli.running.run import main as run
from l2g.data.synthetic.shapes import CLASS_NAMES
from l2g.export.exporter import ExportOptions, export
from l2g.modeling.videomt.model import Videomt
from tests.exported_videomt import videomt_graph
from tests.modeling.videomt.small import network, small_videomt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`small_videomt()` as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("videomt") / "model"
    l2g.save_checkpoint(small_videomt(), path)
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """One of the synthetic data set's classes, as a graph and as a folder."""
    path = tmp_path_factory.mktemp("shapes")
    model = Videomt(network(seed=2, id2label=dict(enumerate(CLASS_NAMES)))).eval()
    l2g.save_checkpoint(model, path / "model")
    export(model, path / "raw.onnx", ExportOptions())
    return path / "model", path / "raw.onnx"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A drawn video of 160 x 240: squares that move over a gradient."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (240, 160))
    ground = np.linspace(0, 255, 240).astype(np.uint8)[None, :, None].repeat(160, 0).repeat(3, 2)
    for time in range(12):
        frame = ground.copy()
        frame[20:70, 10 + 8 * time : 60 + 8 * time] = (30, 40, 220)
        frame[90:140, 150 - 8 * time : 200 - 8 * time] = (40, 200, 30)
        writer.write(frame)
    writer.release()
    return path


def tracks(folder):
    lines = (folder / "frames.jsonl").read_text().splitlines()
    return [{track["id"]: track for track in json.loads(line)["tracks"]} for line in lines]


def test_run_gives_the_same_from_the_folder_and_from_graphs(folder, clip, tmp_path):
    models = {"folder": folder, "raw": videomt_graph(), "detections": videomt_graph(top_k=11)}
    for name, model in models.items():
        arguments = ["--model", str(model), "--input", str(clip), "--output", str(tmp_path / name), "--quiet"]
        assert run([*arguments, "--score-threshold", "0.2"]) == 0
        assert (tmp_path / name / "overlay.mp4").stat().st_size > 0
    found = {name: tracks(tmp_path / name) for name in models}
    assert len(found["folder"]) == 12
    assert sum(map(len, found["folder"])) >= 12
    for name in ("raw", "detections"):
        for expected, frame in zip(found["folder"], found[name], strict=True):
            assert frame.keys() == expected.keys()
            for number, track in frame.items():
                assert track["label"] == expected[number]["label"]
                assert track["score"] == pytest.approx(expected[number]["score"], abs=1e-3)


def test_ids_are_slots_that_stay(folder, clip, tmp_path):
    """An id keeps its slot's object from frame to frame: most of the ids of a frame are those of the one before."""
    arguments = ["--model", str(folder), "--input", str(clip), "--output", str(tmp_path), "--no-overlay", "--quiet"]
    assert run([*arguments, "--score-threshold", "0.2"]) == 0
    frames = [set(frame) for frame in tracks(tmp_path)]
    assert len(set.union(*frames)) <= 2 * max(map(len, frames))


def test_another_canvas_is_refused(folder, clip, tmp_path, capsys):
    arguments = ["--model", str(folder), "--input", str(clip), "--output", str(tmp_path / "out"), "--size", "64x96"]
    assert run(arguments) == 2
    assert "canvas 64x96 found, 96x96 expected: VidEoMT has a learned position" in capsys.readouterr().err


def test_parity_of_the_graph(shapes, tmp_path, capsys):
    model, graph = map(str, shapes)
    arguments = ["--dataset", "synthetic:val", "--videos", "2", "--report", str(tmp_path), "--confidence", "0.3"]
    assert parity(["--reference", model, "--candidate", graph, *arguments]) == 0, capsys.readouterr().out
    report = json.loads((tmp_path / "parity.json").read_text())
    (video, *_) = report["videos"]
    assert max(video["forced"]["mask_logits_max"]) < 1e-3
    assert "boxes_max" not in video["forced"]
    assert "boxes" not in (tmp_path / "parity.html").read_text().split("identity agreement")[0].split("<figure>")[-1]


def test_evaluate(shapes, tmp_path):
    scores = []
    for number, path in enumerate(shapes):
        arguments = ["--model", str(path), "--dataset", "synthetic:val", "--videos", "2"]
        assert evaluate([*arguments, "--report", str(tmp_path / f"{number}.json"), "--quiet"]) == 0
        scores.append(json.loads((tmp_path / f"{number}.json").read_text())["AP"])
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_inspect_tells_of_it(capsys):
    assert inspect([str(videomt_graph())]) == 0
    assert "schema 2, canvas 96x96" in capsys.readouterr().out
