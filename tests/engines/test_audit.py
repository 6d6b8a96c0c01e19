"""Layers in every form that the libraries describe them in, and what an audit makes of them."""

import json

import onnx
import pytest

from l2g.engines.audit import Layer, Tensor, audit, layers_from_inspector, layers_from_log, quantised
from l2g.errors import EngineError

# A convolution of 8 x 16 x 16 outputs with 4 x 3 x 3 weights each, and a product of [16, 8] with [8, 4].
CONVOLUTION, LINEAR = 2 * 8 * 16 * 16 * 4 * 9, 2 * 16 * 8 * 4


def graph(pairs=False):
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    zeros = {"kernel": (8, 4, 3, 3), "weight": (8, 4)}
    weights = [onnx.helper.make_tensor(name, 1, dims, [0.0] * (_size(dims))) for name, dims in zeros.items()]
    weights += [onnx.helper.make_tensor("scale", 1, [], [0.1]), onnx.helper.make_tensor("zero", 3, [], [0])]
    nodes, source = [], "x"
    if pairs:
        nodes.append(make("QuantizeLinear", ["x", "scale", "zero"], ["xq"], "q"))
        nodes.append(make("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], "dq"))
        weights.append(onnx.helper.make_tensor("kernel8", 3, (8, 4, 3, 3), [0] * 288))
        nodes.append(make("DequantizeLinear", ["kernel8", "scale", "zero"], ["kd"], "dqk"))
        source = "xd"
    nodes.append(make("Conv", [source, "kd" if pairs else "kernel"], ["c"], "conv", pads=[1] * 4))
    nodes.append(make("MatMul", ["y", "weight"], ["m"], "matmul"))
    inputs = [info("x", 1, (1, 4, 16, 16)), info("y", 1, (16, 8))]
    outputs = [info("c", 1, (1, 8, 16, 16)), info("m", 1, (16, 4))]
    made = onnx.helper.make_graph(nodes, "g", inputs, outputs, weights)
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def _size(dims):
    size = 1
    for dim in dims:
        size *= dim
    return size


def layer(node, inputs, weights=(), kind="gemm"):
    return Layer(
        node, kind, tuple(Tensor(p, 100) for p in inputs), tuple(Tensor(p, n) for p, n in weights), (), (node,)
    )


def test_shares_are_of_flops_not_of_layers():
    layers = [layer("conv", ["fp16"], [("fp16", 288)]), layer("matmul", ["fp32"], [("fp32", 32)])]
    found = audit(graph(), layers, "fp16")
    assert found.flops == {"fp32": LINEAR, "bf16": 0, "fp16": CONVOLUTION, "int8": 0, "unknown": 0}
    assert found.share == pytest.approx(CONVOLUTION / (CONVOLUTION + LINEAR))
    assert found.wider == (("matmul", "fp32"),)
    found.check(0.9)
    with pytest.raises(EngineError, match="matmul in fp32"):
        found.check(0.999)


@pytest.mark.parametrize(
    ("inputs", "weights", "expected"),
    [
        (["fp32", "fp16"], [("fp16", 288), ("fp32", 1), ("fp32", 8)], "fp16"),  # a float32 residual, scalars and bias
        (["int8"], [("int8", 288), ("fp32", 8)], "int8"),
        (["fp16"], [("fp32", 288), ("fp16", 8)], "fp32"),  # weights that stayed wide
        (["int8"], [("fp16", 288), ("fp32", 1)], "fp16"),  # stored in 8 bits, computed in 16
        (["fp16", "fp32"], [("fp32", 1)], "fp32"),  # two activations
        (["fp16", "fp16"], [("fp32", 1)], "fp16"),
    ],
)
def test_what_a_layer_computes_in(inputs, weights, expected):
    assert layer("conv", inputs, weights).precision == expected


def test_what_surrounds_a_product_does_not_count_for_it():
    around = layer("conv", ["fp32"], [("fp32", 8)], kind="kgen")
    layers = [around, layer("conv", ["int8"], [("int8", 288)], kind="correlation"), layer("matmul", ["fp32"])]
    found = audit(graph(pairs=True), layers, "int8")
    assert (found.share, found.nodes) == (1, {"int8": 1, "fp32": 1})
    assert quantised(graph(pairs=True)) == {"conv"}
    # And the widest of several layers that do compute it does.
    layers.append(layer("conv", ["fp32"], [("fp32", 288)], kind="correlation"))
    assert audit(graph(pairs=True), layers, "int8").share == 0


@pytest.mark.parametrize("asked", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("computed", ["fp32", "bf16", "fp16", "int8"])
def test_what_counts_as_what_was_asked_for(asked, computed):
    """Neither what is narrower than FP32 nor another kind of 16 bits; integers only in a graph of 16 bits."""
    layers = [layer("conv", [computed], [(computed, 288)]), layer("matmul", [asked], [(asked, 32)])]
    found = audit(graph(), layers, asked)
    kept = computed == asked or (computed == "int8" and asked != "fp32")
    assert found.share == pytest.approx(1 if kept else LINEAR / (CONVOLUTION + LINEAR))
    assert found.wider == (() if kept else (("conv", computed),))


def test_a_product_that_no_layer_names_is_not_taken_on_trust():
    found = audit(graph(), [layer("conv", ["fp16"], [("fp16", 288)])], "fp16")
    assert found.flops["unknown"] == LINEAR
    assert found.wider == (("matmul", "unknown"),)
    with pytest.raises(EngineError, match="0 layers and 2 products found"):
        audit(graph(), [], "fp16")


def test_a_graph_without_shapes_is_not_judged_by_what_is_left():
    model = graph()
    model.graph.input[1].type.tensor_type.ClearField("shape")
    with pytest.raises(EngineError, match="the shapes of 1 of 2 convolutions and products are not in the graph"):
        audit(model, [layer("conv", ["fp16"], [("fp16", 288)])], "fp16")


LINE = (
    "[VERBOSE] Name: conv_0, LayerType: correlation, "
    "Inputs: [ { Name: a, Dimensions: [-1,4,16,16], Strides: [1,1,1,1], Datatype: Half, Format: (Linear) Row }, "
    "{ Name: b, Dimensions: [-1,8,16,16], Datatype: Float, Format: (Linear) Row }], "
    "Constants: [ { Name: k, Dimensions: [8,4,3,3], Datatype: Half, Format: (Linear) Row }, "
    "{ Name: s, Dimensions: [1], Datatype: Float, Format: (Linear) Row }], "
    "Outputs: [ { Name: o, Dimensions: [-1,8,16,16], Datatype: Half, Format: (Linear) Row }], "
    "TacticName: x, StreamId: 0, Metadata: [ONNX Layer: conv]\x1f[ONNX Layer: relu]"
)
WAIT = "[VERBOSE] Name: w, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , Metadata: "


def test_the_table_in_a_log():
    text = f"[INFO] other\n{LINE}\n{WAIT}"
    first, second = layers_from_log(text)
    assert (first.kind, first.nodes, second.kind) == ("correlation", ("conv", "relu"), "wait")
    assert first.inputs == (Tensor("fp16", 1024), Tensor("fp32", 2048))
    assert first.weights == (Tensor("fp16", 288), Tensor("fp32", 1))
    assert first.outputs == (Tensor("fp16", 2048),)
    assert first.precision == "fp16"
    assert second.precision is None


@pytest.mark.parametrize("spelt", ["BFloat16", "BF16"])
def test_bf16_in_a_log_is_not_fp16(spelt):
    (found,) = layers_from_log(LINE.replace("Half", spelt))
    assert (found.inputs[0].precision, found.precision) == ("bf16", "bf16")


def test_the_inspector_of_10_and_of_11():
    metadata = "[ONNX Layer: conv]\x1e[ONNX Layer: relu]"
    dims = [1, 4, 16, 16]
    old = {"Name": "c", "LayerType": "CaskConvolution", "Metadata": metadata, "Weights": {"Type": "Half", "Count": 288}}
    old["Inputs"] = [{"Name": "a", "Dimensions": dims, "Format/Datatype": "Row major linear FP16 format"}]
    new = {**old, "Constants": [{"Name": "k", "Dimensions": [8, 4, 3, 3], "DataType": "Half"}], "LayerType": "gemm"}
    new["Inputs"] = [{"Name": "a", "Dimensions": dims, "Format": "Row major linear", "DataType": "Half"}]
    del new["Weights"]
    for entry in (old, new):
        (found,) = layers_from_inspector(json.dumps({"Layers": [entry], "Bindings": []}))
        assert found.inputs == (Tensor("fp16", 1024),)
        assert found.weights == (Tensor("fp16", 288),)
        assert (found.nodes, found.precision) == (("conv", "relu"), "fp16")
    with pytest.raises(EngineError, match="no list of layers"):
        layers_from_inspector("{}")


def test_a_fused_attention():
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("MatMul", ["q", "k"], ["s"], "scores"),
        make("Softmax", ["s"], ["p"], "softmax"),
        make("MatMul", ["p", "v"], ["o"], "values"),
    ]
    inputs = [info(name, 1, (4, 4)) for name in "qkv"]
    made = onnx.helper.make_graph(nodes, "g", inputs, [info("o", 1, (4, 4))])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    halves = (Tensor("fp16", 16),) * 3
    # As TensorRT-RTX 1.7 names it: of the type that surroundings have too.
    fused = Layer("_gemm_mha_v2_myl0_165", "kgen", halves, (), (), ("scores", "softmax", "values"))
    assert fused.computes
    apart = [Layer(n, "gemm", halves[:2], (), (), (n,)) for n in ("scores", "values")]
    found = audit(model, [fused], "fp16")
    assert (found.fused_attention, found.layers, found.share) == (1, {"fp16": 1}, 1)
    # A layer that is named after nodes of an attention is none.
    assert not Layer("/decoder/self_attention/Add", "kgen", halves, (), (), ()).computes
    assert audit(model, apart, "fp16").fused_attention == 0


def test_memory_comes_from_the_log():
    layers = [layer("conv", ["fp16"], [("fp16", 288)])]
    log = "[INFO] Total Activation Memory: 123 bytes\n[INFO] Total Weights Memory: 45 bytes"
    found = audit(graph(), layers, "fp16", log)
    assert (found.activation_bytes, found.weight_bytes) == (123, 45)
    assert audit(graph(), layers, "fp16").activation_bytes is None
