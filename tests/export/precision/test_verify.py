import functools
import json
import os
import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from l2g.cli.making.export import main
from l2g.contract import METADATA_KEY
from l2g.errors import ExportError
from l2g.export.exporter import ExportOptions, build_graph, contract_of, export, reduced_graph
from l2g.export.precision import verify as verification
from l2g.export.precision.convert import BFLOAT, HALF, reduce_precision
from l2g.export.precision.verify import FACTOR, SMALL, _round, _Sums, _with_maxima, reduced_tensors, verify_reduced
from l2g.export.verification.rollouts import rollouts
from l2g.provenance import Verification
from tests.export.models import inputs, run, session
from tests.export.precision.half_models import PLANTED, contract, parsed, planted_model, single
from tests.exported import exported_model, ignore_prior_valid, small_checkpoint, swap_streams

FLOAT32 = Verification("onnxruntime", (), {}, {}, 0)


@functools.cache
def steps():
    return list(rollouts(exported_model(), contract()))


def verify(half: bytes):
    return verify_reduced(HALF, single(), half, contract(), steps(), FLOAT32)


def test_an_fp16_file_from_the_command_line(tmp_path, capsys):
    path = tmp_path / "half.onnx"
    arguments = ["--ckpt", str(small_checkpoint()), "--output", str(path), "--precision", "fp16"]
    assert main([*arguments, "--fp32-blocks", "decoder.layers.0"]) == 0
    assert "FP16 emulated" in capsys.readouterr().out
    model = onnx.load(path)
    build = json.loads(next(p.value for p in model.metadata_props if p.key == METADATA_KEY))["build"]
    assert build["precision"] == "fp16"
    assert build["fp32_blocks"] == ["decoder.layers.0"]
    verification = build["verification"]
    assert verification["float32"]["differences"]["queries"] < 1e-4
    for name, error in verification["errors"].items():
        assert error <= verification["limits"][name]
    assert verification["errors"]["queries"] > 0
    assert 0 < verification["largest_activation"][1] < 65504
    # The file runs, first frame and later ones, with NaN for the prior of a fresh stream.
    arrays = list(inputs(exported_model(), 3))
    arrays[1][0] = np.nan
    assert all(np.isfinite(array).all() for array in run(session(path), tuple(arrays)))


def test_nan_of_both_graphs_is_no_agreement():
    """Rounded weights may give NaN as well: then nothing says how far the other may be."""
    sums = _Sums(HALF, contract())
    for name in sums.floor:
        sums.floor[name], sums.reduced[name] = [1.0, 1], [1.0, 1]
    sums.judge(FLOAT32, ("none", 0.0))
    sums.floor["logits"], sums.reduced["logits"] = [np.nan, 1], [np.nan, 1]
    with pytest.raises(ExportError, match="output 'logits' by nan"):
        sums.judge(FLOAT32, ("none", 0.0))


def scale_a_layer(model: onnx.ModelProto) -> None:
    """A tenth more of one layer's weights."""
    node = next(node for node in model.graph.node if node.name == "/encoder/layers.0/linear2/MatMul")
    weight = next(w for w in model.graph.initializer if w.name == node.input[1])
    assert weight.data_type == onnx.TensorProto.FLOAT16
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float16(1.1), weight.name))


@pytest.mark.parametrize("change", [scale_a_layer, swap_streams, ignore_prior_valid])
def test_a_wrong_graph_is_refused(change):
    proto = onnx.load_from_string(reduced_graph(single(), "fp16"))
    change(proto)
    with pytest.raises(ExportError, match=f"more than FP16 explains.*{FACTOR:g} times"):
        verify(proto.SerializeToString())


