"""No command writes over a file that it reads."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from l2g.cli.main import main
from l2g.data.synthetic.dataset import write_synthetic
from tests.exported import small_checkpoint, small_graph
from tests.training.small import small


@pytest.fixture
def model(tmp_path):
    return shutil.copy(small_checkpoint(), tmp_path / "m.safetensors")


@pytest.fixture
def graph(tmp_path):
    return shutil.copy(small_graph(), tmp_path / "m.onnx")


@pytest.fixture
def data(tmp_path):
    return write_synthetic(tmp_path / "data", "val", seed=3, videos=1, frames=2, size=(64, 96))


def expect_refused(capsys, source, words):
    before = source.read_bytes()
    assert main([*map(str, words)]) == 2
    assert f"{source}: is the file that would be written as" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_export(model, capsys, tmp_path):
    (tmp_path / "link.onnx").symlink_to(model)
    expect_refused(capsys, model, ["export", "--ckpt", model, "--output", tmp_path / "link.onnx", "--quiet"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.onnx", "m.safetensors"]


def test_quantize(graph, data, capsys, tmp_path):
    words = ["quantize", "--dataset", data, "--quiet"]
    expect_refused(capsys, graph, [*words, "--ckpt", graph, "--output", graph])
    # The report beside the graph is written, too.
    annotations = shutil.copy(data / "instances.json", tmp_path / "data" / "q.report.json")
    (data / "instances.json").unlink()
    (data / "instances.json").symlink_to(annotations)
    words = ["quantize", "--dataset", data, "--quiet", "--ckpt", graph, "--output", annotations.with_name("q.onnx")]
    expect_refused(capsys, data / "instances.json", words)


@pytest.mark.parametrize("option", ["--output", "--timing-cache", "--verbose-log"])
def test_build(graph, option, capsys, tmp_path):
    words = ["build", "--onnx", graph, "--output", tmp_path / "m.engine", "--library", "tensorrt", option, graph]
    expect_refused(capsys, graph, words)


def test_a_sidecar_is_no_graph(graph, capsys, tmp_path):
    onnx = graph.rename(tmp_path / "m.engine.json")
    words = ["build", "--onnx", onnx, "--output", tmp_path / "m.engine", "--library", "tensorrt-rtx"]
    expect_refused(capsys, onnx, words)


@pytest.mark.parametrize("option", ["--results", "--report"])
def test_evaluate(graph, data, option, capsys):
    words = ["evaluate", "--model", graph, "--dataset", data, "--quiet"]
    expect_refused(capsys, graph, [*words, option, graph])
    expect_refused(capsys, data / "instances.json", [*words, option, data / "instances.json"])


def test_metrics(data, capsys, tmp_path):
    results = tmp_path / "r.json"
    results.write_text(json.dumps([]))
    words = ["metrics", "vis-ap", "--ground-truth", data / "instances.json", "--results", results, "--json"]
    for source in (data / "instances.json", results):
        expect_refused(capsys, source, [*words, source])


def test_training(model, capsys, tmp_path):
    own = model.rename(tmp_path / "model.safetensors")
    words = ["train", "--config", "synthetic_tiny", "--output", tmp_path, *small(), f"init={own}"]
    expect_refused(capsys, own, words)
