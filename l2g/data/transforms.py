"""Augmentation that is the same for every frame of a clip, and the canvas that a network sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from l2g.contract import PAD_VALUE
from l2g.data.dataset import Clip, make_clip
from l2g.errors import DataError


@dataclass(frozen=True)
class Augment:
    """What may happen to a clip; the defaults only fit it to the canvas.

    canvas: (height, width), multiples of 32. The picture keeps its aspect ratio, sits at the top left and never
    exceeds the canvas; PAD_VALUE fills the rest. shortest_edge: choices in pixels for the picture's shorter side
    (empty: as large as the canvas allows). crop: chance of a crop, whose sides are crop_scale (low, high) of the
    picture's. flip: chance of a mirror image. brightness, contrast, saturation: factors drawn from 1 - x to 1 + x.
    hue: degrees, drawn from -x to x.
    """

    canvas: tuple[int, int]
    shortest_edge: tuple[int, ...] = ()
    crop: float = 0.0
    crop_scale: tuple[float, float] = (0.6, 1.0)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        if any(side <= 0 or side % 32 for side in self.canvas):
            raise DataError(f"canvas {self.canvas} found; both sides have to be positive multiples of 32")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise DataError(f"crop_scale {self.crop_scale} found; expected 0 < low <= high <= 1")

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip on the canvas: every frame is treated alike. A crop that would leave no instance is not made."""
        frames, masks = clip.frames, clip.masks
        if rng.random() < self.crop:
            window = self._window(rng, *frames.shape[1:3])
            rows, columns = window
            if masks[..., rows, columns].any() or not masks.any():
                frames, masks = frames[:, rows, columns], masks[..., rows, columns]
        if rng.random() < self.flip:
            frames, masks = frames[:, :, ::-1], masks[..., ::-1]
        edge = int(rng.choice(self.shortest_edge)) if self.shortest_edge else None
        height, width = fitted(frames.shape[1:3], self.canvas, edge)
        frames, masks = resized(frames, masks, height, width)
        frames = recoloured(frames, self._colour_matrix(rng))
        frames, masks = padded(frames, masks, self.canvas)
        return make_clip(frames, clip.labels, masks, content=(height, width), times=clip.times, video=clip.video)

    def _window(self, rng: np.random.Generator, height: int, width: int) -> tuple[slice, slice]:
        slices = []
        for side in (height, width):
            kept = max(round(side * rng.uniform(*self.crop_scale)), 1)
            start = int(rng.integers(0, side - kept + 1))
            slices.append(slice(start, start + kept))
        return slices[0], slices[1]

    def _colour_matrix(self, rng: np.random.Generator) -> np.ndarray | None:
        """float64 [3, 4] for cv2.transform, or None where no colour is to change."""
        ranges = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        if not ranges.any():
            return None
        brightness, contrast, saturation, hue = ranges * rng.uniform(-1, 1, 4) + (1, 1, 1, 0)
        grey = np.outer(np.ones(3), (0.299, 0.587, 0.114))
        matrix = saturation * _hue_rotation(math.radians(hue)) + (1 - saturation) * grey
        matrix = brightness * contrast * matrix
        offset = np.full((3, 1), 128 * (1 - contrast))
        return np.concatenate([matrix, offset], 1)


def _hue_rotation(angle: float) -> np.ndarray:
    """float64 [3, 3]: rotation of RGB about the grey axis, which leaves greys as they are."""
    cos, third, root = math.cos(angle), (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    return np.array(
        [
            [cos + third, third - root, third + root],
            [third + root, cos + third, third - root],
            [third - root, third + root, cos + third],
        ]
    )


def fitted(size: tuple[int, int], canvas: tuple[int, int], shortest_edge: int | None = None) -> tuple[int, int]:
    """(height, width) of a picture of `size` scaled within `canvas`, its shorter side `shortest_edge` if that fits."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    if shortest_edge is not None:
        scale = min(scale, shortest_edge / min(size))
    height, width = (min(max(round(side * scale), 1), limit) for side, limit in zip(size, canvas, strict=True))
    return height, width


def resized(frames: np.ndarray, masks: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T, H, W, 3] (bilinear) and masks [I, T, H, W] (nearest pixel centre) at a new size."""
    if frames.shape[1:3] == (height, width):
        return frames, masks
    pictures = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR) for frame in frames])
    flat = masks.reshape(-1, *masks.shape[2:]).view(np.uint8)
    small = np.zeros((len(flat), height, width), bool)
    for source, target in zip(flat, small, strict=True):
        if source.any():
            target[:] = cv2.resize(source, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return pictures, small.reshape(*masks.shape[:2], height, width)


def recoloured(frames: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] through the affine colour map float64 [3, 4], cut to 0..255."""
    if matrix is None:
        return frames
    count, height, width = frames.shape[:3]
    flat = np.ascontiguousarray(frames).reshape(count * height, width, 3)
    return cv2.transform(flat, matrix).reshape(frames.shape)


def padded(frames: np.ndarray, masks: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Frames and masks at the top left of the canvas, always contiguous."""
    height, width = frames.shape[1:3]
    if (height, width) == tuple(canvas):
        return np.ascontiguousarray(frames), np.ascontiguousarray(masks)
    pictures = np.empty((len(frames), *canvas, 3), np.uint8)
    pictures[:] = PAD_VALUE
    pictures[:, :height, :width] = frames
    larger = np.zeros((*masks.shape[:2], *canvas), bool)
    larger[:, :, :height, :width] = masks
    return pictures, larger
