"""The best slots of a frame, chosen on the device, so that the host copies only their masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2g.modeling.local2global import FrameOutput


@dataclass(frozen=True)
class Selected:
    """scores float32, labels int32, slots int32: [B, M], best first. masks uint8 [B, M, h, w], probability x 255."""

    scores: Tensor
    labels: Tensor
    slots: Tensor
    masks: Tensor


def select_detections(output: FrameOutput, top_k: int) -> Selected:
    """The `top_k` slots of the highest class probability, each with its best class."""
    best, labels = output.logits.float().max(dim=-1)
    logits, slots = best.topk(top_k, dim=1)
    rows = slots[:, :, None, None].expand(-1, -1, *output.mask_logits.shape[-2:])
    masks = output.mask_logits.gather(1, rows).float().sigmoid()
    return Selected(
        logits.sigmoid(),
        labels.gather(1, slots).to(torch.int32),
        slots.to(torch.int32),
        (masks * 255 + 0.5).to(torch.uint8),
    )
