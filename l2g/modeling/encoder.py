"""The pixel encoder: deformable self-attention over several scales, and the stride-4 mask features."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2g.config import ModelConfig
from l2g.modeling.deformable import DeformableAttention, Shapes
from l2g.modeling.layers import FeedForward, zero_bias
from l2g.modeling.position import grid_embedding


@dataclass(frozen=True)
class Memory:
    """What the encoder knows of a batch of images.

    tokens: [B, S, C], levels in the order in which Mask DINO's decoder numbers them, the reverse of the encoder's:
    strides 64 to 8 by default. shapes: (h, w) per level. mask_features: [B, Cm, H/4, W/4]. values: of each decoder
    layer the values that its cross-attention reads, [B, S, M, D], where they were computed for many frames at once;
    else empty.
    """

    tokens: Tensor
    shapes: Shapes
    mask_features: Tensor
    values: tuple[Tensor, ...] = ()

    def split(self, rows: int) -> list[Memory]:
        """The memories of every `rows` images. (Their gradients meet in one step; those of slices would not.)"""
        values = zip(*(value.split(rows) for value in self.values), strict=True) if self.values else repeat(())
        parts = zip(self.tokens.split(rows), self.mask_features.split(rows), values, strict=False)
        return [Memory(tokens, self.shapes, features, read) for tokens, features, read in parts]


class EncoderLayer(FeedForward):
    """Deformable self-attention and a feed-forward network, normalised after each."""

    def __init__(self, hidden_dim: int, num_heads: int, ffn_dim: int, num_levels: int):
        super().__init__()
        self.self_attn = DeformableAttention(hidden_dim, num_heads, num_levels)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.add_feed_forward(hidden_dim, ffn_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        x = self.norm1(x + self.self_attn(x + position, reference, x, shapes))
        return self.feed_forward(x, self.norm2)


class NormedConv(nn.Conv2d):
    """A bias-free convolution and GroupNorm(32)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(32, out_channels)
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class PixelEncoder(nn.Module):
    """(res2, res3, res4, res5) -> Memory."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.hidden_dim
        self.first, self.coarse_first = config.encoder.finest - 2, config.encoder.feature_order == "high2low"
        inputs = config.backbone.channels[self.first :]
        projections = [nn.Conv2d(channels, dim, 1) for channels in inputs[:: -1 if self.coarse_first else 1]]
        # Beyond res5: the first from res5 itself, each other from the one before it.
        for channels in (inputs[-1], *[dim] * config.encoder.levels)[: config.encoder.levels - len(inputs)]:
            projections.append(nn.Conv2d(channels, dim, 3, stride=2, padding=1))
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            zero_bias(projection)
        self.input_proj = nn.ModuleList(nn.Sequential(projection, nn.GroupNorm(32, dim)) for projection in projections)
        self.level_embed = nn.Parameter(torch.randn(len(projections), dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, config.num_heads, config.encoder.ffn_dim, config.encoder.levels)
            for _ in range(config.encoder.layers)
        )
        self.adapter = NormedConv(config.backbone.channels[0], dim, 1)
        self.output = NormedConv(dim, dim, 3)
        self.mask_features = nn.Conv2d(dim, config.encoder.mask_dim, 1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        zero_bias(self.mask_features)

    def forward(self, features: tuple[Tensor, Tensor, Tensor, Tensor]) -> Memory:
        inputs = features[self.first :][:: -1 if self.coarse_first else 1]
        maps = [project(x) for project, x in zip(self.input_proj, inputs, strict=False)]
        extra: list[Tensor] = []
        for project in self.input_proj[len(inputs) :]:
            extra.append(project(extra[-1] if extra else features[-1]))
        levels = self._ordered(maps, extra[::-1])
        # As in the public code: maps beyond res5 come smallest first, but their embeddings largest first. Of two such
        # maps the tokens get positions that are partly the other's, which models were trained with.
        embedded = self._ordered(maps, extra)
        position = torch.cat(
            [
                grid_embedding(x.shape[-2], x.shape[-1], x.shape[1], x.device) + self.level_embed[index]
                for index, x in enumerate(embedded)
            ]
        )
        shapes = tuple((x.shape[-2], x.shape[-1]) for x in levels)
        reference = reference_points(shapes, position.device)[None]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, shapes)
        levels = tokens.split([h * w for h, w in shapes], dim=1)
        finest = -1 if self.coarse_first else 0
        return Memory(
            torch.cat(levels[::-1], dim=1),
            shapes[::-1],
            self._mask_features(features[0], levels[finest], shapes[finest]),
        )

    def _ordered(self, maps: list[Tensor], extra: list[Tensor]) -> list[Tensor]:
        """The backbone's maps and those beyond res5, as the encoder numbers levels."""
        return [*extra, *maps] if self.coarse_first else [*maps, *extra]

    def _mask_features(self, res2: Tensor, finest: Tensor, shape: tuple[int, int]) -> Tensor:
        # Contiguous tokens are a channels-last image, for which upsampling on a CPU is ten times as fast.
        finest = finest.contiguous().unflatten(1, shape).permute(0, 3, 1, 2)
        size = (res2.shape[-2], res2.shape[-1])
        y = self.adapter(res2)
        if size != shape:
            finest = F.interpolate(finest, size=size, mode="bilinear", align_corners=False)
        y = y + finest
        return self.mask_features(F.relu(self.output(y), inplace=True))


def reference_points(shapes: Shapes, device: torch.device) -> Tensor:
    """Centres of all pixels of all levels, (x, y) in 0..1 of their own level: float32 [S, 2]."""
    points = []
    for h, w in shapes:
        y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
        points.append(torch.stack((x[None].expand(h, w), y[:, None].expand(h, w)), dim=-1).view(-1, 2))
    return torch.cat(points)
