"""Plain conversions of a float32 graph to FP16 and INT8, for tests of engines: what is in them is known exactly.

They say nothing of accuracy; `l2g.export.precision` and `l2g.calibration` make the graphs that are meant to be used.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONTRACTIONS = ("Conv", "Gemm", "MatMul")


def halve(model: onnx.ModelProto, limit: int | None = None) -> onnx.ModelProto:
    """Every convolution and matrix product (the first `limit` of them) in FP16: casts before it, weights in FP16, a
    cast after it."""
    graph, nodes, left = model.graph, [], -1 if limit is None else limit
    weights = {weight.name: weight for weight in graph.initializer}
    halved: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in CONTRACTIONS or left == 0:
            nodes.append(node)
            continue
        left -= 1
        for index, name in enumerate(node.input):
            if name and name not in halved:
                halved[name] = f"{name}_fp16"
                if name in weights:
                    values = numpy_helper.to_array(weights[name]).astype(np.float16)
                    graph.initializer.append(numpy_helper.from_array(values, halved[name]))
                else:
                    nodes.append(_cast(name, halved[name], TensorProto.FLOAT16))
            if name:
                node.input[index] = halved[name]
        output = node.output[0]
        node.output[0] = f"{output}_raw_fp16"
        nodes += [node, _cast(node.output[0], output, TensorProto.FLOAT)]
    return _finish(model, nodes)


def quantise(model: onnx.ModelProto, scale: float = 0.05) -> onnx.ModelProto:
    """Every convolution in INT8: Q/DQ with one scale before it, one scale a channel for its weights."""
    graph, nodes = model.graph, []
    weights = {weight.name: weight for weight in graph.initializer}
    graph.initializer.append(numpy_helper.from_array(np.float32(scale), "activation_scale"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "activation_zero"))
    done: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Conv":
            source, weight = node.input[:2]
            if source not in done:
                done[source] = f"{source}_dq"
                nodes += _pair(source, "activation_scale", "activation_zero", done[source])
            if weight not in done:
                done[weight] = f"{weight}_dq"
                values = numpy_helper.to_array(weights[weight])
                scales = np.abs(values).reshape(len(values), -1).max(1).clip(1e-6) / 127
                names = f"{weight}_scale", f"{weight}_zero"
                graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), names[0]))
                graph.initializer.append(numpy_helper.from_array(np.zeros(len(values), np.int8), names[1]))
                nodes += _pair(weight, *names, done[weight], axis=0)
            node.input[0], node.input[1] = done[source], done[weight]
        nodes.append(node)
    return _finish(model, nodes)


def uncast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Undo `halve` as a careless tool would: the casts are gone, and the weights are float32 again."""
    graph, nodes = model.graph, []
    known = {weight.name for weight in graph.initializer}
    for weight in list(graph.initializer):
        if weight.name.endswith("_fp16") and weight.name.removesuffix("_fp16") not in known:
            values = numpy_helper.to_array(weight).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, weight.name.removesuffix("_fp16")))
    for node in graph.node:
        if node.op_type == "Cast" and (node.output[0].endswith("_fp16") or node.input[0].endswith("_raw_fp16")):
            continue
        if node.op_type in CONTRACTIONS:
            node.input[:] = [name.removesuffix("_fp16") for name in node.input]
            node.output[:] = [name.removesuffix("_raw_fp16") for name in node.output]
        nodes.append(node)
    return _finish(model, nodes)


def _pair(source: str, scale: str, zero: str, output: str, **attributes) -> list[onnx.NodeProto]:
    middle = f"{source}_q"
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [middle], name=f"{middle}_node", **attributes),
        helper.make_node("DequantizeLinear", [middle, scale, zero], [output], name=f"{output}_node", **attributes),
    ]


def _cast(source: str, output: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [output], name=f"{output}_cast", to=to)


def _finish(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The same model with other nodes; constants and recorded types that no longer hold are dropped."""
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [onnx.TensorProto.FromString(w.SerializeToString()) for w in model.graph.initializer if w.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    # Shapes of what was there before stay true; types of convolutions' outputs do not, and have new names.
    return model
