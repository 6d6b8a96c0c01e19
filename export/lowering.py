"""Deformable attention in ONNX: three ways to spell the one node that a trace leaves for it.

    gather      rank-2 Gather and bilinear interpolation by hand: runs everywhere, the default
    gridsample  one GridSample per level
    plugin      the node of TensorRT's own plugin, which no other library runs

The contract of the operator is `l2g.modeling.deformable`'s. Value is [B, S, M, D], locations are [B, Q, M, L, P, 2] in
0..1 of their level, weights are [B, Q, M, L, P]; the result is [B, Q, M * D].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from l2g.export.folding import tidy

LOWERINGS = ("gather", "gridsample", "plugin")
TARGETS = ("onnxruntime", "tensorrt")


@dataclass(frozen=True)
class Attention:
    """One node to lower: its tensors, its levels' (h, w), and its sizes (S tokens, M heads, D values, Q queries)."""

    value: ir.Value
    locations: ir.Value
    weights: ir.Value
    shapes: tuple[tuple[int, int], ...]
    tokens: int
    heads: int
    depth: int
    queries: int
    points: int


class Builder:
    """Appends nodes after each other; constants of equal content are stored once."""

    def __init__(self, graph: ir.Graph, prefix: str):
        self.graph, self.prefix = graph, prefix
        self.tape = tape.Tape()

    def op(self, op_type: str, *inputs, **attributes) -> ir.Value:
        """Append a node; inputs are values, or arrays that become constants."""
        values = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        out = self.tape.op(op_type, values, attributes)
        number = len(self.tape.nodes)
        out.name = f"{self.prefix}/{op_type}_{number}_output"
        out.producer().name = f"{self.prefix}/{op_type}_{number}"
        return out

    def constant(self, array: np.ndarray) -> ir.Value:
        name = f"constant_{len(self.graph.initializers)}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype
        self.graph.register_initializer(value)
        return value

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        return self.op("Reshape", value, np.array(shape, np.int64))


def lower(model: ir.Model, lowering: str, target: str) -> ir.Model:
    """Replace every deformable attention node of `model` in place."""
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "DeformableAttention"]
    stream = None
    for node in nodes:
        build = Builder(graph, node.name)
        attention = _read(node)
        if stream is None and lowering == "gather":
            stream = _stream_index(build, graph)
        result = _gather(build, attention, stream, target)
        result.shape, result.dtype = node.outputs[0].shape, ir.DataType.FLOAT
        ir.convenience.replace_nodes_and_values(graph, node, [node], build.tape.nodes, node.outputs, [result])
    tidy(model)
    return model


def _read(node: ir.Node) -> Attention:
    value, locations, weights = node.inputs
    flat = node.attributes["shapes"].as_ints()
    _, tokens, heads, depth = value.shape.dims
    _, queries, _, _, points = weights.shape.dims
    shapes = tuple(zip(flat[::2], flat[1::2], strict=True))
    return Attention(value, locations, weights, shapes, tokens, heads, depth, queries, points)


def _stream_index(build: Builder, graph: ir.Graph) -> ir.Value:
    """int32 [B, 1, 1]: the number of each row's stream, the one place where a graph asks how many there are."""
    valid = next(value for value in graph.inputs if value.shape.rank() == 2)
    streams = build.op("Shape", valid, start=0, end=1)
    streams = build.op("Cast", build.op("Squeeze", streams), to=ir.DataType.INT32)
    index = build.op("Range", np.array(0, np.int32), streams, np.array(1, np.int32))
    return build.reshape(index, -1, 1, 1)


def _gather(build: Builder, a: Attention, stream: ir.Value, target: str) -> ir.Value:
    """Four rank-2 gathers of rows of D values, one per corner of a bilinear sample.

    A row of zeros stands for everything outside a level: there is a frame of them around every level, so that each
    corner is the same few additions for all samples, with no test for the border.
    """
    columns = len(a.shapes) * a.points

    def per_sample(of_level: list[float], dtype=np.float32) -> np.ndarray:
        return np.tile(np.repeat(np.array(of_level, dtype), a.points), a.heads)

    pitch = [w + 2 for _, w in a.shapes]
    areas = [(h + 2) * (w + 2) for h, w in a.shapes]
    starts = np.cumsum([0, *areas[:-1]])
    # The last row of the padded tokens is zero; every pixel of a frame takes it.
    framed, first = [], 0
    for h, w in a.shapes:
        level = np.full((h + 2, w + 2), a.tokens, np.int32)
        level[1:-1, 1:-1] = first + np.arange(h * w).reshape(h, w)
        framed.append(level.ravel())
        first += h * w
    tokens = build.reshape(a.value, -1, a.tokens, a.heads * a.depth)
    tokens = build.op("Pad", tokens, np.array([0, 0, 0, 0, 1, 0], np.int64))
    rows = build.reshape(build.op("Gather", tokens, np.concatenate(framed), axis=1), -1, a.depth)

    locations = build.reshape(a.locations, -1, a.queries, a.heads * columns, 2)
    before, after = [], []
    for axis in range(2):
        size = per_sample([shape[1 - axis] for shape in a.shapes])
        position = build.op("Gather", locations, np.array(axis, np.int64), axis=3)
        x = build.op("Sub", build.op("Mul", position, size), np.array(0.5, np.float32))
        x = build.op("Min", build.op("Max", x, np.array(-1.0, np.float32)), size)
        low = build.op("Min", build.op("Floor", x), size - 1)
        before.append(low)
        after.append(build.op("Sub", x, low))
    total = sum(areas) * a.heads
    base = per_sample([float(s + p + 1) for s, p in zip(starts, pitch, strict=True)]) * a.heads
    base += np.repeat(np.arange(a.heads, dtype=np.float32), columns)
    row = build.op("Add", build.op("Mul", before[1], per_sample(pitch) * a.heads), base)
    row = build.op("Add", row, build.op("Mul", before[0], np.array(a.heads, np.float32)))
    # NaN has no integer: after the cast it is any number, which the clamp brings back into its own stream's rows.
    last = total - 1 - a.heads * (1 + per_sample(pitch, np.int32))
    row = build.op("Cast", row, to=ir.DataType.INT32)
    row = build.op("Min", build.op("Max", row, np.array(0, np.int32)), last.astype(np.int32))
    row = build.op("Add", row, build.op("Mul", stream, np.array(total, np.int32)))
    below = build.op("Add", row, per_sample(pitch, np.int32) * np.int32(a.heads))
    corners = [row, build.op("Add", row, np.array(a.heads, np.int32)), below]
    corners.append(build.op("Add", below, np.array(a.heads, np.int32)))
    weights = build.reshape(a.weights, -1, a.queries, a.heads * columns)
    lower_ = build.op("Mul", weights, after[1])
    upper = build.op("Sub", weights, lower_)
    factors = []
    for part in (upper, lower_):
        right = build.op("Mul", part, after[0])
        factors += [build.op("Sub", part, right), right]
    split = lambda value: build.reshape(value, -1, a.queries, a.heads, columns)  # noqa: E731
    index = build.op("Concat", *map(split, corners), axis=3)
    factor = build.op("Concat", *map(split, factors), axis=3)
    samples = build.op("Gather", rows, index, axis=0)
    if target == "onnxruntime":
        result = build.op("MatMul", build.op("Unsqueeze", factor, np.array([3], np.int64)), samples)
    else:
        product = build.op("Mul", build.op("Unsqueeze", factor, np.array([4], np.int64)), samples)
        result = build.op("ReduceSum", product, np.array([3], np.int64), keepdims=0)
    return build.reshape(result, -1, a.queries, a.heads * a.depth)
