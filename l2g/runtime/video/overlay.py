"""Tracks drawn over their frame: translucent masks, contours, trails, and a label with class, id and score; and stuff
behind them, where a result has it."""

from __future__ import annotations

import colorsys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from l2g.errors import L2GError
from l2g.runtime.arrays import Array
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.video.labels import LabelPlacer, Placement
from l2g.runtime.video.text import drawable, text_mask

if TYPE_CHECKING:
    from l2g.runtime.panoptic.segmentation import Segmentation

LONGEST_TRAIL = 10_000
_GOLDEN_RATIO = 0.618034
# A font of 15 pixels at 720p, 23 at 1080p; smaller than 11 nobody reads.
_FONT_SHARE, _SMALLEST_FONT = 0.021, 11
# What the HUD leaves of the picture below it.
_HUD_SHADE = 0.3


@dataclass(frozen=True)
class OverlayStyle:
    """What is drawn over a video.

    labels: class, track id and score beside each object. opacity: of the masks, 0 (contours alone) to 1. trails: over
    how many frames the centre of an object draws its way, 0 for none. hud: a line with frame, time and rate.
    L2GError when a value is out of range.
    """

    labels: bool = True
    opacity: float = 0.45
    trails: int = 0
    hud: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise L2GError(f"overlay opacity {self.opacity:g} found, 0 (contours alone) to 1 expected")
        if not 0 <= self.trails <= LONGEST_TRAIL:
            raise L2GError(f"overlay trails of {self.trails} frames found, 0 (none) to {LONGEST_TRAIL} expected")


DEFAULT_STYLE = OverlayStyle()


def draw_overlay(
    image: np.ndarray, result: FrameResult, class_names: Sequence[str], style: OverlayStyle = DEFAULT_STYLE
) -> np.ndarray:
    """One frame by itself, see `OverlayPainter.draw`."""
    return OverlayPainter(class_names, style).draw(image, result)


