"""MOTS (vision.rwth-aachen.de/page/mots): a text file a video, a line for each mask of a frame.

Layout as in KITTI MOTS: instances_txt/<video>.txt (or instances/<video>/*.png) and training/image_02/<video>/*.png.
The format has class numbers alone, 1 car and 2 pedestrian; other names stand in classes.txt ("3 bicycle" a line).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from l2g.data.checks import is_directory
from l2g.data.convert.frames import pictures_in, put_picture, size_of
from l2g.data.convert.tracks import Foreign, LabelledVideo, Track, flattened, rle_of, youtube_vis_data
from l2g.data.dataset import Category, Problem, check_segmentation
from l2g.errors import DataError
from l2g.metrics.rle import Rle

NAMES = "classes.txt"
KITTI = {1: "car", 2: "pedestrian"}
IGNORE, STEP = 10, 1000  # class of regions that do not count, and what an object's id has per class
_FRAMES = ("training/image_02", "images", "train/images", "JPEGImages")

# class number, id -> per frame its mask
_Found = dict[tuple[int, int], dict[int, Rle]]


def is_mots(directory: Path) -> bool:
    return is_directory(directory / "instances_txt") or is_directory(directory / "instances")


def read_mots(directory: Path, split: str = "train") -> Foreign:
    """All videos of a directory; ignore regions become crowds."""
    texts, maps = directory / "instances_txt", directory / "instances"
    videos = [file.stem for file in sorted(texts.glob("*.txt"))] or (
        sorted(entry.name for entry in maps.iterdir() if entry.is_dir()) if is_directory(maps) else []
    )
    if not videos:
        raise DataError(f"no instances_txt/*.txt and no instances/<video> in '{directory}'")
    names, problems = _names(directory), list[Problem]()
    found = {}
    for video in videos:
        file = texts / f"{video}.txt"
        found[video] = _of_text(file, problems) if file.is_file() else _of_maps(maps / video)
    numbers = sorted({number for marks in found.values() for number, _ in marks} - {IGNORE} | set(names))
    labels = {number: label for label, number in enumerate(numbers)}
    categories = [Category(number, names.get(number, f"class {number}")) for number in numbers]
    labelled = [_video(directory, video, marks, labels, problems) for video, marks in found.items()]
    data = youtube_vis_data(
        categories, ((video, [str(p.relative_to(directory)) for p in video.pictures]) for video in labelled)
    )
    return Foreign(data, texts, directory, tuple(problems))


def _names(directory: Path) -> dict[int, str]:
    file = directory / NAMES
    if not file.is_file():
        return dict(KITTI)
    names = {}
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        number, _, name = line.strip().partition(" ")
        if number:
            if not number.isdecimal() or not name:
                raise DataError(f"{file}: line '{line:.60}' found; a class number and a name expected")
            names[int(number)] = name
    return names


def _of_text(file: Path, problems: list[Problem]) -> _Found:
    found: _Found = defaultdict(dict)
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            frame, key, kind, height, width, counts = line.split(maxsplit=5)
            code = cast(Rle, {"size": [int(height), int(width)], "counts": counts.strip()})
            check_segmentation(code, int(height), int(width))
            found[int(kind), int(key)][int(frame)] = code
        except (ValueError, DataError) as error:
            where, detail = f"line {number} of '{file}'", f"{error!s:.120}; expected 'frame id class height width rle'"
            problems.append(Problem("corrupt annotation", where, detail))
    return found


def _of_maps(folder: Path) -> _Found:
    """From 16-bit PNG maps of object ids, a file a frame."""
    found: _Found = defaultdict(dict)
    for frame, file in _numbered(sorted(folder.glob("*.png"))).items():
        ids = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if ids is None or ids.ndim != 2:
            raise DataError(f"'{file}' is no PNG of one channel; unpack the annotation again")
        for key in np.unique(ids).tolist():
            if key and (code := rle_of(ids == key)):
                found[key // STEP, key][frame] = code
    return found


def _numbered(files: Sequence[Path]) -> dict[int, Path]:
    """Files of frames by the number in their name: KITTI's begin with 0, MOTSChallenge's with 1. Without one in each
    they are counted from 0."""
    numbers = [int(file.stem) if file.stem.isdecimal() else -1 for file in files]
    named = min(numbers, default=0) >= 0 and len(set(numbers)) == len(files)
    return dict(zip(numbers if named else range(len(files)), files, strict=True))


def _video(directory: Path, name: str, marks: _Found, labels: dict[int, int], problems: list[Problem]) -> LabelledVideo:
    places = [directory / place / name for place in _FRAMES]
    pictures = next((found for place in places if (found := pictures_in(place))), [])
    if not pictures:
        raise DataError(f"no frames of video '{name}'; expected in {', '.join(map(str, places[:2]))}")
    height, width = size_of(pictures[0])
    times = _numbered(pictures)
    tracks = []
    if beyond := sorted({time for frames in marks.values() for time in frames} - {*times}):
        detail = f"{len(beyond)} frames have masks and no picture, the first: {beyond[0]}; unpack the frames again"
        problems.append(Problem("missing frame", name, detail))
    for (number, _), frames in sorted(marks.items()):
        masks = tuple(frames.get(time) for time in times)
        tracks.append(Track(labels.get(number, 0), masks, iscrowd=number == IGNORE))
    return LabelledVideo(name, height, width, tuple(pictures), tuple(tracks))


class MotsWriter:
    """Numbers classes from 1 (car and pedestrian keep theirs) and ids per class and video."""

    def __init__(self, folder: Path, categories: tuple[Category, ...]):
        kept = {name: number for number, name in KITTI.items()}
        plain = [category.name.casefold() for category in categories]
        if set(plain) <= set(kept):
            self._numbers = [kept[name] for name in plain]
        elif len(categories) < IGNORE:
            self._numbers = list(range(1, len(categories) + 1))
        else:
            raise DataError(f"{len(categories)} classes found; MOTS has numbers for {IGNORE - 1}")
        self._folder, self._categories = folder, categories
        (folder / "instances_txt").mkdir()

    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        ids = self._ids(video)
        lines = []
        for t, picture in enumerate(video.pictures):
            flat, covered = flattened(video.tracks, t, video.height, video.width)
            lost["pixels of overlapping objects, given to the smaller one"] += covered
            for n, key in enumerate(ids):
                if code := rle_of(flat == n + 1):
                    kind = min(key // STEP, IGNORE)
                    lines.append(f"{t} {key} {kind} {video.height} {video.width} {code['counts']!s}\n")
            suffix = picture.suffix.lower()
            put_picture(picture, self._folder / _FRAMES[0] / video.name / f"{t:06d}{suffix}")
        (self._folder / "instances_txt" / f"{video.name}.txt").write_text("".join(lines), encoding="ascii")

    def close(self) -> None:
        lines = [f"{n} {c.name}\n" for n, c in zip(self._numbers, self._categories, strict=True)]
        (self._folder / NAMES).write_text("".join(lines), encoding="utf-8")

    def _ids(self, video: LabelledVideo) -> list[int]:
        count: Counter[int] = Counter()
        ids = []
        for track in video.tracks:
            number = IGNORE if track.iscrowd else self._numbers[track.label]
            # All ignore regions are one object.
            ids.append(number * STEP + (0 if track.iscrowd else count[number]))
            count[number] += 1
        if max(count.values(), default=0) > STEP:
            raise DataError(f"video '{video.name}' has more than {STEP} objects of a class, more than MOTS has ids for")
        return ids
