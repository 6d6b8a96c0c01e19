"""What there is to know of a deformable attention node before it is lowered.

The contract is `l2g.modeling.deformable`'s: value [B, S, M, D], locations [B, Q, M, L, P, 2] in 0..1 of their level,
weights [B, Q, M, L, P] -> [B, Q, M * D].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from l2g.export.graph.node_builder import Builder
from l2g.export.graph.values import array_of, input_of, size_of

# The node that a trace leaves where the model calls `torch.ops.l2g.deformable_attention`.
DOMAIN, OPERATOR = "l2g", "DeformableAttention"


@dataclass(frozen=True)
class Attention:
    """One node: its tensors, its levels' (h, w), and S tokens, M heads of D values, Q queries, P points a level."""

    value: ir.Value
    locations: ir.Value
    weights: ir.Value
    shapes: tuple[tuple[int, int], ...]
    tokens: int
    heads: int
    depth: int
    queries: int
    points: int

    @classmethod
    def of(cls, node: ir.Node) -> Attention:
        """Read a node whose tensors have static sizes but for the first."""
        value, locations, weights = (input_of(node, index) for index in range(3))
        flat = [int(side) for side in node.attributes["shapes"].as_ints()]
        return cls._sized(value, locations, weights, tuple(zip(flat[::2], flat[1::2], strict=True)))

    @classmethod
    def of_plugin(cls, node: ir.Node) -> Attention:
        """Read a node of TensorRT's plugin; its level shapes are its second input."""
        value, shapes, _, locations, weights = (input_of(node, index) for index in range(5))
        return cls._sized(value, locations, weights, tuple((int(h), int(w)) for h, w in array_of(shapes)))

    @classmethod
    def _sized(
        cls, value: ir.Value, locations: ir.Value, weights: ir.Value, shapes: tuple[tuple[int, int], ...]
    ) -> Attention:
        tokens, heads, depth = (size_of(value, axis) for axis in (1, 2, 3))
        return cls(value, locations, weights, shapes, tokens, heads, depth, size_of(weights, 1), size_of(weights, 4))

    @property
    def samples(self) -> int:
        """Samples of one query and head, over all levels."""
        return len(self.shapes) * self.points

    def per_sample(self, of_level: Sequence[float]) -> np.ndarray:
        """A number per level -> float32 [M * L * P]. Few elements at a time are slow to broadcast over."""
        return np.tile(np.repeat(np.array(of_level, np.float32), self.points), self.heads)

    def flat_weights(self, build: Builder) -> ir.Value:
        """The weights as [B, Q, M * L * P]."""
        return build.reshape(self.weights, -1, self.queries, self.heads * self.samples)