class OverlayPainter:
    """Draws the frames of one video in order; remembers where labels stood and where objects went."""

    def __init__(self, class_names: Sequence[str], style: OverlayStyle = DEFAULT_STYLE):
        self.style = style
        self._names = [drawable(name, f"class {number}") for number, name in enumerate(class_names)]
        self._placer, self._stuff_names = LabelPlacer(), _StuffNames()
        self._trails = _Trails(style.trails)

    def memory(self) -> dict[str, Array]:
        """What the next frame's picture depends on, as arrays by name, for `recall`."""
        return {
            "labels": self._placer.memory(),
            "trails": self._trails.memory(),
            "stuff_names": self._stuff_names.memory(),
        }

    def recall(self, memory: Mapping[str, Array]) -> None:
        """Know what `memory` told."""
        self._placer.recall(memory["labels"])
        self._trails.recall(memory["trails"])
        self._stuff_names.recall(memory["stuff_names"])

    def draw(
        self, image: np.ndarray, result: FrameResult, rate: float | None = None, in_place: bool = False
    ) -> np.ndarray:
        """A copy of `image` (uint8 [H, W, 3] RGB) with the tracks of `result` drawn, the best score on top.

        rate: frames per second, for the HUD, which does without where it is None. in_place: `image` may be drawn on.
        """
        canvas = image if in_place and image.flags.writeable and image.flags.c_contiguous else image.copy()
        # 1080p gets lines two pixels wide; everything else in proportion.
        short_side = min(image.shape[:2])
        line = max(1, round(short_side / 540))
        font = max(_SMALLEST_FONT, round(_FONT_SHARE * short_side))
        back_to_front = sorted(result.tracks, key=lambda instance: instance.score)
        patches = [instance.mask.patch.view(np.uint8) for instance in back_to_front]
        taken = self._draw_stuff(canvas, result.panoptic, font) if result.panoptic else []
        if self.style.opacity:
            for instance, patch in zip(back_to_front, patches, strict=True):
                _draw_tint(canvas, instance, patch, self.style.opacity)
        # Contours over all tints: what lies behind another object keeps its outline.
        for instance, patch in zip(back_to_front, patches, strict=True):
            _draw_contour(canvas, instance, patch, line)
        if self.style.trails:
            self._trails.add(back_to_front, patches)
            self._trails.draw(canvas, line)
        taken += [_draw_hud(canvas, result, rate, font)] if self.style.hud else []
        if self.style.labels and back_to_front:
            self._draw_labels(canvas, back_to_front, taken, font, line)
        return canvas

    def _draw_stuff(self, canvas: np.ndarray, found: Segmentation, font: int) -> list[tuple[int, int, int, int]]:
        """Each class of stuff in its colour, with its name once; returns the rectangles of the names."""
        rectangles = []
        for segment in found.segments:
            if segment.is_thing:
                continue
            region, color = (found.ids == segment.id).astype(np.uint8), stuff_color(segment.label)
            if self.style.opacity:
                cv2.copyTo(cv2.LUT(canvas, _tint(color, self.style.opacity)), region, canvas)
            row = _row((self._names[segment.label],), font)
            if self.style.labels and (place := self._stuff_names.place(segment.label, region, row.shape)):
                x, y = place
                area = canvas[y : y + row.shape[0], x : x + row.shape[1]]
                cv2.LUT(cv2.cvtColor(row, cv2.COLOR_GRAY2RGB), _ink(color), dst=area)
                rectangles.append((x, y, x + row.shape[1], y + row.shape[0]))
        return rectangles

    def _draw_labels(
        self,
        canvas: np.ndarray,
        instances: Sequence[TrackedInstance],
        taken: Sequence[tuple[int, int, int, int]],
        font: int,
        line: int,
    ) -> None:
        variants = [_variants(self._names[item.label], item, font, canvas.shape[1]) for item in instances]
        sizes = np.array([[_size(words, font) for words in label] for label in variants])
        if (sizes > np.array(canvas.shape[1::-1])).any():
            return  # a picture that is smaller than a number
        boxes = np.array([instance.box for instance in instances])
        tracks = [instance.track_id for instance in instances]
        places = self._placer.place(tracks, boxes, sizes, canvas.shape[:2], taken)
        for instance, place in zip(instances, places, strict=True):
            if place.away:
                _draw_leader(canvas, instance, place, sizes[0, 0, 1], line)
        for instance, place, label in zip(instances, places, variants, strict=True):
            _draw_label(canvas, instance, place, label[place.variant], font)


