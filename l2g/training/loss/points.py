"""Mask losses at points drawn where a mask is uncertain (PointRend, 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2g.training.loss.targets import FrameTargets
from l2g.training.loss.terms import dice, mask_bce

# Candidates per kept point, and the share kept for being uncertain (PointRend's values, as in Mask DINO).
OVERSAMPLE, IMPORTANCE = 3, 0.75
# Masks whose points are drawn at once: their true masks lie in memory at full size, as float32.
AT_A_TIME = 64


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


def point_mask_losses(
    logits: Tensor, targets: FrameTargets, which: tuple[Tensor, Tensor], count: int
) -> tuple[Tensor, Tensor]:
    """`mask_bce` and `dice` of M masks, each float32 [M], over `count` points drawn by uncertainty.

    logits [M, h, w]; the true masks are those of the instances `which` (rows, columns: int64 [M]), empty where an
    instance is not present.
    """
    rows, columns = which
    bce, smoothed = [], []
    parts = zip(logits.split(AT_A_TIME), rows.split(AT_A_TIME), columns.split(AT_A_TIME), strict=True)
    for part, row, column in parts:
        with torch.no_grad():
            points = uncertain_points(part.float(), count)
            truth = sample(targets.masks[row, column].float(), points) * targets.present[row, column, None]
        predicted = sample(part, points)
        bce.append(mask_bce(predicted, truth))
        smoothed.append(dice(predicted, truth))
    return torch.cat(bce), torch.cat(smoothed)
