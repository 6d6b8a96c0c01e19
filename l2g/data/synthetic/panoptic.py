"""Synthetic panoptic video: the things of `video` before stuff that moves, drawn on demand or in VIPSeg's layout.

The objects and their paths are those of the instance split of the same seed; occluders are void.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2g.data.dataset import Category, VideoDataset
from l2g.data.synthetic.dataset import CATEGORIES as THINGS
from l2g.data.synthetic.dataset import cached_split, check_cuts, drawn_dataset, new_directory, write_frame
from l2g.data.synthetic.stuff import STUFF_NAMES, draw_ground, sample_ground
from l2g.data.synthetic.video import (
    DEFAULT_SIZE,
    MIN_VISIBLE,
    SyntheticVideo,
    annotated,
    draw,
    frame_numbers,
    sample_scene,
    split_facts,
)
from l2g.errors import DataError

FORMAT_VERSION = 2  # part of the cache's directory names: raise it whenever the drawing changes
CATEGORIES = (*THINGS, *(Category(len(THINGS) + 1 + k, name, is_thing=False) for k, name in enumerate(STUFF_NAMES)))
_STUFF_TAG = 9  # enters the seed of a video's stuff, beside that of its things


@dataclass(frozen=True)
class PanopticDrawing:
    """T frames of things and stuff, as drawn.

    things: the frames, and the objects in them. stuff: uint8 [T, H, W]; class k of STUFF_NAMES shows where it is k + 1;
    0 where an object or an occluder is, and for a class with fewer than MIN_VISIBLE pixels in the frame.
    """

    things: SyntheticVideo
    stuff: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        return self.things.frames

    @property
    def stuff_labels(self) -> np.ndarray:
        """int64 [S]: the stuff that shows in any frame, positions in STUFF_NAMES."""
        return np.flatnonzero(np.bincount(self.stuff.ravel(), minlength=len(STUFF_NAMES) + 1)[1:])

    @property
    def labels(self) -> np.ndarray:
        """int64 [I + S], positions in CATEGORIES: of the objects, then of the stuff, one segment a class."""
        return np.concatenate([self.things.labels, len(THINGS) + self.stuff_labels])

    def masks(self) -> np.ndarray:
        """bool [I + S, T, H, W]: the visible part of every segment."""
        stuff = self.stuff[None] == (self.stuff_labels + 1).astype(np.uint8)[:, None, None, None]
        return np.concatenate([self.things.masks(), stuff])

    def segment_ids(self) -> np.ndarray:
        """int64 [I + S]: a stuff segment's id is its category's, a thing's that times 100 and a number from 1 on."""
        things = [100 * CATEGORIES[label].id + 1 + i for i, label in enumerate(self.things.labels)]
        return np.array([*things, *(CATEGORIES[len(THINGS) + k].id for k in self.stuff_labels)], np.int64)

    def maps(self) -> np.ndarray:
        """uint32 [T, H, W]: the id of the segment at every pixel, 0 is void."""
        objects = len(self.things.labels)
        ids = np.zeros(256, np.uint32)
        ids[1 : objects + 1] = self.segment_ids()[:objects]
        stuff = np.array([0, *(category.id for category in CATEGORIES[len(THINGS) :])], np.uint32)
        return np.where(self.things.label_map > 0, ids[self.things.label_map], stuff[self.stuff])


def panoptic_video(
    split: str,
    index: int,
    *,
    seed: int = 0,
    frames: int | Sequence[int] | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    cuts: int = 0,
) -> PanopticDrawing:
    """Draw video `index` of a split with stuff behind its things; arguments and errors as of `synthetic_video`."""
    scene = sample_scene(split, index, seed=seed, size=size, cuts=cuts)
    times = frame_numbers(split, frames)
    rng = np.random.default_rng([split_facts(split).tag, seed, index, _STUFF_TAG])
    grounds = [sample_ground(rng) for _ in scene.shots]
    regions = []

    def backdrop(shot: int, t: int) -> np.ndarray:
        picture, labels = draw_ground(grounds[shot], t, scene.camera.unit, scene.height, scene.width)
        regions.append(labels)
        return picture

    pictures, sprites, areas = draw(scene, times, backdrop)
    stuff = np.where(sprites == 0, np.stack(regions) + np.uint8(1), np.uint8(0))
    for frame in stuff:
        visible = np.bincount(frame.ravel(), minlength=len(STUFF_NAMES) + 1)
        frame[visible[frame] < MIN_VISIBLE] = 0
    return PanopticDrawing(annotated(pictures, sprites, areas, scene), stuff)