class _StuffNames:
    """Where the name of each class of stuff stands: well inside its region, and there while it lies in it."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, int]] = {}  # by class: the middle of its name

    def memory(self) -> Array:
        """int64 [M, 3]: class, x and y of every name."""
        return np.array([(label, *middle) for label, middle in self._places.items()], np.int64).reshape(-1, 3)

    def recall(self, memory: Array) -> None:
        self._places = {label: (x, y) for label, x, y in memory.tolist()}

    def place(self, label: int, region: np.ndarray, size: tuple[int, ...]) -> tuple[int, int] | None:
        """Upper left corner of a name of `size` (height, width), None where it does not fit. region: uint8 [H, W]."""
        height, width = size[:2]
        half_height, half_width = (height + 1) // 2, (width + 1) // 2
        middle = self._places.get(label)
        if middle is not None:
            x, y = middle
            around = region[max(0, y - half_height) : y + half_height, max(0, x - half_width) : x + half_width]
            inside = half_height <= y <= len(region) - half_height and half_width <= x <= region.shape[1] - half_width
            if inside and around.all():
                return x - width // 2, y - height // 2
            del self._places[label]
        # Eroded by the name, the region holds every place for its middle.
        kernel = np.ones((height | 1, width | 1), np.uint8)
        room = cv2.erode(region, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        if not room.any():
            return None
        depth = cv2.distanceTransform(room, cv2.DIST_L2, 3)
        y, x = divmod(int(depth.argmax()), depth.shape[1])
        self._places[label] = x, y
        return x - width // 2, y - height // 2


class _Trails:
    """The way of each track's centre over the last frames."""

    def __init__(self, length: int):
        self._length = length
        self._frame = 0
        self._ways: dict[int, deque[tuple[int, int, int]]] = {}  # by track: frame, x, y

    def memory(self) -> Array:
        """int64 [M + 1, 4]: the frame, then track, frame, x and y of every point."""
        points = [(track, *point) for track, way in self._ways.items() for point in way]
        return np.array([(self._frame, 0, 0, 0), *points], np.int64)

    def recall(self, memory: Array) -> None:
        self._frame = int(memory[0, 0])
        self._ways = {}
        for track, *point in memory[1:].tolist():
            self._ways.setdefault(track, deque()).append(tuple(point))

    def add(self, instances: Sequence[TrackedInstance], patches: Sequence[np.ndarray]) -> None:
        self._frame += 1
        for instance, patch in zip(instances, patches, strict=True):
            moments = cv2.moments(patch, binaryImage=True)
            left, top = instance.box[:2]
            x, y = (round(moments[key] / moments["m00"]) for key in ("m10", "m01"))
            self._ways.setdefault(instance.track_id, deque()).append((self._frame, left + x, top + y))
        for track, way in list(self._ways.items()):
            while way and way[0][0] < self._frame - self._length:
                way.popleft()
            if not way:
                del self._ways[track]

    def draw(self, canvas: np.ndarray, line: int) -> None:
        """Thin where it is old."""
        widest = 3 * line
        for track, way in self._ways.items():
            color = track_color(track)
            points = [(max(1, widest - widest * (self._frame - frame) // self._length), (x, y)) for frame, x, y in way]
            for width in range(1, widest + 1):
                stretch = [point for at, point in points if at == width]
                stretch += [point for at, point in points if at > width][:1]
                cv2.polylines(canvas, [np.array(stretch, np.int32).reshape(-1, 1, 2)], False, color, width, cv2.LINE_AA)


@lru_cache(maxsize=4096)
def track_color(track_id: int) -> tuple[int, int, int]:
    """RGB of a track, the same in every frame; ids that follow each other get hues far apart."""
    hue = track_id * _GOLDEN_RATIO % 1.0
    # A second, slower turn through brightness tells apart the hues that come round again.
    value = (1.0, 0.8, 0.9)[track_id % 3]
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, value))
    return red, green, blue


@lru_cache(maxsize=4096)
def stuff_color(label: int) -> tuple[int, int, int]:
    """RGB of a class of stuff: paler than any track's."""
    hue = (0.37 + label * _GOLDEN_RATIO) % 1.0
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.35, 0.85))
    return red, green, blue


@lru_cache(maxsize=4096)
def _tint(color: tuple[int, int, int], opacity: float) -> np.ndarray:
    """uint8 [1, 256, 3]: what each value of each channel becomes under a translucent `color`."""
    values = np.arange(256)[:, None] * (1 - opacity) + np.array(color) * opacity
    return np.rint(values).astype(np.uint8)[None]


@lru_cache(maxsize=4096)
def _ink(color: tuple[int, int, int]) -> np.ndarray:
    """uint8 [1, 256, 3]: from `color` to black or white, whichever is read on it, by how far a letter covers."""
    ink = 0 if np.dot(color, (0.299, 0.587, 0.114)) > 110 else 255
    return np.rint(np.linspace(color, (ink, ink, ink), 256)).astype(np.uint8)[None]


def _draw_tint(canvas: np.ndarray, instance: TrackedInstance, patch: np.ndarray, opacity: float) -> None:
    left, top, right, bottom = instance.box
    region = canvas[top:bottom, left:right]
    plain = np.empty(region.shape, np.uint8)
    cv2.rectangle(plain, (0, 0), (right - left, bottom - top), track_color(instance.track_id), cv2.FILLED)
    cv2.copyTo(cv2.addWeighted(region, 1 - opacity, plain, opacity, 0), patch, region)


