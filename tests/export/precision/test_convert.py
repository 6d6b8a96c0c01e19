import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from l2g.errors import ExportError
from l2g.export.graph.blocks import GRANULARITIES, block_of, blocks
from l2g.export.inspection import inspect_graph
from l2g.export.precision import islands as islands_module
from l2g.export.precision.convert import FP16, FP32, HALF, all_blocks, reduce_precision
from l2g.export.precision.emulate import emulate, emulate_file, main
from l2g.export.precision.islands import ISLANDS, Islands
from tests.export.models import inputs, run, session
from tests.export.precision.half_models import contract, parsed, single
from tests.exported import exported_model, small_graph

VARIANTS = [("gather", "onnxruntime"), ("gather", "tensorrt"), ("gridsample", "onnxruntime"), ("plugin", "tensorrt")]


def halved(**how) -> ir.Model:
    model = parsed(single(**how))
    reduce_precision(model, HALF)
    return model


def types(proto: onnx.ModelProto) -> dict[str, int]:
    """What shape inference, and not the converter, says of every tensor."""
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    found |= {value.name: value.type.tensor_type.elem_type for value in inferred.input}
    return found | {weight.name: weight.data_type for weight in inferred.initializer}


@pytest.mark.parametrize(("lowering", "target"), VARIANTS)
def test_strongly_typed(lowering, target):
    """The checker and strict type inference take it, and the boundary is the contract's."""
    proto = ir.to_proto(halved(lowering=lowering, target=target))
    onnx.checker.check_model(proto, full_check=True)
    dtypes = {spec.name: spec.dtype for spec in (*contract().inputs, *contract().outputs)}
    for value in (*proto.graph.input, *proto.graph.output):
        assert helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name == dtypes[value.name]
    if lowering != "plugin":  # no inference passes a plugin
        found = types(proto)
        assert all(
            found[value.name] == int(value.dtype)
            for node in halved(lowering=lowering, target=target).graph
            for value in node.outputs
        )


@pytest.mark.parametrize(("lowering", "target"), VARIANTS)
def test_what_computes_in_fp16_and_what_does_not(lowering, target):
    model = halved(lowering=lowering, target=target)
    inside = {"Floor", "Sin", "Cos", "Log", "Exp", "TopK", "GridSample", "MultiscaleDeformableAttnPlugin_TRT"}
    attentions = Islands(model.graph).attentions
    seen = set()
    for node in model.graph:
        found = {value.dtype for value in node.inputs if value is not None} & {FP16, FP32}
        if node.op_type in ("Conv", "Gemm") or (node.op_type == "MatMul" and "class_embed" not in node.name):
            assert found == {FP16}, node.name
        elif node.op_type in inside or "/class_embed/" in node.name:
            assert found == {FP32}, node.name
        elif node.op_type == "Softmax":
            # Sampling weights stay float32; multi-head attention must keep one type to be fused.
            assert found == ({FP32} if node.name.rpartition("/")[0] in attentions else {FP16}), node.name
        seen.add(node.op_type)
    assert {"Conv", "Gemm", "MatMul", "Softmax", "TopK"} <= seen


def test_no_cast_is_followed_by_another_and_none_is_made_twice():
    model = halved()
    casts = [node for node in model.graph if node.op_type == "Cast"]
    assert all(node.inputs[0].producer() is None or node.inputs[0].producer().op_type != "Cast" for node in casts)
    made = [(id(node.inputs[0]), node.attributes["to"].as_int()) for node in casts]
    assert len(made) == len(set(made))
    assert all(node.outputs[0].uses() or node.outputs[0].is_graph_output() for node in casts)
    # What only moves values does not stand between two casts.
    for node in model.graph:
        if node.op_type in ("Reshape", "Transpose", "Slice", "Concat", "Squeeze", "Unsqueeze"):
            before = {value.producer() is not None and value.producer().op_type == "Cast" for value in node.inputs[:1]}
            after = {reader.op_type == "Cast" for value in node.outputs for reader, _ in value.uses()}
            assert not (before == {True} and after == {True}), node.name


