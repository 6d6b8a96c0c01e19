"""Multi-scale deformable attention: one function, one tensor contract, two ways to compute it.

    value      float32 [B, S, M, D]         S tokens of all levels after each other, M heads of width D
    shapes     ((h, w), ...)                height and width of each of the L levels, sum of h * w = S
    locations  float32 [B, Q, M, L, P, 2]   (x, y) of P points per level in 0..1 of that level; any value is allowed
    weights    float32 [B, Q, M, L, P]      sums to one over L and P
    returns    float32 [B, Q, M * D]

Each point reads its level bilinearly (pixel centres at (i + 0.5) / size, zero outside), as in Deformable DETR (Zhu et
al. 2021, eq. 3). Training differentiates `grid_sample`, of many queries on a CPU an image at a time. Inference calls
the operator `l2g::deformable_attention`, which an exporter may lower as it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2g.modeling.layers import by_hand

Shapes = tuple[tuple[int, int], ...]

# Samples of a head whose locations and index arithmetic are done at once on a CPU, where they stay in the cache: 1024
# queries of 16. A layer of 8617 tokens takes an EPYC core 109 ms, and 191 ms with eight times as many.
CHUNK = 16384
# Values of tokens that are projected and framed at once.
TOKENS = 1024

# Samples of an image's levels, float32, from which on a training step on a CPU is faster with them in the cache.
MANY_SAMPLES = 1 << 17


def sample_locations(reference: Tensor, offsets: Tensor, shapes: Shapes, points: int) -> Tensor:
    """Where the P points around references lie: float32 [B, Q, M, L, P, 2] in 0..1 of each level.

    reference: [1 or B, Q, 2] points, around which offsets [B, Q, M, L, P, 2] count pixels, or [B, Q, 4] boxes, of whose
    sides they count shares.
    """
    reference = reference[:, :, None, None, None]
    if reference.shape[-1] == 2:
        # Repeated per point: arithmetic that broadcasts over two elements at a time takes twenty times as long.
        sizes = torch.tensor([[(w, h)] * points for h, w in shapes], dtype=torch.float32, device=offsets.device)
        return reference.expand(-1, -1, -1, len(shapes), points, -1) + offsets / sizes
    return reference[..., :2] + offsets * (0.5 / points) * reference[..., 2:]


def deformable_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """See the module's docstring for the contract."""
    if torch.is_grad_enabled() and (value.requires_grad or locations.requires_grad or weights.requires_grad):
        if _image_by_image(value, weights):
            return around_points(value, shapes, locations, weights)
        return sample_levels(value, shapes, locations, weights)
    flat_shapes = [side for shape in shapes for side in shape]
    return torch.ops.l2g.deformable_attention(value, flat_shapes, locations, weights)


def sample_levels(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """By `grid_sample`, a level at a time: never holds all levels' samples at once. Differentiable."""
    b, _, m, d = value.shape
    q, p = locations.shape[1], locations.shape[4]
    # Points before queries: then weighting and summing run along whole lines of queries. Levels come apart in one step,
    # since the gradient of a slice is as large as what it was cut from.
    grids = (
        torch.rsub(locations, -1, alpha=-2)
        .permute(3, 0, 2, 4, 1, 5)
        .reshape(-1, b * m, p, q, 2)
        .to(value.dtype)
        .unbind()
    )
    factors = weights.permute(3, 0, 2, 4, 1).reshape(-1, b * m, 1, p, q).unbind()
    images = value.permute(0, 2, 3, 1).reshape(b * m, d, -1).split([h * w for h, w in shapes], dim=2)
    total = value.new_zeros(())
    for image, (h, w), grid, weight in zip(images, shapes, grids, factors, strict=True):
        image = image.unflatten(2, (h, w))
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * weight).sum(2)
    return total.view(b, m * d, q).transpose(1, 2)


