"""The decoder: queries read the memory around their boxes, and refine the boxes layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from l2g.config import ModelConfig
from l2g.modeling.deformable import DeformableAttention
from l2g.modeling.encoder import Memory
from l2g.modeling.heads import Heads
from l2g.modeling.layers import MLP, FeedForward, attend
from l2g.modeling.position import box_embedding


@dataclass(frozen=True)
class DecoderStates:
    """Per layer: the normed queries [B, N, C] and the reference boxes float32 [B, N, 4] that the layer started from."""

    queries: tuple[Tensor, ...]
    references: tuple[Tensor, ...]


class DecoderLayer(FeedForward):
    """Self-attention (norm2), deformable cross-attention (norm1), feed-forward (norm3): the public numbering."""

    def __init__(self, hidden_dim: int, num_heads: int, ffn_dim: int, num_levels: int):
        super().__init__()
        self.cross_attn = DeformableAttention(hidden_dim, num_heads, num_levels)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.self_attn = nn.MultiheadAttention(hidden_dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.add_feed_forward(hidden_dim, ffn_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        boxes: Tensor,
        memory: Memory,
        mask: Tensor | None,
        values: Tensor | None = None,
    ) -> Tensor:
        q = queries + position
        queries = self.norm2(queries + attend(self.self_attn, q, q, queries, mask))
        read = self.cross_attn(queries + position, boxes, memory.tokens, memory.shapes, values)
        queries = self.norm1(queries + read)
        return self.feed_forward(queries, self.norm3)


class Decoder(nn.Module):
    """Queries [B, N, C] and boxes [B, N, 4] -> DecoderStates."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dim = dim = config.hidden_dim
        self.layers = nn.ModuleList(
            DecoderLayer(dim, config.num_heads, config.decoder.ffn_dim, config.encoder.levels)
            for _ in range(config.decoder.layers)
        )
        self.ref_point_head = MLP(2 * dim, dim, dim, 2)

    def position(self, boxes: Tensor) -> Tensor:
        """The positional embedding of boxes, float32 [B, N, 4] in 0..1 -> [B, N, C] (Eq. 2 of the paper)."""
        return self.ref_point_head(box_embedding(boxes, self.dim))

    def with_values(self, memory: Memory) -> Memory:
        """The memory of many frames with what every layer reads of it, which no query changes."""
        attentions = (cast(DecoderLayer, layer).cross_attn for layer in self.layers)
        return replace(memory, values=tuple(attention.values(memory.tokens) for attention in attentions))

    def forward(
        self, queries: Tensor, boxes: Tensor, memory: Memory, heads: Heads, mask: Tensor | None = None
    ) -> DecoderStates:
        normed, references = [], []
        reference = boxes
        for index, layer in enumerate(self.layers):
            references.append(reference)
            # A layer's boxes are constants to it; the loss reaches the refinement before it through `references`.
            start = reference.detach()
            values = memory.values[index] if memory.values else None
            queries = layer(queries, self.position(start), start, memory, mask, values)
            normed.append(heads.norm(queries))
            if index + 1 < len(self.layers):
                reference = heads.boxes(queries, start)
        return DecoderStates(tuple(normed), tuple(references))
