"""COCO instances as pseudo-videos: one picture seen by a moving camera, its instances with it.

Layout: annotations/instances_<split>.json and <split>/ with the pictures (cocodataset.org), split for example
train2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2g.contract import PAD_VALUE
from l2g.data.checks import FileLookup, check_categories, id_of, listed, raise_if_fatal, read_json
from l2g.data.dataset import (
    Category,
    Clip,
    PictureFile,
    Problem,
    Video,
    VideoDataset,
    check_segmentation,
    decode_segmentation,
    make_clip,
)
from l2g.data.pictures import read_picture
from l2g.errors import DataError
from l2g.metrics.rle import LONGEST_SIDE


@dataclass(frozen=True)
class Trajectory:
    """How far the camera may go in a pseudo-video, from its first frame to its last.

    rotation: degrees. shear: degrees. zoom: (low, high), sides of the window seen as a share of the picture's, so 1
    shows it all and less is a crop. travel: of the window's centre, a share of the picture's sides. flip: chance of a
    mirrored clip.
    """

    rotation: float = 12.0
    shear: float = 6.0
    zoom: tuple[float, float] = (0.55, 1.0)
    travel: float = 0.15
    flip: float = 0.5

    def sample(self, rng: np.random.Generator, moments: np.ndarray, height: int, width: int) -> np.ndarray:
        """float64 [T, 2, 3]: where each frame's pixels lie in the picture, at moments (0..1) of a random path."""
        ends = rng.uniform(-1, 1, (2, 5)) * (self.rotation, self.shear, 0, self.travel, self.travel)
        low, high = self.zoom
        ends[:, 2] = np.log(rng.uniform(low, high, 2))
        start = rng.uniform(-0.5, 0.5, 2)  # where in the room that the crop leaves the window sits
        mirror = -1.0 if rng.random() < self.flip else 1.0
        blend = (moments * moments * (3 - 2 * moments))[:, None]  # eases in and out
        path = ends[0] * (1 - blend) + ends[1] * blend
        matrices = np.empty((len(moments), 2, 3))
        for matrix, (turn, lean, zoom, x, y) in zip(matrices, path, strict=True):
            scale, angle, tilt = math.exp(zoom), math.radians(turn), math.tan(math.radians(lean))
            cos, sin = math.cos(angle), math.sin(angle)
            linear = scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[mirror, tilt], [0, 1]])
            room = (1 - scale) * start
            centre = np.array([(0.5 + room[0] + x * scale) * width, (0.5 + room[1] + y * scale) * height])
            matrix[:, :2] = linear
            matrix[:, 2] = centre - 0.5 - linear @ ((width - 1) / 2, (height - 1) / 2)
        return matrices