def around_points(
    value: Tensor, shapes: Shapes, offsets: Tensor, weights: Tensor, reference: Tensor | None = None
) -> Tensor:
    """`deformable_attention` of points that lie `offsets` pixels [B, Q, M, L, P, 2] from a `reference` [1, Q, 2], the
    same in all images and without a gradient, an image at a time; without one the offsets are locations."""
    _, q, _, levels, p, _ = offsets.shape
    scale, shift = offsets.new_full((levels, 1, 1, 2), 2.0), offsets.new_full((1, 2), -1.0)
    if reference is not None:
        scale = scale / offsets.new_tensor([(w, h) for h, w in shapes])[:, None, None]
        shift = reference[0] * 2 - 1
    # Repeated: arithmetic that broadcasts over two elements at a time takes twenty times as long.
    scale, shift = scale.expand(-1, p, q, -1).contiguous(), shift.expand(q, -1).contiguous()
    result: Tensor = _ImageByImage.apply(value, offsets, weights, shapes, scale, shift)
    return result


def _image_by_image(value: Tensor, weights: Tensor) -> bool:
    many = weights[0].numel() * value.shape[3] >= MANY_SAMPLES
    return many and value.device.type == "cpu" and value.dtype == weights.dtype == torch.float32


class _ImageByImage(torch.autograd.Function):
    """`sample_levels` with its gradient, an image at a time: what is sampled, P times as large as what comes of it,
    stays in the cache, and is made anew for the gradient. A point lies at `points * scale + shift` in -1..1 of its
    level: scale float32 [L, P, Q, 2], shift [Q, 2]."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes, scale: Tensor, shift: Tensor
    ) -> Tensor:
        ctx.save_for_backward(value, points, weights, scale, shift)
        ctx.shapes = shapes
        m, d = value.shape[2:]
        out = value.new_empty(len(value), points.shape[1], m * d)
        for image, read in enumerate(out):
            total = value.new_zeros(m, d, len(read))
            parts = value[image], points[image], weights[image]
            for level, grid, weight in _levels(*parts, shapes, scale, shift):
                total += torch.grid_sampler_2d(level, grid, 0, 0, False).mul_(weight[:, None]).sum(2)
            read.copy_(total.flatten(0, 1).T)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, points, weights, scale, shift = ctx.saved_tensors
        (s, m, d), (q, _, levels, p) = value.shape[1:], weights.shape[1:]
        of_value, of_points, of_weights = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (value, points, weights)
        )
        of_level, of_grid, of_factor = (
            value.new_empty(m, *size) for size in ((d, s), (levels, p, q, 2), (levels, p, q))
        )
        for image, rows in enumerate(gradient):
            rows, begin = rows.T.contiguous().view(m, d, 1, q), 0
            parts = value[image], points[image], weights[image]
            for number, (level, grid, weight) in enumerate(_levels(*parts, ctx.shapes, scale, shift)):
                sampled = torch.grid_sampler_2d(level, grid, 0, 0, False)
                of_factor[:, number] = sampled.mul_(rows).sum(1)
                end = begin + level.shape[2] * level.shape[3]
                part, of_grid[:, number] = torch.ops.aten.grid_sampler_2d_backward(
                    rows * weight[:, None], level, grid, 0, 0, False, (True, True)
                )
                of_level[:, :, begin:end], begin = part.flatten(2), end
            of_value[image].view(s, -1).copy_(of_level.flatten(0, 1).T)
            _pairs(of_points[image]).copy_(_pairs(of_grid.mul_(scale)).view(-1, q).T)
            of_weights[image].view(q, -1).copy_(of_factor.view(-1, q).T)
        return of_value, of_points, of_weights, None, None, None


def _levels(
    value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes, scale: Tensor, shift: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of one image, for each level: its values [M, D, h, w], grid [M, P, Q, 2] in -1..1, weights [M, P, Q].

    By transposing matrices, of pairs as one number: a permutation of many dimensions takes several times as long.
    """
    (q, m, levels, p), (s, _, d) = weights.shape, value.shape
    grids = _pairs(points).T.contiguous()[..., None].view(torch.float32).view(m, levels, p, q, 2)
    grids = grids.mul_(scale).add_(shift)
    factors = weights.reshape(q, -1).T.contiguous().view(m, levels, p, q)
    begin = 0
    images = value.reshape(s, -1).T.contiguous().view(m, d, s)
    for number, (h, w) in enumerate(shapes):
        yield images[:, :, begin : begin + h * w].unflatten(2, (h, w)), grids[:, number], factors[:, number]
        begin += h * w


