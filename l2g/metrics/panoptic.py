"""Video panoptic annotations and results in VIPSeg's layout, reduced to what VPQ and STQ count.

A set is a JSON file and a folder of id maps, `<folder>/<video_id>/<frame>.png`, RGB, id = R + 256 G + 65536 B, 0 is
void. Both metrics need of the pixels only how many carry each pair (annotated id, predicted id), frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2g.errors import DataError
from l2g.metrics.files import Json, field, read_json

VOID = 0


@dataclass(frozen=True)
class Segment:
    """One entry of a frame's `segments_info`. `area` (pixels) and `crowd` are None where the file has none."""

    id: int
    category_id: int
    area: int | None
    crowd: bool | None


@dataclass(frozen=True)
class Frame:
    """One frame: its place, for messages, the name of its map, None where maps are arrays, and its segments."""

    where: str
    file_name: str | None
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class PanopticSet:
    """Videos by id, in file order. `maps`: a folder, or by video id an integer array [T, H, W] of ids."""

    things: dict[int, bool]
    videos: dict[str, tuple[Frame, ...]]
    maps: Path | Mapping[str, np.ndarray]

    def id_map(self, video_id: str, index: int) -> np.ndarray:
        """Ids of one frame, integer [H, W]."""
        frame = self.videos[video_id][index]
        if isinstance(self.maps, Path):
            return _read_map(self.maps / str(video_id), frame)
        if video_id not in self.maps or len(self.maps[video_id]) != len(self.videos[video_id]):
            found = len(self.maps[video_id]) if video_id in self.maps else "no"
            raise DataError(f"{frame.where}: found {found} maps of its video, expected {len(self.videos[video_id])}")
        return np.asarray(self.maps[video_id][index])


@dataclass(frozen=True, eq=False)
class FrameOverlap:
    """One frame of both sides. `pixels`: (annotated id, predicted id) -> number of pixels, ids as in the maps."""

    truths: tuple[Segment, ...]
    predictions: tuple[Segment, ...]
    pixels: dict[tuple[int, int], int]
    where: str


def read_truth(source: str | Path | Json, maps: str | Path | Mapping[str, np.ndarray]) -> PanopticSet:
    """Annotations: {categories: [{id, isthing}], annotations: [{video_id, annotations: [{segments_info}, ...]}]}."""
    data = read_json(source, "ground truth", dict)
    things = {}
    for index, category in enumerate(_list(data, "categories", "ground truth")):
        where = f"ground truth category {index}"
        things[_int(category, "id", where)] = bool(_int(category, "isthing", where))
    return _read_set(data, maps, "ground truth", things)


def read_predictions(
    source: str | Path | Json, maps: str | Path | Mapping[str, np.ndarray], things: dict[int, bool]
) -> PanopticSet:
    """Results, of the same form but for the categories, which are the ground truth's `things`."""
    return _read_set(read_json(source, "results", dict), maps, "results", things)


def submission(folder: str | Path) -> tuple[Path, Path]:
    """(JSON file, folder of maps) of results in the official layout: `pred.json` and `pan_pred/` in one folder."""
    folder = Path(folder)
    if not (folder / "pred.json").is_file() or not (folder / "pan_pred").is_dir():
        raise DataError(f"results {folder}: expected a folder that holds pred.json and pan_pred/<video_id>/*.png")
    return folder / "pred.json", folder / "pan_pred"


def overlaps(truth: PanopticSet, predictions: PanopticSet) -> Iterator[tuple[str, list[FrameOverlap]]]:
    """For each annotated video, its frames paired by position. DataError where the two do not fit."""
    for video_id, frames in truth.videos.items():
        predicted = predictions.videos.get(video_id)
        if predicted is None:
            raise DataError(f"results: video '{video_id}' is missing; every video of the ground truth must be there")
        if len(predicted) != len(frames):
            raise DataError(
                f"results, video '{video_id}': has {len(predicted)} frames, the ground truth {len(frames)}; "
                "frames are paired by position, so there must be as many"
            )
        yield video_id, [_overlap(truth, predictions, video_id, index) for index in range(len(frames))]


def notes_on_videos(truth: PanopticSet, predictions: PanopticSet) -> tuple[str, ...]:
    extra = [video_id for video_id in predictions.videos if video_id not in truth.videos]
    if not extra:
        return ()
    return (
        f"{len(extra)} videos of the results are not in the ground truth and are left out; the first is '{extra[0]}'",
    )


def _read_set(
    data: Json, maps: str | Path | Mapping[str, np.ndarray], what: str, things: dict[int, bool]
) -> PanopticSet:
    listed = _videos(data, what)
    names = {(id_, i): name for id_, pictures in listed.items() for i, name in enumerate(pictures)}
    videos: dict[str, tuple[Frame, ...]] = {}
    for index, entry in enumerate(_list(data, "annotations", what)):
        video_id: str = field(entry, "video_id", f"{what} annotation {index}")
        where = f"{what}, video '{video_id}'"
        if not isinstance(video_id, (str, int)):  # an integer is as good a key
            raise DataError(f"{what} annotation {index}: 'video_id' is {video_id!r}, expected a string or an integer")
        if video_id in videos:
            raise DataError(f"{where}: is there twice; keep one of the two")
        frames = _list(entry, "annotations", where)
        videos[video_id] = tuple(
            Frame(
                where=f"{where}, frame {i}",
                file_name=_file_name(frame, f"{where}, frame {i}") or names.get((video_id, i)),
                segments=_segments(frame, f"{where}, frame {i}", things),
            )
            for i, frame in enumerate(frames)
        )
    if not videos:
        raise DataError(f"{what}: 'annotations' is empty; expected at least one video")
    videos = {video_id: videos[video_id] for video_id in dict.fromkeys([*listed, *videos]) if video_id in videos}
    return PanopticSet(things, videos, Path(maps) if isinstance(maps, (str, Path)) else maps)


