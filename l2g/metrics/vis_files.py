"""YouTube-VIS and OVIS annotation and results files, read and checked entry by entry."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from l2g.errors import DataError
from l2g.metrics.files import Json, field, read_json
from l2g.metrics.rle import BadMaskError, Rle, compress
from l2g.metrics.tubes import Tubes

# A double; integers of JSON may be larger.
_LARGEST = sys.float_info.max
# Frames; at 30 a second nine hours.
_LONGEST = 1_000_000
OCCLUSION = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


@dataclass(frozen=True)
class TruthTube:
    """One annotated object. `average_area` comes from the file's `areas`; `occlusion` is 0..1, None unless OVIS."""

    id: int
    video_id: int
    category_id: int
    crowd: bool
    average_area: float
    occlusion: float | None
    masks: tuple[Rle | None, ...]
    index: int


@dataclass(frozen=True)
class Prediction:
    """One predicted object; `index` is its place in the results file, `masks` the file's own list."""

    index: int
    video_id: int
    category_id: int
    score: float
    masks: Sequence[Rle | None]


@dataclass(frozen=True)
class GroundTruth:
    """Annotations by (video id, category id), in file order; ids sorted; lengths in frames by video id."""

    video_ids: tuple[int, ...]
    video_lengths: dict[int, int | None]
    category_ids: tuple[int, ...]
    category_names: dict[int, str]
    tubes: dict[tuple[int, int], tuple[TruthTube, ...]]


def read_ground_truth(source: str | Path | Json, ovis: bool) -> GroundTruth:
    """Read annotations in YouTube-VIS format (`ovis`: with `occlusion`); DataError names the broken entry."""
    data = read_json(source, "ground truth", dict)
    videos = _by_id(_list(data, "videos"), "video")
    categories = _by_id(_list(data, "categories"), "category")
    if not videos or not categories:
        raise DataError("ground truth: 'videos' and 'categories' must have at least one entry each")
    # OVIS evaluates a file whose annotations are null, as a set without objects.
    annotations = [] if ovis and data.get("annotations", 0) is None else _list(data, "annotations")
    tubes = defaultdict(list)
    seen: dict[int, int] = {}
    for index, annotation in enumerate(annotations):
        tube = _read_annotation(annotation, index, videos, categories, ovis)
        if tube.id in seen:
            raise DataError(
                f"ground truth annotation {index}: id {tube.id} is also that of annotation {seen[tube.id]}; "
                "annotation ids must be unique"
            )
        seen[tube.id] = index
        tubes[tube.video_id, tube.category_id].append(tube)
    return GroundTruth(
        video_ids=tuple(sorted(videos)),
        video_lengths={id_: _length(video, f"ground truth video (id {id_})") for id_, video in videos.items()},
        category_ids=tuple(sorted(categories)),
        category_names={id_: str(category.get("name", id_)) for id_, category in categories.items()},
        tubes={key: tuple(group) for key, group in tubes.items()},
    )


def _list(data: Json, key: str) -> list[Json]:
    entries = field(data, key, "ground truth")
    if not isinstance(entries, list):
        raise DataError(f"ground truth: '{key}' is {type(entries).__name__}, expected a list")
    return entries


def _by_id(entries: list[Json], what: str) -> dict[int, Json]:
    by_id: dict[int, Json] = {}
    for index, entry in enumerate(entries):
        where = f"ground truth {what} {index}"
        id_ = _int(entry, "id", where)
        if id_ in by_id:
            raise DataError(f"{where}: id {id_} is used twice; {what} ids must be unique")
        by_id[id_] = entry
    return by_id


def _read_annotation(
    annotation: Json, index: int, videos: dict[int, Json], categories: dict[int, Json], ovis: bool
) -> TruthTube:
    where = f"ground truth annotation {index}"
    id_ = _int(annotation, "id", where)
    where = f"{where} (id {id_})"
    video_id, category_id = _int(annotation, "video_id", where), _int(annotation, "category_id", where)
    for key, value, known in (("video_id", video_id, videos), ("category_id", category_id, categories)):
        if value not in known:
            raise DataError(f"{where}: {key} {value} is not among the file's; correct it or drop the annotation")
    where = f"{where}, video {video_id}"
    crowd = field(annotation, "iscrowd", where)
    if crowd not in (0, 1):
        raise DataError(f"{where}: 'iscrowd' is {crowd!r}, expected 0 or 1")
    video = videos[video_id]
    try:
        masks = compress(_frames(annotation, "segmentations", where), video.get("height"), video.get("width"))
    except BadMaskError as error:
        raise DataError(f"{where}, frame {error.index}: {error.reason}") from None
    average_area = _average_area(_frames(annotation, "areas", where), where)
    occlusion = _occlusion(_frames(annotation, "occlusion", where), where) if ovis else None
    return TruthTube(id_, video_id, category_id, bool(crowd), average_area, occlusion, tuple(masks), index)


