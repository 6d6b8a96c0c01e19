"""Sine embeddings of pixel grids and of boxes (temperature 10000, scale 2 pi, sines and cosines interleaved)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def sine(position: Tensor, channels: int) -> Tensor:
    """Embed positions (already scaled to 0..2 pi) in `channels` values each: [...] -> [..., channels], float32."""
    frequency = TEMPERATURE ** (
        2 * torch.div(torch.arange(channels, device=position.device), 2, rounding_mode="floor").float() / channels
    )
    angle = position.unsqueeze(-1) / frequency
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)


def grid_embedding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Embedding of a pixel grid, y first: float32 [height * width, channels]; counts start at 1 (Mask DINO)."""
    y = torch.arange(1, height + 1, dtype=torch.float32, device=device) / (height + 1e-6) * (2 * math.pi)
    x = torch.arange(1, width + 1, dtype=torch.float32, device=device) / (width + 1e-6) * (2 * math.pi)
    y = sine(y, channels // 2)[:, None].expand(height, width, -1)
    x = sine(x, channels // 2)[None].expand(height, width, -1)
    return torch.cat((y, x), dim=-1).flatten(0, 1)


def box_embedding(boxes: Tensor, channels: int) -> Tensor:
    """Embedding of boxes (cx, cy, w, h) in 0..1, float32 [B, N, 4] -> [B, N, 2 * channels], in the order y, x, w, h.

    Each coordinate takes channels / 2 values (128 at width 256, as Mask DINO hard-codes).
    """
    cx, cy, w, h = (boxes * (2 * math.pi)).unbind(-1)
    return torch.cat([sine(value, channels // 2) for value in (cy, cx, w, h)], dim=-1)
