"""What is rewritten for OpenVINO gives the numbers that it gave before, and is gone where it was slow."""

import numpy as np
import pytest

ov = pytest.importorskip("openvino")
from openvino import opset1, opset8  # noqa: E402

from l2g.runtime.backends.openvino_rewrites import simplify  # noqa: E402

QUERIES, SAMPLES, DIM = 40, 32, 8
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def computed(model, inputs):
    compiled = ov.Core().compile_model(model, "CPU", FLOAT32)
    return [np.array(value) for value in compiled(inputs).values()]


def count(model, kind):
    return sum(node.get_type_name() == kind for node in model.get_ops())


def constant(*shape, seed=0):
    return opset1.constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def locations(transposed=False, divided=True):
    """Pixels of x and of y, of offsets around references, as a graph is exported."""
    query = opset1.parameter([1, QUERIES, DIM], np.float32, name="query")
    weights = constant(*((2 * SAMPLES, DIM) if transposed else (DIM, 2 * SAMPLES)))
    offsets = opset1.add(constant(2 * SAMPLES, seed=1), opset1.matmul(query, weights, False, transposed))
    offsets = opset1.reshape(offsets, np.array([1, QUERIES, 2, 4, 4, 2]), False)
    sizes = np.repeat(np.array([[(9, 5)], [(5, 3)], [(3, 2)], [(2, 1)]], np.float32), 4, axis=1)
    shares = (opset1.divide if divided else opset1.multiply)(offsets, opset1.constant(sizes))
    reference = np.random.default_rng(2).random((1, QUERIES, 1, 4, 4, 2), dtype=np.float32)
    pairs = opset1.reshape(
        opset1.add(opset1.constant(reference), shares), np.array([1, QUERIES, SAMPLES, 2], np.int64), False
    )
    results = []
    for axis in (0, 1):
        picked = opset8.gather(pairs, np.int64(axis), np.int64(3))
        size = np.tile(sizes[..., axis].ravel(), 2)
        # Of x the sizes of the division, of y others: then a factor is left.
        scaled = opset1.multiply(picked, opset1.constant(size * (1 + axis)))
        results.append(opset1.subtract(scaled, opset1.constant(np.float32(0.5))))
    return ov.Model(results, [query])


@pytest.mark.parametrize("transposed", [False, True])
def test_coordinates_come_out_of_the_linear_layer_apart(transposed):
    query = [np.random.default_rng(3).standard_normal((1, QUERIES, DIM)).astype(np.float32)]
    expected = computed(locations(transposed), query)
    model = locations(transposed)
    simplify(model)
    assert count(model, "Divide") == 0
    assert (count(model, "MatMul"), count(model, "Multiply")) == (2, 1)
    for found, right in zip(computed(model, query), expected, strict=True):
        assert right.std() > 1
        np.testing.assert_allclose(found, right, rtol=0, atol=2e-5)


def test_other_arithmetic_on_pairs_stays():
    model = locations(divided=False)
    simplify(model)
    assert count(model, "MatMul") == 1


def joined(axis, parts=4):
    inputs = [opset1.parameter([1, QUERIES, SAMPLES, 1], np.float32, name=str(part)) for part in range(parts)]
    # Not the inputs themselves: those have names that say who they are.
    return ov.Model([opset1.concat([opset1.relu(part) for part in inputs], axis)], inputs)


@pytest.mark.parametrize(("axis", "transposes"), [(3, 1), (-1, 1), (2, 0)])
def test_parts_of_one_element_are_transposed(axis, transposes):
    values = [np.random.default_rng(part).random((1, QUERIES, SAMPLES, 1), dtype=np.float32) for part in range(4)]
    model = joined(axis)
    simplify(model)
    assert count(model, "Transpose") == transposes
    np.testing.assert_array_equal(computed(model, values)[0], np.concatenate(values, axis))


def test_a_sum_of_products_is_a_matrix_product():
    rows = opset1.parameter([1, QUERIES, SAMPLES, DIM], np.float32, name="rows")
    weights = opset1.parameter([1, QUERIES, SAMPLES, 1], np.float32, name="weights")
    summed = opset1.reduce_sum(opset1.multiply(rows, weights), np.array([2], np.int64), False)
    model = ov.Model([summed], [rows, weights])
    simplify(model)
    assert (count(model, "ReduceSum"), count(model, "MatMul")) == (0, 1)
    generator = np.random.default_rng(0)
    values = [generator.standard_normal((1, QUERIES, SAMPLES, size)).astype(np.float32) for size in (DIM, 1)]
    np.testing.assert_allclose(computed(model, values)[0], (values[0] * values[1]).sum(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("zero", [0, 3])
def test_a_shared_zero_point_is_divided(zero):
    point = opset1.convert(opset1.constant(np.int8(zero)), "f32")
    inputs = [opset1.parameter([1, DIM], np.int8, name=str(number)) for number in range(2)]
    scaled = [
        opset1.multiply(opset1.subtract(opset1.convert(each, "f32"), point), opset1.constant(np.float32(0.5)))
        for each in inputs
    ]
    model = ov.Model(scaled, inputs)
    simplify(model)
    subtractions = [node for node in model.get_ops() if node.get_type_name() == "Subtract"]
    assert len(subtractions) == (2 if zero else 0)
    zeros = {node.input_value(1).get_node().get_friendly_name() for node in subtractions}
    assert len(zeros) == len(subtractions)
    values = [np.arange(DIM, dtype=np.int8)[None] - 4] * 2
    for found in computed(model, values):
        np.testing.assert_array_equal(found, (values[0] - np.float32(zero)) * 0.5)
