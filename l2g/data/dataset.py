"""What every data set of annotated video offers, whatever it was read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from l2g.errors import DataError

ENDLESS = 2**31 - 1  # videos of a data set that is drawn on demand
_ALIASES = {"val": ("val", "valid"), "valid": ("valid", "val")}
_SHOWN = 20  # broken entries named one by one


def split_names(split: str) -> tuple[str, ...]:
    """A split's names in files, the given one first: who says "val" finds "valid"."""
    return _ALIASES.get(split, (split,))


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
        # A name may hold half a character pair, which no terminal takes.
        return f"{self.kind}: {self.where}: {self.detail}".encode("utf-8", "backslashreplace").decode()


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


@dataclass(frozen=True)
class PictureFile:
    """A file that a frame or a label map is read from, and the size, (height, width), that it has to have."""

    path: Path
    size: tuple[int, int]


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

    def pictures(self) -> Iterable[PictureFile]:
        """The files that its frames (and label maps) are read from; none where they are drawn."""
        return ()

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
    problems: what was found on opening (and, where that was asked for, left out). class_map: where a model's classes
    have other names, the model's name by the data set's; only what is in it is scored (`match_classes`). files: the
    annotation files that it was read from, which nothing may be written over.
    """

    name: str
    categories: tuple[Category, ...]
    videos: Sequence[Video]
    problems: tuple[Problem, ...] = field(default=())
    class_map: Mapping[str, str] | None = None
    files: tuple[Path, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    @property
    def stuff_classes(self) -> tuple[int, ...]:
        """The labels of stuff; empty where all are things."""
        return tuple(label for label, category in enumerate(self.categories) if not category.is_thing)

    def __len__(self) -> int:
        return len(self.videos)

    def first(self, count: int | None) -> VideoDataset:
        """So many of its videos, the first ones; None is all. DataError where that is none."""
        if count is not None and count < 1:
            raise DataError(f"{count} videos asked for, at least 1 expected")
        return self if count is None else replace(self, videos=self.videos[:count])

    def expect_end(self) -> None:
        """DataError where it is drawn on demand, without an end."""
        if len(self.videos) == ENDLESS:
            raise DataError(
                f"data set '{self.name}' has no end, and is for learning and calibration; take another of its splits, "
                "or write some of its videos: l2g data draw --split train --videos 8 --output DIR"
            )

    def left_out(self) -> list[str]:
        """What `skip_broken` left out, a line each; empty where nothing was."""
        broken = [problem for problem in self.problems if problem.fatal]
        lines = [f"left out: {problem}" for problem in broken[:_SHOWN]]
        if len(broken) > _SHOWN:
            lines.append(f"left out: {len(broken) - _SHOWN} more; `l2g data check` lists them all")
        return lines


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
    from l2g.metrics.rle import BadMaskError, measure, polygon_complaint

    try:
        if not isinstance(segmentation, dict):
            if complaint := polygon_complaint(segmentation, height, width):
                raise DataError(f"polygon found that {complaint}; annotate anew")
            return
        size, counts = [int(n) for n in segmentation["size"]], segmentation["counts"]
        if size != [height, width]:
            found = "x".join(map(str, size[:3]))
            raise DataError(f"RLE of {found} in a video of {height}x{width}; annotate it anew")
        if isinstance(counts, list):
            runs = array("q", counts)
            if not runs:
                raise DataError("RLE without a run found; use null where the object is not visible")
            if min(runs) < 0 or sum(runs) != height * width:
                raise DataError(f"RLE of {sum(runs)} pixels found, expected {height * width}; annotate anew")
        else:
            measure([{"size": size, "counts": counts}])
    except BadMaskError as error:
        raise DataError(f"RLE found that is damaged: {error.reason}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"segmentation unreadable ({error!r:.80}); expected a RLE or a list of polygons") from None
