"""How a frame gets onto the network canvas, and how masks and boxes get back; docs/concepts/letterbox.md says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from l2g.contract import MASK_STRIDE, PAD_VALUE
from l2g.errors import L2GError
from l2g.runtime.arrays import Array, ByteArray, FloatArray
from l2g.runtime.picture.masks import InstanceMask

# Blocks of so many pixels are averaged by `_averaged`: for smaller ones OpenCV is as fast, and the sums of larger ones
# are no whole numbers of float32 any more.
_FEWEST_AVERAGED, _MOST_AVERAGED = 16, 1 << 16
# Pixels: so near to a whole number is one.
_WHOLE = 1e-9


@dataclass(frozen=True)
class Letterbox:
    """Keeps the aspect ratio, anchors the picture at the top left, pads the right and the bottom. Sizes in pixels.

    pixel_aspect: width of a source pixel divided by its height; canvas pixels are square. mask_size: (height, width) of
    the map of a mask, which covers the canvas; a quarter of it unless told.
    """

    source_height: int
    source_width: int
    canvas_height: int
    canvas_width: int
    pixel_aspect: float = 1.0
    mask_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sizes = (self.source_height, self.source_width, self.canvas_height, self.canvas_width)
        if min(sizes) < 1:
            raise L2GError(
                f"cannot letterbox {self.source_height}x{self.source_width} onto "
                f"{self.canvas_height}x{self.canvas_width} pixels: every side must be at least 1"
            )
        if self.mask_size is None and (self.canvas_height % MASK_STRIDE or self.canvas_width % MASK_STRIDE):
            raise L2GError(
                f"canvas {self.canvas_height}x{self.canvas_width}: both sides must be multiples of {MASK_STRIDE}"
            )

    @property
    def scale(self) -> float:
        """Canvas pixels per height of a source pixel, before rounding to whole pixels."""
        return min(self.canvas_height / self.source_height, self.canvas_width / (self.source_width * self.pixel_aspect))

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the map of a mask."""
        return self.mask_size or (self.canvas_height // MASK_STRIDE, self.canvas_width // MASK_STRIDE)

    @property
    def content_height(self) -> int:
        """Rows of the canvas that hold picture."""
        return min(self.canvas_height, max(1, round(self.source_height * self.scale)))

    @property
    def content_width(self) -> int:
        """Columns of the canvas that hold picture."""
        return min(self.canvas_width, max(1, round(self.source_width * self.pixel_aspect * self.scale)))

    def content(self, canvas: ByteArray) -> ByteArray:
        """The part of a canvas, uint8 [canvas_height, canvas_width, 3], that holds picture; a view."""
        return canvas[: self.content_height, : self.content_width]

    def to_canvas(self, frame: ByteArray, pad_value: tuple[int, int, int] = PAD_VALUE) -> ByteArray:
        """uint8 [source_height, source_width, 3] -> uint8 [canvas_height, canvas_width, 3], padded with `pad_value`."""
        if frame.shape != (self.source_height, self.source_width, 3) or frame.dtype != np.uint8:
            raise L2GError(
                f"frame: found {frame.dtype} {list(frame.shape)}, "
                f"expected uint8 [{self.source_height}, {self.source_width}, 3]"
            )
        size = (self.content_width, self.content_height)
        canvas = np.empty((self.canvas_height, self.canvas_width, 3), dtype=np.uint8)
        canvas[...] = pad_value
        content = canvas[: self.content_height, : self.content_width]
        if (self.content_height, self.content_width) == frame.shape[:2]:
            content[...] = frame
        else:
            content[...] = self._resized(frame, size)
        return canvas

    def _resized(self, frame: ByteArray, size: tuple[int, int]) -> Array:
        """size: (width, height)."""
        # Averages when it shrinks, as the antialiased bilinear resize of the public training code does.
        if self.scale >= 1 or self.scale * self.pixel_aspect >= 1:
            return cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        rows, columns = frame.shape[0] // size[1], frame.shape[1] // size[0]
        whole = (rows * size[1], columns * size[0]) == frame.shape[:2]
        if whole and _FEWEST_AVERAGED <= rows * columns <= _MOST_AVERAGED:
            return _averaged(frame, rows, columns)
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)

    @property
    def _steps(self) -> tuple[float, float]:
        """Cells of the map of a mask for each source pixel, down and to the right."""
        rows, columns = self.map_size
        return (
            self.content_height / self.source_height / (self.canvas_height / rows),
            self.content_width / self.source_width / (self.canvas_width / columns),
        )

    def mask_to_source(self, logits: FloatArray) -> InstanceMask:
        """Cut one mask map at source resolution.

        logits: float32 of `map_size`; the mask is where the bilinearly interpolated map is > 0.
        One interpolation from the map straight to source pixels, sampled at the exact position of each pixel's centre.
        """
        if logits.shape != self.map_size:
            raise L2GError(f"mask map: found {list(logits.shape)}, expected {list(self.map_size)}")
        first_column, first_row, columns, rows = cv2.boundingRect((logits > 0).view(np.uint8))
        empty = np.zeros((0, 0), dtype=bool)
        if rows == 0:
            return InstanceMask.from_patch(empty, 0, 0, self.source_height, self.source_width)
        step_y, step_x = self._steps
        # Interpolation reaches one cell past the positive ones: nothing outside that window can be positive.
        top, bottom = _window(first_row, first_row + rows - 1, step_y, self.source_height)
        left, right = _window(first_column, first_column + columns - 1, step_x, self.source_width)
        if top >= bottom or left >= right:
            return InstanceMask.from_patch(empty, 0, 0, self.source_height, self.source_width)
        patch = self._interpolated(logits, (top, bottom), (left, right))
        return InstanceMask.from_patch(patch > 0, top, left, self.source_height, self.source_width)

    def map_to_source(self, logits: FloatArray, start: int = 0, stop: int | None = None) -> FloatArray:
        """Rows `start` to `stop` of the source picture (all of it, unless told) of one mask map, interpolated.

        logits: float32 of `map_size` -> float32 [stop - start, source_width], sampled as in
        `mask_to_source`.
        """
        if logits.shape != self.map_size:
            raise L2GError(f"mask map: found {list(logits.shape)}, expected {list(self.map_size)}")
        stop = self.source_height if stop is None else stop
        return self._interpolated(logits, (start, stop), (0, self.source_width))

    def _interpolated(self, logits: FloatArray, rows: tuple[int, int], columns: tuple[int, int]) -> FloatArray:
        """A map at the centres of source pixels [start, stop) down and to the right, float32; beyond its outermost
        cells it is theirs."""
        step_y, step_x = self._steps
        logits = np.ascontiguousarray(logits, dtype=np.float32)
        down, right = round(1 / step_y), round(1 / step_x)
        if max(abs(1 / step_y - down), abs(1 / step_x - right)) < _WHOLE:
            # Cells of whole pixels, as of 720p on 90 rows: a plain resize takes a fifth of the time.
            top, bottom = _cells(rows, step_y, logits.shape[0])
            left, end = _cells(columns, step_x, logits.shape[1])
            size = ((end - left) * right, (bottom - top) * down)
            found = cv2.resize(logits[top:bottom, left:end], size, interpolation=cv2.INTER_LINEAR)
            first, second = top * down, left * right
            return cast(FloatArray, found[rows[0] - first : rows[1] - first, columns[0] - second : columns[1] - second])
        to_map = np.array([[step_x, 0, (columns[0] + 0.5) * step_x - 0.5], [0, step_y, (rows[0] + 0.5) * step_y - 0.5]])
        found = cv2.warpAffine(
            logits,
            to_map,
            (columns[1] - columns[0], rows[1] - rows[0]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cast(FloatArray, found)

    def boxes_to_source(self, boxes: Array) -> Array:
        """float [..., 4] (cx, cy, w, h) in 0..1 of the canvas -> float32 [..., 4] xyxy in source pixels, unclipped."""
        boxes = np.asarray(boxes, dtype=np.float32)
        center, size = boxes[..., :2], boxes[..., 2:]
        scale = np.array(
            [
                self.canvas_width * self.source_width / self.content_width,
                self.canvas_height * self.source_height / self.content_height,
            ],
            dtype=np.float32,
        )
        return np.concatenate([(center - size / 2) * scale, (center + size / 2) * scale], axis=-1)


class Squash(Letterbox):
    """Each side stretched or shrunk to the canvas's own, whatever becomes of the aspect ratio; no padding."""

    @property
    def content_height(self) -> int:
        return self.canvas_height

    @property
    def content_width(self) -> int:
        return self.canvas_width

    def _resized(self, frame: ByteArray, size: tuple[int, int]) -> Array:
        # A triangle as wide as what it shrinks, as the public processor resizes; OpenCV has none.
        try:
            from PIL import Image
        except ModuleNotFoundError:
            raise L2GError(
                "the model's frames are squashed onto its canvas by Pillow, which is not installed; pip install pillow"
            ) from None
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def _averaged(frame: ByteArray, rows: int, columns: int) -> ByteArray:
    """The means of blocks of `rows` x `columns` pixels, uint8 [H, W, 3] -> [H / rows, W / columns, 3].

    To the bit what OpenCV's INTER_AREA gives, which adds up pixel by pixel: from 720p to 90 rows in 1.05 ms, where this
    takes 0.81.
    """
    height, width = frame.shape[0] // rows, frame.shape[1] // columns
    blocks = frame.reshape(height, rows, -1)
    sums = np.add.reduce(blocks, axis=1, dtype=np.uint16 if 255 * rows < 1 << 16 else np.uint32)
    wide = sums.astype(np.float32).reshape(height, -1, 3)
    along = cv2.resize(wide, (width, height), interpolation=cv2.INTER_AREA)
    # Whole numbers again, however the means of so many columns are rounded. A matrix product would wake BLAS's threads.
    means: FloatArray = np.rint(np.rint(along * np.float32(columns)) * np.float32(1 / (rows * columns)))
    return np.asarray(means, np.uint8)


# By the contract's resize mode.
RESIZES: dict[str, type[Letterbox]] = {"letterbox": Letterbox, "squash": Squash}


def _window(first: int, last: int, step: float, length: int) -> tuple[int, int]:
    """Source pixels [start, stop) whose sample position lies strictly between cells first - 1 and last + 1."""
    start = int(np.floor((first - 0.5) / step - 0.5))
    stop = int(np.ceil((last + 1.5) / step - 0.5)) + 1
    return max(0, start), min(length, stop)


def _cells(pixels: tuple[int, int], step: float, count: int) -> tuple[int, int]:
    """Cells [start, stop) of a map of `count` that source pixels [start, stop) are interpolated from."""
    first, last = ((pixel + 0.5) * step - 0.5 for pixel in (pixels[0], pixels[1] - 1))
    return max(0, int(np.floor(first))), min(count, int(np.floor(last)) + 2)
