"""Deformable attention as rank-2 gathers and bilinear interpolation by hand.

Two layouts. On a CPU, time goes into the number of rows that are gathered and not into arithmetic: `gather_cells` first
lays the four pixels around every point between pixels after each other and gathers one row for each sample, some
queries at a time: what is gathered for 8617 at once (564 MB) would go to memory and come back. On a GPU
arithmetic fuses into the gather, and a table of four times the memory is what costs: `gather_corners` gathers four rows
for each sample and sums their products in a way that TensorRT fuses, where a matrix product would hold all samples in
memory (290 MB a layer at 480x864 in FP16, against 4 MB). A CPU wants it too where queries are few and pixels many: 300
queries of a decoder take 4800 samples of a head, out of 8937 rows (37 MB for all heads) that each layer would lay out.

Measured with ONNX Runtime 1.32, one thread of a busy EPYC, a layer of 8617 tokens: cells 229 ms, corners with a matrix
product 268 ms, corners with product and sum 479 ms. Gathering and multiplying alone, 2 threads of a quiet one: 8617
queries at once 51 ms, 512 at a time 44 ms, 256 at a time 33 ms, 128 at a time 31 ms. A frame of an R50 at 480x864 with
corners for the decoder: 0.97 to 0.99 of the time.

Flat indices are exact in float32 (fewer than 2^24 rows a stream), and clamped after the cast to an integer: a NaN
coordinate has no integer, and what the cast makes of it must not address memory.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from l2g.errors import ExportError
from l2g.export.deformable.node import Attention
from l2g.export.graph.node_builder import Builder, parts_of
from l2g.export.graph.values import shape_of

ONE, HALF = np.float32(1), np.float32(0.5)
MAX_ROWS = 1 << 24


def stream_index(build: Builder, batched: ir.Value) -> ir.Value:
    """int32 [B, 1, 1], 0..B-1: the one place where a graph asks how many streams there are."""
    count = build.op("Squeeze", build.op("Shape", batched, start=0, end=1), np.array([0], np.int64))
    count = build.op("Cast", count, to=ir.DataType.INT32)
    index = build.reshape(build.op("Range", np.int32(0), count, np.int32(1)), -1, 1, 1)
    index.shape, index.dtype = ir.Shape([shape_of(batched)[0], 1, 1]), ir.DataType.INT32  # nothing can infer it
    return index


def gather_for_cpu(build: Builder, a: Attention, stream: ir.Value) -> ir.Value:
    """By cells, unless their table is too large for the cache and has more rows than samples are taken of it."""
    cells = sum(_cell_areas(a))
    large = parts_of(cells, 4 * a.heads * a.depth) > 1
    return (gather_corners if large and a.queries * a.samples < cells else gather_cells)(build, a, stream)


def gather_cells(build: Builder, a: Attention, stream: ir.Value) -> ir.Value:
    """One gather of rows of 4 * D values. A cell is the square between four pixels, or between a border's pixels and
    the zeros outside: a level of h x w pixels has (h + 1) x (w + 1) cells."""
    cells = _cell_corners(a)
    tokens = build.op("Transpose", a.value, perm=[0, 2, 1, 3])
    # One token of zeros behind the last stands for everything outside.
    tokens = build.op("Pad", tokens, np.array([0, 0, 0, 0, 0, 0, 1, 0], np.int64))
    table = build.reshape(build.op("Gather", tokens, cells, axis=2), -1, 4 * a.depth)

    column, right = _split(build, _axis(build, a, 0), a.per_sample([w for _, w in a.shapes]))
    line, below = _split(build, _axis(build, a, 1), a.per_sample([h for h, _ in a.shapes]))
    widths = [w + 1 for _, w in a.shapes]
    areas = _cell_areas(a)
    # Lines and columns count from -1.
    first = a.per_sample([start + w + 1 for start, w in zip(_starts(areas), widths, strict=True)])
    first += np.float32(len(cells)) * _head(a)
    row = build.op("Add", build.op("Mul", line, a.per_sample(widths)), build.op("Add", column, first))
    index = _address(build, a, row, len(cells), stream)

    lower = build.op("Mul", a.flat_weights(build), below)
    upper = build.op("Sub", a.flat_weights(build), lower)
    factors = []
    for part in (upper, lower):
        outer = build.op("Mul", part, right)
        factors += [build.op("Sub", part, outer), outer]
    factors = [build.reshape(factor, -1, a.queries, a.heads, a.samples, 1) for factor in factors]
    factor = build.reshape(build.op("Concat", *factors, axis=4), -1, a.queries, a.heads, 1, 4 * a.samples)
    index = build.reshape(index, -1, a.queries, a.heads, a.samples)
    sums = []
    gathered = a.heads * a.samples * 4 * a.depth
    for part, weights in zip(*(build.in_parts(value, a.queries, gathered) for value in (index, factor)), strict=True):
        rows = build.reshape(build.op("Gather", table, part, axis=0), 0, 0, a.heads, 4 * a.samples, a.depth)
        sums.append(build.op("MatMul", weights, rows))
    total = build.op("Concat", *sums, axis=1) if len(sums) > 1 else sums[0]
    return build.reshape(total, -1, a.queries, a.heads * a.depth)


def gather_corners(build: Builder, a: Attention, stream: ir.Value) -> ir.Value:
    """Four gathers' worth of rows of D values, their products summed. A corner outside its level counts nothing."""
    rows = build.reshape(a.value, -1, a.depth)
    columns = _corners(build, _axis(build, a, 0), a.per_sample([w for _, w in a.shapes]))
    lines = _corners(build, _axis(build, a, 1), a.per_sample([h for h, _ in a.shapes]))
    first = a.per_sample(_starts([h * w for h, w in a.shapes]))
    indices, factors = [], []
    for line, vertical in lines:
        start = build.op("Add", build.op("Mul", line, a.per_sample([w for _, w in a.shapes])), first)
        weight = build.op("Mul", a.flat_weights(build), vertical)
        for column, horizontal in columns:
            row = build.op("Mul", build.op("Add", start, column), np.float32(a.heads))
            index = _address(build, a, build.op("Add", row, _head(a)), a.tokens, stream)
            indices.append(build.reshape(index, -1, a.queries, a.heads, a.samples))
            factor = build.op("Mul", weight, horizontal)
            factors.append(build.reshape(factor, -1, a.queries, a.heads, a.samples, 1))
    samples = build.op("Gather", rows, build.op("Concat", *indices, axis=3), axis=0)
    product = build.op("Mul", samples, build.op("Concat", *factors, axis=3))
    total = build.op("ReduceSum", product, np.array([3], np.int64), keepdims=0)
    return build.reshape(total, -1, a.queries, a.heads * a.depth)