def _pairs(pairs: Tensor) -> Tensor:
    """float32 [Q, ..., 2] -> the same memory as int64 [Q, ...], one dimension after Q."""
    return pairs.contiguous().view(torch.int64).view(len(pairs), -1)


def gather_rows(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """By weighted `embedding_bag`s over rows of D values, which lie together in memory.

    On a CPU this replaces D strided reads per sample by one. A frame of zeros around every level makes each corner of
    a sample the same few additions, with no test for the border; chunks of queries keep them in the cache.
    """
    _, q, m, levels, p, _ = locations.shape
    grid = _grid(shapes, m, p)
    out = value.new_empty(value.shape[0], q, m * value.shape[3])
    for image, into in enumerate(out):
        rows = _framed_rows(value[image].__getitem__, shapes)
        for part in _chunks(q, levels * p):
            points = locations[image, part].flatten(1, 3).transpose(1, 2)
            position = torch.addcmul(grid.half, points, grid.size).contiguous()
            into[part] = _read(rows, grid, position, weights[image, part].flatten(1), levels * p)
    return out


def _chunks(queries: int, samples: int) -> Iterator[slice]:
    """Queries that are done at once, of so many samples a head."""
    size = max(1, CHUNK // samples)
    return (slice(start, start + size) for start in range(0, queries, size))


def _read(rows: Tensor, grid: _Grid, position: Tensor, weights: Tensor, samples: int) -> Tensor:
    """What some queries read from the rows of an image: [Q, M * D].

    position: columns and lines of the samples in pixels of their framed levels, [Q, 2, M * samples], which are
    overwritten; weights [Q, M * samples].
    """
    total: Tensor | None = None
    bags = torch.arange(0, weights.numel(), samples, dtype=torch.int32)
    for corners, first, factors in _corners(position, weights, grid):
        read = torch.embedding_bag(rows[first:], corners.view(-1), bags, mode=0, per_sample_weights=factors.view(-1))[0]
        total = read if total is None else total.add_(read)
    assert total is not None  # a sample has four corners
    return total.view(len(weights), -1)


class _Grid(NamedTuple):
    """Where the N = M * L * P samples of a query find their level, whose pixel 0 is the frame's.

    size: float32 [2, N], width and height. last: int32 [2, N], the bits of the last pixels, as floats. pitch: float32
    [N], pixels from one line to the next. first: int32 [N], the level's first row. right: rows to the next pixel;
    below: int32 [N], to the next line. half, zero: 0.5 and int32 0, [2, N].
    """

    size: Tensor
    last: Tensor
    pitch: Tensor
    first: Tensor
    right: int
    below: Tensor
    half: Tensor
    zero: Tensor


def _grid(shapes: Shapes, heads: int, points: int) -> _Grid:
    def per_sample(of_level: Iterable[int], dtype: torch.dtype = torch.int32) -> Tensor:
        """[L] -> [M * L * P]: plain rows, since broadcasting over few elements at a time is slow."""
        return torch.tensor([*of_level], dtype=dtype).repeat_interleave(points).repeat(heads)

    size = torch.stack([per_sample((shape[axis] for shape in shapes), torch.float32) for axis in (1, 0)])
    areas = [_area(shape) for shape in shapes]
    head = torch.arange(heads, dtype=torch.int32).repeat_interleave(len(shapes) * points)
    return _Grid(
        size=size,
        last=(size + 1).view(torch.int32),
        pitch=per_sample((w + 2 for _, w in shapes), torch.float32),
        first=per_sample(accumulate([0, *areas[:-1]])) * heads + head,
        right=heads,
        below=per_sample(w + 2 for _, w in shapes) * heads,
        half=torch.full_like(size, 0.5),
        zero=torch.zeros_like(size, dtype=torch.int32),
    )


def _area(shape: tuple[int, int]) -> int:
    """Pixels of a level in its frame of zeros, which has a second line below: whoever lies on the first reads it."""
    return (shape[0] + 3) * (shape[1] + 2)


def _framed_rows(values: Callable[[slice], Tensor], shapes: Shapes) -> Tensor:
    """An image's values in a frame of zeros around every level, float32 [S' * M, D].

    values: those of some tokens, float32 [T, M, D]; asked for few at a time, which are in the cache when they are
    copied.
    """
    none = values(slice(0, 0))
    areas = [_area(shape) for shape in shapes]
    # And a pixel to the right of the last one.
    framed = none.new_empty(sum(areas) + 1, *none.shape[1:])
    framed[-1] = 0
    token = 0
    for level, (h, w) in zip(framed[:-1].split(areas), shapes, strict=True):
        level = level.unflatten(0, (h + 3, w + 2))
        level[0], level[h + 1 :], level[:, 0], level[:, w + 1] = 0, 0, 0, 0
        for lines in level[1 : h + 1, 1 : w + 1].split(max(1, TOKENS // w)):
            count = len(lines) * w
            lines.copy_(values(slice(token, token + count)).unflatten(0, (-1, w)))
            token += count
    return framed.view(-1, none.shape[-1])


def _corners(position: Tensor, weights: Tensor, grid: _Grid) -> Iterator[tuple[Tensor, int, Tensor]]:
    """The four pixels around every sample: rows int32 [Q, M * L * P], counted from a first one, and factors float32."""
    # Outside, where nothing contributes, the frame is what is nearest. Of floats that are not negative the bits are in
    # the same order, those of negative ones are negative, and NaN, which no other comparison bounds, is beyond a bound.
    bits = position.view(torch.int32)
    torch.clamp(bits, grid.zero, grid.last, out=bits)
    pixel = position.floor()
    right, lower = position.sub_(pixel).unbind(1)
    corner = torch.addcmul(pixel[:, 0], pixel[:, 1], grid.pitch).int()
    corner = torch.add(grid.first, corner, alpha=grid.right)
    below = lower * weights
    for row, factor in ((corner, weights - below), (corner + grid.below, below)):
        outer = factor * right
        yield row, 0, factor.sub_(outer)
        yield row, grid.right, outer


def _operator(value: Tensor, flat_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    shapes = tuple(zip(flat_shapes[::2], flat_shapes[1::2], strict=True))
    plain = value.device.type == "cpu" and value.dtype == torch.float32
    # In the layout that `_operator_shape` promises: compiled code relies on it.
    return (gather_rows if plain else sample_levels)(value, shapes, locations, weights).contiguous()


def _operator_shape(value: Tensor, flat_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


torch.library.define(
    "l2g::deformable_attention", "(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor"
)
torch.library.impl("l2g::deformable_attention", "CompositeExplicitAutograd", _operator)
torch.library.register_fake("l2g::deformable_attention", _operator_shape)


class DeformableAttention(nn.Module):
    """The projections around `deformable_attention`: offsets and weights from the query, values from the memory."""

    def __init__(self, hidden_dim: int, num_heads: int, num_levels: int, num_points: int = 4):
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

    def values(self, memory: Tensor) -> Tensor:
        """What queries read: memory [B, S, C] -> [B, S, M, D]."""
        return self.value_proj(memory).view(memory.shape[0], -1, self.heads, memory.shape[-1] // self.heads)

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, value: Tensor | None = None
    ) -> Tensor:
        """query [B, Q, C], reference [1 or B, Q, 2] points or [B, Q, 4] boxes, memory [B, S, C] -> [B, Q, C].

        value: `values(memory)`, where it was computed before; then B may be a multiple of its rows, which are read by
        the first queries, the next and so on, each once.
        """
        b, q, _ = query.shape
        times = 1 if value is None else b // value.shape[0]
        if times == 1 and by_hand(query, memory if value is None else value):
            return self._in_chunks(query, reference, memory, shapes, value)
        if value is None:  # as `values`, but with the query's shape: in a traced graph every question for one counts
            value = self.value_proj(memory).view(b, -1, self.heads, query.shape[-1] // self.heads)
        offsets = self.sampling_offsets(query).view(b, q, self.heads, self.levels, self.points, 2).float()
        weights = self.attention_weights(query).view(b, q, self.heads, -1).float().softmax(-1)
        if (
            offsets.requires_grad
            and times == 1
            and len(reference) == 1
            and reference.shape[-1] == 2
            and not reference.requires_grad
            and _image_by_image(value, weights)
        ):
            weights = weights.view(offsets.shape[:-1])
            return self.output_proj(around_points(value, shapes, offsets, weights, reference))
        locations = sample_locations(reference, offsets, shapes, self.points)
        weights = weights.view(b, q, self.heads, self.levels, self.points).to(value.dtype)
        if times == 1:
            return self.output_proj(deformable_attention(value, shapes, locations, weights))
        # Several queries of one memory stand beside each other, not several copies of it.
        locations, weights = (x.unflatten(0, (times, -1)).transpose(0, 1).flatten(1, 2) for x in (locations, weights))
        read = self.output_proj(deformable_attention(value, shapes, locations, weights))
        return read.unflatten(1, (times, q)).transpose(0, 1).flatten(0, 1)

    def _in_chunks(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, value: Tensor | None
    ) -> Tensor:
        """The whole of it for some queries at a time: what 34,537 of them sample would be 66 MB, through memory."""
        grid, samples = _grid(shapes, self.heads, self.points), self.levels * self.points
        # All columns before all lines.
        asked = self.sampling_offsets
        weight, bias = (x.unflatten(0, (-1, 2)).transpose(0, 1).contiguous() for x in (asked.weight, asked.bias))
        weight = weight.flatten(0, 1)
        out = query.new_empty(query.shape)
        references = reference.expand(len(query), -1, -1)
        for image, (queries, near, into) in enumerate(zip(query, references, out, strict=True)):

            def values(part: slice, image: int = image) -> Tensor:
                if value is not None:
                    return value[image, part]
                return self.value_proj(memory[image, part]).unflatten(1, (self.heads, -1))

            rows = _framed_rows(values, shapes)
            for part in _chunks(len(queries), samples):
                asking = queries[part]
                position = self._position(asking, near[part], weight, bias, grid)
                weights = self.attention_weights(asking).view(len(asking), -1, samples).softmax(-1)
                into[part] = self.output_proj(_read(rows, grid, position, weights.flatten(1), samples))
        return out

    def _position(self, query: Tensor, near: Tensor, weight: Tensor, bias: Tensor, grid: _Grid) -> Tensor:
        """`sample_locations` in pixels of framed levels, columns, then lines: [Q, 2, M * L * P]."""
        around = near[:, :2, None]
        if near.shape[-1] == 2:  # the product is added to the rest as it comes
            position = torch.addcmul(bias + grid.half, around, grid.size)
            position.flatten(1).addmm_(query, weight.T)
            return position
        offsets = F.linear(query, weight, bias.flatten()).unflatten(1, (2, -1))
        sides = near[:, 2:, None] * (0.5 / self.points)
        return (offsets * sides).add_(around).mul_(grid.size).add_(grid.half)