def _draw_contour(canvas: np.ndarray, instance: TrackedInstance, patch: np.ndarray, line: int) -> None:
    contours, _ = cv2.findContours(patch, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    color = track_color(instance.track_id)
    cv2.drawContours(canvas, contours, -1, color, line, cv2.LINE_AA, offset=instance.box[:2])


def _variants(name: str, instance: TrackedInstance, font: int, width: int) -> tuple[tuple[str, ...], ...]:
    """Two labels as words, the second for where there is no room for the first."""
    number = f"#{instance.track_id}"
    full = f"{name} {number}", f"{instance.score:.2f}"
    return full if _size(full, font)[0] <= width else (number,), (number,)


@lru_cache(maxsize=4096)
def _size(words: tuple[str, ...], font: int) -> tuple[int, int]:
    """Width and height of a label in pixels."""
    masks = [text_mask(word, font) for word in words]
    gap = _gap(font)
    return sum(mask.shape[1] for mask in masks) + gap * (len(masks) - 1) + 2 * (gap // 2), masks[0].shape[0]


def _gap(font: int) -> int:
    """Pixels between two words: wider than the font's own space, which some fonts make invisible."""
    return max(3, round(0.45 * font))


def _row(words: tuple[str, ...], font: int) -> np.ndarray:
    """uint8 [H, W]: coverage of the words beside each other, of `_size`."""
    width, height = _size(words, font)
    row = np.zeros((height, width), np.uint8)
    x = _gap(font) // 2
    for word in words:
        mask = text_mask(word, font)
        row[:, x : x + mask.shape[1]] = mask
        x += mask.shape[1] + _gap(font)
    return row


def _draw_label(
    canvas: np.ndarray, instance: TrackedInstance, place: Placement, words: tuple[str, ...], font: int
) -> None:
    row = _row(words, font)
    height, width = row.shape
    region = canvas[place.y : place.y + height, place.x : place.x + width]
    cv2.LUT(cv2.cvtColor(row, cv2.COLOR_GRAY2RGB), _ink(track_color(instance.track_id)), dst=region)


def _draw_leader(canvas: np.ndarray, instance: TrackedInstance, place: Placement, height: int, line: int) -> None:
    """From a label that stands elsewhere to a point well inside its object's box."""
    left, top, right, bottom = instance.box
    x, y = place.x + height // 2, place.y + height // 2
    quarter_x, quarter_y = (right - left) // 4, (bottom - top) // 4
    end = min(max(x, left + quarter_x), right - quarter_x), min(max(y, top + quarter_y), bottom - quarter_y)
    color = track_color(instance.track_id)
    for ink, width in (((0, 0, 0), line + 2), (color, line)):
        cv2.line(canvas, (x, y), end, ink, width, cv2.LINE_AA)
        cv2.circle(canvas, end, line + width, ink, cv2.FILLED, cv2.LINE_AA)


def _draw_hud(canvas: np.ndarray, result: FrameResult, rate: float | None, font: int) -> tuple[int, int, int, int]:
    """The line at the upper left; returns its rectangle (x1, y1, x2, y2)."""
    words: tuple[str, ...] = (f"frame {result.index}", f"{result.time:.2f} s")
    words += () if rate is None else (f"{rate:.1f} frames/s",)
    while words and _size(words, font)[0] > canvas.shape[1]:
        words = words[:-1]
    if not words or _size(words, font)[1] > canvas.shape[0]:
        return 0, 0, 0, 0  # a picture that is smaller than a number
    row = _row(words, font)
    height, width = row.shape
    region = canvas[:height, :width]
    shaded = cv2.convertScaleAbs(region, alpha=_HUD_SHADE)
    region[:] = cv2.max(shaded, cv2.cvtColor(row, cv2.COLOR_GRAY2RGB))
    return 0, 0, width, height