def panoptic_dataset(
    split: str,
    *,
    seed: int = 0,
    videos: int | None = None,
    frames: int | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    cuts: int = 0,
) -> VideoDataset:
    """A split drawn on demand, things and stuff as instances alike; arguments as of `synthetic_dataset`."""
    name = f"synthetic_panoptic:{split}"
    draw_video = partial(panoptic_video, split, seed=seed, size=size, cuts=cuts)
    return drawn_dataset(name, CATEGORIES, draw_video, split, seed=seed, videos=videos, frames=frames, size=size)


def write_panoptic(
    directory: str | Path,
    split: str,
    *,
    seed: int = 0,
    videos: int | None = None,
    frames: int | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    cuts: int = 0,
    picture_format: str = "jpg",
) -> Path:
    """Write a split in VIPSeg's layout: `panoptic_gt_VIPSeg_<split>.json`, images/<video>/<frame>.jpg and
    panomasksRGB/<video>/<frame>.png. Arguments, errors and result as of `write_synthetic`, but for the frames, which
    are JPEG: VIPSeg's readers look for no other."""
    if picture_format != "jpg":
        raise DataError(f"panoptic video with {picture_format} frames asked for; VIPSeg's layout has jpg only")
    check_cuts(split, cuts, frames)
    with new_directory(directory, split, videos) as (part, count):
        records, marks = [], []
        for index in range(count):
            video = panoptic_video(split, index, seed=seed, frames=frames, size=size, cuts=cuts)
            name = f"{split}_{seed}_{index:04d}"
            marks.append({"video_id": name, "annotations": _write_frames(part, name, video)})
            height, width = video.stuff.shape[1:]
            images = [
                {"id": f"{t:05d}", "file_name": f"{t:05d}.jpg", "height": height, "width": width}
                for t in range(len(video.frames))
            ]
            records.append({"video_id": name, "images": images})
        data = {
            "info": {"description": f"l2g panoptic video, split {split}, seed {seed}", "version": FORMAT_VERSION},
            "videos": records,
            "categories": [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in CATEGORIES],
            "annotations": marks,
        }
        (part / f"panoptic_gt_VIPSeg_{split}.json").write_text(json.dumps(data), encoding="utf-8")
    return Path(directory)


def _write_frames(root: Path, name: str, video: PanopticDrawing) -> list[dict[str, Any]]:
    """Pictures and maps of a video; returns its frames' annotations."""
    (root / "images" / name).mkdir(parents=True)
    (root / "panomasksRGB" / name).mkdir(parents=True)
    frames = []
    for t, (picture, ids) in enumerate(zip(video.frames, video.maps(), strict=True)):
        write_frame(root / "images" / name / f"{t:05d}.jpg", picture)
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)
        write_frame(root / "panomasksRGB" / name / f"{t:05d}.png", rgb)
        info = _segments(ids, video)
        frames.append({"image_id": f"{t:05d}", "file_name": f"{t:05d}.png", "segments_info": info})
    return frames


def _segments(ids: np.ndarray, video: PanopticDrawing) -> list[dict[str, Any]]:
    """What shows in one frame. Stuff comes first: STQ's official code takes a thing that a video lists first for a
    crowd, and leaves it out."""
    found = []
    for id_, label in sorted(zip(video.segment_ids().tolist(), video.labels.tolist(), strict=True)):
        mask = (ids == id_).view(np.uint8)
        if area := cv2.countNonZero(mask):
            box = list(cv2.boundingRect(mask))
            found.append({"id": id_, "category_id": CATEGORIES[label].id, "area": area, "bbox": box, "iscrowd": 0})
    return found


def cached_panoptic(split: str, *, seed: int = 0, videos: int | None = None, frames: int | None = None) -> Path:
    """The directory of a split at 96 x 160 in VIPSeg's layout, kept as `cached_synthetic` keeps an instance split."""
    return cached_split(write_panoptic, f"synthetic_panoptic-v{FORMAT_VERSION}", split, seed, videos, frames)