def test_weights_are_stored_in_fp16(tmp_path):
    path = tmp_path / "half.onnx"
    onnx.save(ir.to_proto(halved()), path)
    weights = [w for w in onnx.load(path).graph.initializer if np.prod(w.dims) >= 1024]
    large = sum(np.prod(w.dims) for w in weights if w.data_type == TensorProto.FLOAT16)
    assert large > 0.9 * sum(
        np.prod(w.dims) for w in weights if w.data_type in (TensorProto.FLOAT16, TensorProto.FLOAT)
    )
    assert path.stat().st_size < 0.62 * small_graph().stat().st_size
    # Nothing is wrong with it but that it is a graph alone.
    (error,) = (finding.text for finding in inspect_graph(path).findings if finding.level == "error")
    assert error.startswith("no contract")


def test_every_island_is_there_and_says_why():
    model = parsed(single())
    islands = Islands(model.graph)
    found = {islands.of(node) for node in model.graph}
    assert found - {None} == {island.name for island in ISLANDS}
    assert all(len(island.reason) > 20 for island in ISLANDS)


def test_queries_go_from_layer_to_layer_in_float32_and_the_state_keeps_more_of_its_digits(monkeypatch):
    graph = halved().graph
    norms = [node for node in graph if node.op_type == "LayerNormalization" and "/norm" in node.name[9:]]
    sums = [n for n in graph if re.fullmatch(r"/(aligner|decoder)/layers\.\d/Add(_\d)?", n.name)]
    assert len(sums) == 4 * 5  # layers; three additions to the queries, and twice that of their position
    for node in (*sums, *(n for n in norms if n.name.startswith(("/aligner/", "/decoder/")))):
        assert {value.dtype for value in (*node.inputs, *node.outputs)} == {FP32}, node.name
    # What is added to them is FP16: the products, and what comes out of an attention.
    assert {n.inputs[0].dtype for n in graph if "/decoder/" in n.name and n.op_type == "Gemm"} == {FP16}

    def error() -> float:
        arrays = inputs(exported_model(), 2)
        narrow = run(session(_bytes(emulate(halved()))), arrays)
        exact = run(session(single()), arrays)
        index = [value.name for value in parsed(single()).graph.outputs].index("queries")
        return float(np.sqrt(np.mean((narrow[index] - exact[index]) ** 2)))

    kept = error()
    without = tuple(island for island in ISLANDS if island.name != "queries")
    monkeypatch.setattr(islands_module, "ISLANDS", without)
    assert kept < 0.8 * error()


def test_a_kept_block_stays_float32():
    model = parsed(single())
    conversion = reduce_precision(model, HALF, keep=["encoder.layers.0", "backbone", "aligner.layers.1.linear1"])
    assert set(conversion.kept) == {"encoder.layers.0", "backbone", "aligner.layers.1.linear1"}
    for node in model.graph:
        if node.op_type in ("Conv", "MatMul", "LayerNormalization", "Gemm"):
            kept = {block_of(node, granularity) for granularity in GRANULARITIES} & set(conversion.kept)
            queries = node.op_type == "LayerNormalization" and node.name.startswith(("/aligner/", "/decoder/"))
            assert (node.inputs[0].dtype == FP32) == bool(kept or queries or "class_embed" in node.name), node.name
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_a_block_may_bear_the_name_of_a_larger_one():
    """ "encoder" is the stage; what the encoder computes itself, between its layers, is "layer:encoder"."""
    model = parsed(single())
    reduce_precision(model, HALF, keep=["layer:encoder"])
    by_name = {node.name: node for node in model.graph}
    assert by_name["/encoder/layers.0/linear1/MatMul"].inputs[0].dtype == FP16
    assert by_name["/encoder/Resize"].inputs[0].dtype == FP32


