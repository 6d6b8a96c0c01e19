"""The arithmetic of a graph, counted from its shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

import onnx

from l2g.export.graph.attention import OPERATOR as ATTENTION

Shapes = dict[str, tuple[int, ...]]


def shapes_for_one_stream(model: onnx.ModelProto) -> Shapes:
    """The shape of every tensor whose shape is known when one stream runs (B = 1)."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (*single.graph.input, *single.graph.output, *single.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            # The exporter's own names: B streams, or a multiple of them.
            if match := re.fullmatch(r"(?:(\d+)\*)?B", dim.dim_param):
                dim.dim_value = int(match[1] or 1)
    try:
        inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        inferred = single.graph  # what the file itself says
    shapes: Shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


@dataclass(frozen=True)
class Contraction:
    """One convolution or matrix product: its node's name and type, its kind ("convolution", "linear" = product with
    weights, "product" = of two activations), and its operations for one stream, a multiply-add counted as two."""

    name: str
    operator: str
    kind: str
    flops: int


def contractions(model: onnx.ModelProto, shapes: Shapes) -> tuple[list[Contraction], int]:
    """Every convolution and matrix product of the graph, and the number of those that could not be counted."""
    weights = _weights(model)
    found, uncounted = [], 0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul", ATTENTION):
            continue
        if any(name not in shapes for name in (*node.input[:2], node.output[0])):
            uncounted += 1
            continue
        left, right = (shapes[name] for name in node.input[:2])
        outputs = prod(shapes[node.output[0]])
        if node.op_type == "Conv":  # weights are [out, in / groups, kernel...]
            found.append(Contraction(node.name, node.op_type, "convolution", 2 * outputs * prod(right[1:])))
            continue
        if node.op_type == "ConvTranspose":  # weights are [in, out / groups, kernel...]
            found.append(Contraction(node.name, node.op_type, "convolution", 2 * prod(left) * prod(right[1:])))
            continue
        if node.op_type == ATTENTION:  # query x keys, and the weights x values
            found.append(Contraction(node.name, node.op_type, "product", 4 * outputs * right[1]))
            continue
        transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
        inner = left[0] if transposed else left[-1]
        kind = "linear" if set(node.input[:2]) & weights else "product"
        found.append(Contraction(node.name, node.op_type, kind, 2 * outputs * inner))
    return found, uncounted


def count_flops(model: onnx.ModelProto, shapes: Shapes) -> tuple[dict[str, int], int]:
    """Operations by kind, a multiply-add counted as two; and the number of such nodes that could not be counted."""
    found, uncounted = contractions(model, shapes)
    flops = {"convolution": 0, "linear": 0, "product": 0}
    for contraction in found:
        flops[contraction.kind] += contraction.flops
    return flops, uncounted


def _weights(model: onnx.ModelProto) -> set[str]:
    """The names of tensors that do not depend on the inputs: constants, also cast or (de)quantised ones."""
    fixed = {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear", "Constant") and fixed.issuperset(node.input):
            fixed.update(node.output)
    return fixed
