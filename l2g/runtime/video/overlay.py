"""Tracks drawn over their frame: translucent masks, contours, and a label with id and score."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from l2g.runtime.assembler import FrameResult, TrackedInstance

MASK_OPACITY = 0.45
_GOLDEN_RATIO = 0.618034
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_overlay(image: np.ndarray, result: FrameResult, class_names: Sequence[str]) -> np.ndarray:
    """A copy of `image` (uint8 [H, W, 3] RGB) with the tracks of `result` drawn, the best score on top."""
    canvas = image.copy()
    # 1080p gets lines two pixels wide and letters about 20 pixels high; everything else in proportion.
    short_side = min(image.shape[:2])
    line = max(1, round(short_side / 540))
    back_to_front = sorted(result.instances, key=lambda instance: instance.score)
    for instance in back_to_front:
        _draw_mask(canvas, instance, line)
    for instance in back_to_front:
        text = f"{class_names[instance.label]} #{instance.track_id} {instance.score:.2f}"
        _draw_text(canvas, text, instance, max(0.35, short_side / 1200), line)
    return canvas


@lru_cache(maxsize=4096)
def track_color(track_id: int) -> tuple[int, int, int]:
    """RGB of a track, the same in every frame; ids that follow each other get hues far apart."""
    hue = track_id * _GOLDEN_RATIO % 1.0
    # A second, slower turn through brightness tells apart the hues that come round again.
    value = (1.0, 0.8, 0.9)[track_id % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, value))


@lru_cache(maxsize=4096)
def _tint(color: tuple[int, int, int]) -> np.ndarray:
    """uint8 [1, 256, 3]: what each value of each channel becomes under a translucent `color`."""
    values = np.arange(256)[:, None] * (1 - MASK_OPACITY) + np.array(color) * MASK_OPACITY
    return np.rint(values).astype(np.uint8)[None]


def _draw_mask(canvas: np.ndarray, instance: TrackedInstance, line: int) -> None:
    left, top, right, bottom = instance.box
    color, patch = track_color(instance.track_id), instance.mask.patch.astype(np.uint8)
    region = canvas[top:bottom, left:right]
    cv2.copyTo(cv2.LUT(region, _tint(color)), patch, region)
    contours, _ = cv2.findContours(patch, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, contours, -1, color, line, cv2.LINE_AA, offset=(left, top))


def _draw_text(canvas: np.ndarray, text: str, instance: TrackedInstance, size: float, line: int) -> None:
    # OpenCV's fonts hold ASCII only.
    text = text.encode("ascii", "replace").decode()
    (width, height), base = cv2.getTextSize(text, _FONT, size, line)
    left, top = instance.box[:2]
    x = max(0, min(left, canvas.shape[1] - width - 4))
    y = max(height + base + 4, top)
    color = track_color(instance.track_id)
    cv2.rectangle(canvas, (x, y - height - base - 4), (x + width + 4, y), color, cv2.FILLED)
    dark = np.dot(color, (0.299, 0.587, 0.114)) > 110
    cv2.putText(canvas, text, (x + 2, y - base), _FONT, size, (0, 0, 0) if dark else (255, 255, 255), line, cv2.LINE_AA)
