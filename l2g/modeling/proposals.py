"""Local queries: the memory tokens that look most like an object, with their masks' boxes (Mask DINO's two stages)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2g.config import ModelConfig
from l2g.errors import ConfigError
from l2g.modeling.boxes import mask_to_box
from l2g.modeling.deformable import Shapes
from l2g.modeling.encoder import Memory, reference_points
from l2g.modeling.heads import Heads

# An anchor is valid while all its coordinates, its sides too, keep this distance from 0 and 1 (Deformable DETR's
# two-stage variant).
BORDER = 0.01
# Width and height of an anchor of the decoder's first level; doubled per level. Those of a sixth level are none: 1.6.
ANCHOR_SIZE = 0.05


@dataclass(frozen=True)
class LocalQueries:
    """The N best tokens of each image, best first; of `LearnedQueries` those, whose indices mean nothing.

    queries: [B, N, C]. boxes: float32 [B, N, 4] in 0..1. indices: int64 [B, N] into the memory's tokens.
    features: [B, N, C], the queries still attached to the graph. logits [B, N, K], mask_logits [B, N, h, w] and
    anchors float32 [B, N, 4] are what the two-stage loss needs.
    """

    queries: Tensor
    boxes: Tensor
    indices: Tensor
    features: Tensor
    logits: Tensor
    mask_logits: Tensor
    anchors: Tensor


class Proposals(nn.Module):
    """Scores every token by its best class and keeps the top N."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_queries, self.box_init = config.num_queries, config.box_init
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(self, memory: Memory, heads: Heads) -> LocalQueries:
        if memory.tokens.shape[1] < self.num_queries:
            raise ConfigError(
                f"{self.num_queries} queries asked of a canvas with {memory.tokens.shape[1]} tokens; "
                "enlarge the canvas or lower num_queries"
            )
        anchors = anchor_boxes(memory.shapes, memory.tokens.device)
        valid = ((anchors > BORDER) & (anchors < 1 - BORDER)).all(dim=-1, keepdim=True)
        # The features of an invalid anchor are zeroed, its score is not: it may compete (public behaviour).
        features = self.norm(self.output(memory.tokens * valid.to(memory.tokens.dtype)))
        # Chosen without the heads' norm, judged by the loss with it: both as in the public code.
        indices = heads.class_embed(features).amax(dim=-1).topk(self.num_queries, dim=1).indices
        chosen = _take(features, indices)
        mask_logits = heads.mask_logits(chosen, memory.mask_features)
        return LocalQueries(
            queries=chosen.detach(),
            boxes=self._start(chosen, mask_logits, anchors[indices], valid[:, 0][indices], heads).detach(),
            indices=indices,
            features=chosen,
            logits=heads.logits(chosen),
            mask_logits=mask_logits,
            anchors=anchors[indices],
        )

    def _start(self, chosen: Tensor, mask_logits: Tensor, anchors: Tensor, valid: Tensor, heads: Heads) -> Tensor:
        """The boxes that the decoder starts from, float32 [B, N, 4] in 0..1."""
        if self.box_init != "no":
            return mask_to_box(mask_logits, self.box_init)
        # An invalid anchor's logit is infinite in the public code, whatever the head says of it.
        return torch.where(valid[..., None], heads.boxes(chosen, anchors), 1.0)


class LearnedQueries(nn.Module):
    """The same queries and boxes for every picture, a pair per slot, in place of the best tokens."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.query_feat = nn.Embedding(config.num_queries, config.hidden_dim)
        self.query_embed = nn.Embedding(config.num_queries, 4)  # boxes, before the sigmoid

    def forward(self, memory: Memory, heads: Heads) -> LocalQueries:
        batch = memory.tokens.shape[0]
        queries = self.query_feat.weight.expand(batch, -1, -1)
        boxes = self.query_embed.weight.float().sigmoid().expand(batch, -1, -1)
        return LocalQueries(
            queries=queries,
            boxes=boxes,
            indices=torch.arange(queries.shape[1], device=queries.device).expand(batch, -1),
            features=queries,
            logits=heads.logits(queries),
            mask_logits=heads.mask_logits(queries, memory.mask_features),
            anchors=boxes,
        )


def anchor_boxes(shapes: Shapes, device: torch.device) -> Tensor:
    """One anchor per token, levels in the decoder's order: float32 [S, 4], (cx, cy, w, h), centres in 0..1."""
    sizes = [torch.full((h * w, 2), ANCHOR_SIZE * 2**level, device=device) for level, (h, w) in enumerate(shapes)]
    return torch.cat((reference_points(shapes, device), torch.cat(sizes)), dim=-1)


def _take(x: Tensor, indices: Tensor) -> Tensor:
    return x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
