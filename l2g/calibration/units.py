"""What can be quantised, in the pieces that the search takes or leaves."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from l2g.errors import ExportError
from l2g.export.graph.blocks import block_of
from l2g.export.graph.flops import contractions, shapes_for_one_stream

# The stages that are quantised unless the search says otherwise; FAR3D, the nearest published model that carries
# queries through time, loses 0.5 mAP with its encoder in INT8 and most of its accuracy with its decoder.
# "layers" are those of a plain ViT: attention and MLP, whose linear layers are 56 % of the arithmetic of a ViT-S.
DEFAULT_STAGES = ("backbone", "encoder", "layers")
OPTIONAL_STAGES = ("proposals", "aligner", "decoder", "query_updater", "upscale_block", "mask_head")
# Coordinates, the weights of what is sampled there, and the scores that everything is ranked by: a step of eight bits
# is a good part of a pixel in a sampling offset, and there is little to win (4 % of the arithmetic of an R50).
NEVER = ("sampling_offsets", "attention_weights", "class_embed", "bbox_embed", "mask_embed", "ref_point_head")
# Products of two activations that may be quantised all the same: queries by keys and weights by values, within the
# windows of a Swin. Not by default: they are 3 % of the arithmetic of a Swin-L.
PRODUCT = re.compile(r"/backbone/layers\.\d+/.*/attn/MatMul(_\d+)?")
PRODUCTS = "products"
# A convolution over so few channels, the first one, is no faster in INT8, and its input has 256 values already.
FEW_CHANNELS = 4


@dataclass(frozen=True)
class Unit:
    """Some nodes that are quantised together: a residual block, an attention, an MLP, one linear layer.

    name: the block, as `l2g.export.graph.blocks` names modules, with ".products" for its products of two activations.
    nodes: names of its convolutions and linear layers, or of those products. flops: of these, one frame of one stream.
    default: part of the set that a search starts from.
    """

    name: str
    nodes: tuple[str, ...]
    flops: int
    default: bool


@dataclass(frozen=True)
class Inventory:
    """The units of a graph in its order, and the arithmetic of all of it, attention and heads included."""

    units: tuple[Unit, ...]
    flops: int

    def share(self, names) -> float:
        """Percent of the arithmetic that these units do."""
        return 100 * sum(unit.flops for unit in self.units if unit.name in names) / self.flops

    def nodes(self, names) -> frozenset[str]:
        return frozenset(node for unit in self.units if unit.name in names for node in unit.nodes)

    @property
    def default(self) -> tuple[str, ...]:
        return tuple(unit.name for unit in self.units if unit.default)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(unit.name for unit in self.units)


def take_inventory(model: onnx.ModelProto) -> Inventory:
    """The units of an FP32 graph that `l2g.export` wrote; ExportError where it has none."""
    counted, uncounted = contractions(model, shapes_for_one_stream(model))
    if uncounted:
        raise ExportError(f"the shapes around {uncounted} nodes are not known; export the graph with this package")
    flops = {contraction.name: contraction.flops for contraction in counted}
    weights = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if quantisable(node, weights):
            found.setdefault(block_of(node, "module"), []).append(node.name)
        elif PRODUCT.fullmatch(node.name):
            found.setdefault(f"{block_of(node, 'module')}.{PRODUCTS}", []).append(node.name)
    if not found:
        raise ExportError("the graph has no convolution or linear layer of a known block; export it with this package")
    units = (
        Unit(name, tuple(nodes), sum(flops[node] for node in nodes), _by_default(name)) for name, nodes in found.items()
    )
    return Inventory(tuple(units), sum(flops.values()))


def _by_default(name: str) -> bool:
    return name.split(".")[0] in DEFAULT_STAGES and not name.endswith(PRODUCTS)


def quantisable(node: onnx.NodeProto, weights: dict[str, tuple[int, ...]]) -> bool:
    """Whether this is a convolution or a linear layer, with weights, of a part that may be quantised at all."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights or node.input[0] in weights:
        return False
    if any(part.startswith(NEVER) for part in node.name.split("/")):
        return False
    if node.op_type == "Conv" and weights[node.input[1]][1] <= FEW_CHANNELS:
        return False
    return block_of(node, "stage").split(".")[0] in (*DEFAULT_STAGES, *OPTIONAL_STAGES)
