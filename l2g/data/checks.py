"""Checks of an annotation file in the YouTube-VIS format, before it is used; `l2g data check` lists them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from l2g import files
from l2g.data.dataset import Problem, check_segmentation
from l2g.errors import DataError

_SHOWN = 8  # problems named in an error message


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError when it is missing, not JSON or not an object."""
    return files.read_json(path, dict, f"annotation file '{path}'")


def listed(data: dict, key: str, path: Path) -> list[dict]:
    """data[key], a list of objects; DataError otherwise."""
    found = data.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"annotation file '{path}': '{key}' is no list of objects; is this the file of a data set?")
    return found


def check_categories(categories: list[dict], path: Path) -> None:
    """DataError unless every category has an integer id of its own and a name: labels hang on them."""
    ids = [category.get("id") for category in categories]
    if not ids or not all(isinstance(i, int) for i in ids) or len(set(ids)) < len(ids):
        raise DataError(f"annotation file '{path}': category ids {ids[:20]} found; expected different integers")
    for category in categories:
        if not isinstance(category.get("name"), str):
            raise DataError(f"annotation file '{path}': category {category['id']} has no name; give it one")


def check_video(video: dict, exists: Callable[[str], bool]) -> list[Problem]:
    """What is wrong with an entry of `videos`. exists: tells whether a frame's file is there."""
    name = video_name(video)
    names = video.get("file_names")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return [Problem("corrupt annotation", name, "'file_names' is no list of names")]
    if not names:
        return [Problem("empty video", name, "it has no frames; leave it out or give it some")]
    for key in ("id", "width", "height"):
        if not isinstance(video.get(key), int):
            return [Problem("corrupt annotation", name, f"'{key}' is {video.get(key)!r}, expected an integer")]
    if video.get("length", len(names)) != len(names):
        return [Problem("corrupt annotation", name, f"'length' is {video['length']}, but it names {len(names)} frames")]
    missing = [n for n in names if not exists(n)]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return [Problem("missing frame", name, f"no file '{missing[0]}'{others}; unpack the frames again")]
    return []


def check_annotation(
    annotation: dict[str, Any], videos: Mapping[Any, dict[str, Any]], categories: set[int]
) -> list[Problem]:
    """What is wrong with an entry of `annotations`, down to every run-length code."""
    where = f"annotation {annotation.get('id')}"
    video = videos.get(annotation.get("video_id"))
    if video is None:
        return [Problem("corrupt annotation", where, f"there is no video {annotation.get('video_id')!r}")]
    where += f" of video '{video_name(video)}'"
    if annotation.get("category_id") not in categories:
        return [Problem("corrupt annotation", where, f"there is no category {annotation.get('category_id')!r}")]
    segmentations, length = annotation.get("segmentations"), len(video["file_names"])
    if not isinstance(segmentations, list) or len(segmentations) != length:
        found = f"{len(segmentations)} entries" if isinstance(segmentations, list) else f"{segmentations!r:.40}"
        return [Problem("corrupt annotation", where, f"'segmentations' has {found}, the video {length} frames")]
    for t, segmentation in enumerate(segmentations):
        if segmentation:
            try:
                check_segmentation(segmentation, video["height"], video["width"])
            except DataError as error:
                return [Problem("corrupt annotation", where, f"frame {t}: {error}")]
    if not any(segmentations):
        return [Problem("corrupt annotation", where, "it has no segmentation in any frame; leave it out")]
    return []


def video_name(video: dict) -> str:
    """The directory of a video's frames, which people know it by; else its number."""
    names = video.get("file_names")
    if isinstance(names, list) and names and isinstance(names[0], str) and "/" in names[0]:
        return names[0].rsplit("/", 1)[0]
    return f"video {video.get('id')}"


def file_lookup(root: Path) -> Callable[[str], bool]:
    """A function that tells whether `root`/name exists, reading each directory once."""
    known: dict[str, set[str]] = {}

    def exists(name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in known:
            try:
                known[folder] = set(os.listdir(root / folder))
            except OSError:
                known[folder] = set()
        return file in known[folder]

    return exists


def raise_if_fatal(problems: Iterable[Problem], name: str) -> None:
    """DataError that names the first fatal problems, if there are any."""
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        shown = "".join(f"\n  {problem}" for problem in fatal[:_SHOWN])
        more = f"\n  and {len(fatal) - _SHOWN} more" if len(fatal) > _SHOWN else ""
        raise DataError(
            f"data set '{name}' has {len(fatal)} broken entries:{shown}{more}\n"
            "mend them, or leave them out with skip_broken (--skip-broken)"
        )
