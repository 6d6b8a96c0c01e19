"""`l2g data convert`: a data set of any format into another one, and what the other cannot hold."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2g.data.convert.coco_video import CocoVideoWriter
from l2g.data.convert.cvat import write_cvat
from l2g.data.convert.frames import put_picture, write_picture
from l2g.data.convert.label_studio import EXPORT, task_of, write_frames
from l2g.data.convert.mask_folders import MaskFolderWriter
from l2g.data.convert.mots import MotsWriter
from l2g.data.convert.tracks import LabelledVideo, box_of, flattened, labelled, rle_of, youtube_vis_data
from l2g.data.dataset import Category, VideoDataset
from l2g.errors import DataError
from l2g.files import folder_atomically

# Formats that have a place for what others lose.
_WITH_OCCLUSION, _WITH_STUFF = ("youtube_vis", "ovis"), ("youtube_vis", "ovis", "coco_video", "vipseg")


@dataclass(frozen=True)
class Converted:
    """What was written: the folder, how many videos, frames and objects, and what was lost, in words."""

    folder: Path
    videos: int
    frames: int
    objects: int
    lost: tuple[str, ...]


class _Writer(ABC):
    """Takes videos one by one; `close` writes what belongs to all of them."""

    def __init__(self, folder: Path, split: str, categories: tuple[Category, ...]):
        self.folder, self.split, self.categories = folder, split, categories

    @abstractmethod
    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        """One video; what the format cannot hold is counted in `lost`."""

    def close(self) -> None:  # noqa: B027 (some formats have nothing of the kind)
        """Nothing more to write."""


class _YoutubeVis(_Writer):
    """instances.json and JPEGImages/<video>/."""

    annotation, frames = "instances.json", "JPEGImages"

    def __init__(self, folder: Path, split: str, categories: tuple[Category, ...]):
        super().__init__(folder, split, categories)
        self._videos: list[tuple[LabelledVideo, list[str]]] = []

    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        names = [f"{video.name}/{t:05d}{picture.suffix.lower()}" for t, picture in enumerate(video.pictures)]
        for name, picture in zip(names, video.pictures, strict=True):
            put_picture(picture, self.folder / self.frames.format(s=self.split) / name)
        self._videos.append((video, names))

    def close(self) -> None:
        data = youtube_vis_data(self.categories, self._videos)
        path = self.folder / self.annotation.format(s=self.split)
        path.write_text(json.dumps(data), encoding="utf-8")


class _Ovis(_YoutubeVis):
    """annotations_<split>.json and <split>/<video>/."""

    annotation, frames = "annotations_{s}.json", "{s}"


class _Cvat(_Writer):
    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        write_cvat(self.folder, video, self.categories, lost)


class _LabelStudio(_Writer):
    def __init__(self, folder: Path, split: str, categories: tuple[Category, ...]):
        super().__init__(folder, split, categories)
        self._tasks: list[dict[str, Any]] = []

    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        write_frames(self.folder, video)
        self._tasks.append(task_of(len(self._tasks) + 1, video, self.categories, lost))

    def close(self) -> None:
        (self.folder / EXPORT).write_text(json.dumps(self._tasks), encoding="utf-8")


class _Vipseg(_Writer):
    """images/, panomasksRGB/ and panoptic_gt_VIPSeg_<split>.json; the frames have to be JPEG there."""

    def __init__(self, folder: Path, split: str, categories: tuple[Category, ...]):
        super().__init__(folder, split, categories)
        self._videos: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        images, marks = [], []
        maps = self.folder / "panomasksRGB" / video.name
        maps.mkdir(parents=True)
        for t, picture in enumerate(video.pictures):
            name = f"{t:08d}"
            target = self.folder / "images" / video.name / f"{name}.jpg"
            lost["frames compressed anew, as JPEG of quality 95"] += put_picture(picture, target)
            flat, covered = flattened(video.tracks, t, video.height, video.width)
            lost["pixels of overlapping objects, given to the smaller one"] += covered
            write_picture(
                maps / f"{name}.png", np.stack([flat % 256, flat // 256 % 256, flat // 65536], -1).astype("u1")
            )
            size = {"height": video.height, "width": video.width}
            images.append({"id": name, "file_name": f"{name}.jpg", **size})
            segments = self._segments(video, flat)
            marks.append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})
        self._videos.append({"video_id": video.name, "images": images})
        self._annotations.append({"video_id": video.name, "annotations": marks})

    def _segments(self, video: LabelledVideo, flat: np.ndarray) -> list[dict[str, Any]]:
        segments = []
        for number in np.unique(flat[flat > 0]).tolist():
            code, track = rle_of(flat == number), video.tracks[number - 1]
            assert code is not None
            area = int((flat == number).sum())
            facts = {"id": number, "category_id": self.categories[track.label].id, "iscrowd": int(track.iscrowd)}
            segments.append({**facts, "area": area, "bbox": list(box_of(code))})
        return segments

    def close(self) -> None:
        kinds = [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in self.categories]
        data = {"videos": self._videos, "annotations": self._annotations, "categories": kinds}
        path = self.folder / f"panoptic_gt_VIPSeg_{self.split}.json"
        path.write_text(json.dumps(data), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, str, tuple[Category, ...]], Any]] = {
    "youtube_vis": _YoutubeVis,
    "ovis": _Ovis,
    "coco_video": CocoVideoWriter,
    "cvat": _Cvat,
    "label_studio": _LabelStudio,
    "vipseg": _Vipseg,
    "mots": lambda folder, split, categories: MotsWriter(folder, categories),
    "masks": lambda folder, split, categories: MaskFolderWriter(folder, categories),
}


def convert(dataset: VideoDataset, to: str, folder: Path, split: str = "train") -> Converted:
    """Write `dataset` into `folder`, which appears complete or not at all, in format `to`, a name of `WRITERS`.

    Raises DataError for a folder that is not empty, for a data set without frames as files, and where the format cannot
    hold it at all.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"'{folder}' exists and is not empty; give another directory or remove it")
    lost: Counter[str] = Counter()
    videos = frames = objects = 0
    with folder_atomically(folder, DataError) as part:
        writer = WRITERS[to](part, split, dataset.categories)
        for video in labelled(dataset):
            if to not in _WITH_OCCLUSION:
                lost["objects with grades of occlusion"] += sum(track.occlusion is not None for track in video.tracks)
            writer.write(video, lost)
            videos, frames, objects = videos + 1, frames + len(video.pictures), objects + len(video.tracks)
        writer.close()
        if to not in _WITH_STUFF:
            lost["classes of stuff, which are things there"] += sum(not c.is_thing for c in dataset.categories)
    named = tuple(f"{count} {what}" for what, count in lost.items() if count)
    return Converted(folder, videos, frames, objects, named)
