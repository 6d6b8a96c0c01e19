"""Deformable attention in one operator of OpenVINO's: rows of a table, weighted and summed for each query and head.

A graph lays the four pixels around every point after each other, gathers a row of four for each sample and multiplies
the rows with their weights, some queries at a time (`l2g.export.deformable.gather`). What is gathered goes through
memory, and the weights of the four come together by a transposition of two bytes at a time. `EmbeddingBagPackedSum`
reads and sums at once, in float32. Its table is each level in a frame of zeros, in which the four pixels of a cell lie
at four fixed distances, so that nothing is laid out four times.

The arithmetic of the samples goes from three axes to six: of three, OpenVINO takes the second for channels and turns
everything around for that, there and back.

Measured on two cores with AMX, a layer of 8617 tokens of an R50 at 480x864: 20 ms for gathering, weights and products,
of which 4.5 ms transposed weights, and 3 ms for turning around; the operator alone takes 13 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1, opset3, opset8

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": opset1.add,
    "Floor": opset1.floor,
    "Maximum": opset1.maximum,
    "Minimum": opset1.minimum,
    "Multiply": opset1.multiply,
    "Subtract": opset1.subtract,
}
# Bytes of what is added up at a time.
_PART = 8 << 20
# Of the corners of a cell, upper left, upper right, lower left, lower right: whether it is at the right, or below.
_RIGHT, _BELOW = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])


@dataclass(frozen=True)
class _Samples:
    """Where samples lie, values of [1, Q, M * S]: the cell's line and column, counted from -1, and the shares of the
    pixels below and at the right, of 0 to 1. weight: what each counts. widths, first: of the samples' levels, the cells
    in a line, and the number of the cell of line and column 0."""

    line: Any
    column: Any
    below: Any
    right: Any
    weight: Any
    widths: np.ndarray
    first: np.ndarray


@dataclass(frozen=True)
class _Frame:
    """Levels in frames of zeros, after each other, for one head after the other. tokens: int32 [R], which lies where.
    Of the samples [M * S] as `_Samples` has them, pitch: how far the next line is; first: where line and column are 0;
    lowest, highest: int32, the upper left corners of the level's first and last cell."""

    tokens: np.ndarray
    pitch: np.ndarray
    first: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray


