"""Q/DQ graphs in ONNX Runtime against the same arithmetic in numpy."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from l2g.calibration.placement import LAYOUTS, ONNXRUNTIME, TENSORRT, find_places, quantise
from l2g.calibration.ranges import Interval, fake_quantise
from l2g.errors import ExportError

RANGES = {
    "x": Interval(-2.0, 2.5),
    "a": Interval(0.0, 3.0),
    "b": Interval(-4.0, 4.0),
    "sum": Interval(0.0, 5.0),
    "tokens": Interval(-3.0, 5.0),
    "hidden": Interval(-3.0, 3.0),
}


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (6, 4, 3, 3), "b1": (6,), "w2": (4, 6, 1, 1), "b2": (4,), "w3": (4, 8), "w4": (5, 8), "b4": (5,)}
    found = {name: 0.4 * rng.standard_normal(shape) for name, shape in shapes.items()}
    # Channels of very different sizes, which a single scale would drown.
    found["w1"] *= (10.0 ** -np.arange(6))[:, None, None, None]
    return {name: array.astype(np.float32) for name, array in found.items()}


def graph():
    """A residual block (x -> conv a -> conv b, + x, relu) whose result goes through a MatMul and a Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["a"], "relu1"),
        helper.make_node("Conv", ["a", "w2", "b2"], ["b"], "conv2"),
        helper.make_node("Add", ["b", "x"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["sum"], "relu2"),
        helper.make_node("Transpose", ["sum"], ["moved"], "move", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["moved", "shape"], ["tokens"], "reshape"),
        helper.make_node("MatMul", ["tokens", "w3"], ["hidden"], "linear"),
        helper.make_node("Gemm", ["hidden", "w4", "b4"], ["y"], "gemm", transB=1),
        helper.make_node("Neg", ["a"], ["z"], "aside"),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights().items()]
    constants.append(numpy_helper.from_array(np.array([-1, 4], np.int64), "shape"))
    result = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 7])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [35, 5]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 6, 5, 7]),
        ],
        constants,
    )
    return helper.make_model(result, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def x():
    return np.random.default_rng(5).standard_normal((1, 4, 5, 7)).astype(np.float32)


def run(model, optimised=False):
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x()})


def rounded_weight(array, axis):
    """Per output channel: 127 steps to the largest magnitude."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(axis=others, keepdims=True) / 127
    return np.rint(array / scale) * scale


def conv(values, weight, bias, padding):
    tensors = (torch.from_numpy(np.asarray(array, np.float64)) for array in (values, weight, bias))
    return torch.nn.functional.conv2d(*tensors, padding=padding).numpy()


def test_tensorrt_numerics_are_numpys():
    """Every layer on rounded inputs and weights, its output as it comes; what is not a layer reads the original."""
    w = weights()
    q = {name: lambda v, span=span: fake_quantise(v, span, True) for name, span in RANGES.items()}
    a = np.maximum(conv(q["x"](x()), rounded_weight(w["w1"], 0), w["b1"], 1), 0)
    b = conv(q["a"](a), rounded_weight(w["w2"], 0), w["b2"], 0)
    total = np.maximum(b + x(), 0)
    tokens = total.transpose(0, 2, 3, 1).reshape(-1, 4)
    hidden = q["tokens"](tokens) @ rounded_weight(w["w3"], 1)
    y = q["hidden"](hidden) @ rounded_weight(w["w4"], 0).T + w["b4"]
    model = quantise(graph(), ["conv1", "conv2", "linear", "gemm"], RANGES.__getitem__, TENSORRT)
    found = run(model)
    np.testing.assert_allclose(found[0], y, atol=2e-5)
    np.testing.assert_allclose(found[1], -a, atol=2e-5)
    zeros = [w for w in model.graph.initializer if w.name.endswith("_zero")]
    assert zeros
    assert all(w.data_type == TensorProto.INT8 and not numpy_helper.to_array(w).any() for w in zeros)


def test_onnxruntime_numerics_are_numpys():
    """Convolutions round what they give, once, behind the rectification; the residual sum too."""
    w = weights()
    q = {name: lambda v, span=span: fake_quantise(v, span, False) for name, span in RANGES.items()}
    a = q["a"](np.maximum(conv(q["x"](x()), rounded_weight(w["w1"], 0), w["b1"], 1), 0))
    b = q["b"](conv(a, rounded_weight(w["w2"], 0), w["b2"], 0))
    y_bits = np.maximum(b + x(), 0)
    tokens = y_bits.transpose(0, 2, 3, 1).reshape(-1, 4)
    hidden = q["tokens"](tokens) @ rounded_weight(w["w3"], 1)
    y = q["hidden"](hidden) @ rounded_weight(w["w4"], 0).T + w["b4"]
    model = quantise(graph(), ["conv1", "conv2", "linear", "gemm"], RANGES.__getitem__, ONNXRUNTIME)
    found = run(model)
    # The bias is rounded to a step of input scale times weight scale.
    np.testing.assert_allclose(found[0], y, atol=2e-3)
    np.testing.assert_allclose(found[1], -a, atol=1e-5)


def test_the_sum_of_two_quantised_sides_is_quantised():
    """In a chain of residual blocks both sides of the second sum are 8 bits; ONNX Runtime then adds integers."""
    model = graph()
    nodes = [
        helper.make_node("Conv", ["sum", "w1", "b1"], ["c3"], "conv3", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c3", "w2", "b2"], ["d"], "conv4"),
        helper.make_node("Conv", ["x", "w2x"], ["side"], "shortcut"),
        helper.make_node("Add", ["d", "side"], ["e"], "add2"),
    ]
    model.graph.node.extend(nodes)
    extra = 0.3 * np.random.default_rng(8).standard_normal((4, 4, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(extra, "w2x"))
    names = ["conv3", "conv4", "shortcut"]
    assert find_places(model, names, ONNXRUNTIME).outputs == {"c3", "d", "side", "e"}
    assert find_places(model, names[:2], ONNXRUNTIME).outputs == {"c3", "d"}
    assert find_places(model, names, TENSORRT).outputs == frozenset()


def test_it_runs_on_integers(tmp_path):
    """ONNX Runtime's optimisations find the patterns: no float convolution is left."""
    model = quantise(graph(), ["conv1", "conv2", "linear"], RANGES.__getitem__, ONNXRUNTIME)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert found.count("QLinearConv") == 2
    assert "MatMulIntegerToFloat" in found
    assert not {"Conv", "FusedConv", "MatMul"} & set(found)
    # An integer more or less where the two round differently.
    plain, quick = run(model), run(model, optimised=True)
    np.testing.assert_allclose(quick[1], plain[1], atol=RANGES["a"].high / 255 + 1e-6)


