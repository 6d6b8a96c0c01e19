"""Transposed convolutions that only enlarge, as the matrix product that they are.

Where kernel and stride are the same, each cell becomes a block of cells by a linear layer of its own channels. Tokens
come with their channels last, and so does what a norm over channels gives: as a product nothing has to be turned for
them, and eight bits can compute it, for which ONNX Runtime has no transposed convolution.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from l2g.export.graph.folding import tidy
from l2g.export.graph.node_builder import Builder
from l2g.export.graph.values import constant, input_of, named, size_of

# [B, C, h, w] -> [B, h, w, C] and back.
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def products_for_upscaling(model: ir.Model) -> None:
    """Replace, in place, every transposed convolution whose kernel is its stride; and where a product reads channels
    first that lay last, let it read them as they lay."""
    graph = model.graph
    for node in [node for node in graph if node.op_type == "ConvTranspose"]:
        weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if weight is not None and _enlarges(node, weight):
            _replace(graph, node, weight, bias)
    for node in [node for node in graph if node.op_type == "MatMul"]:
        _read_rows(graph, node)
    tidy(model)


def _enlarges(node: ir.Node, weight: np.ndarray) -> bool:
    """Whether blocks of cells lie side by side: nothing overlaps, nothing is cut off, all channels see each other."""

    def of(name: str) -> list[int]:
        return list(node.attributes[name].as_ints()) if name in node.attributes else []

    group = node.attributes.get("group")
    shaped = "output_shape" in node.attributes or any((*of("pads"), *of("output_padding")))
    alone = (group is None or group.as_int() == 1) and all(step == 1 for step in of("dilations"))
    return weight.ndim == 4 and alone and not shaped and of("strides") == list(weight.shape[2:])


def _replace(graph: ir.Graph, node: ir.Node, weight: np.ndarray, bias: np.ndarray | None) -> None:
    build, source = Builder(graph, named(node)), input_of(node, 0)
    height, width = (size_of(source, axis) for axis in (2, 3))
    inside, outside, down, right = weight.shape
    rows = _rows(build, source)
    # Columns by row of the block, column of the block, channel: what lies beside each other stays so.
    product = build.op("MatMul", rows, np.ascontiguousarray(weight.transpose(0, 2, 3, 1).reshape(inside, -1)))
    if bias is not None:
        product = build.op("Add", product, np.tile(bias, down * right))
    blocks = build.reshape(product, -1, height, width, down, right * outside)
    lines = build.op("Transpose", blocks, perm=[0, 1, 3, 2, 4])
    picture = build.reshape(lines, -1, height * down, width * right, outside)
    build.replace(node, build.op("Transpose", picture, perm=FIRST))


def _rows(build: Builder, value: ir.Value) -> ir.Value:
    """A picture [B, C, h, w] as rows [B, h * w, C]: what it was turned from, where it was."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Reshape":
        turned = input_of(producer, 0).producer()
        if turned is not None and _turns(turned, [0, 2, 1]):
            return input_of(turned, 0)
    channels, cells = size_of(value, 1), size_of(value, 2) * size_of(value, 3)
    if producer is not None and _turns(producer, FIRST):
        return build.reshape(input_of(producer, 0), -1, cells, channels)
    return build.op("Transpose", build.reshape(value, -1, channels, cells), perm=[0, 2, 1])


def _read_rows(graph: ir.Graph, node: ir.Node) -> None:
    """[B, N, C] x [B, C, h * w] of a picture that was turned: the turn goes next to the product, which ONNX Runtime
    computes without it."""
    flat = input_of(node, 1).producer()
    turned = None if flat is None or flat.op_type != "Reshape" else input_of(flat, 0).producer()
    if flat is None or turned is None or not _turns(turned, FIRST) or len(flat.outputs[0].consumers()) != 1:
        return
    build, source = Builder(graph, named(flat)), input_of(turned, 0)
    cells, channels = size_of(source, 1) * size_of(source, 2), size_of(source, 3)
    if size_of(flat.outputs[0], 1) == channels and size_of(flat.outputs[0], 2) == cells:
        build.replace(flat, build.op("Transpose", build.reshape(source, -1, cells, channels), perm=[0, 2, 1]))


def _turns(node: ir.Node, order: list[int]) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == order
