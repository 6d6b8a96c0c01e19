"""What the doctor says of single operators, held to what TensorRT-RTX itself does with them, here and now."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from l2g.engines.doctor import examine
from l2g.engines.findings import Circumstances
from l2g.engines.operator_rules import MOST_CHOSEN, portable_capabilities
from l2g.errors import EngineError
from l2g.runtime.backends.tensorrt.library import LibraryLog, installed_version, load_library

RTX = Circumstances("tensorrt-rtx", "1.7.1")
RULES = ("operator", "quantisation", "capability")
F, U8, I8, I32, I64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64


def graph(nodes, inputs, outputs, constants=(), opset=17):
    """inputs, outputs: (name, type, shape). constants: {name: array}."""
    infos = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *infos, weights), opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def one(op, inputs, outputs, constants=(), opset=17, **attributes):
    names = [name for name, *_ in inputs] + list(dict(constants))
    node = helper.make_node(op, names, [name for name, *_ in outputs], name="it", **attributes)
    return graph([node], inputs, outputs, constants, opset)


X, Y = ("x", F, [1, 4, 8, 8]), ("y", F, [1, 4, 8, 8])


def pairs(zero, kind=I8, tensor="x", shape=(1, 4, 8, 8)):
    """A Q/DQ pair about `zero`; None is none."""
    constants = {"s": np.float32(0.05)} | ({} if zero is None else {"z": zero})
    names = list(constants)
    nodes = [
        helper.make_node("QuantizeLinear", [tensor, *names], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", *names], ["y"], "dequantise"),
    ]
    return graph(nodes, [(tensor, F, shape)], [("y", F, shape)], constants)


def bias():
    """int32 through DequantizeLinear, as ONNX Runtime's quantiser leaves biases."""
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "s"], ["d"], "bias"),
        helper.make_node("Add", ["x", "d"], ["y"], "add"),
    ]
    return graph(
        nodes, [("x", F, [2, 8])], [("y", F, [2, 8])], {"b": np.arange(8, dtype=np.int32), "s": np.float32(0.1)}
    )


def bytes_inside():
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], "cast", to=U8),
        helper.make_node("Transpose", ["c"], ["t"], "turn", perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["y"], "back", to=F),
    ]
    return graph(nodes, [("x", F, [2, 3])], [("y", F, [3, 2])])


def top(k):
    return one("TopK", [("x", F, [1, 8617])], [("v", F, [1, k]), ("i", I64, [1, k])], {"k": np.array([k], np.int64)})


def resize(opset=18, **attributes):
    node = helper.make_node("Resize", ["x", "", "", "n"], ["y"], "it", **attributes)
    return graph([node], [X], [("y", F, [1, 4, 16, 16])], {"n": np.array([1, 4, 16, 16], np.int64)}, opset)


def scatter(reduction):
    constants = {"i": np.array([[0], [1]], np.int64), "u": np.ones((2, 3), np.float32)}
    return one("ScatterND", [("x", F, [4, 3])], [("y", F, [4, 3])], constants, 18, reduction=reduction)


def norm(outputs):
    names = [("y", F, [2, 8]), ("m", F, [2, 1]), ("d", F, [2, 1])][:outputs]
    return one("LayerNormalization", [("x", F, [2, 8])], names, {"w": np.ones(8, np.float32)})


def attention(rank):
    shape = [1, 4, 16, 8] if rank == 4 else [1, 16, 32]
    heads = {} if rank == 4 else {"q_num_heads": 4, "kv_num_heads": 4}
    return one("Attention", [(name, F, shape) for name in "qkv"], [("y", F, shape)], opset=23, **heads)


