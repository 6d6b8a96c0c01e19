"""Predictions of several decoder layers on many frames at once; masks only of the slots that a loss looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2g.modeling.heads import Heads
from l2g.modeling.local2global import FrameOutput


@dataclass(frozen=True)
class Layers:
    """What L layers predict of F frames.

    logits [L, F, N, K], boxes float32 [L, F, N, 4], embeddings [L, F, N, Cm], mask_features [F, Cm, h, w].
    """

    logits: Tensor
    boxes: Tensor
    embeddings: Tensor
    mask_features: Tensor

    @classmethod
    def predict(cls, heads: Heads, queries: Tensor, references: Tensor, mask_features: Tensor) -> Layers:
        """queries [L, F, N, C], which started from boxes `references` [L, F, N, 4]. The tokens of the two-stage choice
        and their anchors are such a layer too: their loss teaches them to be chosen."""
        boxes = heads.boxes(queries, references)
        return cls(heads.logits(queries), boxes, heads.mask_embedding(queries), mask_features)

    def masks(self, slots: Tensor) -> Tensor:
        """Mask logits of some slots: int64 [L, F, I] (-1 counts as 0) -> [L, F, I, h, w]."""
        layers, frames, count = slots.shape
        index = slots.clamp(min=0)[..., None].expand(-1, -1, -1, self.embeddings.shape[-1])
        chosen = self.embeddings.gather(2, index).transpose(0, 1).flatten(1, 2)
        masks = chosen @ self.mask_features.flatten(2)
        return masks.view(frames, layers, count, *self.mask_features.shape[-2:]).transpose(0, 1)

    @torch.no_grad()
    def output(self, layer: int) -> FrameOutput:
        """One layer's predictions with all masks, to be matched: no gradient comes through them."""
        masks = self.embeddings[layer].detach() @ self.mask_features.detach().flatten(2)
        masks = masks.unflatten(2, self.mask_features.shape[-2:])
        return FrameOutput(self.logits[layer].detach(), self.boxes[layer].detach(), masks)

    def only(self, start: int, stop: int) -> Layers:
        """Queries start..stop-1 of every frame."""
        part = slice(start, stop)
        return Layers(self.logits[:, :, part], self.boxes[:, :, part], self.embeddings[:, :, part], self.mask_features)
