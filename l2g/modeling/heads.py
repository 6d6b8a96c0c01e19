"""Class, box and mask heads, shared by the two-stage proposals and every decoder layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from l2g.config import ModelConfig
from l2g.modeling.boxes import inverse_sigmoid
from l2g.modeling.layers import MLP

# Focal loss starts stably when every class begins at this probability (Lin et al. 2017).
PRIOR_PROBABILITY = 0.01


class Heads(nn.Module):
    """All take the decoder's normed output; class and mask heads apply the same norm once more, as Mask DINO does."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.hidden_dim
        self.norm = nn.LayerNorm(dim)
        self.class_embed = nn.Linear(dim, config.num_classes + (config.scoring == "softmax"))
        self.bbox_embed = MLP(dim, dim, 4, 3)
        self.mask_embed = MLP(dim, dim, config.encoder.mask_dim, 3)
        nn.init.constant_(self.class_embed.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        for parameter in self.bbox_embed.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def logits(self, queries: Tensor) -> Tensor:
        """[B, N, C] -> class logits [B, N, K]."""
        return self.class_embed(self.norm(queries))

    def mask_embedding(self, queries: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, Cm], whose products with the mask features are mask logits."""
        return self.mask_embed(self.norm(queries))

    def mask_logits(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        """[B, N, C], [B, Cm, h, w] -> mask logits [B, N, h, w]."""
        return (self.mask_embedding(queries) @ mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])

    def boxes(self, queries: Tensor, reference: Tensor) -> Tensor:
        """Refine reference boxes in 0..1: [B, N, C], [B, N, 4] -> float32 [B, N, 4] in 0..1."""
        return torch.sigmoid(self.bbox_embed(queries).float() + inverse_sigmoid(reference))
