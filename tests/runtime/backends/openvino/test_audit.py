"""What a compiled model says of its layers, against the products of its graph: on a CPU, on a GPU, on an NPU."""

from pathlib import Path

import numpy as np
import pytest

ov = pytest.importorskip("openvino")

from openvino import opset13  # noqa: E402

from l2g.errors import L2GError  # noqa: E402
from l2g.runtime.backends.openvino.audit import Product, audit  # noqa: E402
from l2g.runtime.backends.openvino.backend import _check_layers  # noqa: E402

PRODUCTS = (
    Product("conv", ("relu",), "int8", 600),
    Product("attention", (), "bf16", 300),
    Product("linear", ("bias",), "bf16", 90),
    Product("head", (), "fp32", 10),  # too little to count
)
GRAPH = "int8 + bf16"


def runtime(*layers):
    """A compiled model of these layers: (type, precision, what it was made of)."""
    value = opset13.parameter([1], np.float32)
    last = value
    for kind, precision, names in layers:
        last = opset13.relu(last)
        facts = last.get_rt_info()
        facts["layerType"], facts["runtimePrecision"], facts["originalLayersNames"] = kind, precision, names
    return ov.Model([opset13.result(last)], [value])


def cpu(conv="i8", attention="bf16", linear="bf16", head="f32"):
    return runtime(
        ("Convolution", conv, "conv,relu"),
        ("MHA", attention, "attention"),
        ("FullyConnected", linear, "linear,bias"),
        ("FullyConnected", head, "head"),
        ("Reorder", "f32", "linear"),
    )


def test_every_product_is_to_be_in_what_the_graph_has_it_in():
    found = audit(PRODUCTS, cpu(), GRAPH)
    assert (found.audit.share, found.audit.wider) == (1.0, ())
    assert found.audit.flops == {"fp32": 10, "bf16": 390, "fp16": 0, "int8": 600, "unknown": 0}
    assert found.shares == {"bf16": 1.0, "int8": 1.0}
    _check_layers(Path("m.onnx"), found)


def test_or_in_what_was_asked_for_but_for_the_integers():
    found = audit(PRODUCTS, cpu(attention="f32", linear="f32"), "int8 + fp32", "fp32")
    assert (found.audit.share, found.shares) == (1.0, {"fp32": 1.0, "int8": 1.0})


def test_what_is_around_the_integers_counts():
    found = audit(PRODUCTS, cpu(attention="f32", linear="f32"), GRAPH)
    assert found.audit.share == pytest.approx(0.61)
    assert found.audit.wider == (("attention", "fp32"), ("linear", "fp32"))
    assert found.shares == {"bf16": 0.0, "int8": 1.0}
    said = (
        r"^m.onnx: INT8 \+ BF16 asked for, but of its layers OpenVINO computes 3 in FP32, 1 in INT8 \(by FLOPs 0.0 % of"
    )
    with pytest.raises(L2GError, match=said):
        _check_layers(Path("m.onnx"), found)


def test_one_layer_in_the_precision_is_not_enough():
    found = audit(PRODUCTS, cpu(attention="f32"), GRAPH)
    assert found.shares["bf16"] == pytest.approx(90 / 390)
    with pytest.raises(L2GError, match=r"23.1 % of what is to be in BF16"):
        _check_layers(Path("m.onnx"), found)
    _check_layers(Path("m.onnx"), audit(PRODUCTS, cpu(linear="f32"), GRAPH))  # 77 %


def test_float32_takes_nothing_less():
    found = audit(PRODUCTS, cpu(attention="f32", linear="bf16"), "int8 + fp32", "fp32")
    assert found.shares["fp32"] == pytest.approx(310 / 400)
    with pytest.raises(L2GError, match=r"INT8 \+ FP32 asked for, .* 1 in BF16"):
        _check_layers(Path("m.onnx"), found)


def test_a_gpu_has_other_names_for_its_layers():
    layers = ("Convolution", "i8", "conv"), ("scaled_dot_product_attention", "bf16", "attention")
    found = audit(PRODUCTS, runtime(*layers, ("Gemm", "bf16", "linear"), ("fully_connected", "f32", "head")), GRAPH)
    assert found.audit.flops == {"fp32": 0, "bf16": 390, "fp16": 0, "int8": 600, "unknown": 10}
    assert found.shares == {"bf16": 1.0, "int8": 1.0}
    summed = audit((Product("bag", (), "bf16", 1),), runtime(("embedding_bag", "f16", "bag")), "bf16")
    assert summed.audit.flops["fp16"] == 1


def test_what_no_layer_names_is_judged_by_the_layers_there_are():
    unnamed = runtime(("Convolution", "i8", "0"), ("MatMul", "bf16", "1"), ("MatMul", "f32", "2"))
    found = audit(PRODUCTS, unnamed, GRAPH)
    assert (found.audit.share, found.audit.flops["unknown"]) == (0.0, 1000)
    assert found.shares == {"bf16": 1.0, "int8": 1.0}
    with pytest.raises(L2GError, match="BF16 asked for, but of its layers OpenVINO computes none that is known"):
        _check_layers(Path("m.onnx"), audit(PRODUCTS, runtime(("Reorder", "bf16", "0")), GRAPH))


def test_a_part_that_no_layer_names_is_not_judged_beside_others():
    found = audit(PRODUCTS, runtime(("Convolution", "i8", "conv")), GRAPH)
    assert (found.audit.flops["unknown"], found.shares) == (400, {"int8": 1.0})


def test_an_npu_tells_nothing():
    assert audit(PRODUCTS, runtime(), GRAPH) is None
