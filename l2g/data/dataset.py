"""What every data set of annotated video offers, whatever it was read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from l2g.errors import DataError


@dataclass(frozen=True)
class Category:
    """One class. `id` is the data set's own number; a label is the position in the data set's ascending list of ids."""

    id: int
    name: str
    is_thing: bool = True


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    kind: "corrupt annotation", "missing frame", "empty video" or "category without instances". where: the name of the
    video, annotation or category. detail: what was found and what mends it. fatal: False for what is merely odd, such
    as a category that no instance has; a data set with such problems opens.
    """

    kind: str
    where: str
    detail: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.detail}"


@dataclass(frozen=True)
class Clip:
    """T frames of one video with the I instances that are visible in at least one of them.

    Attributes:
        frames: uint8 [T, H, W, 3] RGB.
        labels: int64 [I], positions in the data set's categories.
        masks: bool [I, T, H, W], visible pixels.
        present: bool [I, T], True where the mask has a pixel.
        boxes: float32 [I, T, 4], (cx, cy, w, h) of the mask in 0..1 of the frame (a mask of pixels a..b spans a to b +
        1);
            zeros where absent.
        content: (height, width) of the picture at the top left; the rest is padding.
        times: int64 [T], the frame numbers in the video.
        video: the video's name.
    """

    frames: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    present: np.ndarray
    boxes: np.ndarray
    content: tuple[int, int]
    times: np.ndarray
    video: str = ""


def make_clip(frames: np.ndarray, labels: np.ndarray, masks: np.ndarray, **kept) -> Clip:
    """A Clip of these frames: instances without a pixel are dropped, presence and boxes follow from the masks.

    kept: content (default: the whole frame), times (default: 0..T-1), video.
    """
    columns, rows = np.any(masks, axis=2), np.any(masks, axis=3)  # [I, T, W], [I, T, H]
    present = np.any(columns, axis=2)
    keep = np.flatnonzero(np.any(present, axis=1))
    if len(keep) < len(labels):
        labels, masks, columns, rows, present = labels[keep], masks[keep], columns[keep], rows[keep], present[keep]
    count, height, width = frames.shape[:3]
    kept.setdefault("content", (height, width))
    kept.setdefault("times", np.arange(count))
    x0, x1 = _extent(columns)
    y0, y1 = _extent(rows)
    boxes = np.stack([(x0 + x1) / (2 * width), (y0 + y1) / (2 * height), (x1 - x0) / width, (y1 - y0) / height], -1)
    boxes = np.where(present[..., None], boxes, 0).astype(np.float32)
    return Clip(frames, labels.astype(np.int64), masks, present, boxes, **kept)


