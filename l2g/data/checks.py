"""Checks of an annotation file in the YouTube-VIS format, before it is used; `l2g data check` lists them."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from l2g import files
from l2g.data.dataset import Problem, check_segmentation
from l2g.errors import DataError
from l2g.metrics.rle import LONGEST_SIDE, BadMaskError, Rle, compress, measure, polygon_complaint

_SHOWN = 8  # problems named in an error message
_AT_A_TIME = 64  # annotations whose masks are measured at once
_LARGEST_ID = (1 << 63) - 1
_LARGEST_AREA = LONGEST_SIDE * LONGEST_SIDE


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
    sound = [id_of(category, "id") for category in categories]
    if not ids or None in sound or len(set(sound)) < len(ids):
        raise DataError(f"annotation file '{path}': category ids {ids[:20]!r:.200} found; expected different integers")
    for category in categories:
        if not isinstance(category.get("name"), str):
            raise DataError(f"annotation file '{path}': category {category['id']} has no name; give it one")


def check_videos(records: list[dict[str, Any]], lookup: FileLookup) -> list[Problem | None]:
    """What is wrong with each entry of `videos`, None where nothing is. An id that two have belongs to neither."""
    found = [_check_video(record, lookup) for record in records]
    owners: dict[int, int] = {}
    for place, record in enumerate(records):
        key = id_of(record, "id")
        if key is None or (first := owners.setdefault(key, place)) == place:
            continue
        for one, other in ((first, place), (place, first)):
            detail = f"id {key} is also that of video '{video_name(records[other])}'; give every video its own"
            found[one] = found[one] or Problem("corrupt annotation", video_name(records[one]), detail)
    return found


def _check_video(video: dict[str, Any], lookup: FileLookup) -> Problem | None:
    name = video_name(video)
    names = video.get("file_names")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return Problem("corrupt annotation", name, "'file_names' is no list of names")
    if not names:
        return Problem("empty video", name, "it has no frames; leave it out or give it some")
    if id_of(video, "id") is None:
        return Problem("corrupt annotation", name, f"'id' is {video.get('id')!r:.40}, expected an integer")
    for key in ("width", "height"):
        if type(video.get(key)) is not int or not 0 < video[key] <= LONGEST_SIDE:
            found = f"'{key}' is {video.get(key)!r:.40}, expected an integer from 1 to {LONGEST_SIDE}"
            return Problem("corrupt annotation", name, found)
    if (length := video.get("length")) is not None and length != len(names):
        return Problem("corrupt annotation", name, f"'length' is {length!r:.40}, but it names {len(names)} frames")
    return lookup.problem(name, names)


def check_annotations(
    annotations: list[dict[str, Any]], videos: Mapping[int, dict[str, Any]], categories: set[int]
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The sound entries of `annotations`, what they lack computed, and what is wrong with the others.

    Down to every run-length code: the masks of many annotations are measured at once.
    """
    problems: list[Problem] = []
    sound: list[dict[str, Any]] = []
    ids: set[int] = set()
    for mark in annotations:
        found = _check_annotation(mark, videos, categories, ids)
        if found:
            problems.append(found)
        else:
            sound.append(mark)
    sound, found_problems = check_masks(sound, videos)
    problems += found_problems
    return _completed(sound, videos, ids, problems), problems


def _check_annotation(
    mark: dict[str, Any], videos: Mapping[int, dict[str, Any]], categories: set[int], ids: set[int]
) -> Problem | None:
    """What is wrong with an entry, its masks apart. ids: those of earlier ones, to which its own is added."""
    key = mark.get("id")
    where = f"annotation {key!r:.40}"
    video = videos.get(id_of(mark, "video_id"))  # type: ignore[arg-type]  # no video has the key None
    if video is None:
        return Problem("corrupt annotation", where, f"there is no video {mark.get('video_id')!r:.40}")
    where += f" of video '{video_name(video)}'"

    def broken(detail: str) -> Problem:
        return Problem("corrupt annotation", where, detail)

    if key is not None:
        if id_of(mark, "id") is None:
            return broken("its id is no integer; number the annotations")
        if key in ids:
            return broken("another annotation has this id; number the annotations anew")
        ids.add(key)
    if id_of(mark, "category_id") not in categories:
        return broken(f"there is no category {mark.get('category_id')!r:.40}")
    if (crowd := mark.get("iscrowd", 0)) not in (0, 1, None):
        return broken(f"'iscrowd' is {crowd!r:.40}, expected 0 or 1")
    segmentations, length = mark.get("segmentations"), len(video["file_names"])
    if not isinstance(segmentations, list) or len(segmentations) != length:
        found = f"{len(segmentations)} entries" if isinstance(segmentations, list) else f"{segmentations!r:.40}"
        return broken(f"'segmentations' has {found}, the video {length} frames")
    if not any(segmentations):
        return broken("it has no segmentation in any frame; leave it out")
    return None