def test_everything_kept_is_the_float32_graph():
    model = parsed(single())
    conversion = reduce_precision(model, HALF, keep=all_blocks(model))
    assert conversion.reduced == 0
    assert conversion.casts == 0
    arrays = inputs(exported_model(), 2)
    for one, other in zip(run(session(_bytes(model)), arrays), run(session(single()), arrays), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unknown_block():
    with pytest.raises(ExportError, match=r"no block 'encoder\.layers\.7'; it has .*encoder\.layers\.0"):
        reduce_precision(parsed(single()), HALF, keep=["encoder.layers.7"])


def test_a_constant_beyond_fp16_keeps_its_node():
    proto = onnx.load_from_string(single())
    node = next(node for node in proto.graph.node if "linear1/Add" in node.name)
    bias = next(w for w in proto.graph.initializer if w.name in node.input)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e6), bias.name))
    model = ir.from_proto(proto)
    assert reduce_precision(model, HALF).islands["constants beyond FP16"] >= 1
    assert all(value.dtype == FP32 for kept in model.graph if kept.name == node.name for value in kept.inputs)


def test_quantised_tensors_get_fp16_scales():
    """At opset 19 a Q/DQ pair between FP16 tensors has a scale in FP16."""
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    scale, zero = numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.int8(0), "z")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="/backbone/stem/Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="/backbone/stem/DQ"),
        helper.make_node("Conv", ["d", "w"], ["y"], name="/backbone/stem/conv1/Conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [weight, scale, zero],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))
    reduce_precision(model, HALF)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    pair = [node for node in model.graph if node.op_type.endswith("Linear")]
    assert [node.inputs[1].dtype for node in pair] == [FP16, FP16]
    x = np.linspace(-3, 3, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    expected = (
        (np.rint(x.astype(np.float16).astype(np.float32) / 0.5) * 0.5).sum(axis=1, keepdims=True).repeat(4, axis=1)
    )
    for graph in (_bytes(model), _bytes(emulate(model))):
        np.testing.assert_array_equal(session(graph).run(None, {"x": x})[0], expected)


# --- what FP16 really gives ---------------------------------------------------------------------------------------


def chain() -> onnx.ModelProto:
    """FP16 inside: y = relu((x + b) * b + b), and a sine of it."""
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], name="/Cast", to=TensorProto.FLOAT16),
        helper.make_node("Add", ["c", "b"], ["t0"], name="/Add"),
        helper.make_node("Mul", ["t0", "b"], ["t1"], name="/Mul"),
        helper.make_node("Reshape", ["t1", "shape"], ["t2"], name="/Reshape"),
        helper.make_node("Sin", ["t2"], ["t3"], name="/Sin"),
        helper.make_node("Cast", ["t3"], ["y"], name="/Cast_1", to=TensorProto.FLOAT),
    ]
    bias = np.random.default_rng(1).standard_normal(64).astype(np.float16)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 8])],
        [numpy_helper.from_array(bias, "b"), numpy_helper.from_array(np.array([64, 8]), "shape")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


def rounded_at_every_step(x: np.ndarray, bias: np.ndarray) -> np.ndarray:
    c = x.astype(np.float16)
    with np.errstate(over="ignore"):
        return np.sin((((c + bias) * bias).reshape(64, 8)).astype(np.float32)).astype(np.float16).astype(np.float32)


def test_emulation_rounds_every_tensor_where_onnx_runtime_does_not():
    proto = chain()
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    expected = rounded_at_every_step(x, numpy_helper.to_array(proto.graph.initializer[0]))
    direct = session(proto.SerializeToString()).run(None, {"x": x})[0]
    emulated = session(_bytes(emulate(ir.from_proto(proto)))).run(None, {"x": x})[0]
    np.testing.assert_array_equal(emulated, expected)
    assert np.abs(direct - expected).max() > 1e-4


def test_emulation_overflows_as_fp16_does():
    proto = chain()
    emulated = emulate(ir.from_proto(proto))
    found = session(_bytes(emulated)).run(None, {"x": np.full((8, 64), 6e4, np.float32)})[0]
    assert np.isnan(found).any()  # the sine of infinity


def test_the_models_emulated_graph_is_fp16_at_every_step():
    """Each tensor that the converted graph holds in FP16 has a value that FP16 holds."""
    model = halved()
    names = [value.name for node in model.graph for value in node.outputs if value.dtype == FP16]
    emulated = emulate(model)
    widened = {node.outputs[0].name: node for node in emulated.graph if node.name.endswith("/Widen")}
    assert len(widened) > 100
    assert len(names) > len(widened)  # the rest only moves
    for value in (node.outputs[0] for node in list(widened.values())[::17]):
        emulated.graph.outputs.append(value)
    found = run(session(_bytes(emulated)), inputs(exported_model(), 2))[4:]
    for array in found:
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, array.astype(np.float16).astype(np.float32))