REFUSED = {
    "NonZero": lambda: one("NonZero", [("x", F, [4, 4])], [("y", I64, [2, None])]),
    "Compress": lambda: one(
        "Compress", [("x", F, [4, 4]), ("c", TensorProto.BOOL, [4])], [("y", F, [None, 4])], axis=0
    ),
    "RoiAlign": lambda: one("RoiAlign", [X, ("r", F, [3, 4]), ("b", I64, [3])], [("y", F, [3, 4, 1, 1])]),
    "NonMaxSuppression": lambda: one(
        "NonMaxSuppression", [("b", F, [1, 6, 4]), ("s", F, [1, 1, 6])], [("y", I64, [None, 3])]
    ),
    "BitwiseAnd": lambda: one("BitwiseAnd", [("x", I32, [4]), ("z", I32, [4])], [("y", I32, [4])], opset=18),
    "Det": lambda: one("Det", [("x", F, [3, 4, 4])], [("y", F, [3])]),
    "Unique": lambda: one("Unique", [("x", F, [8])], [("y", F, [None])]),
    "BitShift": lambda: one(
        "BitShift",
        [("x", TensorProto.UINT32, [4]), ("z", TensorProto.UINT32, [4])],
        [("y", TensorProto.UINT32, [4])],
        direction="LEFT",
    ),
    "a scatter that adds": lambda: scatter("add"),
    "antialias": lambda: resize(mode="linear", antialias=1),
    "half_pixel_symmetric": lambda: resize(
        mode="linear", coordinate_transformation_mode="half_pixel_symmetric", opset=19
    ),
    "mean and deviation": lambda: norm(3),
    "MaxPool with indices": lambda: one(
        "MaxPool", [X], [("y", F, [1, 4, 4, 4]), ("i", I64, [1, 4, 4, 4])], kernel_shape=[2, 2], strides=[2, 2]
    ),
    "dilated MaxPool": lambda: one("MaxPool", [X], [("y", F, [1, 4, 6, 6])], kernel_shape=[2, 2], dilations=[2, 2]),
    "TopK of 3841": lambda: top(MOST_CHOSEN + 1),
    "Attention of rank 4": lambda: attention(4),
    "uint8 inside": bytes_inside,
    "uint16 input": lambda: one("Cast", [("x", TensorProto.UINT16, [4])], [("y", F, [4])], to=F),
    "zero point 3": lambda: pairs(np.int8(3)),
    "uint8 about 128": lambda: pairs(np.uint8(128)),
    "int32 bias": bias,
    "DynamicQuantizeLinear": lambda: graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "it"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "back"),
        ],
        [("x", F, [2, 8])],
        [("y", F, [2, 8])],
    ),
}
TAKEN = {
    "a scatter without reduction": lambda: scatter("none"),
    "Resize": lambda: resize(mode="linear"),
    "LayerNormalization": lambda: norm(1),
    "MaxPool": lambda: one("MaxPool", [X], [("y", F, [1, 4, 4, 4])], kernel_shape=[2, 2], strides=[2, 2]),
    "TopK of 3840": lambda: top(MOST_CHOSEN),
    "Attention of rank 3": lambda: attention(3),
    "int8 about zero": lambda: pairs(np.int8(0)),
    "Einsum": lambda: one("Einsum", [("x", F, [2, 3]), ("z", F, [3, 4])], [("y", F, [2, 4])], equation="ij,jk->ik"),
    "Identity of uint8": lambda: one("Cast", [("x", U8, [4])], [("y", F, [4])], to=F),
}


def found(model, path, asked=RTX):
    onnx.save(model, path)
    return [finding for finding in examine(path, asked) if finding.rule in RULES]


def built(model):
    """Whether the library itself makes an engine of it."""
    trt, log = load_library("tensorrt-rtx").trt, LibraryLog()
    logger = log.logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return False
    return builder.build_serialized_network(network, builder.create_builder_config()) is not None


rtx = pytest.mark.skipif(installed_version("tensorrt-rtx") is None, reason="TensorRT-RTX is not installed")


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_refuses_is_found(name, tmp_path):
    (finding,) = found(REFUSED[name](), tmp_path / "m.onnx")
    assert finding.severity == "refuse"
    assert "measured with TensorRT-RTX 1.7.1" in finding.text
    assert finding.mend
    # Of TensorRT nothing of this was measured, but for quantisation.
    others = found(REFUSED[name](), tmp_path / "m.onnx", Circumstances("tensorrt", "11.4"))
    assert [f.rule for f in others] == (["quantisation"] if finding.rule == "quantisation" else [])


@pytest.mark.parametrize("name", TAKEN)
def test_what_it_takes_is_not(name, tmp_path):
    assert found(TAKEN[name](), tmp_path / "m.onnx") == []


@rtx
@pytest.mark.parametrize("name", REFUSED)
def test_the_library_does_refuse_it(name):
    assert not built(REFUSED[name]())


@rtx
@pytest.mark.parametrize("name", TAKEN)
def test_the_library_does_take_it(name):
    assert built(TAKEN[name]())


def test_uint8_that_is_read_as_int8_without_a_word(tmp_path):
    """The library builds it; what comes out would be cut off at half."""
    for zero in (None, np.uint8(0)):
        (finding,) = found(pairs(zero), tmp_path / "m.onnx")
        assert "above 127 steps is cut off" in finding.text
        assert "QuantizeLinear 'quantise'" in finding.evidence
        assert "--layout tensorrt" in finding.mend
        if installed_version("tensorrt-rtx") is not None:
            assert built(pairs(zero))


