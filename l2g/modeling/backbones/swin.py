"""Swin Transformer (Liu et al. 2021) as the public Mask DINO builds it: its tensor names, its padding, its shifts.

Two habits of that code differ from other ones and count: windows reach beyond the map, and what lies there is not
masked (its key and value are the bias of `qkv`); and blocks shift also where the map is smaller than the window.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2g.config import SwinConfig
from l2g.modeling.layers import by_rows

# What keeps two regions of a shifted window apart: not -inf, as in the public code.
APART = -100.0


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` x `window` tokens, with a learned bias per relative position."""

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """windows [B, W, T, C], mask float [W, 1, T, T] or None -> [B, W, T, C]."""
        b, (count, tokens, dim) = windows.shape[0], _sides(windows)
        qkv = self.qkv(windows).view(b, count, tokens, 3, self.heads, dim // self.heads).permute(3, 0, 1, 4, 2, 5)
        out = _attend(qkv[0], qkv[1], qkv[2], self.bias(), mask)
        return self.proj(out.transpose(2, 3).reshape(b, count, tokens, dim))

    def bias(self) -> Tensor:
        """[heads, T, T], of (query, key)."""
        index = relative_position_index(self.window).to(self.relative_position_bias_table.device)
        tokens = self.window**2
        return self.relative_position_bias_table[index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """q, k, v [B, W, heads, T, D], bias [heads, T, T], mask [W, 1, T, T] or None -> [B, W, heads, T, D]."""
    if torch.jit.is_tracing():
        # Spelled out, and in one piece: the number of streams stays an axis of its own in the graph. The mask comes
        # after the bias: their sum would be a constant of every block's own, 428 MB of a Swin-L at 480x864, where the
        # mask alone is the same for all blocks of a stage. It takes no longer.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        scores = scores if mask is None else scores + mask
        return scores.softmax(-1) @ v
    bias = bias[None] if mask is None else bias + mask
    # The fused kernels take four axes.
    return torch.stack([F.scaled_dot_product_attention(*image, attn_mask=bias) for image in zip(q, k, v, strict=True)])


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention within windows, shifted by half a window in every other block, then an MLP; norms come first."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> the same."""
        x = x + self._within_windows(self.norm1(x))
        return by_rows(lambda x: x + self.mlp(self.norm2(x)), x, self.mlp.fc1.out_features)

    def _within_windows(self, x: Tensor) -> Tensor:
        height, width, dim = _sides(x)
        w, shift = self.window, self.shift
        rows, columns = -(-height // w), -(-width // w)
        padded = (rows * w, columns * w) != (height, width)
        if padded:
            # After the norm: what is added is exactly zero, and not the norm's bias.
            x = F.pad(x, (0, 0, 0, columns * w - width, 0, rows * w - height))
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        windows = x.view(-1, rows, w, columns, w, dim).transpose(2, 3).reshape(-1, rows * columns, w * w, dim)
        mask = region_mask(rows, columns, w, shift).to(x.device, x.dtype) if shift else None
        windows = self.attn(windows, mask)
        x = windows.view(-1, rows, columns, w, w, dim).transpose(2, 3).reshape(-1, rows * w, columns * w, dim)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        return x[:, :height, :width] if padded else x


class PatchMerging(nn.Module):
    """Half the sides, twice the channels: each 2 x 2 patch becomes one token, in the order that weights expect."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H/2, W/2, 2C]."""
        height, width, _ = _sides(x)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # Columns outside rows: the second of the four is the token below.
        x = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Some blocks, then, but for the last stage, a merging of patches."""

    def __init__(self, dim: int, depth: int, heads: int, config: SwinConfig, last: bool):
        super().__init__()
        shifts = [config.window // 2 if index % 2 else 0 for index in range(depth)]
        self.blocks = nn.Sequential(*(Block(dim, heads, config.window, shift, config.mlp_ratio) for shift in shifts))
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, W, C] -> what the blocks make of it, the same shape, and what the next stage goes on from.

        A module's call, so that the nodes of a graph bear the stage's name."""
        x = self.blocks(x)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbedding(nn.Module):
    """4 x 4 pixels to a token, normed: [B, 3, H, W] -> [B, H/4, W/4, C]."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


def _sides(x: Tensor) -> tuple[int, int, int]:
    """[B, H, W, C] -> (H, W, C), constants for a trace too."""
    return int(x.shape[1]), int(x.shape[2]), int(x.shape[3])


class Swin(nn.Module):
    """Float images [B, 3, H, W], normalised -> (res2, res3, res4, res5) at strides 4, 8, 16, 32."""

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.patch_embed = PatchEmbedding(config.embed_dim)
        stages = zip(config.channels, config.depths, config.heads, strict=True)
        self.layers = nn.ModuleList(
            Stage(dim, depth, heads, config, last=index == 3) for index, (dim, depth, heads) in enumerate(stages)
        )
        for index, dim in enumerate(config.channels):
            setattr(self, f"norm{index}", nn.LayerNorm(dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.patch_embed(images)
        outputs = []
        for index, stage in enumerate(self.layers):
            # The next stage goes on from what is not normed.
            seen, x = stage(x)
            outputs.append(getattr(self, f"norm{index}")(seen).permute(0, 3, 1, 2))
        return tuple(outputs)


# What is kept is no tensor of the inference mode it may be first asked for in: such ones cannot be traced.
@lru_cache
@torch.inference_mode(False)
def relative_position_index(window: int) -> Tensor:
    """int64 [T, T]: the row of the bias table for (query, key), tokens of a window numbered row by row."""
    y, x = torch.arange(window**2) // window, torch.arange(window**2) % window
    dy, dx = (a[:, None] - a[None, :] + window - 1 for a in (y, x))
    return dy * (2 * window - 1) + dx


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def region_mask(rows: int, columns: int, window: int, shift: int) -> Tensor:
    """float32 [rows * columns, 1, T, T]: `APART` where a shifted window's tokens come from two sides of the map."""

    def bands(count: int) -> Tensor:
        position = torch.arange(count * window)
        return (position >= (count - 1) * window).long() + (position >= count * window - shift).long()

    regions = bands(rows)[:, None] * 3 + bands(columns)[None, :]
    ids = regions.view(rows, window, columns, window).transpose(1, 2).reshape(rows * columns, window**2)
    return ((ids[:, None, :] != ids[:, :, None]).float() * APART)[:, None]
