"""Swin and deformable attention step by step, as the public Mask DINO takes them: plain, slow, and on their own.

Written from the description of what the public code computes; nothing of `l2g.modeling` is used, so that it can judge
it. `benchmarks/swin.py` times it.
"""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor


def swin(weights: dict[str, Tensor], images: Tensor, depths, heads, window: int) -> tuple[Tensor, ...]:
    """weights: as `Swin.state_dict()`. Normalised images [B, 3, H, W] -> res2, res3, res4, res5, NCHW."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    b, _, height, width = x.shape
    x = norm(x.flatten(2).transpose(1, 2), "patch_embed.norm")
    outputs = []
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        mask = regions_apart(height, width, window)
        for index in range(depth):
            name, shift = f"layers.{stage}.blocks.{index}", window // 2 if index % 2 else 0
            y = norm(x, f"{name}.norm1").view(b, height, width, -1)
            y = F.pad(y, (0, 0, 0, -width % window, 0, -height % window))
            if shift:
                y = torch.roll(y, (-shift, -shift), (1, 2))
            padded = y.shape[1:3]
            windows = into_windows(y, window)
            y = attention(windows, weights, f"{name}.attn", count, window, mask if shift else None, linear)
            y = out_of_windows(y, window, *padded)
            if shift:
                y = torch.roll(y, (shift, shift), (1, 2))
            y = y[:, :height, :width].contiguous()
            x = x + y.view(b, height * width, -1)
            inner = F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
            x = x + linear(inner, f"{name}.mlp.fc2")
        outputs.append(norm(x, f"norm{stage}").view(b, height, width, -1).permute(0, 3, 1, 2).contiguous())
        if stage < len(depths) - 1:
            y = F.pad(x.view(b, height, width, -1), (0, 0, 0, width % 2, 0, height % 2))
            y = torch.cat([y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]], -1)
            height, width = y.shape[1:3]
            y = norm(y.flatten(1, 2), f"layers.{stage}.downsample.norm")
            x = linear(y, f"layers.{stage}.downsample.reduction")
    return tuple(outputs)


def attention(windows: Tensor, weights, name: str, heads: int, window: int, mask: Tensor | None, linear) -> Tensor:
    """[B * W, T, C] -> the same; mask [W, T, T]."""
    rows, tokens, channels = windows.shape
    q, k, v = linear(windows, f"{name}.qkv").view(rows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q * (channels // heads) ** -0.5) @ k.transpose(-2, -1)
    table = weights[f"{name}.relative_position_bias_table"]
    scores = scores + table[_pairs(window)].view(tokens, tokens, -1).permute(2, 0, 1)
    if mask is not None:
        scores = scores.view(-1, len(mask), heads, tokens, tokens) + mask[:, None]
        scores = scores.view(-1, heads, tokens, tokens)
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, tokens, channels)
    return linear(y, f"{name}.proj")


def _pairs(window: int) -> Tensor:
    """The bias table's row of every (query, key), one after the other."""
    side = torch.arange(window)
    places = torch.stack(torch.meshgrid(side, side, indexing="ij")).flatten(1)
    apart = places[:, :, None] - places[:, None, :] + window - 1
    return (apart[0] * (2 * window - 1) + apart[1]).flatten()


def into_windows(x: Tensor, window: int) -> Tensor:
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c).permute(0, 1, 3, 2, 4, 5)
    return x.contiguous().view(-1, window * window, c)


def out_of_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, x.shape[-1])


def regions_apart(height: int, width: int, window: int) -> Tensor:
    """[W, T, T]: -100 between tokens of different regions of the padded, rolled map; made anew for every frame."""
    height, width, shift = height + -height % window, width + -width % window, window // 2
    regions, number = torch.zeros(1, height, width, 1), 0
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for rows in bands:
        for columns in bands:
            regions[:, rows, columns] = number
            number += 1
    ids = into_windows(regions, window)[..., 0]
    apart = ids[:, None, :] - ids[:, :, None]
    return apart.masked_fill(apart != 0, -100.0)


def sampled(value: Tensor, shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The contract of `l2g.modeling.deformable`: all samples of all levels in one tensor, then weighed and summed."""
    b, _, heads, depth = value.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    grids = 2 * locations - 1
    found = []
    for level, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)):
        image = part.flatten(2).transpose(1, 2).reshape(b * heads, depth, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        found.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    factors = weights.transpose(1, 2).reshape(b * heads, 1, queries, levels * points)
    total = (torch.stack(found, -2).flatten(-2) * factors).sum(-1)
    return total.view(b, heads * depth, queries).transpose(1, 2).contiguous()


@contextmanager
def public_steps(model):
    """While open, backbone and deformable attention of a Swin model are those above, and layers take all at once."""
    config, weights = model.config.backbone, model.backbone.state_dict()

    def backbone(images: Tensor) -> tuple[Tensor, ...]:
        return swin(weights, images, config.depths, config.heads, config.window)

    with (
        mock.patch.object(model.backbone, "forward", backbone),
        mock.patch("l2g.modeling.deformable.deformable_attention", sampled),
        mock.patch("l2g.modeling.deformable.by_hand", return_value=False),
        mock.patch("l2g.modeling.layers.by_hand", return_value=False),
    ):
        yield
