"""Attention over many tokens as the one operator that ONNX Runtime has for it.

Written out, the weights of an attention are its widest tensor: six heads of 1605 tokens are 62 MB, which a CPU writes
to memory, reads back for the softmax and again for the values. Its `com.microsoft.MultiHeadAttention` takes some rows
at a time, which stay in the cache. OpenVINO and ONNX Runtime's CUDA know the operator too; an engine fuses by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from l2g.export.graph.folding import tidy
from l2g.export.graph.node_builder import Builder, parts_of
from l2g.export.graph.values import constant, named, size_of

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"


@dataclass(frozen=True)
class Attention:
    """query [B, N, H * D], key, value [B, M, H * D]: what their projections give, before the heads are told apart. end:
    the node whose output is what comes out of it [B, N, H * D]."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    heads: int
    scale: float
    end: ir.Node


def fuse_attention(model: ir.Model) -> None:
    """Replace, in place, every attention whose weights do not stay in the cache."""
    graph = model.graph
    for node in [node for node in graph if node.op_type == "Softmax"]:
        found = _attention(node)
        if found is None or parts_of(found.heads * size_of(found.query, 1), size_of(found.key, 1)) == 1:
            continue
        build = Builder(graph, named(node).rpartition("/")[0])
        tokens, bias = _without_bias((found.query, found.key, found.value))
        result = build.op(OPERATOR, *tokens, *bias, domain=DOMAIN, num_heads=found.heads, scale=found.scale)
        build.replace(found.end, result)
        model.opset_imports[DOMAIN] = 1
    tidy(model)


def _attention(softmax: ir.Node) -> Attention | None:
    """The attention around a softmax as PyTorch's scaled_dot_product_attention is traced, None where it is another."""
    scores, context = _producer(softmax.inputs[0], "MatMul"), _reader(softmax, "MatMul")
    if scores is None or context is None or context.inputs[0] is not softmax.outputs[0]:
        return None
    turned = _reader(context, "Transpose")
    end = None if turned is None else _reader(turned, "Reshape")
    query, key = (_scaled(value) for value in scores.inputs)
    if turned is None or end is None or query is None or key is None or _order(turned) != [0, 2, 1, 3]:
        return None
    queries, values = _tokens(query[0], [0, 2, 1, 3]), _tokens(context.inputs[1], [0, 2, 1, 3])
    keys = _tokens(key[0], [0, 2, 3, 1])
    if queries is None or keys is None or values is None or end.outputs[0].shape != queries.shape:
        return None
    return Attention(queries, keys, values, size_of(turned.outputs[0], 2), query[1] * key[1], end)


def _scaled(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """What is multiplied by one number, and that number."""
    node = _producer(value, "Mul")
    if node is None or node.inputs[0] is None:
        return None
    factor = constant(node.inputs[1])
    return None if factor is None or factor.size != 1 else (node.inputs[0], float(factor.reshape(())))


def _tokens(value: ir.Value | None, order: list[int]) -> ir.Value | None:
    """The tokens [B, N, C] whose heads [B, N, H, D] were put into `order`."""
    turned = _producer(value, "Transpose")
    split = None if turned is None else _producer(turned.inputs[0], "Reshape")
    if turned is None or split is None or _order(turned) != order:
        return None
    tokens = split.inputs[0]
    return tokens if tokens is not None and tokens.shape is not None and tokens.shape.rank() == 3 else None


def _without_bias(tokens: tuple[ir.Value, ...]) -> tuple[tuple[ir.Value, ...], tuple[np.ndarray, ...]]:
    """What the operator adds by itself while it tells the heads apart, where each of the three has a bias."""
    sums = [_producer(value, "Add") for value in tokens]
    found = []
    for node in sums:
        for bias, rest in ((0, 1), (1, 0)) if node is not None else ():
            array = constant(node.inputs[bias])  # type: ignore[union-attr]
            if array is not None and array.ndim == 1:
                found.append((node.inputs[rest], array))  # type: ignore[union-attr]
    if len(found) != len(tokens):
        return tokens, ()
    return tuple(value for value, _ in found), (np.concatenate([array for _, array in found]),)  # type: ignore[misc]


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator else None


def _reader(node: ir.Node, operator: str) -> ir.Node | None:
    """What reads a node's only output, where it is one node."""
    readers = node.outputs[0].consumers()
    alone = len(readers) == 1 and not node.outputs[0].is_graph_output()
    return readers[0] if alone and readers[0].op_type == operator else None


def _order(node: ir.Node) -> list[int]:
    return list(node.attributes["perm"].as_ints())
