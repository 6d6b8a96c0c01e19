"""VIPSeg: video panoptic segmentation, things and stuff, from panoptic maps (github.com/VIPSeg-Dataset/VIPSeg-Dataset).

Expected is what the data set's own scripts make of the download, in VIPSeg_720P: images/<video>/<frame>.jpg,
panomasksRGB/<video>/<frame>.png and panoptic_gt_VIPSeg_<split>.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from l2g.data.checks import FileLookup, check_categories, is_directory, listed, raise_if_fatal, read_json
from l2g.data.dataset import Category, Clip, PictureFile, Problem, Video, VideoDataset, make_clip, split_names
from l2g.data.pictures import read_picture
from l2g.errors import DataError


class PanopticVideo(Video):
    """A video with a panoptic map per frame.

    labels: segment id -> position in the data set's categories; an id is one thing, or one stuff class, for the whole
    video.
    segments: per frame the file's `segments_info`.
    """

    def __init__(self, name: str, size: tuple[int, int], pictures: list[Path], maps: list[Path], segments: list[list]):
        self.id = self.name = name
        self.height, self.width = size
        self.length = len(pictures)
        self.segments = segments
        self.labels: dict[int, int] = {}
        self._pictures, self._maps = pictures, maps

    def frame(self, t: int) -> np.ndarray:
        return read_picture(self._pictures[t], (self.height, self.width))

    def pictures(self) -> Iterator[PictureFile]:
        return (PictureFile(path, (self.height, self.width)) for path in (*self._pictures, *self._maps))

    def map_name(self, t: int) -> str:
        """The name of frame t's map, without its suffix."""
        return self._maps[t].stem

    def panoptic(self, t: int) -> np.ndarray:
        """Segment ids uint32 [H, W] of frame t; 0 is void. DataError for an id that the annotation does not list."""
        rgb = read_picture(self._maps[t], (self.height, self.width)).astype(np.uint32)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        listed_ids = {segment["id"] for segment in self.segments[t]}
        flat = ids.ravel()
        found = flat[
            np.flatnonzero(flat[1:] != flat[:-1])
        ]  # the last pixel of every run: few, where `unique` sorts all
        stray = {*found.tolist(), int(flat[-1])} - listed_ids - {0}
        if stray:
            raise DataError(
                f"video '{self.name}', frame {t}: segment {min(stray)} of '{self._maps[t]}' is not in the annotation; "
                "make the maps and the annotation again"
            )
        return ids

    def annotated_frames(self) -> np.ndarray:
        return np.flatnonzero([any(not s.get("iscrowd") for s in segments) for segments in self.segments])

    def read(self, times: Sequence[int], rng: np.random.Generator | None = None) -> Clip:
        frames = np.stack([self.frame(int(t)) for t in times])
        seen = {s["id"] for t in times for s in self.segments[t] if not s.get("iscrowd")}
        ids = [i for i in self.labels if i in seen]
        masks = np.zeros((len(ids), len(times), self.height, self.width), bool)
        for column, t in enumerate(times):
            panoptic = self.panoptic(int(t))
            crowd = {s["id"] for s in self.segments[t] if s.get("iscrowd")}
            for row, segment in enumerate(ids):
                if segment not in crowd:
                    np.equal(panoptic, segment, out=masks[row, column])
        labels = np.array([self.labels[i] for i in ids], np.int64)
        return make_clip(frames, labels, masks, times=np.asarray(times, np.int64), video=self.name)


def load_vipseg(
    directory: str | Path,
    split: str = "train",
    *,
    name: str | None = None,
    skip_broken: bool = False,
    drop_empty: bool = False,
    allow_outside: bool = False,
) -> VideoDataset:
    """Open VIPSeg; `directory` holds VIPSeg_720P or is it. The flags as in `load_youtube_vis`."""
    root = Path(directory)
    root = root / "VIPSeg_720P" if is_directory(root / "VIPSeg_720P") else root
    files = [root / f"panoptic_gt_VIPSeg_{name}.json" for name in split_names(split)]
    path = next((file for file in files if os.path.isfile(file)), files[0])
    data = read_json(path)
    kinds = listed(data, "categories", path)
    check_categories(kinds, path)
    kinds = sorted(kinds, key=lambda kind: kind["id"])
    labels = {kind["id"]: label for label, kind in enumerate(kinds)}
    pictures = {_video_id(video): video.get("images") for video in listed(data, "videos", path)}
    lookup = FileLookup(root, allow_outside)
    problems: list[Problem] = []
    videos: list[PanopticVideo] = []
    names: set[str] = set()
    for entry in listed(data, "annotations", path):
        try:
            video = _video(entry, pictures, labels, root, lookup)
            if video.name in names:
                detail = "the annotation has this video twice; keep one of the two"
                raise _BrokenVideoError("corrupt annotation", video.name, detail)
            names.add(video.name)
            videos.append(video)
        except _BrokenVideoError as broken:
            problems.append(broken.problem)
    used = {label for video in videos for label in video.labels.values()}
    empty = [kind for label, kind in enumerate(kinds) if label not in used]
    problems += [
        Problem("category without instances", k["name"], f"category {k['id']} is never used", fatal=False)
        for k in empty
    ]
    name = name or str(directory)
    if not skip_broken:
        raise_if_fatal(problems, name)
    if drop_empty:
        kinds = [kind for kind in kinds if kind not in empty]
        new = {label: position for position, label in enumerate(sorted(used))}
        for video in videos:
            video.labels = {i: new[label] for i, label in video.labels.items()}
        videos = [video for video in videos if video.labels]
    categories = tuple(Category(kind["id"], kind["name"], bool(kind.get("isthing", 1))) for kind in kinds)
    return VideoDataset(name, categories, videos, tuple(problems), files=(path,))


class _BrokenVideoError(Exception):
    def __init__(self, kind: str, where: str, detail: str):
        super().__init__(detail)
        self.problem = Problem(kind, where, detail)


def _video_id(entry: dict) -> str:
    return str(entry.get("video_id"))[:200]


def _video(entry: dict, pictures: dict, labels: dict[int, int], root: Path, lookup: FileLookup) -> PanopticVideo:
    name = _video_id(entry)
    images, marks = pictures.get(name), entry.get("annotations")
    if not isinstance(images, list) or not isinstance(marks, list):
        raise _BrokenVideoError(
            "corrupt annotation", name, "it lists no frames under 'videos' or none under 'annotations'"
        )
    if not marks:
        raise _BrokenVideoError("empty video", name, "it has no frames; leave it out")
    try:
        by_id = {image["id"]: image for image in images}
        frames = [by_id[mark["image_id"]] for mark in marks]
        files = [f"images/{name}/{Path(frame['file_name']).stem}.jpg" for frame in frames]
        maps = [f"panomasksRGB/{name}/{mark['file_name']}" for mark in marks]
        size = int(frames[0]["height"]), int(frames[0]["width"])
        segments = [list(mark["segments_info"]) for mark in marks]
        video = PanopticVideo(name, size, [root / f for f in files], [root / m for m in maps], segments)
        for t, frame_segments in enumerate(segments):
            for segment in frame_segments:
                label = labels[segment["category_id"]]
                if video.labels.setdefault(segment["id"], label) != label:
                    detail = f"frame {t}: segment {segment['id']} changes its category; make the annotation again"
                    raise _BrokenVideoError("corrupt annotation", name, detail)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _BrokenVideoError("corrupt annotation", name, f"a field is missing or unknown ({error!r:.80})") from None
    if found := lookup.problem(name, files + maps):
        raise _BrokenVideoError(found.kind, name, found.detail)
    return video
