"""Label Studio's JSON export of video tasks: boxes at keyframes (labelstud.io/tags/videorectangle), no masks.

Layout: a .json file with a list of tasks; each video's frames in a folder of its name, or the video file beside it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from l2g import files
from l2g.data.convert.frames import frames_of, put_picture, size_of
from l2g.data.convert.tracks import Foreign, LabelledVideo, Track, box_of, rle_of_polygons, youtube_vis_data
from l2g.data.dataset import Category, Problem
from l2g.errors import DataError
from l2g.metrics.rle import Rle

EXPORT = "label_studio.json"
_KIND = "videorectangle"


def is_label_studio(directory: Path) -> bool:
    return _find(directory) is not None


def _find(directory: Path) -> Path | None:
    """The file of tasks: a JSON list whose first entry has `annotations` and `data`."""
    for file in sorted(directory.glob("*.json")):
        try:
            with open(file, encoding="utf-8-sig") as text:
                begins_as_list = text.read(64).lstrip().startswith("[")
            tasks = json.loads(file.read_bytes()) if begins_as_list else None
        except (OSError, ValueError, RecursionError):
            continue
        if tasks and isinstance(tasks[0], dict) and {"annotations", "data"} <= tasks[0].keys():
            return file
    return None


def read_label_studio(directory: Path, split: str = "train") -> Foreign:
    """All tasks of the export; boxes become masks of all their pixels, which a Problem that is not fatal counts. Of
    several annotations of a task the first that was not cancelled counts."""
    file = _find(directory)
    if file is None:
        raise DataError(f"no export of video tasks in '{directory}'; export from Label Studio as JSON")
    tasks = files.read_json(file, list, f"annotation file '{file}'")
    problems: list[Problem] = []
    names: dict[str, int] = {}
    videos = [video for task in tasks if (video := _video(file, task, names, problems))]
    count = sum(1 for video in videos for track in video.tracks for mask in track.masks if mask)
    if count:
        detail = f"{count} boxes, taken as masks of all their pixels"
        problems.append(Problem("shape without a mask", str(file), detail, fatal=False))
    categories = [Category(number + 1, name) for name, number in names.items()]
    data = youtube_vis_data(
        categories, ((v, [str(p.relative_to(directory)) if p.is_relative_to(directory) else str(p) for p in v.pictures])
                     for v in videos)
    )  # fmt: skip
    return Foreign(data, file, directory, tuple(problems))


def _video(file: Path, task: Any, names: dict[str, int], problems: list[Problem]) -> LabelledVideo | None:
    where = f"task {task.get('id') if isinstance(task, dict) else task!r:.40} of '{file}'"
    try:
        source = _video_of(task["data"])
        done = [a for a in task["annotations"] if not a.get("was_cancelled")]
        regions = [r for r in (done[0]["result"] if done else []) if r.get("type") == _KIND]
    except (KeyError, TypeError, AttributeError, StopIteration, IndexError) as error:
        problems.append(Problem("corrupt annotation", where, f"no video or no annotations in it ({error!r:.60})"))
        return None
    name = _file_name(source)
    pictures = frames_of(file.parent, name)
    height, width = size_of(pictures[0])
    tracks = []
    for region in regions:
        try:
            masks = _masks(region["value"]["sequence"], len(pictures), height, width)
            label = str(region["value"]["labels"][0])
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, DataError) as error:
            detail = f"region {region.get('id')!r:.40} has no label or no boxes ({error!s:.60}); label it anew"
            problems.append(Problem("corrupt annotation", where, detail))
            continue
        tracks.append(Track(names.setdefault(label, len(names)), masks))
    return LabelledVideo(Path(name).stem, height, width, tuple(pictures), tuple(tracks))


def _video_of(data: dict[str, Any]) -> str:
    """A task may have a title and more beside its video, under any names."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    files = [value for value in texts.values() if Path(_file_name(value)).suffix]
    return texts.get("video") or next(iter([*files, *texts.values()]))


def _file_name(source: str) -> str:
    """The video's file name in Label Studio's URL: /data/local-files/?d=clips/a.mp4, or /data/upload/1/a.mp4."""
    parts = urlparse(source)
    inner = parse_qs(parts.query).get("d", [parts.path])[0]
    return Path(unquote(inner)).name


def _masks(sequence: list[dict[str, Any]], length: int, height: int, width: int) -> tuple[Rle | None, ...]:
    """Frames count from 1. A box moves evenly to the next keyframe, and to the end, unless it is not `enabled`: then it
    is seen in its own frame for the last time."""
    keys = sorted(sequence, key=lambda key: key["frame"])
    if not keys or not 1 <= keys[0]["frame"] <= keys[-1]["frame"] <= length:
        raise DataError(f"keyframes beyond the video's {length} frames, or none")
    masks: list[Rle | None] = [None] * length
    for place, key in enumerate(keys):
        first = int(key["frame"]) - 1
        follower = keys[place + 1] if place + 1 < len(keys) else None
        until = first + 1 if not key.get("enabled", True) else int(follower["frame"]) - 1 if follower else length
        start, end = _box(key), _box(follower or key)
        for t in range(first, until):
            share = (t - first) / (int(follower["frame"]) - 1 - first) if follower else 0.0
            masks[t] = _filled(start + share * (end - start), height, width)
    return tuple(masks)


def _box(key: dict[str, Any]) -> np.ndarray:
    """float64 [5]: x, y, width, height in percent of the frame, and degrees, clockwise about the top left corner."""
    return np.array([float(key[name]) for name in ("x", "y", "width", "height")] + [float(key.get("rotation", 0))])


def _filled(box: np.ndarray, height: int, width: int) -> Rle | None:
    x, y, w, h = box[:4] / 100 * (width, height, width, height)
    cos, sin = math.cos(math.radians(box[4])), math.sin(math.radians(box[4]))
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)]) @ np.array([(cos, sin), (-sin, cos)]) + (x, y)
    return rle_of_polygons([corners.clip(0, (width, height)).ravel().tolist()], height, width)


def task_of(number: int, video: LabelledVideo, categories: tuple[Category, ...], lost: Counter[str]) -> dict[str, Any]:
    """One task of the export: a region for each object, a box for each of its frames."""
    regions = []
    for n, track in enumerate(video.tracks):
        if track.iscrowd:
            lost["crowd regions, which the format does not have"] += 1
            continue
        sequence = []
        for t, code in enumerate(track.masks):
            if code is None:
                continue
            x, y, w, h = box_of(code)
            lost["masks, of which only the boxes stay"] += 1
            last = t + 1 == len(track.masks) or track.masks[t + 1] is None
            sides = zip(("x", "y", "width", "height"), (x, y, w, h), (video.width, video.height) * 2, strict=True)
            box = {name: 100 * value / side for name, value, side in sides}
            sequence.append({"frame": t + 1, "enabled": not last, "rotation": 0, **box})
        if sequence:
            value = {
                "framesCount": len(video.pictures),
                "sequence": sequence,
                "labels": [categories[track.label].name],
            }
            regions.append({"id": f"r{n}", "type": _KIND, "from_name": "box", "to_name": "video", "value": value})
    return {"id": number, "data": {"video": f"{video.name}.mp4"}, "annotations": [{"id": number, "result": regions}]}


def write_frames(folder: Path, video: LabelledVideo) -> None:
    for t, picture in enumerate(video.pictures):
        put_picture(picture, folder / video.name / f"{t:06d}{picture.suffix.lower()}")