def check_masks(
    marks: list[dict[str, Any]], videos: Mapping[int, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The annotations whose masks are sound, and a Problem for each of the others."""
    sound: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for first in range(0, len(marks), _AT_A_TIME):
        block = marks[first : first + _AT_A_TIME]
        if _all_sound(block, videos):
            sound += block
            continue
        for mark in block:
            if _all_sound([mark], videos):
                sound.append(mark)
            else:
                problems.append(_mask_problem(mark, videos[mark["video_id"]]))
    return sound, problems


def _all_sound(marks: list[dict[str, Any]], videos: Mapping[int, dict[str, Any]]) -> bool:
    compressed: list[Rle] = []
    runs, lengths, pixels = array("q"), array("q"), array("q")
    try:
        for mark in marks:
            video = videos[mark["video_id"]]
            height, width = video["height"], video["width"]
            size = [height, width]
            for segmentation in mark["segmentations"]:
                if not segmentation:
                    continue
                if not isinstance(segmentation, dict):
                    if polygon_complaint(segmentation, height, width):
                        return False
                    continue
                if segmentation["size"] != size:
                    return False
                counts = segmentation["counts"]
                if type(counts) is list:
                    runs.fromlist(counts)
                    lengths.append(len(counts))
                    pixels.append(height * width)
                else:
                    compressed.append(segmentation)  # type: ignore[arg-type]  # `measure` finds what is none
        if lengths and not _runs_are_sound(np.asarray(runs), np.asarray(lengths), np.asarray(pixels)):
            return False
        measure(compressed)
    except (KeyError, TypeError, ValueError, OverflowError, BadMaskError):
        return False
    return True


def _runs_are_sound(runs: np.ndarray, lengths: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether no run is negative and those of each mask make up its pixels; all int64, one mask after the other."""
    if lengths.min() == 0 or runs.min() < 0 or runs.max() > pixels.max():
        return False
    return bool((np.add.reduceat(runs, np.cumsum(lengths) - lengths) == pixels).all())


def _mask_problem(mark: dict[str, Any], video: dict[str, Any]) -> Problem:
    where = f"annotation {mark.get('id')!r:.40} of video '{video_name(video)}'"
    for t, segmentation in enumerate(mark["segmentations"]):
        if segmentation:
            try:
                check_segmentation(segmentation, video["height"], video["width"])
            except DataError as error:
                return Problem("corrupt annotation", where, f"frame {t}: {error}")
    return Problem("corrupt annotation", where, "its masks are of several kinds; write them in one way")


def _completed(
    marks: list[dict[str, Any]], videos: Mapping[int, dict[str, Any]], ids: set[int], problems: list[Problem]
) -> list[dict[str, Any]]:
    """The annotations with what the evaluator needs; a Problem that is not fatal for each key that some lack."""
    lacking: Counter[str] = Counter()
    new_ids = count(max(ids, default=0) + 1)
    found = []
    for mark in marks:
        added: dict[str, Any] = {}
        if mark.get("id") is None:
            added["id"] = next(new_ids)
        if mark.get("iscrowd") is None:
            added["iscrowd"] = 0
        if not _areas_are_sound(mark.get("areas"), mark["segmentations"]):
            added["areas"] = _areas(mark["segmentations"], videos[mark["video_id"]])
        lacking.update(added.keys())
        found.append({**mark, **added} if added else mark)
    how = {"id": "numbered anew", "iscrowd": "taken as 0", "areas": "computed from the masks"}
    problems += [
        Problem("missing field", "annotations", f"{n} of {len(marks)} have no valid '{key}'; {how[key]}", fatal=False)
        for key, n in sorted(lacking.items())
    ]
    return found


def _areas_are_sound(areas: Any, segmentations: list[Any]) -> bool:
    if not isinstance(areas, list) or len(areas) != len(segmentations):
        return False
    # Null where there is a mask, or an area where there is none, has a meaning in the official evaluator.
    return all(
        area is None or ((type(area) is int or type(area) is float) and 0 <= area <= _LARGEST_AREA) for area in areas
    )


def _areas(segmentations: list[Any], video: dict[str, Any]) -> list[int | None]:
    """Pixels of each mask, None where there is none."""
    codes = compress(segmentations, video["height"], video["width"])
    areas = iter(measure([code for code in codes if code]).areas.tolist())
    return [next(areas) if code else None for code in codes]


def id_of(entry: dict[str, Any], key: str) -> int | None:
    """The integer of 64 bits that `entry` has as `key`, else None."""
    found = entry.get(key)
    return found if type(found) is int and -_LARGEST_ID <= found <= _LARGEST_ID else None


def video_name(video: dict) -> str:
    """The directory of a video's frames, which people know it by; else its number."""
    names = video.get("file_names")
    if isinstance(names, list) and names and isinstance(names[0], str) and "/" in names[0]:
        return _shown(names[0].rsplit("/", 1)[0])
    return f"video {video.get('id')!r:.40}"


class FileLookup:
    """Tells which of the files named below `root` are there and lie in it, reading each directory once.

    allow_outside: names and links may lead out of `root`.
    """

    def __init__(self, root: Path, allow_outside: bool = False):
        self._root, self._outside_is_fine = root, allow_outside
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, tuple[dict[str, bool], bool]] = {}
        self._plain: set[str] = set()

    def problem(self, where: str, names: Iterable[str]) -> Problem | None:
        """What is wrong with the first of `names` that is missing or lies outside; None where nothing is."""
        missing: list[str] = []
        for name in names:
            folder, _, file = name.rpartition("/")
            if folder == "" and name.startswith("/"):
                folder = "/"
            files, inside = self._folders.get(folder) or self._look(folder)
            is_link = files.get(file)
            if is_link is None:
                missing.append(name)
            elif not self._outside_is_fine and not (inside and not (is_link and self._leaves(name))):
                detail = (
                    f"'{_shown(name)}' lies outside of '{self._root}'; allow that with --allow-outside, or move it in"
                )
                return Problem("outside of the folder", where, detail)
        if not missing:
            return None
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return Problem("missing frame", where, f"no file '{_shown(missing[0])}'{others}; unpack the frames again")

    def _look(self, folder: str) -> tuple[dict[str, bool], bool]:
        """{file: whether it is a link} of a folder, and whether it lies in the root."""
        try:
            with os.scandir(self._root / folder) as entries:
                files = {entry.name: entry.is_symlink() for entry in entries}
            inside = self._is_plain(folder) or not self._leaves(folder)
        except (OSError, ValueError):  # ValueError: a null byte or half a character pair in the name
            files, inside = {}, True
        self._folders[folder] = files, inside
        return files, inside

    def _is_plain(self, folder: str) -> bool:
        """Whether a folder plainly lies in the root: by names that lead down, none of them a link."""
        if not folder or folder in self._plain:
            return True
        if folder.startswith("/"):
            return False
        parent, _, last = folder.rpartition("/")
        plain = last not in ("", "..") and not os.path.islink(self._root / folder) and self._is_plain(parent)
        if plain:
            self._plain.add(folder)
        return plain

    def _leaves(self, name: str) -> bool:
        real = os.path.realpath(self._root / name)
        return real != self._real_root and not real.startswith(self._real_root.rstrip("/") + "/")


def is_directory(path: str | Path) -> bool:
    """Whether there is such a directory; False also for a name that no file can have."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def _shown(name: str) -> str:
    """A name as it can be printed, however long and strange it is."""
    return name if len(name) <= 200 and name.isprintable() else f"{ascii(name[:200])[1:-1]}"


def raise_if_fatal(problems: Iterable[Problem], name: str) -> None:
    """DataError that names the first fatal problems, if there are any."""
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        shown = "".join(f"\n  {problem}" for problem in fatal[:_SHOWN])
        more = f"\n  and {len(fatal) - _SHOWN} more" if len(fatal) > _SHOWN else ""
        raise DataError(
            f"data set '{name}' has {len(fatal)} broken entries:{shown}{more}\n"
            "mend them, or leave them out with --skip-broken (in a training config: data.skip_broken=true)"
        )
