"""Each spelling of deformable attention against the model's own `sample_levels`, operator by operator."""

import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from l2g.errors import ExportError
from l2g.export.deformable import gather
from l2g.export.deformable.lowering import PLUGIN, PLUGIN_DOMAIN
from l2g.export.graph import node_builder as builder
from l2g.modeling.deformable import sample_levels
from tests.export.deformable.operators import (
    DEPTH,
    HEADS,
    POINTS,
    QUERIES,
    SHAPES,
    WAYS,
    arrays,
    operator,
    run,
    runnable,
)


@pytest.mark.parametrize(("lowering", "target"), WAYS)
@pytest.mark.parametrize("streams", [1, 2, 5])
def test_equal_to_the_models_own(lowering, target, streams):
    value, locations, weights = arrays(streams)
    expected = sample_levels(*map(torch.from_numpy, (value,)), SHAPES, *map(torch.from_numpy, (locations, weights)))
    found = run(runnable(lowering, target), value, locations, weights)
    assert np.abs(expected.numpy()).max() > 1
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 4, QUERIES])
def test_queries_in_parts_give_the_same(monkeypatch, queries):
    """Parts of at most so many queries: seven of one, two of four and three, one of all."""
    monkeypatch.setattr(builder, "PART_BYTES", queries * HEADS * len(SHAPES) * POINTS * 4 * DEPTH * 4)
    model = operator("gather")
    products = [node for node in model.graph if node.op_type == "MatMul"]
    assert len(products) == {1: 7, 4: 2, QUERIES: 1}[queries]
    for streams in (1, 3):
        value, locations, weights = map(torch.from_numpy, arrays(streams))
        expected = sample_levels(value, SHAPES, locations, weights).numpy()
        found = run(model, value.numpy(), locations.numpy(), weights.numpy())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_few_queries_lay_out_no_large_table(monkeypatch):
    """54 samples of a head are fewer than the 58 cells of all levels, the 63 of one query more are not."""

    def pads(queries):
        return [node.op_type for node in operator("gather", queries=queries).graph].count("Pad")

    table = 58 * HEADS * 4 * DEPTH * 4
    monkeypatch.setattr(builder, "PART_BYTES", table)
    assert pads(6) == 1
    monkeypatch.setattr(builder, "PART_BYTES", table - 1)
    assert (pads(6), pads(7)) == (0, 1)
    value, locations, weights = arrays(2)
    found = run(operator("gather", queries=6), value, locations[:, :6], weights[:, :6])
    np.testing.assert_allclose(found, run(operator("gather"), value, locations, weights)[:, :6], rtol=0, atol=1e-5)


def test_grid_sample_is_spelled_as_the_opset_wants():
    modes = {
        opset: {
            node.attributes["mode"].as_string()
            for node in operator("gridsample", opset=opset).graph
            if "mode" in node.attributes
        }
        for opset in (17, 20)
    }
    assert modes == {17: {"bilinear"}, 20: {"linear"}}
    value, locations, weights = arrays(1)
    found = run(operator("gridsample", opset=20), value, locations, weights)
    np.testing.assert_allclose(found, run(operator("gather"), value, locations, weights), atol=1e-5)


def test_a_nan_stays_in_its_query():
    """Numbers that have no integer must not become addresses; a process of its own, since a wrong address kills it."""
    code = """
import numpy as np
from tests.export.deformable import operators as t
value, clean_locations, weights = t.arrays(2)
locations = clean_locations.copy()
locations[0, 4], locations[1, 5], locations[0, 3, 0] = np.nan, np.inf, -np.inf
same = np.ones(locations.shape[:2], bool)
same[0, 3:5], same[1, 5] = False, False
for way in t.WAYS[:3]:
    clean, found = (t.run(t.runnable(*way), value, points, weights) for points in (clean_locations, locations))
    assert np.array_equal(found[same], clean[same]), way
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "alive", done.stderr


def test_gathers_are_of_rank_two_and_in_range():
    for target in ("onnxruntime", "tensorrt"):
        model = operator("gather", target)
        counts = [node.op_type for node in model.graph]
        assert "GridSample" not in counts
        assert counts.count("Shape") == 1
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
        tails = {"onnxruntime": "MatMul", "tensorrt": "ReduceSum"}
        assert {name for name in tails.values() if name in counts} == {tails[target]}
        onnx.checker.check_model(proto, full_check=True)


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(gather, "MAX_ROWS", 50)
    with pytest.raises(ExportError, match="at most 50 have exact float32 numbers"):
        operator("gather")


def test_plugin_node():
    model = operator("plugin", "tensorrt")
    (node,) = [node for node in model.graph if node.op_type == PLUGIN]
    assert node.domain == PLUGIN_DOMAIN
    assert node.attributes["plugin_version"].as_string() == "1"
    value, shapes, starts, locations, weights = node.inputs
    assert [v.name for v in (value, locations, weights)] == ["value", "locations", "weights"]
    assert shapes.const_value.numpy().tolist() == [list(shape) for shape in SHAPES]
    assert starts.const_value.numpy().tolist() == [0, 6, 26]
    assert shapes.dtype == starts.dtype == ir.DataType.INT32
    assert list(node.outputs[0].shape.dims[1:]) == [QUERIES, HEADS, DEPTH]
