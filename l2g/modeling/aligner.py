"""The L2G-aligner: past global queries look up their continuation among the current frame's local queries."""

from __future__ import annotations

from torch import Tensor, nn

from l2g.config import ModelConfig
from l2g.errors import ConfigError
from l2g.modeling.layers import FeedForward, attend


class AlignerLayer(FeedForward):
    """A standard post-norm decoder layer: self-attention, cross-attention, feed-forward network."""

    def __init__(self, hidden_dim: int, num_heads: int, ffn_dim: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(hidden_dim, num_heads, batch_first=True)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.cross_attn = nn.MultiheadAttention(hidden_dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.add_feed_forward(hidden_dim, ffn_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)

    def forward(self, queries: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q = queries + position
        queries = self.norm1(queries + attend(self.self_attn, q, q, queries))
        queries = self.norm2(queries + attend(self.cross_attn, queries + position, keys, values))
        return self.feed_forward(queries, self.norm3)


class Aligner(nn.Module):
    """Eq. 1 of the paper: global queries [B, N, C] + g_pos attend to local queries [B, N, C] + l_pos.

    `local_position` "static": l_pos is a learned embedding per rank, fixed over frames; "dynamic": the caller gives the
    embedding of the local boxes; "none": there is no l_pos.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        aligner = config.aligner
        if aligner is None:
            raise ConfigError("aligner is None; give its fields")
        self.layers = nn.ModuleList(
            AlignerLayer(config.hidden_dim, config.num_heads, aligner.ffn_dim) for _ in range(aligner.layers)
        )
        self.dynamic = aligner.local_position == "dynamic"
        static = aligner.local_position == "static"
        self.local_position = nn.Embedding(config.num_queries, config.hidden_dim) if static else None

    def forward(self, queries: Tensor, position: Tensor, local: Tensor, local_position: Tensor | None = None) -> Tensor:
        """`local_position`: the embedding of the local boxes where it is `dynamic`."""
        keys = local
        if self.local_position is not None:
            keys = local + self.local_position.weight
        elif self.dynamic:
            assert local_position is not None
            keys = local + local_position
        for layer in self.layers:
            queries = layer(queries, position, keys, local)
        return queries