def fuse_sampling(model: ov.Model, parts: bool) -> None:
    """Change `model`, in place; of static shapes, for one stream. What is spelled in another way stays.

    parts: whether many queries may be split, so that the four corners of all samples are not in memory together.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Gather" and node.get_output_partial_shape(0).rank.get_length() == 5:
            cells = array_of(node.input_value(1))
            if cells is not None and cells.ndim == 2 and cells.shape[1] == 4:
                _fuse(node, cells, _PART if parts else None)


def _fuse(table: Any, cells: np.ndarray, part: int | None) -> None:
    """table: the rows [1, M, N, 4, D] of all cells. part: bytes of corners at a time."""
    _, heads, _, _, depth = shape_of(table)
    gathers = [reader for view in _readers(table) for reader in _readers(view)]
    products = [product for gather in gathers if (product := _product(gather)) is not None]
    if not gathers or len(products) < len(gathers):
        return
    index, end = _whole(gathers[0].input_value(1)), _end(products)
    samples = _samples(index, _whole(products[0].input_value(0)))
    if samples is None or end is None:
        return
    _, queries, _, count = index.get_shape()
    frame, planar = _framed(cells, samples), _Planar([1, 1, queries, heads, 1, count])
    place = opset1.add(
        opset1.multiply(planar.of(samples.line), planar.constant(frame.pitch.astype(np.float32))),
        opset1.add(planar.of(samples.column), planar.constant(frame.first.astype(np.float32))),
    )
    # Whatever the cast makes of a NaN stays in the table.
    place = opset1.maximum(opset1.convert(place, "i32"), planar.constant(frame.lowest))
    place = opset1.minimum(place, planar.constant(frame.highest))
    shares = [planar.of(share) for share in (samples.weight, samples.below, samples.right)]
    rows = opset8.gather(table.input_value(0), frame.tokens, np.int64(2))
    rows = _typed(_reshaped(rows, [heads * len(frame.tokens), depth]), ov.Type.f32)
    parts = 1 if part is None else min(queries, -(-4 * 4 * queries * heads * count // part))
    values = [_parted(value, parts) for value in (place, *shares)]
    bags = [_bag(rows, frame, *found) for found in zip(*values, strict=True)]
    name = end.get_friendly_name()
    bag = bags[0] if len(bags) == 1 else opset1.concat(bags, 0)
    result = _typed(_reshaped(bag, shape_of(end)), end.get_output_element_type(0))
    replace(end, result)
    result.set_friendly_name(f"{name}/typed")
    # An audit finds by its name what became of the products.
    bags[0].set_friendly_name(name)


def _parted(value: Any, parts: int) -> list[Any]:
    """[1, 1, Q, ...] in so many parts of queries."""
    if parts == 1:
        return [value.output(0)]
    lengths = [len(part) for part in np.array_split(np.arange(shape_of(value)[2]), parts)]
    return list(opset1.variadic_split(value, np.int64(2), np.array(lengths)).outputs())


def _bag(rows: Any, frame: _Frame, place: Any, weight: Any, below: Any, right: Any) -> Any:
    """The sums [Q * M, D] of four pixels of every sample. The others: [1, 1, Q, M, 1, S], of some queries."""
    *_, queries, heads, _, count = place.get_shape()
    corners = (_RIGHT[:, None] + _BELOW[:, None] * frame.pitch[:count]).astype(np.int32)
    places, factor = opset1.add(place, opset1.constant(corners)), weight
    for share, after in ((below, _BELOW), (right, _RIGHT)):
        # The share of the pixel after it, or what is left for the one before it.
        after = np.repeat(after, count).reshape(4, count).astype(np.float32)
        scaled = opset1.multiply(share, opset1.constant(2 * after - 1))
        factor = opset1.multiply(factor, opset1.add(scaled, opset1.constant(1 - after)))
    ways = [queries * heads, 4 * count]
    return opset3.embedding_bag_packed_sum(rows, _reshaped(places, ways), _reshaped(factor, ways))


def _readers(node: Any) -> list[Any]:
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def _product(gather: Any) -> Any | None:
    """The product with weights of the rows that are gathered, in the shape of a matrix for each query and head."""
    views = _readers(gather)
    products = _readers(views[0]) if len(views) == 1 and views[0].get_type_name() == "Reshape" else []
    return products[0] if len(products) == 1 and products[0].get_type_name() == "MatMul" else None


def _end(products: list[Any]) -> Any | None:
    """The sums of all queries."""
    if len(products) == 1:
        return products[0]
    ends = {reader.get_friendly_name(): reader for product in products for reader in _readers(product)}
    end = next(iter(ends.values()))
    return end if len(ends) == 1 and end.get_type_name() == "Concat" else None


def _whole(value: Any) -> Any:
    """What a value is one part of, converted or not."""
    while value.get_node().get_type_name() in ("Convert", "Split", "VariadicSplit"):
        value = value.get_node().input_value(0)
    return value


def _unshaped(value: Any) -> Any:
    while value.get_node().get_type_name() in ("Convert", "Reshape"):
        value = value.get_node().input_value(0)
    return value


def _samples(index: Any, factors: Any) -> _Samples | None:
    """From the numbers of the cells [1, Q, M, S], and the weights of the corners of each [1, Q, M, 1, 4 * S]."""
    corners = maker(_unshaped(factors), "Concat")
    lower_right = corners and corners.get_input_size() == 4 and maker(_unshaped(corners.input_value(3)), "Multiply")
    lower = lower_right and maker(lower_right.input_value(0), "Multiply")
    stream = maker(_unshaped(index), "Add")
    inside = stream and maker(stream.input_value(0), "Minimum")
    positive = inside and maker(constant_and_other(inside)[1], "Maximum")
    cast = positive and maker(constant_and_other(positive)[1], "Convert")
    row = cast and maker(cast.input_value(0), "Add")
    scaled, moved = (row and maker(row.input_value(place), kind) for place, kind in enumerate(("Multiply", "Add")))
    if lower_right is None or not lower or not scaled or not moved or len(index.get_shape()) != 4:
        return None
    widths, line = constant_and_other(scaled)
    first, column = constant_and_other(moved)
    if widths is None or first is None or line is None or column is None:
        return None
    right, below = lower_right.input_value(1), lower.input_value(1)
    shape = index.get_shape()
    wide = np.broadcast_to(widths, first.shape).reshape(-1).astype(np.int64)
    if wide.size != shape[2] * shape[3] or any(
        value.get_shape() != line.get_shape() for value in (column, right, below)
    ):
        return None
    return _Samples(line, column, below, right, lower.input_value(0), wide, first.reshape(-1).astype(np.int64))


def _framed(cells: np.ndarray, samples: _Samples) -> _Frame:
    """cells: the tokens at the corners [N, 4]."""
    head, first = np.divmod(samples.first, len(cells))
    starts = first - samples.widths - 1
    levels = sorted(set(zip(starts.tolist(), samples.widths.tolist(), strict=True)))
    ends = [start for start, _ in levels[1:]] + [len(cells)]
    tokens: list[np.ndarray] = []
    begins, sizes, size = {}, {}, 0
    for (start, width), end in zip(levels, ends, strict=True):
        grid = cells[start:end].reshape(-1, width, 4)
        frame = np.empty((len(grid) + 1, width + 1), np.int32)
        for corner, (right, below) in enumerate(zip(_RIGHT, _BELOW, strict=True)):
            frame[below : below + len(grid), right : right + width] = grid[..., corner]
        begins[start], sizes[start] = size, frame.size
        tokens.append(frame.ravel())
        size += frame.size
    pitch, places = samples.widths + 1, head * size
    lowest = places + np.array([begins[start] for start in starts.tolist()])
    highest = lowest + np.array([sizes[start] for start in starts.tolist()]) - pitch - 2
    return _Frame(np.concatenate(tokens), pitch, lowest + pitch + 1, lowest.astype(np.int32), highest.astype(np.int32))


class _Planar:
    """Values of [1, Q, M * S] as [1, 1, Q, M, 1, S], each once; arithmetic on them is repeated so, up to what gives
    them. A tensor of six axes has one layout only."""

    def __init__(self, shape: list[int]):
        self.shape = shape
        self.done: dict[tuple[str, int], Any] = {}

    def of(self, value: Any) -> Any:
        key = (value.get_node().get_friendly_name(), value.get_index())
        if key not in self.done:
            self.done[key] = self._made(value)
        return self.done[key]

    def constant(self, array: np.ndarray) -> Any:
        """Of one number as many as there are samples: alone it would pass for a scale of eight bits, which moves
        through the graph and takes no mark along. What differs from query to query, but not from head to head, is kept
        for one head: reference points are 53 MB less of an R50's six layers at 480x864."""
        heads, one, count = self.shape[3:]
        full = np.full(heads * count, array.item(), array.dtype) if array.size == 1 else array
        full = full.reshape(1, 1, -1, heads, one, count)
        if full.shape[2] > 1 and (full == full[:, :, :, :1]).all():
            full = full[:, :, :, :1]
        return opset1.constant(full)

    def _made(self, value: Any) -> Any:
        node, inputs = value.get_node(), value.get_node().input_values()
        make = ELEMENTWISE.get(node.get_type_name())
        linear = any(source.get_node().get_type_name() == "MatMul" for source in inputs)
        _, _, queries, heads, _, count = self.shape
        if make is None or linear or list(value.get_shape()) != [1, queries, heads * count]:
            return _reshaped(value, self.shape)
        operands = [self._operand(source) for source in inputs]
        if node.get_type_name() == "Subtract":
            # OpenVINO writes a difference so by itself, and loses its mark.
            return opset1.add(operands[0], opset1.multiply(operands[1], self.constant(np.float32(-1))))
        return make(*operands)

    def _operand(self, value: Any) -> Any:
        array = array_of(value)
        return self.of(value) if array is None else self.constant(array)


