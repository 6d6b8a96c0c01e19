"""Transposed convolutions that only enlarge are products, and give the same."""

import collections

import numpy as np
import onnx
import onnx.helper as helper
import onnx_ir as ir
import onnxruntime
import pytest

from l2g.export.graph.upscaling import products_for_upscaling
from tests.exported_videomt import videomt_graph

HEIGHT, WIDTH, INSIDE, OUTSIDE = 3, 4, 5, 6


def picture(kernel, bias=True, **attributes):
    """One convolution over [B, C, h, w] behind rows [B, h * w, C] that are turned for it."""
    rng = np.random.default_rng(0)
    group = attributes.get("group", 1)
    arrays = {"w": rng.standard_normal((INSIDE * group, OUTSIDE, *kernel)).astype(np.float32)}
    arrays["shape"] = np.array([-1, INSIDE * group, HEIGHT, WIDTH])
    if bias:
        arrays["b"] = rng.standard_normal(OUTSIDE * group).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["t", "shape"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "w", *["b"] * bias], ["y"], "/up/ConvTranspose", **attributes),
    ]
    boundary = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", HEIGHT * WIDTH, INSIDE * group]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
    ]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", boundary[:1], boundary[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def run(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    x = np.random.default_rng(1).standard_normal((2, *entry.shape[1:])).astype(np.float32)
    return session.run(None, {"x": x})[0]


def operators(proto):
    return collections.Counter(node.op_type for node in proto.graph.node)


def rewritten(proto):
    model = ir.from_proto(proto)
    products_for_upscaling(model)
    return ir.to_proto(model)


@pytest.mark.parametrize(("kernel", "bias"), [((2, 2), True), ((2, 3), False), ((1, 4), True)])
def test_a_product_gives_the_same(kernel, bias):
    proto = picture(kernel, bias, strides=kernel)
    found = rewritten(proto)
    assert operators(found)["ConvTranspose"] == 0
    assert operators(found)["Transpose"] == 2, "the rows are taken as they lie"
    np.testing.assert_allclose(run(found), run(proto), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1, 1]},
        {"strides": [2, 2], "pads": [0, 0, 1, 1]},
        {"strides": [2, 2], "output_padding": [1, 1]},
        {"strides": [2, 2], "dilations": [2, 2]},
        {"strides": [2, 2], "group": 2},
    ],
)
def test_what_is_more_than_that_stays(attributes):
    proto = picture((2, 2), **attributes)
    assert operators(rewritten(proto))["ConvTranspose"] == 1
    np.testing.assert_array_equal(run(rewritten(proto)), run(proto))


def test_the_upscaling_of_videomt_is_two_products_and_the_masks_read_rows():
    found = {target: onnx.load(videomt_graph(target=target)) for target in ("onnxruntime", "tensorrt")}
    assert [operators(graph)["ConvTranspose"] for graph in found.values()] == [0, 2]
    turns = [operators(graph)["Transpose"] for graph in found.values()]
    products = [operators(graph)["MatMul"] for graph in found.values()]
    assert products[0] == products[1] + 2
    # The rows of the first need no turn, those of the second were turned back and forth; each product has two.
    assert turns[0] == turns[1] + 2