def test_tables_of_rows_are_no_weights():
    """FP16 counts to 2048: a table that is rounded beyond reads other rows, and then the limits allow anything."""
    options = ExportOptions(height=160, width=256)
    large = contract_of(exported_model(), options)
    graph = build_graph(exported_model(), large, options)
    weights = [numpy_helper.to_array(w) for w in onnx.load_from_string(graph).graph.initializer]
    tables = [w for w in weights if w.dtype == np.float32 and w.size > SMALL and (w == np.rint(w)).all()]
    assert any((table.astype(np.float16) != table).any() for table in tables)
    steps = list(rollouts(exported_model(), large))
    half = onnx.load_from_string(reduced_graph(graph, "fp16"))
    found = verify_reduced(HALF, graph, half.SerializeToString(), large, steps, FLOAT32)
    assert found.errors["queries"] < found.limits["queries"] < 2 * FACTOR * found.errors["queries"]
    scale_a_layer(half)
    with pytest.raises(ExportError, match="more than FP16 explains"):
        verify_reduced(HALF, graph, half.SerializeToString(), large, steps, FLOAT32)


def test_only_one_graph_is_open_at_a_time(monkeypatch):
    """Two of a Swin-L beside each other take more memory than the whole export may."""
    whole, opened = verification.open_session, []

    def alone(graph, arena):
        assert not arena
        assert [session() for session in opened] == [None] * len(opened)
        session = whole(graph, arena)
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(verification, "open_session", alone)
    verify(reduced_graph(single(), "fp16"))
    assert len(opened) == 2


def test_overflow_is_named_before_anything_is_written(tmp_path):
    path = tmp_path / "half.onnx"
    with pytest.raises(ExportError, match=f"first to overflow.*--fp32-blocks {PLANTED}") as caught:
        export(planted_model(), path, ExportOptions(precision="fp16"))
    assert "/encoder/layers.0/linear1/MatMul_output_0" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_rounding_for_the_limits_is_fp16s():
    """Eleven bits, as FP16 has within its range; beyond it nothing becomes infinite or zero."""
    array = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    np.testing.assert_array_equal(_round(array, HALF.bits), array.astype(np.float16).astype(np.float32))
    assert np.isfinite(_round(array * np.float32(2.0**30), HALF.bits)).all()
    assert (_round(array * np.float32(2.0**-40), HALF.bits) != 0).all()


def test_what_is_cast_to_fp16_counts_too():
    """A float32 block before an FP16 one: the value between them must fit as well, and the reader is to blame."""
    half = parsed(single())
    reduce_precision(half, HALF, keep=["encoder.layers.0.linear1"])
    found = reduced_tensors(half, HALF)
    assert found["/encoder/layers.0/Relu_output_0"] == "/encoder/layers.0/linear2/MatMul"
    assert "/encoder/layers.0/linear1/MatMul_output_0" not in found
    assert "prior_queries" not in found  # NaN where a stream is fresh


def test_every_output_of_a_split_is_watched():
    """A graph for a CPU takes some rows at a time: a Split has many outputs, each with a cast of its own."""
    make, products = helper.make_tensor_value_info, [f"y{part}" for part in range(3)]
    nodes = [helper.make_node("Split", ["x", "sizes"], ["x0", "x1", "x2"], "/encoder/Split", axis=1)]
    nodes += [helper.make_node("MatMul", [f"x{i}", "w"], [f"y{i}"], f"/encoder/MatMul_{i}") for i in range(3)]
    nodes += [helper.make_node("Concat", products, ["y"], "/encoder/Concat", axis=1)]
    constants = {"sizes": np.array([3, 2, 2]), "w": np.eye(4, dtype=np.float32)}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    ends = [[make(name, onnx.TensorProto.FLOAT, ["B", 7, 4])] for name in "xy"]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", *ends, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    half = ir.from_proto(proto)
    reduce_precision(half, HALF)
    names = reduced_tensors(half, HALF)
    x = np.random.default_rng(0).standard_normal((2, 7, 4), dtype=np.float32)
    watched = ir.to_proto(_with_maxima(ir.from_proto(proto), names)).SerializeToString()
    found = dict(zip(names, run(session(watched), (x,))[1:], strict=True))
    largest = [abs(part).max() for part in np.split(x, [3, 5], axis=1)]
    assert found == dict(zip(("x0", "x1", "x2", *products), 2 * largest, strict=True))


