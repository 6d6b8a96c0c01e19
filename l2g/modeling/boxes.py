"""Boxes of masks, and the logit space in which boxes are refined."""

from __future__ import annotations

import torch
from torch import Tensor

# What Mask DINO's "mask2box" gives for an empty mask: both corners clamp to 1. "bitmask" gives all zeros.
EMPTY_BOX = {"mask2box": (1.0, 1.0, 0.0, 0.0), "bitmask": (0.0, 0.0, 0.0, 0.0)}


# How near to 0 and 1 a box coordinate may come before its logit is taken (Mask DINO).
EPSILON = 1e-5


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)) with both terms at least EPSILON; float32, since 1 - 1e-5 is 1 in half precision."""
    x = x.float().clamp(0, 1)
    return torch.log(x.clamp(min=EPSILON) / (1 - x).clamp(min=EPSILON))


def mask_to_box(mask_logits: Tensor, box_init: str = "mask2box", empty: Tensor | None = None) -> Tensor:
    """The tight box of each mask (logit > 0): [B, N, h, w] -> float32 [B, N, 4], (cx, cy, w, h) in 0..1.

    "mask2box" takes the last index as the far edge, so a one-pixel mask has no extent; "bitmask" adds one (both are
    Mask DINO's; "no", where boxes do not start from masks, counts as the former). A full mask is (0..w-1)/w or
    (0..w)/w. An empty mask takes its row of `empty` [B, N, 4], or where that is None the value that Mask DINO's
    arithmetic happens to give (`EMPTY_BOX`).
    """
    height, width = mask_logits.shape[-2:]
    far = 1.0 if box_init == "bitmask" else 0.0
    columns = mask_logits.amax(dim=-2) > 0
    rows = mask_logits.amax(dim=-1) > 0
    x1, x2 = _extent(columns, width)
    y1, y2 = _extent(rows, height)
    x2, y2 = x2 + far, y2 + far
    box = torch.stack(
        ((x1 + x2) * (0.5 / width), (y1 + y2) * (0.5 / height), (x2 - x1) * (1.0 / width), (y2 - y1) * (1.0 / height)),
        dim=-1,
    )
    if empty is None:
        empty = torch.tensor(EMPTY_BOX.get(box_init, EMPTY_BOX["mask2box"]), device=box.device)
    return torch.where(columns.any(dim=-1, keepdim=True), box, empty)


def _extent(occupied: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First and last True of bool [..., size], as float32 [...]; `size` and -1 where there is none."""
    index = torch.arange(size, dtype=torch.float32, device=occupied.device)
    first = torch.where(occupied, index, float(size)).amin(dim=-1)
    last = torch.where(occupied, index, -1.0).amax(dim=-1)
    return first, last