class PseudoVideo(Video):
    """A picture as a video. Every reading draws another path of the camera from `rng`; without one, the video's own."""

    def __init__(self, record: dict, path: Path, marks: list[tuple[int, object]], length: int, trajectory: Trajectory):
        self.id, self.name = record["id"], record["file_name"]
        self.height, self.width = record["height"], record["width"]
        self.length = length
        self._path, self._marks, self._trajectory = path, marks, trajectory

    def pictures(self) -> tuple[PictureFile]:
        return (PictureFile(self._path, (self.height, self.width)),)

    def frame(self, t: int) -> np.ndarray:
        return self._warped(read_picture(self._path, (self.height, self.width)), self._matrices([t], None)[0])

    def annotated_frames(self) -> np.ndarray:
        return np.arange(self.length if self._marks else 0)

    def read(self, times: Sequence[int], rng: np.random.Generator | None = None) -> Clip:
        picture = read_picture(self._path, (self.height, self.width))
        matrices = self._matrices(times, rng)
        frames = np.stack([self._warped(picture, matrix) for matrix in matrices])
        masks = np.zeros((len(self._marks), len(times), self.height, self.width), bool)
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        for row, (_, segmentation) in enumerate(self._marks):
            try:
                still = decode_segmentation(segmentation, self.height, self.width).view(np.uint8)
            except DataError as error:
                raise DataError(f"picture '{self.name}': {error}") from None
            for column, matrix in enumerate(matrices):
                masks[row, column] = cv2.warpAffine(still, matrix, (self.width, self.height), flags=flags)
        labels = np.array([label for label, _ in self._marks], np.int64)
        return make_clip(frames, labels, masks, times=np.asarray(times, np.int64), video=self.name)

    def _matrices(self, times: Sequence[int], rng: np.random.Generator | None) -> np.ndarray:
        moments = np.asarray(times, np.float64) / max(self.length - 1, 1)
        return self._trajectory.sample(
            rng or np.random.default_rng(int(self.id) % (1 << 63)), moments, self.height, self.width
        )

    def _warped(self, picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(picture, matrix, (self.width, self.height), flags=flags, borderValue=PAD_VALUE)


def load_coco(
    directory: str | Path,
    split: str = "train",
    *,
    name: str | None = None,
    skip_broken: bool = False,
    drop_empty: bool = False,
    allow_outside: bool = False,
    length: int = 8,
    trajectory: Trajectory | None = None,
) -> VideoDataset:
    """Open COCO instances as pseudo-videos of `length` frames.

    split: "train2017", say; "train" and "val" are those of 2017. Crowd regions are left out. The flags as in
    `load_youtube_vis`; a picture without instances is an empty video.
    """
    root = Path(directory)
    split = {"train": "train2017", "val": "val2017"}.get(split, split)
    path = root / "annotations" / f"instances_{split}.json"
    data = read_json(path)
    pictures, kinds = listed(data, "images", path), listed(data, "categories", path)
    check_categories(kinds, path)
    kinds = sorted(kinds, key=lambda kind: kind["id"])
    problems: list[Problem] = []
    sound = _sound_pictures(pictures, FileLookup(root / split, allow_outside), problems)
    marks = _marks(listed(data, "annotations", path), sound, {kind["id"] for kind in kinds}, problems)
    used = {category for found in marks.values() for category, _ in found}
    problems += [
        Problem("empty video", record["file_name"], "it has no instance", fatal=False)
        for key, record in sound.items()
        if not marks[key]
    ]
    problems += [
        Problem("category without instances", kind["name"], f"category {kind['id']} is never used", fatal=False)
        for kind in kinds
        if kind["id"] not in used
    ]
    name = name or str(directory)
    if not skip_broken:
        raise_if_fatal(problems, name)
    if drop_empty:
        kinds = [kind for kind in kinds if kind["id"] in used]
        sound = {key: record for key, record in sound.items() if marks[key]}
    labels = {kind["id"]: label for label, kind in enumerate(kinds)}
    trajectory = trajectory or Trajectory()
    videos = [
        PseudoVideo(
            record,
            root / split / record["file_name"],
            [(labels[category], segmentation) for category, segmentation in marks[key]],
            length,
            trajectory,
        )
        for key, record in sound.items()
    ]
    categories = tuple(Category(kind["id"], kind["name"]) for kind in kinds)
    return VideoDataset(name, categories, videos, tuple(problems), files=(path,))


def _sound_pictures(pictures: list[dict], lookup: FileLookup, problems: list[Problem]) -> dict[int, dict]:
    sound: dict[int, dict] = {}
    for record in pictures:
        name, key = record.get("file_name"), id_of(record, "id")
        where = name[:200] if isinstance(name, str) else f"image {record.get('id')!r:.40}"
        sides = [record.get("height"), record.get("width")]
        if key is None or not isinstance(name, str) or not all(type(n) is int and 0 < n <= LONGEST_SIDE for n in sides):
            detail = f"needs an integer id, a file_name, and height and width from 1 to {LONGEST_SIDE}"
            problems.append(Problem("corrupt annotation", where, detail))
        elif key in sound:
            detail = f"id {key} is also that of '{sound[key]['file_name']}'; give every picture its own"
            problems.append(Problem("corrupt annotation", where, detail))
        elif found := lookup.problem(where, [name]):
            problems.append(found)
        else:
            sound[key] = record
    return sound


def _marks(
    annotations: list[dict[str, Any]],
    sound: Mapping[Any, dict[str, Any]],
    categories: set[int],
    problems: list[Problem],
) -> dict[int, list[tuple[int, object]]]:
    """Per picture (category id, segmentation) of what is no crowd."""
    marks: dict[int, list[tuple[int, object]]] = {key: [] for key in sound}
    for annotation in annotations:
        record = sound.get(id_of(annotation, "image_id"))
        if record is None or annotation.get("iscrowd"):
            continue
        where = f"annotation {annotation.get('id')!r:.40} of '{record['file_name']}'"
        segmentation = annotation.get("segmentation")
        if id_of(annotation, "category_id") not in categories:
            detail = f"there is no category {annotation.get('category_id')!r:.40}"
        elif not segmentation:
            detail = "it has no segmentation; leave it out"
        else:
            try:
                check_segmentation(segmentation, record["height"], record["width"])
                marks[record["id"]].append((annotation["category_id"], segmentation))
                continue
            except DataError as error:
                detail = str(error)
        problems.append(Problem("corrupt annotation", where, detail))
    return marks
