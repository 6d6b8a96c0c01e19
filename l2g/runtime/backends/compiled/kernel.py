"""Deformable attention as one kernel in the Triton language: softmax, locations, samples and their sum. Forward only.

A program computes `BLOCK` queries of one head of one image. Whatever the inputs are in, everything is computed and
summed in float32; only the result is rounded. What it computes is what `attention.plain` computes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2g.modeling.deformable import Shapes

# Queries of a program. On an H200 an R50's encoder layer takes 119 us with 8, 150 with 16 and 191 with 32
# (`benchmarks/compiled.py --sweep`).
BLOCK = 8
# Bytes of a row of values that one warp reads at once, 16 by each of its lanes.
WARP_BYTES = 512


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # types are its own: pointers, integers, constants
    value,  # [B, S, HEADS, WIDTH]
    reference,  # float32 [1 or B, Q, SIDES]
    offsets,  # [B, Q, HEADS, LEVELS, POINTS, 2]
    logits,  # [B, Q, HEADS, LEVELS, POINTS]
    levels,  # int32 [LEVELS, 3]: height, width, first token
    out,  # [B, Q, HEADS, WIDTH]
    tokens,
    queries,
    reference_stride,  # 0 where all images share the reference points
    HEADS: tl.constexpr,  # noqa: N803  # the language's own way to write constants
    WIDTH: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803  # WIDTH, or the next power of two
    LEVELS: tl.constexpr,  # noqa: N803
    POINTS: tl.constexpr,  # noqa: N803
    SIDES: tl.constexpr,  # noqa: N803  # 2: points; 4: boxes
    BLOCK: tl.constexpr,  # noqa: N803
):
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = query < queries
    column = tl.arange(0, COLUMNS)
    wide = column < WIDTH
    row = (image * queries + query) * HEADS + head
    first_sample = row * (LEVELS * POINTS)

    anchor = reference + image * reference_stride + query * SIDES
    anchor_x = tl.load(anchor, mask=live, other=0.0).to(tl.float32)
    anchor_y = tl.load(anchor + 1, mask=live, other=0.0).to(tl.float32)
    if SIDES == 4:
        step_x = tl.load(anchor + 2, mask=live, other=0.0).to(tl.float32) * (0.5 / POINTS)
        step_y = tl.load(anchor + 3, mask=live, other=0.0).to(tl.float32) * (0.5 / POINTS)

    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    for sample in range(LEVELS * POINTS):
        logit = tl.load(logits + first_sample + sample, mask=live, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, logit)

    total = tl.zeros([BLOCK], tl.float32)
    result = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for level in range(LEVELS):
        height = tl.load(levels + level * 3)
        width = tl.load(levels + level * 3 + 1)
        first = tl.load(levels + level * 3 + 2)
        for point in range(POINTS):
            at = first_sample + level * POINTS + point
            weight = tl.exp(tl.load(logits + at, mask=live, other=0.0).to(tl.float32) - largest)
            total += weight
            offset_x = tl.load(offsets + at * 2, mask=live, other=0.0).to(tl.float32)
            offset_y = tl.load(offsets + at * 2 + 1, mask=live, other=0.0).to(tl.float32)
            if SIDES == 4:
                x = (anchor_x + offset_x * step_x) * width - 0.5
                y = (anchor_y + offset_y * step_y) * height - 0.5
            else:
                x = anchor_x * width + offset_x - 0.5
                y = anchor_y * height + offset_y - 0.5
            # False for NaN too: such a sample reads nothing, and counts with its weight as one far outside does.
            inside = (x > -1) & (x < width) & (y > -1) & (y < height) & live
            x = tl.where(inside, x, 0.0)
            y = tl.where(inside, y, 0.0)
            left = tl.floor(x).to(tl.int32)
            top = tl.floor(y).to(tl.int32)
            right_share = x - left
            lower_share = y - top
            corner = ((image * tokens + first + top * width + left) * HEADS + head) * WIDTH
            for right in tl.static_range(2):
                for below in tl.static_range(2):
                    across = weight * (right_share if right == 1 else 1 - right_share)
                    share = across * (lower_share if below == 1 else 1 - lower_share)
                    beside = (left + 1 < width) if right == 1 else (left >= 0)
                    there = inside & beside & ((top + 1 < height) if below == 1 else (top >= 0))
                    pixel = corner + (right + below * width) * (HEADS * WIDTH)
                    values = tl.load(
                        value + pixel[:, None] + column[None, :], mask=there[:, None] & wide[None, :], other=0.0
                    )
                    result += values.to(tl.float32) * share[:, None]

    result = result / total[:, None]
    place = row * WIDTH
    tl.store(
        out + place[:, None] + column[None, :],
        result.to(out.dtype.element_ty),
        mask=live[:, None] & wide[None, :],
    )


def fused_deformable_attention(
    value: Tensor, shapes: Shapes, reference: Tensor, offsets: Tensor, logits: Tensor, block: int = BLOCK
) -> Tensor:
    """As `attention.plain`, on the device of `value`: a GPU, or wherever TRITON_INTERPRET=1 was set at import."""
    batch, tokens, heads, width = value.shape
    queries, points = offsets.shape[1], offsets.shape[4]
    out = torch.empty(batch, queries, heads * width, dtype=value.dtype, device=value.device)
    if not out.numel():
        return out
    columns = triton.next_power_of_2(width)
    reference = reference.contiguous()
    _kernel[(triton.cdiv(queries, block), heads, batch)](
        value.contiguous(),
        reference,
        offsets.contiguous(),
        logits.contiguous(),
        _level_table(shapes, value.device),
        out,
        tokens,
        queries,
        0 if reference.shape[0] == 1 else queries * reference.shape[2],
        HEADS=heads,
        WIDTH=width,
        COLUMNS=columns,
        LEVELS=len(shapes),
        POINTS=points,
        SIDES=reference.shape[2],
        BLOCK=block,
        num_warps=_warps(block * columns * value.element_size()),
    )
    return out


def _warps(tile: int) -> int:
    """Of a program whose tile of values has so many bytes."""
    return min(max(tile // WARP_BYTES, 1), 8)


@lru_cache(maxsize=64)
def _level_table(shapes: Shapes, device: torch.device) -> Tensor:
    """int32 [L, 3]: height, width, first token. Kept: while a CUDA graph is captured nothing may come from the host."""
    rows, first = [], 0
    for height, width in shapes:
        rows.append((height, width, first))
        first += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)
