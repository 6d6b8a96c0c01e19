"""What stays float32 in an FP16 graph, and why.

A node is known by its place in the model and not by its operator alone: a softmax over sampling weights is an island,
the softmax of multi-head attention is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from l2g.export.graph.blocks import block_of
from l2g.modeling.family import CLASS_HEADS

DEFORMABLE = "/DeformableAttention/"
# What `Local2Global.step`, the decoder and the proposals compute themselves, between their modules.
GLUE = ("step", "decoder", "proposals")
PERIODIC = ("Sin", "Cos")
# What the layers of aligner and decoder compute between their parts, and the norms: "/decoder/layers.1/Add_2".
_STREAM = re.compile(r"/(aligner|decoder)/(layers\.\d+/(norm\d/)?|norm/)[^/]+")


@dataclass(frozen=True)
class Island:
    """A group of nodes that stay float32. covers: (graph facts, node) -> whether it is one of them."""

    name: str
    reason: str
    covers: Callable[[Islands, ir.Node], bool]


class Islands:
    """Which island a node of `graph`, the float32 one, belongs to."""

    def __init__(self, graph: ir.Graph):
        nodes = list(graph)
        # "/encoder/layers.0/self_attn": where a deformable attention is, whose neighbours compute its locations.
        self.attentions = {name.partition(DEFORMABLE)[0] for node in nodes if DEFORMABLE in (name := node.name or "")}
        self.sampled = self._follow_values(nodes)
        self.pictures = self._follow_frames(graph)
        self.angles = self._lead_to(nodes, PERIODIC)

    def of(self, node: ir.Node) -> str | None:
        """The name of the island, None for what may be FP16."""
        return next((island.name for island in ISLANDS if island.covers(self, node)), None)

    def _follow_values(self, nodes: list[ir.Node]) -> set[int]:
        """Nodes inside deformable attention through which the sampled values go; the rest computes where to sample."""
        if any(node.op_type == "GridSample" or node.domain for node in nodes if DEFORMABLE in (node.name or "")):
            return set()
        values = {
            id(node.outputs[0]) for node in nodes if node.op_type == "Reshape" and _reads_projection(node, "value_proj")
        }
        found = set()
        for node in nodes:
            if DEFORMABLE in (node.name or "") and any(id(value) in values for value in node.inputs):
                found.add(id(node))
                values.update(id(value) for value in node.outputs)
        return found

    def _follow_frames(self, graph: ir.Graph) -> set[int]:
        """From the frames' bytes to the first convolution."""
        found, values = set(), {id(graph.inputs[0])}
        for node in graph:
            if block_of(node) == "step" and any(id(value) in values for value in node.inputs):
                found.add(id(node))
                values.update(id(value) for value in node.outputs)
        return found

    def _lead_to(self, nodes: list[ir.Node], operators: tuple[str, ...]) -> set[int]:
        """Nodes of the glue whose result goes into one of the operators, and these."""
        found: set[int] = set()
        for node in reversed(nodes):
            if block_of(node) not in GLUE:
                continue
            readers = [reader for value in node.outputs for reader, _ in value.uses()]
            angle = node.op_type in ("Mul", "Div", "Slice", "Unsqueeze", "Squeeze", "Split")
            if node.op_type in operators or (angle and readers and all(id(reader) in found for reader in readers)):
                found.add(id(node))
        return found


def _reads_projection(node: ir.Node, name: str) -> bool:
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    return producer is not None and f"/{name}/" in (producer.name or "")


def _normalisation(graph: Islands, node: ir.Node) -> bool:
    return id(node) in graph.pictures


def _addresses(graph: Islands, node: ir.Node) -> bool:
    return DEFORMABLE in (node.name or "") and id(node) not in graph.sampled


def _around_attention(graph: Islands, node: ir.Node) -> bool:
    return (node.name or "").rpartition("/")[0] in graph.attentions


def _weights(graph: Islands, node: ir.Node) -> bool:
    return _around_attention(graph, node) and node.op_type == "Softmax"


def _locations(graph: Islands, node: ir.Node) -> bool:
    return _around_attention(graph, node)


def _sine(graph: Islands, node: ir.Node) -> bool:
    return id(node) in graph.angles


def _scores(graph: Islands, node: ir.Node) -> bool:
    return node.op_type == "TopK" or any(f"/{head}/" in (node.name or "") for head in CLASS_HEADS)


def _queries(graph: Islands, node: ir.Node) -> bool:
    return node.op_type in ("Add", "LayerNormalization") and _STREAM.fullmatch(node.name or "") is not None


def _boxes(graph: Islands, node: ir.Node) -> bool:
    # A product is the masks (mask embedding x features) or tokens x validity: arithmetic like any other.
    products = node.op_type == "MatMul" or (block_of(node) == "proposals" and node.op_type == "Mul" and _wide(node))
    return block_of(node) in GLUE and not products


def _wide(node: ir.Node) -> bool:
    """Whether a node works on whole tokens [B, S, C], and not on boxes."""
    return node.outputs[0].shape is not None and node.outputs[0].shape.rank() == 3


# The first that covers a node names it.
ISLANDS = (
    Island(
        "frame normalisation", "the mean of a channel would be rounded to a sixteenth of a grey level", _normalisation
    ),
    Island(
        "sample addresses and bilinear weights",
        "FP16 is exact only to 2048: a row's number is not, and a pixel coordinate of a few hundred leaves its share "
        "between two pixels two or three bits; GridSample and TensorRT's plugin compute them in their data's type",
        _addresses,
    ),
    Island("deformable attention's softmax", "its weights multiply the bilinear ones, in the same kernel", _weights),
    Island(
        "sampling locations",
        "in 0..1 of a level: FP16's step near 1 is a quarter of a pixel of a level 500 wide",
        _locations,
    ),
    Island("sine embedding", "angles up to 2 pi times the box: an error in the box becomes one in the phase", _sine),
    Island(
        "class scores and top-K",
        "tokens are ranked by scores that lie closer to each other than FP16's steps; the product is small",
        _scores,
    ),
    Island(
        "queries",
        "a layer adds to them what it found, and the sum is carried as state: rounding what is added costs little, "
        "rounding the sum at every addition sends objects another way within 200 frames",
        _queries,
    ),
    Island(
        "boxes",
        "1 - 1e-5 is 1 in FP16, so the logit of a box at the border is infinite; boxes are refined layer by layer and "
        "carried as state; the extent of a mask is a pixel's number",
        _boxes,
    ),
)