def test_the_block_kept_the_same_model_passes():
    half = ir.from_proto(onnx.load_from_string(single(planted=True)))
    reduce_precision(half, HALF, keep=[PLANTED])
    half = ir.to_proto(half).SerializeToString()
    steps = list(rollouts(planted_model(), contract()))
    found = verify_reduced(HALF, single(planted=True), half, contract(), steps, FLOAT32)
    assert found.largest_activation[1] < 65504


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--fp32-blocks", "encoder.layers.0"], "add --precision fp16"),
        (["--precision", "auto"], "add --dataset"),
        (["--precision", "auto", "--dataset", "synthetic:val", "--outputs", "detections"], "needs raw outputs"),
        (["--precision", "auto", "--fp32-blocks", "encoder"], "finds the blocks itself"),
    ],
)
def test_bad_options(arguments, text, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    assert main(["--ckpt", str(small_checkpoint()), "--output", str(path), *arguments]) == 2
    assert text in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def scale_a_bf16_layer(model: onnx.ModelProto) -> None:
    """A quarter more of one layer's weights."""
    node = next(node for node in model.graph.node if node.name == "/encoder/layers.0/linear2/MatMul")
    weight = next(w for w in model.graph.initializer if w.name == node.input[1])
    assert weight.data_type == onnx.TensorProto.BFLOAT16
    array = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((array.astype(np.float32) * 1.25).astype(array.dtype), weight.name))


@pytest.fixture(scope="module")
def float32_of_opset_20():
    options = ExportOptions(opset=20)
    return build_graph(exported_model(), contract_of(exported_model(), options), options)


def test_a_bf16_graph_is_held_to_bf16s_rounding(float32_of_opset_20):
    graph = reduced_graph(float32_of_opset_20, "bf16")
    found = verify_reduced(BFLOAT, float32_of_opset_20, graph, contract(), steps(), FLOAT32)
    assert "BF16 emulated" in found.library
    for name, error in found.errors.items():
        assert error <= found.limits[name], name
    # An error of eight bits, and not the room that a broken graph would need.
    assert 1e-3 < found.errors["queries"] < found.limits["queries"] < 1


@pytest.mark.parametrize("change", [scale_a_bf16_layer, swap_streams, ignore_prior_valid])
def test_a_wrong_bf16_graph_is_refused(float32_of_opset_20, change):
    proto = onnx.load_from_string(reduced_graph(float32_of_opset_20, "bf16"))
    change(proto)
    with pytest.raises(ExportError, match="differs from the model by more than BF16 explains"):
        verify_reduced(BFLOAT, float32_of_opset_20, proto.SerializeToString(), contract(), steps(), FLOAT32)


def test_bf16_needs_its_opset(tmp_path, capsys):
    arguments = ["--ckpt", str(small_checkpoint()), "--output", str(tmp_path / "b.onnx"), "--precision", "bf16"]
    assert main([*arguments, "--opset", "18"]) == 2
    assert "opset 18 found, 20 expected for BF16; add --opset 20" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    with pytest.raises(ExportError, match="opset 17 found, 20 expected for BF16; export with --opset 20"):
        reduced_graph(single(), "bf16")
    assert main([*arguments, "--quiet"]) == 0
    model = onnx.load(tmp_path / "b.onnx")
    assert next(entry.version for entry in model.opset_import if not entry.domain) == 22
    build = json.loads(next(p.value for p in model.metadata_props if p.key == METADATA_KEY))["build"]
    assert build["precision"] == "bf16"
    # The state crosses in float32, as the contract says.
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds["queries"] == kinds["prior_queries"] == kinds["boxes"] == onnx.TensorProto.FLOAT
