"""One graph for any number of streams, found by comparing two graphs of fixed numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from l2g.errors import ExportError
from l2g.export.graph.folding import tidy
from l2g.export.graph.values import constant, constant_value, input_of, shape_of

# Operators that repeat a constant over the streams of another operand by themselves.
BROADCASTING = ("Where", "Add", "Sub", "Mul", "Div")


def generalise(first: ir.Model, second: ir.Model, streams: tuple[int, int], name: str = "B") -> ir.Model:
    """`first` with its leading dimension free: the same graph was traced with streams[0] and with streams[1].

    Both are folded, so they may differ only in the shapes that Reshape, Expand and Resize ask for, and in constants
    that repeat themselves for every stream. A dimension that follows the number of streams becomes "what is left"
    (-1), "as in the input" (0) or "broadcast" (1), so that the graph needs no Shape node. Raises ExportError where the
    two differ in any other way.
    """
    nodes, others = list(first.graph), list(second.graph)
    if [node.op_type for node in nodes] != [node.op_type for node in others]:
        raise ExportError("the graph of the model depends on the number of streams; the model must not branch on it")
    shapes = _Shapes(streams, name)
    pairs = list(zip(nodes, others, strict=True))
    targets = {id(node): shapes.merge(node.outputs[0], other.outputs[0]) for node, other in pairs}
    for node, other in pairs:
        _one_row(node, other)
        _check_alike(node, other)
        if node.op_type in SHAPED:
            index, rewrite = SHAPED[node.op_type]
            source = shapes.merge(input_of(node, 0), input_of(other, 0))
            wanted = rewrite(node, source, targets[id(node)])
            shape = _constant(first.graph, f"{node.outputs[0].name}_shape", wanted)
            if node.op_type == "Resize":  # from sizes, its input 3, to scales
                node.resize_inputs(3)
            node.replace_input_with(index, shape)
    for node, other in pairs:
        for value, twin in zip(node.outputs, other.outputs, strict=True):
            value.shape = ir.Shape(shapes.merge(value, twin))
    for value, twin in zip(first.graph.inputs, second.graph.inputs, strict=True):
        value.shape = ir.Shape(shapes.merge(value, twin))
    tidy(first)
    return first


class _Shapes:
    """Merges a tensor's shapes at two numbers of streams: [2, 5] and [3, 5] -> ["B", 5]; [16] and [24] -> ["8*B"]."""

    def __init__(self, streams: tuple[int, int], name: str):
        self.streams, self.name = streams, name

    def merge(self, value: ir.Value, twin: ir.Value) -> list[int | str]:
        if (array := constant(value)) is not None:
            return list(array.shape)
        return [self._dim(value, a, b) for a, b in zip(shape_of(value), shape_of(twin), strict=True)]

    def _dim(self, value: ir.Value, a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> int | str:
        if not isinstance(a, int) or not isinstance(b, int):
            raise ExportError(f"a dimension of '{value.name}' is not fixed by the canvas: {a} and {b} found")
        if a == b:
            return a
        times, rest = divmod(a, self.streams[0])
        if rest or times * self.streams[1] != b:
            found = f"{a} for {self.streams[0]} streams and {b} for {self.streams[1]}"
            raise ExportError(f"a dimension of '{value.name}' does not follow the number of streams: it is {found}")
        return self.name if times == 1 else f"{times}*{self.name}"


def _check_alike(node: ir.Node, other: ir.Node) -> None:
    """Constants and attributes agree, except for the shapes that some nodes ask for."""
    for index, (value, twin) in enumerate(zip(node.inputs, other.inputs, strict=True)):
        mine, theirs = constant(value), constant(twin)
        shaped = node.op_type in SHAPED and index > 0
        alike = mine is None if theirs is None else mine is not None and (shaped or np.array_equal(mine, theirs))
        if not alike:
            raise ExportError(f"input {index} of node '{node.name}' ({node.op_type}) depends on the number of streams")
    if _attributes(node) != _attributes(other):
        raise ExportError(f"the attributes of node '{node.name}' ({node.op_type}) depend on the number of streams")


def _attributes(node: ir.Node) -> dict[str, str]:
    return {name: str(attribute.value) for name, attribute in node.attributes.items()}


def _one_row(node: ir.Node, other: ir.Node) -> None:
    """Take back a constant that was repeated for every stream, where the node repeats it by itself."""
    if node.op_type not in BROADCASTING:
        return
    for index, (value, twin) in enumerate(zip(node.inputs, other.inputs, strict=True)):
        mine, theirs = constant(value), constant(twin)
        if (
            mine is None
            or theirs is None
            or mine.shape == theirs.shape
            or mine.ndim != shape_of(node.outputs[0]).rank()
        ):
            continue
        if len(mine) and len(theirs) and all(np.array_equal(row, mine[0]) for row in (*mine, *theirs)):
            for owner, array in ((node, mine), (other, theirs)):
                assert isinstance(owner.graph, ir.Graph)
                name = f"{input_of(node, index).name}_row"
                owner.replace_input_with(index, _constant(owner.graph, name, array[:1]))


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = constant_value(f"{name}_{len(graph.initializers)}", array)
    graph.register_initializer(value)
    return value


def _reshape(node: ir.Node, source: list[int | str], target: list[int | str]) -> np.ndarray:
    """The second input of a Reshape from `source` to `target`, free of the number of streams."""
    wanted = []
    for index, dim in enumerate(target):
        if not isinstance(dim, str):
            wanted.append(dim)
        elif -1 not in wanted:
            wanted.append(-1)
        elif index < len(source) and source[index] == dim:
            wanted.append(0)
        else:
            raise ExportError(f"Reshape '{node.name}' from {source} to {target} has two dimensions of unknown size")
    return np.array(wanted, np.int64)


def _expand(node: ir.Node, source: list[int | str], target: list[int | str]) -> np.ndarray:
    """The second input of an Expand, for which 1 means "as it is"."""
    source = [*[1] * (len(target) - len(source)), *source]
    if any(isinstance(dim, str) and have == 1 for dim, have in zip(target, source, strict=True)):
        raise ExportError(f"Expand '{node.name}' repeats {source} for every stream, to {target}; broadcast instead")
    return np.array([1 if isinstance(dim, str) else dim for dim in target], np.int64)


def _resize(node: ir.Node, source: list[int | str], target: list[int | str]) -> np.ndarray:
    """The scales, third input of a Resize, in place of sizes."""
    scales = [
        dim / have if isinstance(dim, int) and isinstance(have, int) else 1.0
        for dim, have in zip(target, source, strict=True)
    ]
    if not all(scale.is_integer() for scale in scales):
        raise ExportError(f"Resize '{node.name}' from {source} to {target} is not by whole factors")
    return np.array(scales, np.float32)


# Operators that ask for a shape: which input says it once the number of streams is out of it, and how.
SHAPED = {"Reshape": (1, _reshape), "Expand": (1, _expand), "Resize": (2, _resize)}