def _videos(data: Json, what: str) -> dict[Any, list[str | None]]:
    """Video id -> the file names of its frames, from `videos`, for annotations that name no file."""
    found: dict[Any, list[str | None]] = {}
    for index, video in enumerate(_list(data, "videos", what) if data.get("videos") else []):
        where = f"{what}, video {index} of 'videos'"
        id_ = video.get("video_id") if isinstance(video, dict) else video
        if not isinstance(id_, (str, int, type(None))) or not isinstance(video, dict):
            raise DataError(f"{where}: {video!r:.60} found, expected its 'video_id' and 'images'")
        images = _list(video, "images", where) if video.get("images") else []
        if id_ is not None:  # else it names nobody's frames
            found[id_] = [_file_name(image, where) for image in images]
    return found


def _file_name(frame: Any, where: str) -> str | None:
    name = frame.get("file_name") if isinstance(frame, dict) else None
    if name is not None and not isinstance(name, str):
        raise DataError(f"{where}: 'file_name' is {name!r:.60}, expected the name of its map")
    return name


def _segments(frame: Json, where: str, things: dict[int, bool]) -> tuple[Segment, ...]:
    segments = []
    for entry in _list(frame, "segments_info", where):
        id_, category_id = _int(entry, "id", f"{where}, a segment"), _int(entry, "category_id", f"{where}, a segment")
        if category_id not in things:
            raise DataError(
                f"{where}, segment {id_}: category {category_id} is not among the ground truth's categories"
            )
        area = _int(entry, "area", f"{where}, segment {id_}") if "area" in entry else None
        crowd = bool(_int(entry, "iscrowd", f"{where}, segment {id_}")) if "iscrowd" in entry else None
        segments.append(Segment(id_, category_id, area, crowd))
    return tuple(segments)


def _list(entry: Json, key: str, where: str) -> list[Any]:
    value = field(entry, key, where)
    if not isinstance(value, list):
        raise DataError(f"{where}: '{key}' is {type(value).__name__}, expected a list")
    return value


def _int(entry: Json, key: str, where: str) -> int:
    value = field(entry, key, where)
    if not isinstance(value, Integral):
        raise DataError(f"{where}: '{key}' is {value!r}, expected an integer")
    return int(value)


def _read_map(folder: Path, frame: Frame) -> np.ndarray:
    if not frame.file_name:
        raise DataError(f"{frame.where}: names no 'file_name'; expected the name of its map in {folder}")
    path = folder / Path(frame.file_name).with_suffix(".png").name
    if not path.is_file():
        raise DataError(f"{frame.where}: there is no {path}; expected an RGB PNG of segment ids")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{frame.where}: {path} cannot be decoded; write the PNG again")
    if image.ndim != 3 or image.shape[2] < 3 or image.dtype != np.uint8:
        found = f"{image.dtype} {list(image.shape)}"
        raise DataError(f"{frame.where}: {path} is {found}, expected 8-bit RGB with id = R + 256 G + 65536 B")
    blue, green, red = (image[..., channel].astype(np.uint32) for channel in range(3))
    return red | green << 8 | blue << 16


def _overlap(truth: PanopticSet, predictions: PanopticSet, video_id: str, index: int) -> FrameOverlap:
    frame, predicted = truth.videos[video_id][index], predictions.videos[video_id][index]
    pixels = count_pairs(truth.id_map(video_id, index), predictions.id_map(video_id, index), predicted.where)
    drawn, listed = {id_ for _, id_ in pixels}, [segment.id for segment in predicted.segments]
    for id_ in drawn - set(listed) - {VOID}:
        raise DataError(f"{predicted.where}: segment {id_} is in the map but not in segments_info; list it there")
    for id_ in listed:
        if id_ not in drawn:
            raise DataError(f"{predicted.where}: segment {id_} is in segments_info but not in the map; drop it there")
        if listed.count(id_) > 1:
            raise DataError(f"{predicted.where}: segment {id_} is listed {listed.count(id_)} times; list it once")
    return FrameOverlap(frame.segments, predicted.segments, pixels, frame.where)


def count_pairs(truth: np.ndarray, predicted: np.ndarray, where: str) -> dict[tuple[int, int], int]:
    """Number of pixels of each (truth id, predicted id), sorted; both maps integer [H, W], ids 0 .. 2**24 - 1."""
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise DataError(
            f"{where}: its map is {list(predicted.shape)}, that of the ground truth {list(truth.shape)}; "
            "write results at the size of the annotations"
        )
    keys = (truth.astype(np.uint64) << np.uint64(32) | predicted.astype(np.uint64)).ravel()
    # Neighbours mostly agree: sorting the runs in place of the pixels is many times faster.
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    values, places = np.unique(keys[starts], return_inverse=True)
    counts = np.bincount(places.ravel(), weights=np.diff(starts, append=len(keys)))
    return {(key >> 32, key & 0xFFFFFFFF): int(n) for key, n in zip(values.tolist(), counts.tolist(), strict=True)}
