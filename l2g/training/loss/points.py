"""Where mask losses look: everywhere, or at points drawn where a mask is uncertain (PointRend, 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Candidates per kept point, and the share kept for being uncertain (PointRend's values, as in Mask DINO).
OVERSAMPLE, IMPORTANCE = 3, 0.75


def sample(masks: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of masks [M, h, w] at points [M, P, 2], (x, y) in 0..1 -> float [M, P]."""
    grid = (2 * points - 1).unsqueeze(1).to(masks.dtype)
    return F.grid_sample(masks.unsqueeze(1), grid, align_corners=False)[:, 0, 0]


def uncertain_points(logits: Tensor, count: int) -> Tensor:
    """`count` points per mask, most of them nearest to its boundary: [M, h, w] -> [M, count, 2] in 0..1."""
    m, device = logits.shape[0], logits.device
    candidates = torch.rand(m, count * OVERSAMPLE, 2, device=device)
    certain = sample(logits, candidates).abs()
    chosen = int(count * IMPORTANCE)
    index = certain.topk(chosen, dim=1, largest=False).indices.unsqueeze(-1).expand(-1, -1, 2)
    return torch.cat((candidates.gather(1, index), torch.rand(m, count - chosen, 2, device=device)), dim=1)


def mask_pairs(logits: Tensor, masks: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Predicted logits [M, h, w] and true masks uint8 [M, H, W] at the same places: two [M, P].

    count 0: everywhere at stride 2, the logits enlarged bilinearly and the true mask averaged: for small pictures.
    Otherwise `count` points drawn by uncertainty.
    """
    if count == 0:
        enlarged = F.interpolate(logits.unsqueeze(1), scale_factor=2, mode="bilinear", align_corners=False)
        height, width = enlarged.shape[-2:]
        return enlarged.flatten(1), F.adaptive_avg_pool2d(masks.float(), (height, width)).flatten(1)
    with torch.no_grad():
        points = uncertain_points(logits.float(), count)
        truth = sample(masks.float(), points)
    return sample(logits, points), truth
