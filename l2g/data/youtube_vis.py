"""Data sets in the YouTube-VIS format: YouTube-VIS 2019, 2021, 2022, OVIS, and what l2g writes itself.

Format: github.com/youtubevos/cocoapi. One JSON file of videos, categories and annotations, and a directory of frames.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from l2g.data.checks import (
    FileLookup,
    check_annotations,
    check_categories,
    check_videos,
    id_of,
    is_directory,
    listed,
    raise_if_fatal,
    read_json,
    video_name,
)
from l2g.data.dataset import AnnotatedVideo, Category, PictureFile, Problem, VideoDataset, VideoObject, split_names
from l2g.data.pictures import read_picture
from l2g.errors import DataError
from l2g.metrics.files import no_collection

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

    def pictures(self) -> Iterator[PictureFile]:
        return (PictureFile(self.root / name, (self.height, self.width)) for name in self.record["file_names"])


def load_youtube_vis(
    directory: str | Path,
    split: str = "train",
    *,
    annotations: str | Path | None = None,
    frames: str | Path | None = None,
    name: str | None = None,
    skip_broken: bool = False,
    drop_empty: bool = False,
    allow_outside: bool = False,
) -> VideoDataset:
    """Open a directory in the YouTube-VIS layout.

    split: "train", "val" (also found as "valid") or "test"; without meaning where the directory holds `instances.json`.
    annotations, frames: the JSON file and the directory of frames, where they are not at their usual places.
    skip_broken: leave out corrupt annotations and videos with missing frames or none, instead of raising DataError;
    they are listed in `problems`. drop_empty: leave out videos and categories without instances too (which changes the
    labels). allow_outside: take frames that lie outside of their directory, by `..`, an absolute name or a link.

    What the evaluator needs and an annotation lacks is computed where it can be: `areas`, `iscrowd`, `id`.
    """
    with no_collection():
        return _load(Path(directory), split, annotations, frames, name, skip_broken, drop_empty, allow_outside)


def _load(
    directory: Path,
    split: str,
    annotations: str | Path | None,
    frames: str | Path | None,
    name: str | None,
    skip_broken: bool,
    drop_empty: bool,
    allow_outside: bool,
) -> VideoDataset:
    path = Path(annotations) if annotations else find_annotations(directory, split)
    data = read_json(path)
    records = listed(data, "videos", path)
    check_categories(listed(data, "categories", path), path)
    root = Path(frames) if frames else _find_frames(directory, split, records)
    return open_annotation(
        data,
        path,
        root,
        name or str(directory),
        skip_broken=skip_broken,
        drop_empty=drop_empty,
        allow_outside=allow_outside,
    )


def open_annotation(
    data: dict,
    path: Path,
    root: Path,
    name: str,
    *,
    found: tuple[Problem, ...] = (),
    skip_broken: bool = False,
    drop_empty: bool = False,
    allow_outside: bool = False,
) -> VideoDataset:
    """The data set of a file's content `data`, its frames below `root`.

    Categories are sound (`check_categories`). found: what was wrong before there was any data.
    """
    records, kinds = listed(data, "videos", path), listed(data, "categories", path)
    marks = [] if data.get("annotations") is None else listed(data, "annotations", path)
    lookup = FileLookup(root, allow_outside)
    problems: list[Problem] = list(found)
    videos: dict[int, dict] = {}
    broken: set = set()
    for record, problem in zip(records, check_videos(records, lookup), strict=True):
        if problem:
            problems.append(problem)
            broken.add(id_of(record, "id"))
        else:
            videos[record["id"]] = record
    ids = {kind["id"] for kind in kinds}
    # What belongs to a broken video goes with it.
    marks = [mark for mark in marks if (i := id_of(mark, "video_id")) in videos or i not in broken]
    sound, found_problems = check_annotations(marks, videos, ids)
    problems += found_problems
    if marks:  # a file without any annotation is a test set, and nothing about it is odd
        problems += _without_instances(videos, kinds, sound)
    if not skip_broken:
        raise_if_fatal(problems, name)
    if drop_empty:
        kinds = [kind for kind in kinds if any(mark["category_id"] == kind["id"] for mark in sound)]
        seen = {mark["video_id"] for mark in sound}
        videos = {key: record for key, record in videos.items() if key in seen}
    return replace(_assemble(name, kinds, videos, sound, root, problems), files=(path,))


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
    if not is_directory(directory):
        raise DataError(f"data set directory '{directory}' does not exist; where were the archives unpacked?")
    tried = [p.format(s=s) for p in _ANNOTATIONS for s in split_names(split)]
    for candidate in tried:
        if (directory / candidate).is_file():
            return directory / candidate
    places = ", ".join(dict.fromkeys(tried))
    raise DataError(f"no annotation of split '{split}' in '{directory}'; expected one of {places}")


def _find_frames(directory: Path, split: str, records: list[dict]) -> Path:
    """The directory that the file names are relative to: the first usual place that has any video's directory."""
    places = [directory / p.format(s=s) for p in _FRAMES for s in split_names(split)]
    first = [str(r["file_names"][0]) for r in records if isinstance(r.get("file_names"), list) and r["file_names"]]
    # An absolute name lies in no place.
    relative = [file for file in first[:50] if file and not os.path.isabs(file)]
    there = [place for place in places if place.is_dir()]
    for place in there:
        if any(is_directory((place / file).parent) for file in relative):
            return place
    if there:
        return there[0]
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
