"""Deformable attention in ONNX: three ways to spell the one node that a trace leaves for it.

gather      rank-2 Gather and bilinear interpolation by hand (`gather`): runs everywhere, the default
gridsample  one GridSample per level; TensorRT is reported to miscompile it silently (TensorRT#4813)
plugin      the node of TensorRT's own plugin, which no other library runs
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from l2g.export.deformable.gather import gather_corners, gather_for_cpu, stream_index
from l2g.export.deformable.node import DOMAIN, OPERATOR, Attention
from l2g.export.graph.folding import tidy
from l2g.export.graph.node_builder import Builder
from l2g.export.graph.values import named, shape_of

LOWERINGS = ("gather", "gridsample", "plugin")
TARGETS = ("onnxruntime", "tensorrt")

PLUGIN = "MultiscaleDeformableAttnPlugin_TRT"
PLUGIN_DOMAIN = "trt.plugins"
# The plugin's classic interface is version 1 (TensorRT 10), the one of IPluginV3 version 2 (TensorRT 11).
PLUGIN_VERSIONS = ("1", "2")


def lower(model: ir.Model, lowering: str, target: str, plugin_version: str = "1") -> ir.Model:
    """Replace every deformable attention node of `model`, in place."""
    graph, opset = model.graph, model.graph.opset_imports[""]
    stream: ir.Value | None = None
    for node in _deformable_nodes(graph):
        build, attention = Builder(graph, named(node)), Attention.of(node)
        if lowering == "gather":
            if stream is None:
                stream = stream_index(build, graph.inputs[-1])
            result = (gather_for_cpu if target == "onnxruntime" else gather_corners)(build, attention, stream)
        elif lowering == "gridsample":
            result = grid_sample(build, attention, "bilinear" if opset < 20 else "linear")
        else:
            result = plugin(build, attention, plugin_version)
        build.replace(node, result)
    if lowering == "plugin":
        graph.opset_imports[PLUGIN_DOMAIN] = 1
    tidy(model)
    return model


def has_deformable_attention(model: ir.Model) -> bool:
    """Whether there is anything to lower."""
    return bool(_deformable_nodes(model.graph))


def _deformable_nodes(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if (node.domain, node.op_type) == (DOMAIN, OPERATOR)]


def grid_sample(build: Builder, a: Attention, mode: str) -> ir.Value:
    """A GridSample per level, [B * M, D, h, w] at [B * M, Q, P, 2], weighted and summed."""
    value = build.reshape(build.op("Transpose", a.value, perm=[0, 2, 3, 1]), -1, a.depth, a.tokens)
    areas = np.array([h * w for h, w in a.shapes], np.int64)
    levels = build.multi("Split", len(a.shapes), value, areas, axis=2)
    # A level's length outside it, every sample is zero; GridSample itself gives NaN where coordinates are huge.
    locations = build.op("Clip", a.locations, np.float32(-1), np.float32(2))
    grids = build.op("Sub", build.op("Mul", locations, np.float32(2)), np.float32(1))
    grids = build.op("Transpose", grids, perm=[3, 0, 2, 1, 4, 5])
    weights = build.op("Transpose", a.weights, perm=[3, 0, 2, 1, 4])
    sums: list[ir.Value] = []
    for index, (level, (h, w)) in enumerate(zip(levels, a.shapes, strict=True)):
        image = build.reshape(level, -1, a.depth, h, w)
        grid = build.reshape(build.op("Gather", grids, np.int64(index), axis=0), -1, a.queries, a.points, 2)
        weight = build.reshape(build.op("Gather", weights, np.int64(index), axis=0), -1, 1, a.queries, a.points)
        sampled = build.op("GridSample", image, grid, mode=mode, padding_mode="zeros", align_corners=0)
        part = build.op("ReduceSum", build.op("Mul", sampled, weight), np.array([3], np.int64), keepdims=0)
        sums.append(build.op("Add", sums[-1], part) if sums else part)
    total = build.reshape(sums[-1], -1, a.heads * a.depth, a.queries)
    return build.op("Transpose", total, perm=[0, 2, 1])


def plugin(build: Builder, a: Attention, version: str) -> ir.Value:
    """The plugin's five inputs: value, spatial_shapes int32 [L, 2], level_start_index int32 [L], locations, weights."""
    shapes = np.array(a.shapes, np.int32)
    starts = np.cumsum([0, *(h * w for h, w in a.shapes[:-1])], dtype=np.int32)
    result = build.op(
        PLUGIN, a.value, shapes, starts, a.locations, a.weights, domain=PLUGIN_DOMAIN, plugin_version=version
    )
    result.shape, result.dtype = ir.Shape([shape_of(a.value)[0], a.queries, a.heads, a.depth]), ir.DataType.FLOAT
    return build.reshape(result, -1, a.queries, a.heads * a.depth)


def plugin_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == PLUGIN]


def unplug(model: ir.Model) -> ir.Model:
    """Replace, in place, every plugin node by the gather lowering: a graph that ONNX Runtime can run."""
    graph, stream = model.graph, None
    for node in plugin_nodes(model):
        build = Builder(graph, f"{node.name}/unplugged")
        if stream is None:
            stream = stream_index(build, graph.inputs[-1])
        attention = Attention.of_plugin(node)
        result = build.reshape(
            gather_for_cpu(build, attention, stream), -1, attention.queries, attention.heads, attention.depth
        )
        build.replace(node, result)
    tidy(model)
    return model
