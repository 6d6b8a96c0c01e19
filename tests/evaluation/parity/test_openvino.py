"""The shipped model in OpenVINO: the parity of ONNX Runtime's where its precision is stated, none where it is not."""

import dataclasses

import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")

from l2g.artifacts.onnx_file import with_contract, with_sum
from l2g.checkpoint import load_checkpoint
from l2g.cli.running.parity import main
from l2g.export.exporter import ExportOptions, build_facts, build_graph, contract_of, reduced_graph
from l2g.runtime.backends.openvino.backend import native_precisions

needs_bf16 = pytest.mark.skipif("bf16" not in native_precisions(), reason="this CPU has no BF16")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """l2g_tiny in FP32 and in BF16, of opset 20; unverified, since parity is what is tested."""
    folder, options = tmp_path_factory.mktemp("tiny"), ExportOptions(opset=20)
    model = load_checkpoint("l2g_tiny")
    contract = contract_of(model, options)
    float32 = build_graph(model, contract, options)
    for precision, graph in (("fp32", float32), ("bf16", reduced_graph(float32, "bf16"))):
        build = with_sum(dataclasses.replace(build_facts(options, None), precision=precision), graph)
        content = with_contract(graph, dataclasses.replace(contract, build=build))
        (folder / f"{precision}.onnx").write_bytes(content)
    return folder


def parity(tiny, tmp_path, candidate, *more):
    arguments = ["--reference", str(tiny / "fp32.onnx"), "--candidate", str(tiny / candidate), "--library", "openvino"]
    where = ["--dataset", "synthetic:val", "--videos", "3", "--report", str(tmp_path), "--quiet"]
    return main([*arguments, *where, *more])


def test_float32_is_float32(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    assert parity(tiny, tmp_path / "report", "fp32.onnx") == 0


@needs_bf16
def test_parity_fails_in_what_the_library_would_have_chosen(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    assert parity(tiny, tmp_path / "report", "fp32.onnx", "--precision", "bf16") == 1
    assert "FAIL" in capsys.readouterr().out


@needs_bf16
def test_bf16_with_islands_holds_its_budget(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    assert parity(tiny, tmp_path / "report", "bf16.onnx", "--tolerance", "ap=1") == 0
