"""Multi-scale deformable attention: one function, one tensor contract, two ways to compute it.

    value      float32 [B, S, M, D]         S tokens of all levels after each other, M heads of width D
    shapes     ((h, w), ...)                height and width of each of the L levels, sum of h * w = S
    locations  float32 [B, Q, M, L, P, 2]   (x, y) of P points per level in 0..1 of that level; any value is allowed
    weights    float32 [B, Q, M, L, P]      sums to one over L and P
    returns    float32 [B, Q, M * D]

Each point reads its level bilinearly (pixel centres at (i + 0.5) / size, zero outside), as in Deformable DETR (Zhu et al.
2021, eq. 3). Training differentiates through `grid_sample`. Inference calls the operator `l2g::deformable_attention`,
which an exporter may lower as it needs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = tuple[tuple[int, int], ...]

# Queries whose index arithmetic is done at once on a CPU.
CHUNK = 1024


def deformable_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """See the module's docstring for the contract."""
    if torch.is_grad_enabled() and (value.requires_grad or locations.requires_grad or weights.requires_grad):
        return sample_levels(value, shapes, locations, weights)
    flat_shapes = [side for shape in shapes for side in shape]
    return torch.ops.l2g.deformable_attention(value, flat_shapes, locations, weights)


def sample_levels(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """By `grid_sample`, a level at a time: never holds all levels' samples at once. Differentiable."""
    b, _, m, d = value.shape
    q, p = locations.shape[1], locations.shape[4]
    total = value.new_zeros(())
    levels = value.split([h * w for h, w in shapes], dim=1)
    for index, (level, (h, w)) in enumerate(zip(levels, shapes, strict=True)):
        image = level.flatten(2).transpose(1, 2).reshape(b * m, d, h, w)
        grid = (2 * locations[:, :, :, index] - 1).transpose(1, 2).reshape(b * m, q, p, 2)
        sampled = F.grid_sample(image, grid.to(image.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, index].transpose(1, 2).reshape(b * m, 1, q, p)
        total = total + (sampled * weight).sum(-1)
    return total.view(b, m * d, q).transpose(1, 2)


def gather_rows(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """By one weighted `embedding_bag` over rows of D values, which lie together in memory.

    On a CPU this replaces D strided reads per sample by one, and the index arithmetic stays in the cache: chunks of
    `CHUNK` queries (measured by benchmarks/eager.py).
    """
    b, s, m, d = value.shape
    q = locations.shape[1]
    rows = value.reshape(b * s * m, d)
    size = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)
    starts = torch.tensor([0, *(h * w for h, w in shapes[:-1])]).cumsum(0)
    # Row of the first pixel of (stream, head, level), for every bag: [B, 1, M, L, 1].
    first = (torch.arange(b).view(b, 1, 1, 1, 1) * s + starts.view(-1, 1)) * m + torch.arange(m).view(m, 1, 1)
    out = value.new_empty(b, q, m * d)
    for start in range(0, q, CHUNK):
        part = slice(start, start + CHUNK)
        indices, factors = _corners(locations[:, part], weights[:, part], size, first.int())
        bags = F.embedding_bag(indices, rows, mode="sum", per_sample_weights=factors)
        out[:, part] = bags.view(b, -1, m * d)
    return out


def _corners(locations: Tensor, weights: Tensor, size: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The four pixels around every location: rows int32 and factors float32, both [B * Q * M, 4 * L * P]."""
    b, q, m, levels, p, _ = locations.shape
    width, height = size[:, 0, None], size[:, 1, None]
    # Beyond one pixel outside nothing contributes. `fmax` also drops NaN, which has no integer to become an index.
    outside = torch.tensor(-1.0)
    x = (locations[..., 0] * width).sub_(0.5).fmax(outside).minimum(width)
    y = (locations[..., 1] * height).sub_(0.5).fmax(outside).minimum(height)
    x0, y0 = x.floor(), y.floor()
    dx, dy = x.sub_(x0), y.sub_(y0)
    columns = _inside(x0, 1 - dx, width), _inside(x0 + 1, dx, width)
    lines = _inside(y0, (1 - dy) * weights, height), _inside(y0 + 1, dy * weights, height)
    indices = torch.empty(b, q, m, 4, levels, p, dtype=torch.int32)
    factors = torch.empty(b, q, m, 4, levels, p)
    for corner in range(4):
        (line, line_weight), (column, column_weight) = lines[corner // 2], columns[corner % 2]
        pixel = torch.addcmul(column, line, width).int()
        torch.add(first, pixel, alpha=m, out=indices[:, :, :, corner])
        torch.mul(line_weight, column_weight, out=factors[:, :, :, corner])
    return indices.view(b * q * m, -1), factors.view(b * q * m, -1)


def _inside(position: Tensor, weight: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """A pixel position clamped into the level, and its weight: zero where the clamp moved it."""
    inside = position.clamp(min=0.0).minimum(size - 1)
    return inside, weight * (inside == position)


def _operator(value: Tensor, flat_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    shapes = tuple(zip(flat_shapes[::2], flat_shapes[1::2], strict=True))
    plain = value.device.type == "cpu" and value.dtype == torch.float32
    return (gather_rows if plain else sample_levels)(value, shapes, locations, weights)


def _operator_shape(value: Tensor, flat_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


torch.library.define(
    "l2g::deformable_attention", "(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor"
)
torch.library.impl("l2g::deformable_attention", "CompositeExplicitAutograd", _operator)
torch.library.register_fake("l2g::deformable_attention", _operator_shape)


class DeformableAttention(nn.Module):
    """The projections around `deformable_attention`: offsets and weights from the query, values from the memory."""

    def __init__(self, hidden_dim: int, num_heads: int, num_levels: int = 4, num_points: int = 4):
        super().__init__()
        self.heads, self.levels, self.points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(hidden_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(hidden_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(hidden_dim, hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, hidden_dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Offsets start on rings around the reference, one direction per head, weights uniform (Deformable DETR)."""
        angle = torch.arange(self.heads) * (2.0 * torch.pi / self.heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = (ring / ring.abs().amax(-1, keepdim=True)).view(self.heads, 1, 1, 2)
        radius = torch.arange(1, self.points + 1).view(1, 1, self.points, 1)
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_((ring * radius).expand(-1, self.levels, -1, -1).reshape(-1))
            self.attention_weights.weight.zero_()
            self.attention_weights.bias.zero_()
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes) -> Tensor:
        """query [B, Q, C]; reference [1 or B, Q, 2] points or [B, Q, 4] boxes in 0..1; memory [B, S, C] -> [B, Q, C]."""
        b, q, _ = query.shape
        value = self.value_proj(memory).view(b, -1, self.heads, query.shape[-1] // self.heads)
        offsets = self.sampling_offsets(query).view(b, q, self.heads, self.levels, self.points, 2).float()
        weights = self.attention_weights(query).view(b, q, self.heads, -1).float().softmax(-1)
        reference = reference[:, :, None, None, None]
        if reference.shape[-1] == 2:
            sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=query.device)
            locations = reference + offsets / sizes[:, None]
        else:
            locations = reference[..., :2] + offsets * (0.5 / self.points) * reference[..., 2:]
        weights = weights.view(b, q, self.heads, self.levels, self.points).to(value.dtype)
        return self.output_proj(deformable_attention(value, shapes, locations, weights))
