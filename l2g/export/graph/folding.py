"""Constant folding of a graph whose shapes are all known, and the clean-up after it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx.reference import ReferenceEvaluator

from l2g.errors import ExportError
from l2g.export.graph.values import constant, constant_value, input_of, named

# Shape inference and folding feed each other; a real graph settles in three rounds.
MAX_ROUNDS = 10


def fold(model: ir.Model) -> ir.Model:
    """Replace, in place, whatever does not depend on the graph's inputs by a constant; every shape must be static.

    Shapes are constants too: sizes, grids, position embeddings and folded batch norms leave nothing but their values.
    Raises ExportError where the shape of a tensor stays unknown.
    """
    graph = model.graph
    _require_custom_shapes(graph)
    for _ in range(MAX_ROUNDS):
        passes.ShapeInferencePass(check_type=True, strict_mode=True, data_prop=True)(model)
        if not _fold_once(graph):
            break
    tidy(model)
    unknown = [node for node in graph for value in node.outputs if _static_shape(value) is None]
    if unknown:
        raise ExportError(
            f"the shape of node '{unknown[0].name}' ({unknown[0].op_type}) is not fixed by the canvas; "
            "a model must compute its sizes from Python integers"
        )
    return model


def tidy(model: ir.Model) -> None:
    """Remove, in place, identities, repeated computations, doubled constants and what nothing reads."""
    _remove_idle(model.graph)
    for clean in (
        passes.IdentityEliminationPass(),
        passes.DeduplicateInitializersPass(size_limit=1 << 22),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.RemoveUnusedOpsetsPass(),
    ):
        clean(model)


def _fold_once(graph: ir.Graph) -> int:
    folded = 0
    for node in graph:
        arrays = _evaluate(node, graph.opset_imports[""])
        if arrays is None:
            continue
        for output, array in zip(node.outputs, arrays, strict=True):
            value = constant_value(f"{output.name}_folded", array)
            graph.register_initializer(value)
            ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        folded += 1
    return folded


def _evaluate(node: ir.Node, opset: int) -> list[np.ndarray] | None:
    """The outputs of a node that depends on no graph input, else None."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Shape":
        shape = _static_shape(input_of(node, 0))
        if shape is None or node.attributes:
            return None
        return [np.array(shape, np.int64)]
    arrays = [constant(value) for value in node.inputs]
    if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
        return None
    proto = ir.serde.serialize_node(node)
    feeds = {named(value): array for value, array in zip(node.inputs, arrays, strict=True) if value is not None}
    results = ReferenceEvaluator(proto, opsets={"": opset}).run(None, feeds)
    return [np.asarray(result) for result in results]


def _remove_idle(graph: ir.Graph) -> None:
    """Casts to the type, and reshapes to the shape, that a tensor has already."""
    for node in graph:
        if node.op_type not in ("Cast", "Reshape", "Expand") or node.inputs[0] is None:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if node.op_type == "Cast":
            idle = source.dtype is not None and source.dtype == node.attributes["to"].as_int()
        else:
            idle = source.shape is not None and result.shape is not None and source.shape == result.shape
        if idle and not result.is_graph_output():
            result.replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _require_custom_shapes(graph: ir.Graph) -> None:
    """Shape inference does not know the one node of another domain; the trace gave its output a shape."""
    for node in graph:
        if node.domain not in ("", "ai.onnx") and _static_shape(node.outputs[0]) is None:
            raise ExportError(f"node '{node.name}' ({node.domain}.{node.op_type}) has no static output shape")


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    shape = value.shape
    if shape is None:
        return None
    sizes = tuple(dim for dim in shape.dims if isinstance(dim, int))
    return sizes if len(sizes) == shape.rank() else None
