"""Which part of the model a node of an exported graph belongs to.

The exporter names nodes after the modules that they came from: "/encoder/layers.0/self_attn/value_proj/MatMul". A block
is such a module by its dotted path, at one of three sizes:

    stage   backbone, encoder, proposals, aligner, decoder, heads
    layer   backbone.res3, encoder.input_proj, encoder.layers.0, decoder.layers.2, decoder.ref_point_head,
            heads.mask_embed
    module  backbone.res3.1, backbone.layers.2.blocks.5.attn, encoder.input_proj.0.1, encoder.layers.0.self_attn,
            aligner.layers.1.cross_attn

What a module computes between its children bears the module's own name ("decoder": boxes and their sine embeddings);
what `Local2Global.step` computes itself is "step" (normalisation, the choice of priors, boxes of masks, the choice of
detections). Nodes that some tool added under other names are "other".
"""

from __future__ import annotations

import re
from typing import Protocol

import onnx

from l2g.errors import ExportError

GRANULARITIES = ("stage", "layer", "module")
DEPTHS = {"stage": 1, "layer": 2, "module": 3}
# The convolutions of a residual block, res3.1, are not told apart. The blocks of a Swin lie one level deeper, and its
# attentions and MLPs are.
RESIDUAL_DEPTH, SWIN_DEPTH = 2, 4
# Modules that the top of the model calls itself, and the stage that they belong to.
CALLED_BY_STEP = {
    "class_embed": "heads",
    "bbox_embed": "heads",
    "mask_embed": "heads",
    "norm": "heads",
    "ref_point_head": "decoder",
}
STEP, OTHER = "step", "other"


class Named(Protocol):
    """An `onnx.NodeProto` or an `onnx_ir.Node`."""

    name: str | None


def block_of(node: Named | str, granularity: str = "layer") -> str:
    """The block of a node, or of the node with this name: "encoder.layers.0"."""
    if granularity not in GRANULARITIES:
        raise ExportError(f"granularity '{granularity}' found, one of {', '.join(GRANULARITIES)} expected")
    name = node if isinstance(node, str) else node.name
    if not name or not name.startswith("/"):
        return OTHER
    path = _modules(name)
    if not path:
        return STEP
    if path[0] in CALLED_BY_STEP:
        path.insert(0, CALLED_BY_STEP[path[0]])
    path = path[: _depth(path, granularity)]
    if granularity == "layer":
        path = [part if part.startswith("layers.") else re.sub(r"(\.\d+)+$", "", part) for part in path]
    return ".".join(path)


def _depth(path: list[str], granularity: str) -> int:
    """How many of these modules a block's name has."""
    depth = DEPTHS[granularity]
    if path[0] != "backbone":
        return depth
    if granularity == "module" and len(path) > 1 and path[1].startswith("layers."):
        return SWIN_DEPTH
    return min(depth, RESIDUAL_DEPTH)


def blocks(model: onnx.ModelProto, granularity: str = "layer") -> dict[str, list[onnx.NodeProto]]:
    """All nodes of a model by block, blocks in the order in which the graph first reaches them."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        found.setdefault(block_of(node, granularity), []).append(node)
    return found


def _modules(name: str) -> list[str]:
    """The module path in a node's name, without the numbers of repeated calls and without operators that became several
    nodes: "/encoder/input_proj.0/input_proj.0.1/Reshape" -> ["encoder", "input_proj.0.1"],
    "/decoder/ref_point_head/layers.0_2/MatMul" -> ["decoder", "ref_point_head", "layers.0"].
    """
    path: list[str] = []
    for scope in name.split("/")[1:-1]:
        part = re.sub(r"_\d+$", "", scope)
        if part[:1].isupper():  # "DeformableAttention" or "Sigmoid": the exporter gives operators capitals
            break
        if path and part.startswith(f"{path[-1]}."):  # a container and the child that it numbers: res2/res2.0
            path.pop()
        path.append(part)
    return path
