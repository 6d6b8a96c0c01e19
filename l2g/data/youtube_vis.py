"""Data sets in the YouTube-VIS format: YouTube-VIS 2019, 2021, 2022, OVIS, and what l2g writes itself.

Format: github.com/youtubevos/cocoapi. One JSON file of videos, categories and annotations, and a directory of frames.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from l2g.data.checks import (
    check_annotation,
    check_categories,
    check_video,
    file_lookup,
    listed,
    raise_if_fatal,
    read_json,
    video_name,
)
from l2g.data.dataset import AnnotatedVideo, Category, Problem, VideoDataset, VideoObject
from l2g.errors import DataError

# Where the official archives and the usual re-arrangements of them keep the annotation of split {s}, best first.
_ANNOTATIONS = (
    "instances.json",
    "{s}.json",
    "{s}/instances.json",
    "annotations/{s}.json",
    "annotations/instances_{s}.json",
    "instances_{s}.json",
    "annotations_{s}.json",
    "annotations/annotations_{s}.json",
    "instances_{s}_sub.json",
    "annotations/instances_{s}_sub.json",
)
_FRAMES = ("JPEGImages", "{s}/JPEGImages", "{s}", "Images/{s}", "{s}_all_frames/JPEGImages", "train/JPEGImages")
_ALIASES = {"val": ("val", "valid"), "valid": ("valid", "val")}


class FileVideo(AnnotatedVideo):
    """A video whose frames are picture files."""

    def __init__(self, record: dict, root: Path, objects: tuple[VideoObject, ...]):
        self.id = record["id"]
        self.name = video_name(record)
        self.height, self.width = record["height"], record["width"]
        self.length = len(record["file_names"])
        self.objects = objects
        self.record = record
        self.root = root

    def frame(self, t: int) -> np.ndarray:
        return read_picture(self.root / self.record["file_names"][t], (self.height, self.width))


def read_picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a picture file; DataError when it cannot be read or is not of `size` (height, width)."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        state = "is not a picture" if path.exists() else "does not exist"
        raise DataError(f"frame '{path}' {state}; unpack the frames again")
    if size is not None and picture.shape[:2] != tuple(size):
        found, wanted = "x".join(map(str, picture.shape[:2])), "x".join(map(str, size))
        raise DataError(f"frame '{path}' has {found} pixels, the annotation says {wanted}; unpack the frames again")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def load_youtube_vis(
    directory: str | Path,
    split: str = "train",
    *,
    annotations: str | Path | None = None,
    frames: str | Path | None = None,
    name: str | None = None,
    skip_broken: bool = False,
    drop_empty: bool = False,
) -> VideoDataset:
    """Open a directory in the YouTube-VIS layout.

    split: "train", "val" (also found as "valid") or "test"; without meaning where the directory holds `instances.json`.
    annotations, frames: the JSON file and the directory of frames, where they are not at their usual places.
    skip_broken: leave out corrupt annotations and videos with missing frames or none, instead of raising DataError;
    they are listed in `problems`. drop_empty: leave out videos and categories without instances too (which changes the
    labels).
    """
    directory = Path(directory)
    path = Path(annotations) if annotations else find_annotations(directory, split)
    data = read_json(path)
    records, kinds = listed(data, "videos", path), listed(data, "categories", path)
    marks = [] if data.get("annotations") is None else listed(data, "annotations", path)
    check_categories(kinds, path)
    root = Path(frames) if frames else _find_frames(directory, split, records)
    name = name or str(directory)

    exists = file_lookup(root)
    problems: list[Problem] = []
    videos: dict[int, dict] = {}
    broken: set = set()
    for record in records:
        found = check_video(record, exists)
        problems += found
        if found:
            broken.add(record.get("id"))
        else:
            videos[record["id"]] = record
    ids = {kind["id"] for kind in kinds}
    sound: list[dict] = []
    for mark in marks:
        if mark.get("video_id") in broken and mark.get("video_id") not in videos:
            continue  # goes with its video
        found = check_annotation(mark, videos, ids)
        problems += found
        if not found:
            sound.append(mark)
    if marks:  # a file without any annotation is a test set, and nothing about it is odd
        problems += _without_instances(videos, kinds, sound)
    if not skip_broken:
        raise_if_fatal(problems, name)
    if drop_empty:
        kinds = [kind for kind in kinds if any(mark["category_id"] == kind["id"] for mark in sound)]
        seen = {mark["video_id"] for mark in sound}
        videos = {key: record for key, record in videos.items() if key in seen}
    return _assemble(name, kinds, videos, sound, root, problems)


def _without_instances(videos: dict[int, dict], kinds: list[dict], sound: list[dict]) -> list[Problem]:
    seen = {mark["video_id"] for mark in sound}
    used = {mark["category_id"] for mark in sound}
    return [
        Problem("empty video", video_name(record), "it has no instance", fatal=False)
        for key, record in videos.items()
        if key not in seen
    ] + [
        Problem("category without instances", kind["name"], f"category {kind['id']} is never used", fatal=False)
        for kind in kinds
        if kind["id"] not in used
    ]


def _assemble(name, kinds, videos, sound, root, problems) -> VideoDataset:
    kinds = sorted(kinds, key=lambda kind: kind["id"])
    labels = {kind["id"]: label for label, kind in enumerate(kinds)}
    objects = defaultdict(list)
    for mark in sound:
        crowd = bool(mark.get("iscrowd", 0))
        label = labels[mark["category_id"]]
        objects[mark["video_id"]].append(VideoObject(mark.get("id"), label, crowd, mark["segmentations"], mark))
    return VideoDataset(
        name=name,
        categories=tuple(Category(kind["id"], kind["name"], bool(kind.get("isthing", 1))) for kind in kinds),
        videos=[FileVideo(record, root, tuple(objects[key])) for key, record in videos.items()],
        problems=tuple(problems),
    )


def find_annotations(directory: Path, split: str) -> Path:
    """The annotation file of a split; DataError, naming the places looked at, when there is none."""
    if not directory.is_dir():
        raise DataError(f"data set directory '{directory}' does not exist; where were the archives unpacked?")
    tried = [p.format(s=s) for p in _ANNOTATIONS for s in _ALIASES.get(split, (split,))]
    for candidate in tried:
        if (directory / candidate).is_file():
            return directory / candidate
    places = ", ".join(dict.fromkeys(tried))
    raise DataError(f"no annotation of split '{split}' in '{directory}'; expected one of {places}")


def _find_frames(directory: Path, split: str, records: list[dict]) -> Path:
    """The directory that the file names are relative to: the first usual place that has any video's directory."""
    places = [directory / p.format(s=s) for p in _FRAMES for s in _ALIASES.get(split, (split,))]
    first = [r["file_names"][0] for r in records if isinstance(r.get("file_names"), list) and r["file_names"]]
    for place in places:
        if any((place / str(file)).parent.is_dir() for file in first[:50]):
            return place
    for place in places:
        if place.is_dir():
            return place
    raise DataError(f"no frames in '{directory}'; expected them in JPEGImages or {split}/JPEGImages")


def ground_truth(dataset: VideoDataset) -> dict:
    """The annotation as a YouTube-VIS JSON object, for the evaluator: what `dataset` holds, nothing that it left out.

    Raises DataError for a data set whose videos carry no segmentations per object.
    """
    records, marks = [], []
    for video in dataset.videos:
        if not isinstance(video, FileVideo):
            raise DataError(f"data set '{dataset.name}' is not in the YouTube-VIS format; use another metric")
        records.append(video.record)
        marks += [found.record for found in video.objects]
    categories = [{"id": c.id, "name": c.name} for c in dataset.categories]
    return {"videos": records, "categories": categories, "annotations": marks}