def _axis(build: Builder, a: Attention, axis: int) -> ir.Value:
    """One coordinate of all samples, [B, Q, M * L * P]."""
    locations = build.reshape(a.locations, -1, a.queries, a.heads * a.samples, 2)
    return build.op("Gather", locations, np.int64(axis), axis=3)


def _pixels(build: Builder, position: ir.Value, size: np.ndarray) -> ir.Value:
    """0..1 of a level -> pixels, 0 at the centre of the first."""
    return build.op("Sub", build.op("Mul", position, size), HALF)


def _split(build: Builder, position: ir.Value, size: np.ndarray) -> tuple[ir.Value, ir.Value]:
    """Positions -> the pixel before each, -1..size - 1, and the share 0..1 of the pixel after it."""
    # Beyond one pixel outside nothing contributes, so what lies further may as well lie there.
    x = build.clamp(_pixels(build, position, size), -ONE, size)
    before = build.op("Min", build.op("Floor", x), size - ONE)
    return before, build.op("Sub", x, before)


def _corners(build: Builder, position: ir.Value, size: np.ndarray) -> list[tuple[ir.Value, ir.Value]]:
    """The pixels before and after each position, each kept inside, and their shares, 0 where they were outside."""
    x = _pixels(build, position, size)
    before = build.op("Floor", x)
    share = build.op("Sub", x, before)
    corners = []
    for pixel, part in ((before, build.op("Sub", ONE, share)), (build.op("Add", before, ONE), share)):
        inside = build.clamp(pixel, np.float32(0), size - ONE)
        valid = build.op("Cast", build.op("Equal", inside, pixel), to=ir.DataType.FLOAT)
        corners.append((inside, build.op("Mul", part, valid)))
    return corners


def _head(a: Attention) -> np.ndarray:
    """float32 [M * L * P]: the head of each sample."""
    return np.repeat(np.arange(a.heads, dtype=np.float32), a.samples)


def _address(build: Builder, a: Attention, row: ir.Value, rows: int, stream: ir.Value) -> ir.Value:
    """Rows of one stream, float32 [B, Q, M * L * P] -> int32 into the rows of all, of which a head has `rows`."""
    total = rows * a.heads
    if total > MAX_ROWS:
        raise ExportError(
            f"{total} rows of values found, at most {MAX_ROWS} have exact float32 numbers; export a smaller canvas"
        )
    row = build.clamp(build.op("Cast", row, to=ir.DataType.INT32), np.int32(0), np.int32(total - 1))
    return build.op("Add", row, build.op("Mul", stream, np.int32(total)))


def _cell_areas(a: Attention) -> list[int]:
    """The cells of each level."""
    return [(h + 1) * (w + 1) for h, w in a.shapes]


def _cell_corners(a: Attention) -> np.ndarray:
    """int32 [cells, 4]: the tokens at each cell's corners (upper left, upper right, lower left, lower right), S for
    what is outside."""
    cells = []
    for start, (h, w) in zip(_starts([h * w for h, w in a.shapes]), a.shapes, strict=True):
        framed = np.full((h + 2, w + 2), a.tokens, np.int32)
        framed[1:-1, 1:-1] = int(start) + np.arange(h * w).reshape(h, w)
        corners = (framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:])
        cells.append(np.stack(corners, axis=-1).reshape(-1, 4))
    return np.concatenate(cells)


def _starts(areas: list[int]) -> list[int]:
    """Where each level begins, when levels of these areas lie after each other."""
    return [sum(areas[:level]) for level in range(len(areas))]