def _extent(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First True and one past the last True along the last axis of bool [..., N]."""
    return flags.argmax(-1), flags.shape[-1] - flags[..., ::-1].argmax(-1)


class Video(ABC):
    """One annotated video.

    Attributes:
        id: the data set's own number or string. name: for messages. height, width: of every frame, pixels. length:
        frames.
    """

    id: int | str
    name: str
    height: int
    width: int
    length: int

    @abstractmethod
    def frame(self, t: int) -> np.ndarray:
        """Frame t, uint8 [H, W, 3] RGB. Raises DataError when it cannot be read."""

    @abstractmethod
    def annotated_frames(self) -> np.ndarray:
        """int64: the frames with at least one instance that is not a crowd, as far as the annotation tells."""

    @abstractmethod
    def read(self, times: Sequence[int], rng: np.random.Generator | None = None) -> Clip:
        """Frames `times` with their instances, crowds left out. rng: for what a video draws anew at every reading."""


@dataclass(frozen=True)
class VideoObject:
    """One instance over its whole video.

    id: the annotation's own. label: position in the data set's categories. segmentations: per frame a RLE (compressed
    or not), a list of polygons, or None where the instance is not visible. record: the annotation as it stands in the
    file.
    """

    id: int
    label: int
    iscrowd: bool
    segmentations: Sequence
    record: dict = field(default_factory=dict)


class AnnotatedVideo(Video):
    """A video whose instances are listed with segmentations. `objects`: tuple of VideoObject."""

    objects: tuple[VideoObject, ...]

    def with_objects(self, objects: Iterable[VideoObject]) -> AnnotatedVideo:
        """The same video with other objects."""
        other = copy(self)
        other.objects = tuple(objects)
        return other

    def mask(self, index: int, t: int) -> np.ndarray | None:
        """bool [H, W] of object `index` in frame t, or None where it has no segmentation."""
        found = self.objects[index]
        segmentation = found.segmentations[t]
        if not segmentation:
            return None
        try:
            return decode_segmentation(segmentation, self.height, self.width)
        except DataError as error:
            raise DataError(f"video '{self.name}', annotation {found.id}, frame {t}: {error}") from None

    def annotated_frames(self) -> np.ndarray:
        seen = np.zeros(self.length, bool)
        for found in self.objects:
            if not found.iscrowd:
                seen |= [bool(s) for s in found.segmentations]
        return np.flatnonzero(seen)

    def read(self, times: Sequence[int], rng: np.random.Generator | None = None) -> Clip:
        frames = np.stack([self.frame(int(t)) for t in times])
        kept = [i for i, o in enumerate(self.objects) if not o.iscrowd and any(o.segmentations[t] for t in times)]
        masks = np.zeros((len(kept), len(times), self.height, self.width), bool)
        for row, i in enumerate(kept):
            for column, t in enumerate(times):
                mask = self.mask(i, int(t))
                if mask is not None:
                    masks[row, column] = mask
        labels = np.array([self.objects[i].label for i in kept], np.int64)
        return make_clip(frames, labels, masks, times=np.asarray(times, np.int64), video=self.name)


@dataclass(frozen=True)
class VideoDataset:
    """Videos and their classes.

    name: for messages. categories: ascending ids; a label is a position in it. videos: a sequence, possibly drawn on
    demand.
    problems: what was found on opening (and, where that was asked for, left out).
    """

    name: str
    categories: tuple[Category, ...]
    videos: Sequence[Video]
    problems: tuple[Problem, ...] = field(default=())

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    def __len__(self) -> int:
        return len(self.videos)


def decode_segmentation(segmentation, height: int, width: int) -> np.ndarray:
    """bool [height, width] of a RLE (counts: string, bytes or list) or a list of polygons. DataError when malformed."""
    from pycocotools import mask as coco  # here: it is slow to load and drawing needs none of it

    check_segmentation(segmentation, height, width)
    if not isinstance(segmentation, dict):
        return coco.decode(coco.merge(coco.frPyObjects(segmentation, height, width))).astype(bool)
    rle = {"counts": segmentation["counts"], "size": [height, width]}
    if isinstance(rle["counts"], list):
        rle = coco.frPyObjects(rle, height, width)
    return coco.decode(rle).astype(bool)


def check_segmentation(segmentation, height: int, width: int) -> None:
    """Raise DataError unless this is a RLE or a list of polygons of a picture of height x width pixels."""
    try:
        if isinstance(segmentation, dict):
            size, counts = [int(n) for n in segmentation["size"]], segmentation["counts"]
            if size != [height, width]:
                raise DataError(f"RLE of {size[0]}x{size[1]} in a video of {height}x{width}; annotate it anew")
            runs = np.array(counts, np.int64) if isinstance(counts, list) else _compressed_runs(counts)
            if runs.size and (runs.min() < 0 or int(runs.sum()) != height * width):
                raise DataError(f"RLE of {int(runs.sum())} pixels found, expected {height * width}; annotate anew")
            if not runs.size:
                raise DataError("RLE without a run found; use null where the object is not visible")
        elif any(len(p) < 6 or len(p) % 2 or not np.isfinite(np.array(p, np.float64)).all() for p in segmentation):
            raise DataError("polygon found that is not 3 or more finite points as x, y, x, y, ...; annotate anew")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"segmentation unreadable ({error!r}); expected a RLE or a list of polygons") from None


def _compressed_runs(counts: str | bytes) -> np.ndarray:
    """Run lengths int64 of a compressed RLE: 5 bits a character, signed, from the 4th on relative to the run but one.

    Decoded here because pycocotools reads past the end of a string that stops in the middle of a number.
    """
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else bytes(counts)
    code = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not code.size:
        return code
    last = np.flatnonzero(~code & 0x20)
    if code.min() < 0 or code.max() > 63 or not last.size or last[-1] != code.size - 1:
        raise DataError("compressed RLE found that is cut short or holds foreign characters; annotate anew")
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > 8:
        raise DataError("compressed RLE found with a run longer than any picture; annotate anew")
    place = np.arange(code.size) - np.repeat(first, digits)
    values = np.add.reduceat((code & 0x1F) << (5 * place), first)
    values -= np.where(code[last] & 0x10, 1 << (5 * digits), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
