"""Masks in folders, as DAVIS and YouTube-VOS have them: JPEGImages/<video>/ and Annotations/<video>/*.png.

In DAVIS's archives there is a folder of a size above them: JPEGImages/480p/<video>/, Annotations/480p/<video>/*.png.

A pixel of a map is the number of its object, 0 for none. meta.json says which class an object has, as in YouTube-VOS
({"videos": {video: {"objects": {"1": {"category": "cat"}}}}}); without it all are of one class, "object".
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from l2g import files
from l2g.data.checks import is_directory
from l2g.data.convert.frames import pictures_in, put_picture, size_of, write_picture
from l2g.data.convert.tracks import Foreign, LabelledVideo, Track, flattened, rle_of, youtube_vis_data
from l2g.data.dataset import Category, Problem
from l2g.errors import DataError
from l2g.metrics.rle import Rle

META, FRAMES, MAPS = "meta.json", "JPEGImages", "Annotations"
ANY_CLASS = "object"
_SIZES = ("480p", "1080p", "Full-Resolution")  # of DAVIS 2016 and 2017; the first that is there is read
_MOST = 255


def is_mask_folders(directory: Path) -> bool:
    return is_directory(directory / FRAMES) and is_directory(directory / MAPS)


def read_mask_folders(directory: Path, split: str = "train") -> Foreign:
    """All videos that have maps. A frame without a map has no objects (YouTube-VOS labels every fifth frame, so the
    frames without a map are left out of the video)."""
    if not is_mask_folders(directory):
        raise DataError(f"no {FRAMES}/<video> and {MAPS}/<video> in '{directory}'")
    meta = _meta(directory)
    names: dict[str, int] = {}
    problems: list[Problem] = []
    videos = []
    size = next((s for s in _SIZES if all(is_directory(directory / part / s) for part in (FRAMES, MAPS))), "")
    for folder in sorted(entry for entry in (directory / MAPS / size).iterdir() if entry.is_dir()):
        try:
            videos.append(_video(directory / FRAMES / size, folder, meta.get(folder.name, {}), names))
        except DataError as error:
            problems.append(Problem("corrupt annotation", folder.name, str(error)))
    categories = [Category(number + 1, name) for name, number in names.items()]
    data = youtube_vis_data(
        categories, ((video, [str(p.relative_to(directory)) for p in video.pictures]) for video in videos)
    )
    return Foreign(data, directory / MAPS, directory, tuple(problems))


def _meta(directory: Path) -> dict[str, dict[str, str]]:
    """{video: {object's number: class}}; empty without a file."""
    path = directory / META
    if not path.is_file():
        return {}
    try:
        videos: dict[str, Any] = files.read_json(path, dict, f"'{path}'")["videos"]
        return {v: {str(k): str(o["category"]) for k, o in facts["objects"].items()} for v, facts in videos.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no videos with objects with categories in it ({error!r:.60})") from None


def _video(frames: Path, folder: Path, classes: dict[str, str], names: dict[str, int]) -> LabelledVideo:
    pictures = {picture.stem: picture for picture in pictures_in(frames / folder.name)}
    maps = sorted(folder.glob("*.png"))
    missing = [file.name for file in maps if file.stem not in pictures]
    if missing or not maps:
        raise DataError(f"map '{missing[0]}' has no picture" if missing else "it has no maps")
    kept = [pictures[file.stem] for file in maps]
    height, width = size_of(kept[0])
    objects: defaultdict[int, list[Rle | None]] = defaultdict(lambda: [None] * len(maps))
    for t, file in enumerate(maps):
        ids = _read_map(file)
        if ids.shape != (height, width):
            raise DataError(f"map '{file.name}' is {ids.shape[1]}x{ids.shape[0]}, its picture {width}x{height}")
        for key in np.unique(ids).tolist():
            if key:
                objects[key][t] = rle_of(ids == key)
    tracks = [
        Track(names.setdefault(classes.get(str(key), ANY_CLASS), len(names)), tuple(masks))
        for key, masks in sorted(objects.items())
    ]
    return LabelledVideo(folder.name, height, width, tuple(kept), tuple(tracks))


def _read_map(file: Path) -> np.ndarray:
    """Object numbers [H, W]: the places in the palette, not its colours."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            if picture.mode not in ("P", "L", "I", "I;16", "1"):
                raise DataError(f"map '{file.name}' has colours; expected one channel or a palette")
            return np.asarray(picture).astype(np.int64)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"map '{file.name}' cannot be read ({error!s:.60})") from None


class MaskFolderWriter:
    """Maps of one byte a pixel, and meta.json."""

    def __init__(self, folder: Path, categories: tuple[Category, ...]):
        self._folder, self._categories = folder, categories
        self._meta: dict[str, Any] = {}

    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        kept = [track for track in video.tracks if not track.iscrowd]
        lost["crowd regions, which the format does not have"] += len(video.tracks) - len(kept)
        if len(kept) > _MOST:
            raise DataError(f"video '{video.name}' has {len(kept)} objects; the format has numbers for {_MOST}")
        place = self._folder / MAPS / video.name
        place.mkdir(parents=True)
        for t, picture in enumerate(video.pictures):
            flat, covered = flattened(kept, t, video.height, video.width)
            lost["pixels of overlapping objects, given to the smaller one"] += covered
            name = f"{t:05d}"
            put_picture(picture, self._folder / FRAMES / video.name / f"{name}{picture.suffix.lower()}")
            write_picture(place / f"{name}.png", flat.astype(np.uint8))
        objects = {str(n + 1): {"category": self._categories[track.label].name} for n, track in enumerate(kept)}
        self._meta[video.name] = {"objects": objects}

    def close(self) -> None:
        (self._folder / META).write_text(json.dumps({"videos": self._meta}), encoding="utf-8")
