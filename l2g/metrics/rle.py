"""COCO run-length masks: checked before pycocotools sees them, measured and compared many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from l2g.errors import DataError

# Masks decoded at a time: their characters stay in a core's cache (800 measured best of 200 to 3600, 2 MiB L2).
CHUNK = 800

# A count is written as characters of five bits each, offset by 48, the lowest bits first. All but the last carry a
# sixth bit; the fifth bit of the last is the sign.
_OFFSET, _MORE = 48, 32
_LONGEST_COUNT = 7
LONGEST_SIDE = (1 << 15) - 1
# Outlines of one mask, in pixels for each pixel of the frame. A line through every pixel of it has 1.
_LONGEST_OUTLINES = 4
_BITS = np.array([c - 32 if 16 <= c < 32 else c % 32 for c in range(64)], np.int32)
_BACKGROUND, _FOREGROUND = np.concatenate([_BITS, 0 * _BITS]), np.concatenate([0 * _BITS, _BITS])


class BadMaskError(DataError):
    """A mask in a list is damaged. `index` is its place in the list; `reason` says what is wrong with it."""

    def __init__(self, index: int, reason: str):
        super().__init__(f"mask {index}: {reason}")
        self.index, self.reason = index, reason


FloatArray = npt.NDArray[np.float64]


class Rle(TypedDict):
    """A compressed run-length code as COCO writes it. size: [height, width]."""

    size: Sequence[int]
    counts: str | bytes


@dataclass(frozen=True, eq=False)
class MaskMeasures:
    """Of N masks, int64 [N]: `areas` in pixels and `sizes` as height << 32 | width."""

    areas: np.ndarray
    sizes: np.ndarray


def measure(masks: list[Rle]) -> MaskMeasures:
    """Areas and sizes of compressed RLEs `{"size": [h, w], "counts": str or bytes}`, all proven sound.

    pycocotools reads past the end of a cut string and never returns from comparing masks whose runs do not sum to
    height x width, so both are found here first. Raises BadMaskError for the first damaged mask.
    """
    chunks = [_measure_chunk(masks[i : i + CHUNK], i) for i in range(0, len(masks), CHUNK)]
    if not chunks:
        return MaskMeasures(*np.zeros((2, 0), np.int64))
    return MaskMeasures(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _measure_chunk(masks: list[Rle], first: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        counts: list[Any] = [mask["counts"] for mask in masks]  # all str or all bytes
        sides = np.array(list(chain.from_iterable([mask["size"] for mask in masks])))
        text = "".join(counts).encode("ascii") if isinstance(counts[0], str) else b"".join(counts)
        lengths = np.fromiter(map(len, counts), np.int64, len(counts))
        sound = sides.dtype.kind == "i" and sides.shape == (2 * len(masks),) and lengths.min() > 0
        sound = sound and sides.min() > 0 and sides.max() <= LONGEST_SIDE
    except (KeyError, TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        return _measure_one_by_one(masks, first)
    heights, widths = sides[::2], sides[1::2]
    codes = np.frombuffer(text, np.uint8) - np.uint8(_OFFSET)
    ends = np.cumsum(lengths)
    bad = (np.maximum.reduceat(codes, ends - lengths) >= 2 * _MORE) | (codes[ends - 1] >= _MORE)
    if not bad.any():
        runs = _sums(codes, lengths)
        bad = (runs.total != heights * widths) | (runs.shortest < 0)
    if bad.any():
        index = int(bad.argmax())
        height, width = masks[index]["size"]
        reason = _complaint(masks[index]) or f"its runs do not make up {height} x {width} pixels; encode it again"
        raise BadMaskError(first + index, reason)
    return runs.foreground, heights << 32 | widths


class _Runs(NamedTuple):
    """Of N masks, int64 [N]: the sum of all runs, of the foreground runs, and the shortest run, at most 0."""

    total: np.ndarray
    foreground: np.ndarray
    shortest: np.ndarray


def _sums(codes: np.ndarray, lengths: np.ndarray) -> _Runs:
    """What `codes` uint8, N strings of `lengths` [N] one after the other, say of their runs.

    From its fourth run on a string holds the difference to the run before last. So the foreground runs (every second,
    from the second on) are one running sum of what is written and the background runs another.
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    run = (codes < _MORE).astype(np.int32)
    np.cumsum(run, dtype=np.int32, out=run)  # runs that have ended, with this character's
    in_foreground = run.astype(np.uint8) - (codes < _MORE)
    in_foreground -= np.repeat(in_foreground[starts], lengths)
    in_foreground &= 1
    not_last = np.flatnonzero(codes >= _MORE)
    keys = in_foreground << 6 | codes
    foreground, background = _FOREGROUND.take(keys), _BACKGROUND.take(keys)
    _scale(foreground, codes, not_last + 1)
    _scale(background, codes, not_last + 1)
    head = _take_first_runs(background, codes, starts)
    last_in_foreground = in_foreground[ends - 1] == 1
    foreground, shortest_foreground = _sum_chain(foreground, last_in_foreground, lengths, not_last)
    background, shortest_background = _sum_chain(background, ~last_in_foreground, lengths, not_last)
    shortest = np.minimum(np.minimum(shortest_foreground, shortest_background), head)
    return _Runs(head + foreground + background, foreground, shortest)