def _reshaped(value: Any, shape: list[int]) -> Any:
    return opset1.reshape(value, np.array(shape, np.int64), False)


def _typed(node: Any, kind: ov.Type) -> Any:
    return node if node.get_output_element_type(0) == kind else opset1.convert(node, kind.get_type_name())


def maker(value: Any, kind: str) -> Any | None:
    """The operator that gives `value`, where it is of this kind."""
    node = value.get_node()
    return node if node.get_type_name() == kind else None


def array_of(value: Any) -> Any | None:
    """What a constant holds."""
    node = maker(value, "Constant")
    return None if node is None else node.get_data()


def constant_and_other(node: Any) -> tuple[Any | None, Any | None]:
    """(what the constant among two inputs holds, the other input)."""
    for place in (0, 1):
        array = array_of(node.input_value(place))
        if array is not None:
            return array, node.input_value(1 - place)
    return None, None


def shape_of(node: Any, place: int | None = None) -> list[int]:
    port = node.output(0) if place is None else node.input(place)
    return [dim.get_length() for dim in port.get_partial_shape()]


def replace(node: Any, other: Any) -> None:
    other.set_friendly_name(node.get_friendly_name())
    for target in list(node.output(0).get_target_inputs()):
        target.replace_source_output(other.output(0))
    other.output(0).add_names(node.output(0).get_names())