def test_a_graph_of_nothing_is_the_graph():
    for one, other in zip(run(quantise(graph(), [], RANGES.__getitem__, TENSORRT)), run(graph()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_original_is_untouched():
    model = graph()
    before = model.SerializeToString()
    quantise(model, ["conv1"], RANGES.__getitem__, ONNXRUNTIME)
    assert model.SerializeToString() == before


def test_half_scales_are_exact_in_fp16_and_clip_nothing():
    model = quantise(graph(), ["conv1", "linear"], RANGES.__getitem__, TENSORRT, half_scales=True)
    scales = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer if w.name.endswith("_scale")}
    assert len(scales) == 4
    for name, scale in scales.items():
        np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
        if name.startswith("w"):
            array = weights()[name.removesuffix("_scale")]
            others = tuple(range(1, array.ndim)) if array.ndim == 4 else (0,)
            assert (127 * scale.astype(np.float64) >= np.abs(array).max(axis=others) - 1e-12).all()
    assert scales["x_scale"] * 127 >= 2.5


def test_shared_weights_are_stored_once():
    model = graph()
    model.graph.node.append(helper.make_node("MatMul", ["tokens", "w3"], ["again"], "twin"))
    result = quantise(model, ["linear", "twin"], RANGES.__getitem__, TENSORRT)
    assert [w.name for w in result.graph.initializer if w.name.startswith("w3")] == [
        "w3_quantised",
        "w3_scale",
        "w3_zero",
    ]
    assert sum(node.op_type == "QuantizeLinear" for node in result.graph.node) == 1


def test_an_integer_bias_never_overflows():
    model = graph()
    bias = next(w for w in model.graph.initializer if w.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(np.full(6, 1e4, np.float32), "b1"))
    result = quantise(model, ["conv1"], RANGES.__getitem__, ONNXRUNTIME)
    found = {w.name: numpy_helper.to_array(w) for w in result.graph.initializer}
    bits, scale = (
        found[next(name for name in found if name.startswith("b1") and name.endswith(end))]
        for end in ("_quantised", "_scale")
    )
    np.testing.assert_allclose(bits.astype(np.float64) * scale, 1e4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_an_unknown_node_is_refused(layout):
    with pytest.raises(ExportError, match="no node 'conv9'"):
        quantise(graph(), ["conv1", "conv9"], RANGES.__getitem__, layout)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_product_of_two_activations_has_a_pair_in_front_of_each(layout):
    """Queries by keys, as in a window: both rounded, by ranges of their own, in one node with nothing else."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["scores"], "product"),
        helper.make_node("Neg", ["q"], ["aside"], "aside"),
    ]
    ends = [info("q", 1, [3, 8]), info("k", 1, [8, 5])], [info("scores", 1, [3, 5]), info("aside", 1, [3, 8])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    spans = {"q": Interval(-1.5, 2.0), "k": Interval(-3.0, 1.0)}
    assert find_places(model, ["product"], layout).tensors == {"q", "k"}
    rng = np.random.default_rng(0)
    feeds = {"q": rng.standard_normal((3, 8), np.float32), "k": rng.standard_normal((8, 5), np.float32)}
    rounded = {name: fake_quantise(array, spans[name], layout.symmetric) for name, array in feeds.items()}
    session = onnxruntime.InferenceSession(
        quantise(model, ["product"], spans.__getitem__, layout).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    scores, aside = session.run(None, feeds)
    np.testing.assert_allclose(scores, rounded["q"] @ rounded["k"], atol=1e-5)
    assert np.abs(scores - feeds["q"] @ feeds["k"]).max() > 1e-3
    np.testing.assert_array_equal(aside, -feeds["q"])
