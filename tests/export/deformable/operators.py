"""A graph of one deformable attention node, in each spelling, and numbers to run it on."""

import numpy as np
import onnx_ir as ir
import onnxruntime

from l2g.export.deformable.lowering import lower, unplug
from l2g.export.deformable.node import DOMAIN, OPERATOR

SHAPES = ((2, 3), (5, 4), (1, 7))
TOKENS, HEADS, DEPTH, QUERIES, POINTS = 33, 2, 8, 7, 3


def operator(lowering, target="onnxruntime", opset=17, queries=QUERIES):
    """A graph of one deformable attention node, lowered."""
    levels = len(SHAPES)

    def tensor(name, *shape):
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))

    inputs = [
        tensor("value", "B", TOKENS, HEADS, DEPTH),
        tensor("locations", "B", queries, HEADS, levels, POINTS, 2),
        tensor("weights", "B", queries, HEADS, levels, POINTS),
    ]
    node = ir.node(OPERATOR, inputs, {"shapes": [side for shape in SHAPES for side in shape]}, domain=DOMAIN, name="n")
    out = node.outputs[0]
    out.name, out.shape, out.dtype = "out", ir.Shape(["B", queries, HEADS * DEPTH]), ir.DataType.FLOAT
    valid = tensor("valid", "B", 1)
    idle = ir.node("Identity", [valid], name="idle")
    idle.outputs[0].name, idle.outputs[0].shape, idle.outputs[0].dtype = "idle", ir.Shape(["B", 1]), ir.DataType.FLOAT
    graph = ir.Graph(
        [*inputs, valid], [out, idle.outputs[0]], nodes=[node, idle], opset_imports={"": opset, DOMAIN: 1}, name="g"
    )
    return lower(ir.Model(graph, ir_version=8), lowering, target)


def run(model, value, locations, weights):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    valid = np.ones((len(value), 1), np.float32)
    return session.run(["out"], {"value": value, "locations": locations, "weights": weights, "valid": valid})[0]


def arrays(streams, seed=0):
    """Locations all over the place: inside, on borders, on pixel centres, far outside."""
    rng = np.random.default_rng(seed)
    value = rng.standard_normal((streams, TOKENS, HEADS, DEPTH), dtype=np.float32)
    locations = rng.uniform(-0.3, 1.3, (streams, QUERIES, HEADS, len(SHAPES), POINTS, 2)).astype(np.float32)
    for level, (h, w) in enumerate(SHAPES):
        locations[:, 0, :, level] = 0.5 / np.array([w, h])  # the first pixel's centre
        locations[:, 1, :, level] = 1 - 0.5 / np.array([w, h])  # the last one's
    locations[:, 2, :, :, 0], locations[:, 2, :, :, 1] = 0.0, 1.0
    locations[:, 3, :, :, 0], locations[:, 3, :, :, 1] = -1e30, 1e30
    weights = rng.uniform(0, 1, (streams, QUERIES, HEADS, len(SHAPES), POINTS)).astype(np.float32)
    return value, locations, weights


WAYS = [("gather", "onnxruntime"), ("gather", "tensorrt"), ("gridsample", "onnxruntime"), ("plugin", "tensorrt")]


def runnable(lowering, target, opset=17):
    model = operator(lowering, target, opset)
    return unplug(model) if lowering == "plugin" else model
