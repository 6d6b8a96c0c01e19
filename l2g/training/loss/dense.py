"""Mask losses everywhere in small pictures, at stride 2: one pass over the enlarged masks, a few at a time.

Written out, since as single operations of autograd each would read and write all of the enlarged masks in turn: that
was an eighth of a training iteration on a CPU.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from l2g.training.loss.targets import FrameTargets

# Enlarged masks that stay in a core's cache.
AT_A_TIME = 32


def dense_mask_losses(logits: Tensor, targets: FrameTargets, which: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """`mask_bce` and `dice` of M masks, each float32 [M], over all pixels at twice their size.

    logits [M, h, w], enlarged bilinearly; the true masks of the instances `which` (rows, columns: int64 [M]) averaged.
    """
    with torch.autocast(logits.device.type, enabled=False):
        found: tuple[Tensor, Tensor] = _Dense.apply(logits.float(), targets.averaged(*_enlarged(logits)), *which)
    return found


def _enlarged(logits: Tensor) -> tuple[int, int]:
    return 2 * logits.shape[-2], 2 * logits.shape[-1]


@lru_cache(maxsize=16)
def _enlarging(side: int, device: torch.device) -> Tensor:
    """float32 [2 side, side]: bilinear enlargement along one side, a product with this."""
    unit = torch.eye(side, device=device)[None]
    return F.interpolate(unit, scale_factor=2, mode="linear", align_corners=False)[0].T.contiguous()


class _Dense(torch.autograd.Function):
    """Both losses are sums over pixels, so their gradients are known with them, up to a factor for each mask."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, averaged: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        count, (height, width) = len(logits), _enlarged(logits)
        down, across = (_enlarging(side, logits.device) for side in logits.shape[-2:])
        bce, dice = logits.new_empty(count), logits.new_empty(count)
        slopes = logits.new_empty(2, *logits.shape)
        for start in range(0, count, AT_A_TIME):
            part = slice(start, start + AT_A_TIME)
            large = (down @ logits[part] @ across.T).flatten(1)
            truth = averaged[rows[part], columns[part]].flatten(1)
            bce[part] = F.binary_cross_entropy_with_logits(large, truth, reduction="none").mean(-1)
            probability = large.sigmoid()
            above = 2 * (probability * truth).sum(-1) + 1
            below = probability.sum(-1) + truth.sum(-1) + 1
            dice[part] = 1 - above / below
            of_bce = (probability - truth) / large.shape[1]
            # d(above / below) = (2 truth below - above) / below^2, times the sigmoid's slope.
            factor = (above / below**2)[:, None] - truth * (2 / below)[:, None]
            of_dice = factor * (probability * (1 - probability))
            for slope, gradient in zip(slopes, (of_bce, of_dice), strict=True):
                slope[part] = down.T @ gradient.view(-1, height, width) @ across
        ctx.save_for_backward(slopes)
        return bce, dice

    @staticmethod
    def backward(ctx: Any, of_bce: Tensor, of_dice: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return of_bce[:, None, None] * slopes[0] + of_dice[:, None, None] * slopes[1], None, None, None
