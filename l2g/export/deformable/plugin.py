"""TensorRT's deformable attention plugin, as far as it can be checked without TensorRT."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from l2g.config import ModelConfig
from l2g.errors import ExportError
from l2g.export.deformable.lowering import PLUGIN_DOMAIN, plugin_nodes
from l2g.export.graph.values import constant, input_of, shape_of, size_of

FLOAT = ir.DataType.FLOAT


def check_plugins(model: ir.Model, config: ModelConfig) -> int:
    """Check number, inputs, types and shapes of all plugin nodes against the plugin's documentation; ExportError.

    Inputs are value float32 [B, S, M, D], spatial_shapes int32 [L, 2], level_start_index int32 [L], sampling locations
    float32 [B, Q, M, L, P, 2] and attention weights float32 [B, Q, M, L, P]; the output is float32 [B, Q, M, D]. FP16
    is not for this node: it would compute pixel coordinates in half precision. Returns the number of nodes.
    """
    nodes = plugin_nodes(model)
    expected = config.encoder.layers + config.decoder.layers
    if len(nodes) != expected:
        raise ExportError(f"{len(nodes)} plugin nodes found, {expected} expected (one per encoder and decoder layer)")
    for node in nodes:
        problem = _problem(node, config)
        if problem:
            raise ExportError(f"plugin node '{node.name}': {problem}")
    return len(nodes)


def _problem(node: ir.Node, config: ModelConfig) -> str | None:
    if node.domain != PLUGIN_DOMAIN or list(node.attributes) != ["plugin_version"]:
        return f"domain '{node.domain}' and attributes {list(node.attributes)} found"
    if len(node.inputs) != 5 or len(node.outputs) != 1:
        return f"{len(node.inputs)} inputs and {len(node.outputs)} outputs found, 5 and 1 expected"
    shapes, starts = constant(node.inputs[1]), constant(node.inputs[2])
    if shapes is None or starts is None or shapes.dtype != np.int32 or starts.dtype != np.int32:
        return "spatial_shapes and level_start_index must be int32 constants"
    areas = shapes.prod(axis=1)
    if starts.tolist() != [0, *np.cumsum(areas)[:-1].tolist()]:
        return f"levels begin at {starts.tolist()}, but their sizes are {shapes.tolist()}"
    heads, levels = config.num_heads, len(shapes)
    tokens, depth = int(areas.sum()), config.hidden_dim // heads
    queries = size_of(input_of(node, 4), 1)
    if queries not in (tokens, config.num_queries):
        return f"{queries} queries found, {tokens} tokens or {config.num_queries} slots expected"
    points = size_of(input_of(node, 4), -1)
    wanted = {
        "value": (input_of(node, 0), ("B", tokens, heads, depth)),
        "sampling_locations": (input_of(node, 3), ("B", queries, heads, levels, points, 2)),
        "attention_weights": (input_of(node, 4), ("B", queries, heads, levels, points)),
        "the output": (node.outputs[0], ("B", queries, heads, depth)),
    }
    for name, (value, shape) in wanted.items():
        found = tuple(dim if isinstance(dim, int) else dim.value for dim in shape_of(value))
        if value.dtype != FLOAT or found != shape:
            return f"{name} is {value.dtype} {list(found)}, expected FLOAT {list(shape)}"
    return None
