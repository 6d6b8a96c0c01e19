"""What is rewritten for OpenVINO gives the numbers that it gave before, and is gone where it was slow."""

import numpy as np
import pytest

ov = pytest.importorskip("openvino")
from openvino import opset1, opset8  # noqa: E402

from l2g.runtime.backends.openvino.rewrites import simplify  # noqa: E402

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


def positions(readers=3):
    """A megabyte that is added to tensors of one axis more."""
    inputs = [opset1.parameter([1, 1024, 256], np.float32, name=str(number)) for number in range(readers)]
    added = constant(1024, 256)
    weights = [constant(256, 4, seed=1 + number) for number in range(readers)]
    sums = [opset1.add(each, added) for each in inputs]
    return ov.Model([opset1.matmul(*pair, False, False) for pair in zip(sums, weights, strict=True)], inputs)


def megabytes(model):
    """How often OpenVINO keeps a constant of a megabyte."""
    compiled = ov.Core().compile_model(model, "CPU", FLOAT32).get_runtime_model()
    constants = (node for node in compiled.get_ordered_ops() if str(node.get_rt_info()["layerType"].value) == "Const")
    return sum(int(np.prod(node.output(0).shape)) == 1024 * 256 for node in constants)


def test_a_constant_of_fewer_axes_is_kept_once():
    values = [np.random.default_rng(part).random((1, 1024, 256), dtype=np.float32) for part in range(3)]
    expected = computed(positions(), values)
    assert megabytes(positions()) == 3  # what is saved
    model = positions()
    simplify(model)
    assert megabytes(model) == 1
    for found, right in zip(computed(model, values), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4)


def read_on(alone=True):
    """An output of four megabytes that the graph sums up."""
    x = opset1.parameter([1, 4, 1 << 18], np.float32, name="x")
    valid = opset1.parameter([1, 1 if alone else 2], np.float32, name="valid")
    out = opset1.relu(x)
    out.output(0).set_names({"out"})
    summed = opset1.reduce_sum(out, np.array([2], np.int64), True)
    summed.output(0).set_names({"summed"})
    return ov.Model([opset1.reshape(out, np.array([1, 2, 2, 1 << 18], np.int64), False), summed], [x, valid])


@pytest.mark.parametrize("alone", [True, False])
def test_an_output_that_is_read_on_is_handed_out_by_itself(alone):
    model = read_on(alone)
    model.outputs[0].set_names({"shaped"})
    simplify(model)
    assert [output.any_name for output in model.outputs] == ["shaped", "summed"]
    kinds = [result.input_value(0).get_node().get_type_name() for result in model.get_results()]
    assert kinds == ["Multiply" if alone else "Reshape", "ReduceSum"]
    x = np.random.default_rng(0).standard_normal((1, 4, 1 << 18)).astype(np.float32)
    x[0, 1, 5] = np.nan
    # Whatever the input holds that gives the one.
    out, summed = computed(model, [x, np.full((1, 1 if alone else 2), -3, np.float32)])
    kept, expected = computed(read_on(alone), [x, np.zeros((1, 1 if alone else 2), np.float32)])
    np.testing.assert_array_equal(out, kept.reshape(out.shape))
    np.testing.assert_array_equal(summed, expected)