def _take_first_runs(background: np.ndarray, codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Move the first runs out of `background`: the third is not written as a difference to the first. int64 [N]."""
    head, masks, places = np.zeros(len(starts), np.int64), np.arange(len(starts)), starts
    while len(places):
        head[masks] += background[places]
        background[places] = 0
        goes_on = codes[places] >= _MORE
        masks, places = masks[goes_on], places[goes_on] + 1
    return head


def _sum_chain(
    written: np.ndarray, holds_last: np.ndarray, lengths: np.ndarray, not_last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(sum of the runs, the shortest run or 0) of each mask, int64 [N], from what is `written` of every second run.

    `holds_last` bool [N]: a mask's last run is one of these. `not_last`: characters that do not end a number.
    """
    ends = np.cumsum(lengths)
    starts, owners = ends - lengths, np.searchsorted(ends, not_last, side="right")
    running = np.cumsum(written, dtype=np.int32, out=written)
    # Each mask's own sum. What ran through all masks may have wrapped, which a difference of 32 bits undoes.
    running -= np.repeat(np.concatenate([np.zeros(1, np.int32), running[ends[:-1] - 1]]), lengths)
    shortest = np.minimum.reduceat(running, starts).astype(np.int64)
    # Each run stands there twice: at its own last character, and at that of the next run if there is one.
    twice = np.add.reduceat(running, starts, dtype=np.int32).astype(np.int64)
    twice -= np.bincount(owners, running[not_last], len(lengths)).astype(np.int64)
    twice += holds_last * running[ends - 1]
    return (twice & 0xFFFFFFFF) // 2, shortest


def _scale(written: np.ndarray, codes: np.ndarray, places: np.ndarray) -> None:
    """Give each character its weight, 32 to the power of those before it in its number; `places` follow one."""
    for _ in range(_LONGEST_COUNT):
        if not len(places):
            return
        written[places] *= 32
        places = places[codes[places] >= _MORE] + 1


def _measure_one_by_one(masks: list[Rle], first: int) -> tuple[np.ndarray, np.ndarray]:
    """The slow way: find the damaged mask, or get through a mixture of str and bytes."""
    for index, mask in enumerate(masks):
        reason = _complaint(mask)
        if reason:
            raise BadMaskError(first + index, reason)
    plain: list[Rle] = [{"size": [int(side) for side in m["size"]], "counts": _as_bytes(m["counts"])} for m in masks]
    return _measure_chunk(plain, first)


def _as_bytes(counts: str | bytes) -> bytes:
    return counts.encode("ascii") if isinstance(counts, str) else counts


def _complaint(mask: object) -> str | None:
    """What is wrong with the form of one compressed RLE; None if nothing is."""
    if not isinstance(mask, dict) or "counts" not in mask or "size" not in mask:
        return f"found {str(mask)[:60]}, expected null or a compressed RLE {{'size': [h, w], 'counts': '...'}}"
    size, counts = mask["size"], mask["counts"]
    if not _is_size(size):
        return f"'size' is {str(size)[:40]}, expected [height, width], two integers from 1 to {LONGEST_SIDE}"
    if isinstance(counts, (list, tuple)):
        return (
            "'counts' is a list, an uncompressed RLE, expected a compressed one; "
            "compress it with pycocotools.mask.frPyObjects"
        )
    if not isinstance(counts, (str, bytes)):
        return f"'counts' is {type(counts).__name__}, expected a compressed RLE string"
    try:
        codes = [code - _OFFSET for code in _as_bytes(counts)]
    except UnicodeEncodeError:
        codes = [-1]
    if not codes:
        return "'counts' is empty; an all-zero mask is one run of height x width zeros, or null"
    if any(not 0 <= code < 2 * _MORE for code in codes):
        return "'counts' holds characters that no compressed RLE has; encode the mask again"
    if codes[-1] >= _MORE:
        return "'counts' is cut off in the middle of a number; write the file again"
    return None


def _is_size(size: Any) -> bool:
    try:
        return len(size) == 2 and all(isinstance(side, Integral) and 0 < int(side) <= LONGEST_SIDE for side in size)
    except TypeError:
        return False


def compress(frames: list[Any], height: int | None, width: int | None) -> list[Rle | None]:
    """Ground truth masks of one object, per frame uncompressed RLE, compressed RLE or polygons, as compressed RLE.

    `height` and `width` are those of the video; only polygons need them. Absent frames become None. Compressed RLE
    passes as it is, for `measure` to check. Raises BadMaskError whose index is the frame.
    """
    compressed = [frame or None for frame in frames]
    loose = [i for i, frame in enumerate(frames) if isinstance(frame, dict) and isinstance(frame.get("counts"), list)]
    if loose:
        for i, mask in zip(loose, _from_runs([frames[i] for i in loose], loose), strict=True):
            compressed[i] = mask
    for i, frame in enumerate(frames):
        if frame and isinstance(frame, list):
            compressed[i] = _from_polygons(frame, i, height, width)
    return compressed


def _from_runs(masks: list[Rle], frames: list[int]) -> list[Rle]:
    """Compress uncompressed RLEs; all are checked at once, and again one by one to name the frame of a bad one."""
    try:
        sides = np.array([mask["size"] for mask in masks], np.int64)
        lengths = np.array([len(mask["counts"]) for mask in masks])
        runs = np.fromiter(chain.from_iterable([mask["counts"] for mask in masks]), np.int64)
        ends = np.cumsum(lengths)
        sound = sides.shape == (len(masks), 2) and sides.min() > 0 and lengths.min() > 0 and runs.min() >= 0
        sound = sound and (np.add.reduceat(runs, ends - lengths) == sides.prod(axis=1)).all()
    except (KeyError, ValueError, TypeError, OverflowError):
        sound = False
    if sound:
        strings = encode(runs, lengths)
        return [{"size": mask["size"], "counts": one} for mask, one in zip(masks, strings, strict=True)]
    if len(masks) > 1:
        return [_from_runs([mask], [frame])[0] for mask, frame in zip(masks, frames, strict=True)]
    size = str(masks[0].get("size"))[:40]
    raise BadMaskError(frames[0], f"the runs of its RLE do not sum to the pixels of its size, {size}; fix or drop it")


def encode(runs: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """COCO's compressed form of N run lists: `runs` int64, one list after the other, `lengths` [N] of them each.

    The same bytes as pycocotools.mask.frPyObjects, which takes five times as long.
    """
    ends = np.cumsum(lengths)
    place = np.arange(len(runs)) - np.repeat(ends - lengths, lengths)
    rest = runs.copy()
    differs = np.flatnonzero(place > 2)
    rest[differs] -= runs[differs - 2]
    # How many characters hold each number: bits beside the sign, in groups of five.
    bits = np.frexp(np.where(rest < 0, ~rest, rest).astype(np.float64))[1]
    width = bits // 5 + 1
    last = np.cumsum(width) - 1
    text = np.empty(last[-1] + 1, np.uint8)
    for k in range(int(width.max())):
        left = np.flatnonzero(width > k) if k else slice(None)
        more = np.where(width[left] > k + 1, _MORE, 0)
        text[last[left] - width[left] + 1 + k] = (rest[left] >> 5 * k & _MORE - 1) + more + _OFFSET
    cuts = (last[ends - 1] + 1).tolist()
    whole = text.tobytes()
    return [whole[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]


def _from_polygons(polygons: list[Any], frame: int, height: int | None, width: int | None) -> Rle:
    if not _is_size((height, width)):
        raise BadMaskError(frame, "is a polygon but its video has no 'height' and 'width'; add them to the video")
    if complaint := polygon_complaint(polygons, int(height or 0), int(width or 0)):
        raise BadMaskError(frame, f"holds a polygon that {complaint}; fix or drop it")
    points = [np.asarray(polygon, np.float64).tolist() for polygon in polygons]
    merged: Rle = coco_mask.merge(coco_mask.frPyObjects(points, height, width))
    return merged


def polygon_complaint(polygons: Any, height: int, width: int) -> str | None:
    """What is wrong with the polygons of one mask of a frame of height x width pixels; None if nothing is.

    pycocotools walks along every edge in steps of a fifth of a pixel and keeps them all: one corner far away takes all
    memory or ends the process.
    """
    try:
        points = [np.asarray(polygon, np.float64) for polygon in polygons]
    except (ValueError, TypeError, OverflowError):
        return "holds something other than numbers"
    if not points or any(p.ndim != 1 or len(p) < 6 or len(p) % 2 or not np.isfinite(p).all() for p in points):
        return "is not a list of at least three finite x, y pairs"
    steps = 0.0
    for polygon in points:
        corners = polygon.reshape(-1, 2)
        outside = np.maximum(-corners, corners - (width, height)).max(axis=0)
        if (outside > (width, height)).any():
            x, y = corners[np.argmax(np.maximum(-corners, corners - (width, height)).max(axis=1))]
            return f"has a corner at ({x:g}, {y:g}), far outside of its frame of {width} x {height} pixels"
        edges = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
        steps += float(np.maximum(edges, 1).sum())
    if steps > _LONGEST_OUTLINES * height * width + 10_000:
        return f"is longer ({steps:.0f} pixels in all) than any outline in a frame of {width} x {height} pixels"
    return None


def intersections(
    predictions: list[Rle], truths: list[Rle], prediction_areas: np.ndarray, truth_areas: np.ndarray
) -> FloatArray:
    """Exact pixel counts |p & t|, float64 [P, T], of masks that are sound and all of one size.

    pycocotools gives IoU = I / U as float64 from integers; with S = I + U known, I = S IoU / (1 + IoU) up to a
    relative error far below 1 / (2 S), so rounding restores the integer.
    """
    iou = coco_mask.iou(predictions, truths, [0] * len(truths))
    total = prediction_areas[:, None] + truth_areas[None, :]
    pixels: FloatArray = np.rint(iou * total / (1.0 + iou))
    return pixels