def test_what_quantize_makes_for_another_library(tmp_path):
    """Its default layout is ONNX Runtime's: uint8 about another zero, and int32 biases."""
    pytest.importorskip("torch")
    from l2g.calibration.placement import ONNXRUNTIME, TENSORRT, quantise
    from l2g.calibration.ranges import Interval
    from tests.engines.engines import engine_graph

    model = onnx.load(engine_graph())
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    for layout, expected in ((TENSORRT, []), (ONNXRUNTIME, ["quantisation", "quantisation"])):
        changed = quantise(model, convolutions, lambda name: Interval(-4.0, 2.0), layout)
        for asked in (RTX, Circumstances("tensorrt", "11.4")):
            findings = found(changed, tmp_path / "m.onnx", asked)
            assert [finding.rule for finding in findings] == expected
            assert all("l2g quantize --layout tensorrt" in finding.mend for finding in findings)


def test_a_portable_engine_says_which_gpus_are_left(tmp_path):
    zero = numpy_helper.from_array(np.zeros(1, np.uint8), "z")  # its type is set below
    model = pairs(None)
    for kind, left, names in (
        (TensorProto.FLOAT8E4M3FN, ("8.9", "12.0"), "8.0, 8.6 is left out"),
        (TensorProto.FLOAT4E2M1, ("12.0",), "8.0, 8.6, 8.9 is left out"),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        weight = changed.graph.initializer.add()
        weight.CopyFrom(zero)
        weight.data_type = kind
        assert portable_capabilities(changed) == left
        onnx.save(changed, tmp_path / "m.onnx")
        (finding,) = [f for f in examine(tmp_path / "m.onnx", RTX) if f.rule == "capability"]
        assert (finding.severity, names in finding.evidence) == ("warn", True)
        asked = Circumstances("tensorrt-rtx", "1.7.1", compute_capabilities=("8.6", "12.0"))
        (finding,) = [f for f in examine(tmp_path / "m.onnx", asked) if f.rule == "capability"]
        assert (finding.severity, "8.6 asked for" in finding.evidence) == ("refuse", True)
    assert portable_capabilities(model) == ("8.0", "8.6", "8.9", "12.0")
    old = Circumstances("tensorrt-rtx", "1.7.1", compute_capabilities=("7.5",))
    onnx.save(TAKEN["int8 about zero"](), tmp_path / "m.onnx")
    assert [f.severity for f in examine(tmp_path / "m.onnx", old) if f.rule == "capability"] == ["refuse"]


@pytest.mark.parametrize(("kind", "severity"), [(F, "warn"), (TensorProto.FLOAT16, "refuse")])
def test_types_are_carried_to_every_output_of_a_split(kind, severity, tmp_path):
    """FP16 data beside an FP32 grid is rejected; float32 behind a Split is no FP16."""
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], "split", axis=1),
        helper.make_node("GridSample", ["b", "g"], ["y"], "grid_node"),
    ]
    model = graph(nodes, [("x", kind, [1, 4, 8, 8]), ("g", F, [1, 2, 2, 2])], [("y", kind, [1, 2, 2, 2])])
    onnx.save(model, tmp_path / "m.onnx")
    assert [f.severity for f in examine(tmp_path / "m.onnx", RTX) if f.rule == "gridsample"] == [severity]
    if installed_version("tensorrt-rtx") is not None:
        assert built(model) == (severity == "warn")


@pytest.mark.parametrize(("library", "severity"), [("tensorrt-rtx", "warn"), ("tensorrt", "refuse")])
def test_float64_constants(library, severity, tmp_path):
    """TensorRT-RTX takes them as float32."""
    double = one("Add", [("x", TensorProto.DOUBLE, [4])], [("y", TensorProto.DOUBLE, [4])], {"c": np.ones(4)})
    onnx.save(double, tmp_path / "m.onnx")
    found = [f.severity for f in examine(tmp_path / "m.onnx", Circumstances(library, "1.7.1")) if f.rule == "double"]
    assert found == [severity]
    if library == "tensorrt-rtx" and installed_version(library) is not None:
        assert built(double)


def test_an_unknown_library(tmp_path):
    onnx.save(pairs(np.int8(0)), tmp_path / "m.onnx")
    with pytest.raises(EngineError, match="library 'other' found"):
        examine(tmp_path / "m.onnx", Circumstances("other"))
