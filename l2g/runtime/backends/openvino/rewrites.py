"""An exported graph in the words in which OpenVINO's CPU computes it fastest.

Changes of a graph of known shapes, each of the same numbers but for the order of roundings. Deformable attention that
gathers cells of four pixels becomes one operator (`sampling`). Of what is left of it, lowered as for ONNX
Runtime (measured on one core of an EPYC, a layer of 8617 tokens in BF16: 43 ms without the first of them, 27 ms with
it):

- A Concat on an axis of size one copies two or four bytes at a time: the parts are laid after each other and
  transposed.
- A coordinate is picked out of pairs, after arithmetic on the pairs: the linear layer that makes them gives all x and
  all y apart instead, and what scales and moves them is one constant each.
- A product that is summed over one axis is a matrix product.

And of eight bits: a zero point that several tensors share keeps OpenVINO from computing on integers, so that each gets
its own, or none where it is zero.

Two are for memory. A constant that is added to tensors of more axes gets its missing ones here: OpenVINO gives them for
each reader apart, a copy each, which for the positions of an R50's six layers at 480x864 is 42 MB. And an output that
the graph itself reads on is handed out by an operator of its own: left alone, it lies in memory that nothing else uses
(the masks of that R50, 30 MB), and is copied from there to where it was asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1, opset8

from l2g.runtime.backends.openvino.audit import dequantised
from l2g.runtime.backends.openvino.marks import narrow_type
from l2g.runtime.backends.openvino.sampling import (
    ELEMENTWISE,
    array_of,
    constant_and_other,
    fuse_sampling,
    maker,
    replace,
    shape_of,
)

# Bytes from which on memory is worth a change of the graph.
_LARGE = 1 << 20


def simplify(model: ov.Model) -> None:
    """Change `model`, in place. It is of static shapes and of whatever types, which stay."""
    shared: dict[tuple[Any, ...], Any] = {}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Subtract" and dequantised(node.input_value(0).get_node()):
            _own_zero(node)
        elif kind == "Subtract":
            _pick_early(node, shared)
    # With float32 among 16 bits what splits or multiplies takes a mark, and that costs a copy.
    one_type = narrow_type(model) is None
    fuse_sampling(model, parts=one_type)
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Concat":
            _transpose_parts(node)
        elif kind == "ReduceSum":
            _multiply_matrices(node)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            _share_among_readers(node)
    if one_type:
        _hand_out(model)
    model.validate_nodes_and_infer_types()


def _share_among_readers(constant: Any) -> None:
    shape, readers = shape_of(constant), list(constant.output(0).get_target_inputs())
    if len(readers) < 2 or int(np.prod(shape)) * constant.get_element_type().size < _LARGE:
        return
    shared: dict[int, Any] = {}
    for reader in readers:
        node = reader.get_node()
        rank = len(shape_of(node)) if node.get_type_name() in ELEMENTWISE else 0
        if rank > len(shape):
            if rank not in shared:
                longer = np.array([1] * (rank - len(shape)) + shape, np.int64)
                shared[rank] = opset1.reshape(constant, longer, False)
            reader.replace_source_output(shared[rank].output(0))


def _hand_out(model: ov.Model) -> None:
    alone = [
        node
        for node in model.get_parameters()
        if node.get_element_type() == ov.Type.f32 and int(np.prod(shape_of(node))) == 1
    ]
    for result in model.get_results():
        value = result.input_value(0)
        source = value
        while len(source.get_target_inputs()) == 1 and source.get_node().get_type_name() == "Reshape":
            source = source.get_node().input_value(0)
        large = value.get_element_type() == ov.Type.f32 and int(np.prod(shape_of(result, 0))) * 4 >= _LARGE
        if not large or not alone or len(source.get_target_inputs()) == 1:
            continue
        # One, but no constant, which would be left out together with the product.
        one = opset1.clamp(alone[0], 1.0, 1.0)
        result.input(0).replace_source_output(opset1.multiply(value, one).output(0))


def _own_zero(node: Any) -> None:
    zero = node.input_value(1)
    while zero.get_node().get_type_name() in ("Convert", "Reshape"):
        zero = zero.get_node().input_value(0)
    found = array_of(zero)
    if found is None:
        return
    if not found.any():
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(node.input_value(0))
        return
    own = found.astype(np.float32).reshape(shape_of(node, 1))
    node.input(1).replace_source_output(opset1.constant(own).output(0))


def _pick_early(node: Any, shared: dict[tuple[Any, ...], Any]) -> None:
    """Gather(reference + offsets / sizes, x or y) * size - half, of offsets from a linear layer."""
    scaled = _sole(node.input_value(0), "Multiply")
    picked = scaled and _sole(scaled.input_value(0), "Gather")
    pairs = picked and maker(picked.input_value(0), "Reshape")
    moved = pairs and maker(pairs.input_value(0), "Add")
    if scaled is None or picked is None or moved is None or shape_of(pairs)[-1] != 2:
        return
    coordinate = array_of(picked.input_value(1))
    if coordinate is None:
        return
    reference, shares = constant_and_other(moved)
    shares = shares and maker(shares, "Divide")
    sizes = shares and array_of(shares.input_value(1))
    found = shares and _linear(shares.input_value(0))
    half, size = array_of(node.input_value(1)), array_of(scaled.input_value(1))
    if reference is None or sizes is None or found is None or half is None or size is None:
        return
    (names, query, weights, bias, transposed), axis = found, int(coordinate)
    whole, flat = shape_of(moved), shape_of(picked)
    if whole[-1] != 2 or np.prod(whole[2:]) != 2 * flat[-1] or shape_of(picked) != [*shape_of(pairs)[:-1]]:
        return
    columns = np.arange(axis, 2 * flat[-1], 2)
    weights = opset8.gather(weights, columns, np.int64(0 if transposed else 1))
    product = opset1.matmul(query, weights, False, transposed)
    result = opset1.add(product, opset8.gather(bias, columns, np.int64(0)))
    # Of the two halves one keeps the layer's names: an audit looks for them.
    for part, name in zip((product, result), names, strict=True):
        part.set_friendly_name(f"{name}/y" if axis else name)
    if result.get_element_type() != node.get_element_type():
        result = opset1.convert(result, node.get_element_type().get_type_name())

    def of_axis(pair: np.ndarray) -> np.ndarray:
        """The x or y of constant pairs, float64 as `flat`."""
        return np.broadcast_to(pair, whole)[..., axis].astype(np.float64).reshape(flat)

    factor = size / of_axis(sizes)
    if not np.allclose(factor, 1, rtol=0, atol=1e-6):
        result = opset1.multiply(result, opset1.constant(factor.astype(np.float32)))
    offset = (of_axis(reference) * size - half).astype(np.float32)
    start = shared.setdefault((offset.shape, offset.tobytes()), opset1.constant(offset))
    replace(node, opset1.add(result, start))


def _linear(value: Any) -> tuple[tuple[str, str], Any, Any, Any, bool] | None:
    """(names of product and sum, input, weights, bias, whether the weights are transposed) of the linear layer of which
    `value` shows another shape and type."""
    while value.get_node().get_type_name() in ("Reshape", "Convert"):
        value = value.get_node().input_value(0)
    added = maker(value, "Add")
    if added is None:
        return None
    for place in (0, 1):
        bias, product = added.input_value(place), maker(added.input_value(1 - place), "MatMul")
        if product is None or not _constant(bias) or not _constant(product.input_value(1)):
            continue
        facts = product.get_attributes()
        if not facts["transpose_a"]:
            inputs = (product.input_value(0), product.input_value(1))
            names = product.get_friendly_name(), added.get_friendly_name()
            return names, *inputs, bias, facts["transpose_b"]
    return None


def _transpose_parts(node: Any) -> None:
    shape = shape_of(node)
    axis = node.get_attributes()["axis"] % len(shape)
    parts = [node.input_value(index) for index in range(node.get_input_size())]
    after, size = int(np.prod(shape[axis + 1 :])), int(np.prod(shape)) // max(len(parts), 1)
    if len(parts) < 2 or shape[axis] != len(parts) or after != 1 or size < 1024:
        return
    rows = [opset1.reshape(part, np.array([1, size], np.int64), False) for part in parts]
    joined = opset1.concat(rows, 0)
    turned = opset1.transpose(joined, np.array([1, 0], np.int64))
    for number, part in enumerate((*rows, joined, turned)):
        part.set_friendly_name(f"{node.get_friendly_name()}/{number}")
    replace(node, opset1.reshape(turned, np.array(shape, np.int64), False))


def _multiply_matrices(node: Any) -> None:
    """ReduceSum([..., K, D] * [..., K, 1], K) -> [..., D]."""
    product, axes = _sole(node.input_value(0), "Multiply"), array_of(node.input_value(1))
    if product is None or axes is None or node.get_attributes()["keep_dims"]:
        return
    shape = shape_of(product)
    if len(shape) < 3 or [int(axis) % len(shape) for axis in axes.ravel()] != [len(shape) - 2]:
        return
    for rows, weights in ((0, 1), (1, 0)):
        if [shape_of(product, index) for index in (rows, weights)] == [shape, [*shape[:-1], 1]]:
            across = [*shape[:-2], 1, shape[-2]]
            flat = opset1.reshape(product.input_value(weights), np.array(across, np.int64), False)
            summed = opset1.matmul(flat, product.input_value(rows), False, False)
            flat.set_friendly_name(f"{node.get_friendly_name()}/weights")
            summed.set_friendly_name(f"{node.get_friendly_name()}/product")
            replace(node, opset1.reshape(summed, np.array(shape_of(node), np.int64), False))
            return


def _sole(value: Any, kind: str) -> Any | None:
    """The same, where nobody else reads the value."""
    return maker(value, kind) if len(value.get_target_inputs()) == 1 else None


def _constant(value: Any) -> bool:
    """Whether a value is known, perhaps after a conversion."""
    node = value.get_node()
    return node.get_type_name() == "Constant" or (node.get_type_name() == "Convert" and _constant(node.input_value(0)))
