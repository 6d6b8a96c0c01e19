"""What must be there of a node or a tensor, or ExportError: the graph library says of almost everything "or None"."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from l2g.errors import ExportError


def named(item: ir.Node | ir.Value) -> str:
    """The name, "" for one without."""
    return item.name or ""


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input that is not left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise ExportError(f"node '{node.name}' ({node.op_type}) has no input {index}; export the model again")
    return value


def producer_of(value: ir.Value) -> ir.Node:
    """The node that computes a tensor, which is neither a graph's input nor a constant."""
    node = value.producer()
    if node is None:
        raise ExportError(f"tensor '{value.name}' is computed by no node; export the model again")
    return node


def shape_of(value: ir.Value) -> ir.Shape:
    """A shape that is known, its dimensions numbers or names."""
    if value.shape is None:
        raise ExportError(f"the shape of tensor '{value.name}' is not known; export the model again")
    return value.shape


def size_of(value: ir.Value, axis: int) -> int:
    """The size along an axis where it is a number."""
    shape = shape_of(value)
    size = shape[axis] if -shape.rank() <= axis < shape.rank() else None
    if not isinstance(size, int):
        raise ExportError(f"tensor '{value.name}' is {list(shape)}, expected a number along axis {axis}")
    return size


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The content of a constant or of an initializer, else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def array_of(value: ir.Value) -> np.ndarray:
    """The content of a tensor that is a constant."""
    array = constant(value)
    if array is None:
        raise ExportError(f"tensor '{value.name}' is not a constant; export the model again")
    return array


def constant_value(name: str, array: np.ndarray) -> ir.Value:
    """A constant with its shape and type, not yet in a graph."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
