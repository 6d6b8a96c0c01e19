"""A feed-forward layer some tokens at a time, against the same layer in numpy."""

import collections

import numpy as np
import onnx
import onnx.helper as helper
import onnx_ir as ir
import onnxruntime
import pytest

from l2g.export.exporter import ExportOptions, export
from l2g.export.graph import node_builder as builder
from l2g.export.graph.blocks import blocks
from l2g.export.graph.feedforward import split_feed_forward
from tests.exported import exported_model

TOKENS, WIDTH, HIDDEN = 7, 4, 6
RNG = np.random.default_rng(0)
SHAPES = {"w1": (WIDTH, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, WIDTH)}
WEIGHTS = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def layer(weights=WEIGHTS, outputs=("y",)):
    """A graph of one layer; its bias comes first, as exports have it."""
    shapes = {"x": WIDTH, "a": HIDDEN, "b": HIDDEN, "r": HIDDEN, "y": WIDTH}
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", TOKENS, c])
        for name, c in shapes.items()
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "/encoder/layers.0/linear1/MatMul"),
        helper.make_node("Add", ["b1", "a"], ["b"], "/encoder/layers.0/linear1/Add"),
        helper.make_node("Relu", ["b"], ["r"], "/encoder/layers.0/Relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "/encoder/layers.0/linear2/MatMul"),
    ]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    info = [value for name, value in values.items() if name not in ("x", *outputs)]
    graph = helper.make_graph(nodes, "g", [values["x"]], [values[name] for name in outputs], constants, value_info=info)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def products(model):
    return sum(node.op_type == "MatMul" for node in model.graph)


@pytest.mark.parametrize(("tokens", "parts"), [(1, 7), (3, 3), (4, 2), (7, 1)])
@pytest.mark.parametrize("streams", [1, 3])
def test_parts_give_the_same(monkeypatch, tokens, parts, streams):
    monkeypatch.setattr(builder, "PART_BYTES", tokens * HIDDEN * 4)
    model = layer()
    split_feed_forward(model)
    assert products(model) == 2 * parts
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert set(blocks(proto, "module")) == {f"encoder.layers.0{part}" for part in ("", ".linear1", ".linear2")}
    x = RNG.standard_normal((streams, TOKENS, WIDTH)).astype(np.float32)
    expected = np.maximum(x @ WEIGHTS["w1"] + WEIGHTS["b1"], 0) @ WEIGHTS["w2"]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=0, atol=1e-5)


def test_left_alone_when_something_else_reads_the_inside(monkeypatch):
    monkeypatch.setattr(builder, "PART_BYTES", HIDDEN * 4)
    for outputs in (("y", "a"), ("y", "r")):
        model = layer(outputs=outputs)
        split_feed_forward(model)
        assert products(model) == 2


def test_left_alone_when_the_bias_differs_from_token_to_token(monkeypatch):
    monkeypatch.setattr(builder, "PART_BYTES", HIDDEN * 4)
    model = layer({**WEIGHTS, "b1": np.ones((TOKENS, HIDDEN), np.float32)})
    split_feed_forward(model)
    assert products(model) == 2


def optimised_operators(path, output):
    """How often ONNX Runtime runs each operator of the encoder once it has fused what it wants to."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(output), 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(output).graph.node
    return collections.Counter(node.op_type for node in nodes if "/encoder/" in node.output[0])


@pytest.mark.parametrize(("target", "split"), [("onnxruntime", True), ("tensorrt", False)])
def test_a_graph_for_a_cpu_has_its_encoder_in_parts(monkeypatch, tmp_path, target, split):
    """And passes the verification that is part of exporting."""
    monkeypatch.setattr(builder, "PART_BYTES", 1 << 13)
    path = export(exported_model(), tmp_path / "tiny.onnx", ExportOptions(target=target)).path
    found = blocks(onnx.load(path), "module")
    for name in ("encoder.layers.0.linear1", "encoder.layers.0.linear2"):
        assert (sum(node.op_type == "MatMul" for node in found[name]) > 1) == split
    optimised = optimised_operators(path, tmp_path / "optimised.onnx")
    assert (optimised["SkipLayerNormalization"] == 0) == split
