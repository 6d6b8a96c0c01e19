"""Building a piece of an ONNX graph node by node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from l2g.export.graph.values import constant_value

# What one stream computes with at a time in a graph for a CPU: it has to stay in the cache.
PART_BYTES = 1 << 23


def parts_of(rows: int, width: int) -> int:
    """In how many parts rows of `width` float32 numbers stay in the cache."""
    return math.ceil(rows * width * np.dtype(np.float32).itemsize / PART_BYTES)


# What a node may be given: arrays become constants, None is an input that is left out.
Input = ir.Value | np.ndarray | np.generic | None


class Builder:
    """Collects nodes, in order, whose names begin with `prefix`; their constants go into `graph`."""

    def __init__(self, graph: ir.Graph, prefix: str):
        self.graph, self.prefix = graph, prefix
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: Input, domain: str = "", **attributes: Any) -> ir.Value:
        """Append a node of one output and return that; arrays among the inputs become constants."""
        return self.multi(op_type, 1, *inputs, domain=domain, **attributes)[0]

    def multi(
        self, op_type: str, outputs: int, *inputs: Input, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Append a node of several outputs."""
        values = [self.constant(value) if isinstance(value, np.ndarray | np.generic) else value for value in inputs]
        name = f"{self.prefix}/{op_type}_{len(self.nodes)}"
        node = ir.node(op_type, values, attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_output_{index}"
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(self, array: np.ndarray | np.generic) -> ir.Value:
        """Equal constants may be made again and again: the clean-up after a lowering merges them."""
        name = f"{self.prefix}/constant_{len(self.graph.initializers)}"
        value = constant_value(name, np.asarray(array))
        self.graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, result: ir.Value) -> None:
        """Put the collected nodes in the place of `node`, whose output becomes `result`."""
        result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], self.nodes, node.outputs, [result])

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        return self.op("Reshape", value, np.array(shape, np.int64))

    def in_parts(self, value: ir.Value, rows: int, width: int) -> Sequence[ir.Value]:
        """A tensor [B, rows, ...] in so few rows at a time that `width` float32 numbers for each stay in the cache."""
        count = parts_of(rows, width)
        if count == 1:
            return (value,)
        sizes = np.array([len(part) for part in np.array_split(np.arange(rows), count)], np.int64)
        return self.multi("Split", count, value, sizes, axis=1)

    def clamp(self, value: ir.Value, low: np.ndarray, high: np.ndarray) -> ir.Value:
        """Bounds may be arrays, which Clip does not take; a NaN may come out as NaN."""
        return self.op("Min", self.op("Max", value, low), high)
