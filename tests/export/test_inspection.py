"""The report on an ONNX file, against graphs whose numbers are known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from l2g.cli.making.inspect import main
from l2g.errors import ExportError
from l2g.export.inspection import format_report, inspect_graph
from l2g.provenance import DatasetLoss, INT8Verification
from tests.exported import edited, exported_model, scale_one_weight, set_contract, small_graph


def known(path, opset=17):
    """A 3x3 convolution, a product with weights and one of two activations."""

    def tensor(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    rng = np.random.default_rng(0)
    arrays = {"kernel": rng.random((8, 2, 3, 3)), "weights": rng.random((80, 5)), "flat": np.array([-1, 8, 80])}
    weights = [
        onnx.numpy_helper.from_array(array.astype(np.int64 if name == "flat" else np.float32), name)
        for name, array in arrays.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Reshape", ["features", "flat"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "weights"], ["linear"]),
        helper.make_node("Transpose", ["linear"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["linear", "turned"], ["product"]),
    ]
    graph = helper.make_graph(nodes, "g", [tensor("image", "B", 4, 8, 10)], [tensor("product", "B", 8, 8)], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def test_counts_of_a_known_graph(tmp_path):
    report = inspect_graph(known(tmp_path / "known.onnx"))
    assert report.flops == {
        "convolution": 2 * (8 * 8 * 10) * (2 * 3 * 3),
        "linear": 2 * (8 * 5) * 80,
        "product": 2 * (8 * 8) * 5,
    }
    assert report.parameters == 8 * 2 * 3 * 3 + 80 * 5
    assert report.parameter_bytes == 4 * report.parameters
    assert report.operators == {"MatMul": 2, "Conv": 1, "Reshape": 1, "Transpose": 1}
    assert report.inputs[0].shape == ("B", 4, 8, 10)
    assert report.contract is None
    assert [finding.level for finding in report.findings] == ["error"]
    assert not report.usable


def test_report_of_an_export():
    model, report = exported_model(), inspect_graph(small_graph())
    assert report.findings == ()
    assert [spec.name for spec in report.outputs] == ["queries", "boxes", "logits", "mask_logits"]
    assert (report.inputs, report.outputs) == (report.contract.inputs, report.contract.outputs)
    trained = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("label_embed"))
    # Folded norms give a bias per channel; position embeddings and grids are stored as constants.
    assert trained < report.parameters < 1.6 * trained
    # The backbone's first convolution alone, and all of it within the right order.
    assert report.flops["convolution"] > 2 * (8 * 32 * 48) * (3 * 7 * 7)
    text = format_report(report)
    for part in (
        "queries -> prior_queries",
        "lowering gather",
        "opset 17",
        "findings    none",
        "verified    onnxruntime",
    ):
        assert part in text


def test_a_graph_that_broke_its_contract(tmp_path, capsys):
    def narrower(model):
        model.graph.output[2].type.tensor_type.shape.dim[2].dim_value = 7

    path = edited(small_graph(), narrower, tmp_path / "model.onnx", summed=False)
    report = inspect_graph(path)
    assert not report.usable
    texts = [finding.text for finding in report.findings]
    assert any(
        "output 'logits': the contract says float32 [B, 10, 8], the graph float32 [B, 10, 7]" in t for t in texts
    )
    assert any("changed after its export" in text for text in texts)
    assert main([str(path)]) == 1
    assert "error: output 'logits'" in capsys.readouterr().out


def test_an_output_more(tmp_path):
    def more(model):
        model.graph.node.append(helper.make_node("Identity", ["queries"], ["extra"]))
        model.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, ["B", 10, 64]))

    report = inspect_graph(edited(small_graph(), more, tmp_path / "model.onnx"))
    assert "output 'extra' is not in the contract" in [f.text for f in report.findings if f.level == "error"]


def test_findings(tmp_path):
    def spoil(model):
        graph = model.graph
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float64), "idle_double"))
        for index in range(2):
            graph.node.append(helper.make_node("Shape", ["frames"], [f"shape_{index}"]))
        graph.node.append(helper.make_node("NonZero", ["queries"], ["found"]))
        graph.node.append(helper.make_node("DCNv2_TRT", ["queries"], ["plugged"], domain="trt.plugins"))
        grid = helper.make_node("GridSample", ["frames", "queries"], ["sampled"])
        graph.node.append(grid)

    path = edited(small_graph(), spoil, tmp_path / "model.onnx")
    texts = " | ".join(f"{finding.level} {finding.text}" for finding in inspect_graph(path).findings)
    for part in (
        "warning 3 Shape nodes",
        "warning 1 NonZero nodes",
        "note 1 GridSample nodes",
        "note 1 plugin nodes (DCNv2_TRT)",
        "warning 1 float64 constants",
        "note 1 constants are never read, the first is idle_double",
    ):
        assert part in texts


def test_a_file_without_a_contract(tmp_path, capsys):
    path = edited(small_graph(), set_contract(None), tmp_path / "model.onnx")
    assert main([str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["contract"] is None
    assert "no contract" in report["findings"][0]["text"]


def test_what_each_kind_of_verification_says(tmp_path):
    """An INT8 graph was held to AP, the others to differences of their outputs."""
    contract = inspect_graph(small_graph()).contract
    assert contract.build.verification.differences.keys() == {"queries", "boxes", "logits", "mask_logits"}
    assert "verified    onnxruntime" in format_report(inspect_graph(small_graph()))
    lost = DatasetLoss("synthetic:val", 80, 40.5, 40.25, None, (0.9,), 0.25)
    build = replace(contract.build, precision="int8", verification=INT8Verification("somewhere", 0.5, 0.25, (lost,)))
    path = edited(small_graph(), set_contract(replace(contract, build=build).to_json()), tmp_path / "int8.onnx")
    assert "verified    somewhere: lost +0.25 points on synthetic:val" in format_report(inspect_graph(path))


def test_json(capsys):
    assert main([str(small_graph()), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["contract"]["build"]["lowering"] == "gather"
    assert report["inputs"][0] == {"name": "frames", "dtype": "uint8", "shape": ["B", 64, 96, 3]}


@pytest.mark.parametrize("content", [b"", b"not onnx at all", None])
def test_bad_files(content, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"export or copy it again|no such file"):
        inspect_graph(path)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.engine"])
def test_a_model_of_another_kind_is_no_damaged_onnx_file(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"not onnx at all")
    assert main([str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert f"'{Path(name).suffix}' found, an ONNX file expected; l2g export makes one of a checkpoint" in said


def test_a_truncated_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(small_graph().read_bytes()[:20000])
    with pytest.raises(ExportError, match="export or copy it again"):
        inspect_graph(path)


@pytest.mark.parametrize(
    "change", [{"class_names": ["a"]}, {"pad_value": [300, 0, 0]}, {"build": {"graph_bytes": 2**62}}, {"height": 96}]
)
def test_what_no_runtime_opens_should_not_be_used(tmp_path, change, capsys):
    data = inspect_graph(small_graph()).contract.to_dict() | change
    path = edited(small_graph(), set_contract(json.dumps(data)), tmp_path / "model.onnx")
    assert main([str(path)]) == 1
    assert "no runtime of l2g drives this file" in capsys.readouterr().out


def test_a_changed_graph_should_not_be_used(tmp_path):
    path = edited(small_graph(), scale_one_weight, tmp_path / "model.onnx", summed=False)
    assert [finding.level for finding in inspect_graph(path).findings] == ["error"]