def _frames(annotation: Json, key: str, where: str) -> list[Any]:
    frames = field(annotation, key, where)
    if not isinstance(frames, list):
        raise DataError(f"{where}: '{key}' is {type(frames).__name__}, expected a list with one entry per frame")
    return frames


def _average_area(areas: list[Any], where: str) -> float:
    """Mean over the frames that have an area: null and 0 do not count (as officially)."""
    for frame, area in enumerate(areas):
        number = isinstance(area, Real)
        if area is not None and (not number or not 0 <= area <= _LARGEST):
            raise DataError(f"{where}, frame {frame}: area is {area!r:.40}, expected a number or null")
    present = [area for area in areas if area]
    return float(np.mean(present)) if present else 0.0


def _occlusion(levels: list[Any], where: str) -> float:
    """Mean of the upper half of the tube's occlusion levels, 0..0.75 (OVIS: https://arxiv.org/abs/2102.01558)."""
    for frame, level in enumerate(levels):
        if level is not None and (not isinstance(level, str) or level not in OCCLUSION):
            raise DataError(
                f"{where}, frame {frame}: occlusion is {level!r}, expected null or one of {list(OCCLUSION)}"
            )
    values = sorted((OCCLUSION[level] for level in levels if level is not None), reverse=True)
    if not values:
        raise DataError(f"{where}: 'occlusion' names no level in any frame; expected one where the object is present")
    upper = values[: (len(values) + 1) // 2]
    return sum(upper) / len(upper)


def read_results(source: str | Path | list[Json], truth: GroundTruth, allow_empty: bool) -> dict[int, list[Prediction]]:
    """Predictions by video id, in file order; DataError names the entry by its index in the file."""
    entries = read_json(source, "results", list)
    if not entries and not allow_empty:
        raise DataError("results: the list is empty; expected at least one prediction (the official evaluator fails)")
    by_video: dict[int, list[Prediction]] = defaultdict(list)
    known = set(truth.video_ids)
    for index, entry in enumerate(entries):
        where = f"results entry {index}"
        video_id, category_id = _int(entry, "video_id", where), _int(entry, "category_id", where)
        if video_id not in known:
            raise DataError(
                f"{where}: video_id {video_id} is not in the ground truth; are these results of another split?"
            )
        score, masks = field(entry, "score", where), field(entry, "segmentations", where)
        if isinstance(score, bool) or not isinstance(score, Real) or not abs(cast(float, score)) <= _LARGEST:
            raise DataError(f"{where} (video {video_id}): 'score' is {score!r:.40}, expected a finite number")
        if not isinstance(masks, (list, tuple)):
            found = type(masks).__name__
            raise DataError(f"{where} (video {video_id}): 'segmentations' is {found}, expected a list of frames")
        # `l2g run` writes the lists of long videos from the track's first frame to its last.
        if "first_frame" in entry:
            first, length = _int(entry, "first_frame", where), truth.video_lengths[video_id]
            most = _LONGEST if length is None else length
            if not 0 <= first <= most:
                raise DataError(f"{where} (video {video_id}): first_frame {first} found, 0 to {most} expected")
            behind = (length or 0) - first - len(masks)
            masks = [*[None] * first, *masks, *[None] * max(0, behind)]
        by_video[video_id].append(Prediction(index, video_id, category_id, float(score), masks))
    return by_video


def _int(entry: Json, key: str, where: str) -> int:
    value = field(entry, key, where)
    if type(value) is not int and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise DataError(f"{where}: '{key}' is {value!r}, expected an integer")
    return int(value)


def _length(video: Json, where: str) -> int | None:
    """Frames of a video, where the file says how many."""
    if video.get("length") is None:
        return None
    length = video["length"]
    number = isinstance(length, int | float) and not isinstance(length, bool)
    if not number or not 0 <= length <= _LONGEST or length != int(length):
        raise DataError(f"{where}: 'length' is {length!r:.40}, expected a number of frames")
    return int(length)


_Owner = TypeVar("_Owner", TruthTube, Prediction)


def measure_predictions(predictions: list[Prediction]) -> Tubes:
    """Measure the predictions of one video; DataError names entry, video and frame of a damaged mask."""
    return _measured(predictions, lambda p: f"results entry {p.index}, video {p.video_id}")


def measure_truth(tubes: tuple[TruthTube, ...]) -> Tubes:
    """The same for annotations."""
    return _measured(tubes, lambda t: f"ground truth annotation {t.index} (id {t.id}), video {t.video_id}")


def _measured(owners: Sequence[_Owner], name: Callable[[_Owner], str]) -> Tubes:
    try:
        return Tubes.measured([owner.masks for owner in owners])
    except BadMaskError as error:
        present = [(owner, frame) for owner in owners for frame, mask in enumerate(owner.masks) if mask]
        owner, frame = present[error.index]
        raise DataError(f"{name(owner)}, frame {frame}: {error.reason}") from None