def test_emulate_a_file(tmp_path, capsys):
    source, output = tmp_path / "half.onnx", tmp_path / "emulated.onnx"
    onnx.save(ir.to_proto(halved()), source)
    assert main([str(source), "--output", str(output)]) == 0
    assert not any(v.dtype == FP16 for v in emulate_inputs(output))
    with pytest.raises(ExportError, match="nothing to emulate"):
        emulate_file(small_graph(), output)
    assert main([str(tmp_path / "none.onnx"), "--output", str(output)]) == 2
    assert "no such file" in capsys.readouterr().err


def emulate_inputs(path):
    model = ir.from_proto(onnx.load(path))
    return [v for node in model.graph if node.op_type not in ("Cast",) for v in (*node.inputs, *node.outputs) if v]


# --- blocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stage", "layer", "module"),
    [
        ("/backbone/res3/res3.1/conv2/Conv", "backbone", "backbone.res3", "backbone.res3.1"),
        (
            "/backbone/layers.2/blocks/blocks.1/attn/qkv/MatMul",
            "backbone",
            "backbone.layers.2",
            "backbone.layers.2.blocks.1.attn",
        ),
        (
            "/backbone/layers.0/downsample/reduction_1/MatMul",
            "backbone",
            "backbone.layers.0",
            "backbone.layers.0.downsample.reduction",
        ),
        ("/encoder/input_proj.0/input_proj.0.1/Mul", "encoder", "encoder.input_proj", "encoder.input_proj.0.1"),
        (
            "/encoder/layers.2/self_attn/DeformableAttention/Floor_17",
            "encoder",
            "encoder.layers.2",
            "encoder.layers.2.self_attn",
        ),
        (
            "/decoder/ref_point_head/layers.0_2/MatMul",
            "decoder",
            "decoder.ref_point_head",
            "decoder.ref_point_head.layers.0",
        ),
        ("/ref_point_head/Relu", "decoder", "decoder.ref_point_head", "decoder.ref_point_head"),
        ("/decoder/Sigmoid_1/Exp_1", "decoder", "decoder", "decoder"),
        ("/mask_embed/layers.1/Add", "heads", "heads.mask_embed", "heads.mask_embed.layers.1"),
        ("/Where_1", "step", "step", "step"),
        ("onnx::MatMul_12_DequantizeLinear", "other", "other", "other"),
        ("", "other", "other", "other"),
    ],
)
def test_block_of(name, stage, layer, module):
    assert [block_of(name, granularity) for granularity in GRANULARITIES] == [stage, layer, module]


def test_blocks_hold_every_node_once():
    proto = onnx.load_from_string(single())
    for granularity in GRANULARITIES:
        found = blocks(proto, granularity)
        assert sum(map(len, found.values())) == len(proto.graph.node)
        assert "other" not in found
    assert {"backbone.res2", "encoder.layers.0", "aligner.layers.1", "decoder.layers.1", "heads.mask_embed"} <= set(
        blocks(proto)
    )
    with pytest.raises(ExportError, match="one of stage, layer, module"):
        blocks(proto, "node")


def _bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()
