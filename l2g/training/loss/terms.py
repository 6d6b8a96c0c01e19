"""The terms of Eq. 4: sigmoid focal loss, mask BCE and dice, box L1 and generalised IoU. Each without its weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA, GAMMA = 0.25, 2.0


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017), element by element: float [...], 0/1 [...] -> float32 [...]."""
    logits, targets = logits.float(), targets.float()
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    hit = probability * targets + (1 - probability) * (1 - targets)
    return (ALPHA * targets + (1 - ALPHA) * (1 - targets)) * cross_entropy * (1 - hit) ** GAMMA


def mask_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of each mask over its P points: [M, P], 0..1 [M, P] -> float32 [M]."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").mean(-1)


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - dice of each mask over its P points, smoothed by one: [M, P], 0..1 [M, P] -> float32 [M]."""
    probability, targets = logits.float().sigmoid(), targets.float()
    return 1 - (2 * (probability * targets).sum(-1) + 1) / (probability.sum(-1) + targets.sum(-1) + 1)


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) -> (x1, y1, x2, y2), [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) of broadcast boxes (cx, cy, w, h), float32 [..., 4] -> [...] in -1..1."""
    a, b = corners(a), corners(b)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    return overlap / union.clamp(min=1e-7) - (hull - union) / hull.clamp(min=1e-7)
