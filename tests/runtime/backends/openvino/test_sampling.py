"""Deformable attention as one sum of rows in OpenVINO gives what the model's own gives."""

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
ov = pytest.importorskip("openvino")

from l2g.export.graph import node_builder as builder  # noqa: E402
from l2g.modeling.deformable import sample_levels  # noqa: E402
from l2g.runtime.backends.openvino import rewrites, sampling  # noqa: E402
from l2g.runtime.backends.openvino.backend import _for_one_stream  # noqa: E402
from tests.export.deformable.operators import DEPTH, HEADS, POINTS, SHAPES, arrays, operator  # noqa: E402

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
BAG = "EmbeddingBagPackedSum"


def kinds(model):
    return [node.get_type_name() for node in model.get_ops()]


def read(queries_in_a_part, monkeypatch):
    """The lowered node as OpenVINO reads it, for one stream."""
    monkeypatch.setattr(builder, "PART_BYTES", queries_in_a_part * HEADS * len(SHAPES) * POINTS * 4 * DEPTH * 4)
    model = ov.Core().read_model(ir.to_proto(operator("gather")).SerializeToString())
    rewrites.simplify(_for_one_stream(model))
    return model


@pytest.mark.parametrize("queries_in_a_part", [1, 4, 7])
def test_equal_to_the_models_own(queries_in_a_part, monkeypatch):
    """Samples inside, on borders, on centres of pixels and far outside; queries in seven parts, in two, in one."""
    value, locations, weights = arrays(1)
    expected = sample_levels(torch.from_numpy(value), SHAPES, torch.from_numpy(locations), torch.from_numpy(weights))
    model = read(queries_in_a_part, monkeypatch)
    assert kinds(model).count(BAG) == 1
    assert "MatMul" not in kinds(model)
    compiled = ov.Core().compile_model(model, "CPU", FLOAT32)
    inputs = {"value": value, "locations": locations, "weights": weights, "valid": np.ones((1, 1), np.float32)}
    assert np.abs(expected.numpy()).max() > 1
    np.testing.assert_allclose(compiled(inputs)["out"], expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("queries", "parts"), [(1, 7), (3, 3), (6, 2), (7, 1)])
def test_summed_some_queries_at_a_time(queries, parts, monkeypatch):
    value, locations, weights = arrays(1)
    inputs = {"value": value, "locations": locations, "weights": weights, "valid": np.ones((1, 1), np.float32)}
    whole = ov.Core().compile_model(read(7, monkeypatch), "CPU", FLOAT32)(inputs)["out"]
    monkeypatch.setattr(sampling, "_PART", queries * HEADS * len(SHAPES) * POINTS * 4 * 4)
    model = read(7, monkeypatch)
    assert kinds(model).count(BAG) == parts
    np.testing.assert_array_equal(ov.Core().compile_model(model, "CPU", FLOAT32)(inputs)["out"], whole)
    monkeypatch.setattr(rewrites, "narrow_type", lambda model: "bf16")  # float32 among 16 bits
    assert kinds(read(7, monkeypatch)).count(BAG) == 1


def test_coordinates_that_are_no_numbers_read_inside_the_table(monkeypatch):
    value, locations, weights = arrays(1)
    locations[:, 4] = np.nan
    compiled = ov.Core().compile_model(read(7, monkeypatch), "CPU", FLOAT32)
    inputs = {"value": value, "locations": locations, "weights": weights, "valid": np.ones((1, 1), np.float32)}
    found = compiled(inputs)["out"]
    expected = sample_levels(torch.from_numpy(value), SHAPES, torch.from_numpy(locations), torch.from_numpy(weights))
    np.testing.assert_allclose(found[:, :4], expected.numpy()[:, :4], rtol=0, atol=1e-5)


def test_a_graph_that_is_spelled_otherwise_stays(monkeypatch):
    monkeypatch.setattr(sampling, "_samples", lambda *arguments: None)
    model = read(7, monkeypatch)
    assert BAG not in kinds(model)
    assert "MatMul" in kinds(model)


def test_what_is_equal_over_heads_is_kept_for_one_of_them():
    queries, samples = 5, 6
    random = np.random.default_rng(0)
    of_all = random.random((1, queries, 1, samples), np.float32).repeat(HEADS, axis=2)
    of_each = random.random((1, queries, HEADS, samples), np.float32)
    of_last = of_all.copy()
    of_last[0, -1, -1, -1] += 1
    planar = sampling._Planar([1, 1, queries, HEADS, 1, samples])
    for array, heads in ((of_all, 1), (of_each, HEADS), (of_last, HEADS)):
        found = planar.constant(array.reshape(1, queries, -1)).get_data()
        assert found.shape == (1, 1, queries, heads, 1, samples)
        assert (np.broadcast_to(found[0, 0, :, :, 0], array[0].shape) == array[0]).all()
    # One number stays as many: alone it would pass for a scale of eight bits.
    assert planar.constant(np.float32(2)).get_data().shape == (1, 1, 1, HEADS, 1, samples)
