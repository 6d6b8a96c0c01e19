"""CVAT's XML for video, version 1.1 (docs.cvat.ai, "XML annotation format"): tracks of polygons, masks and boxes.

Layout: annotations.xml with the frames in images/, or a folder with these two for each video.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2g.data.convert.frames import frames_of, pictures_in, put_picture, size_of
from l2g.data.convert.tracks import Foreign, LabelledVideo, Track, mask_of, rle_of, rle_of_polygons, youtube_vis_data
from l2g.data.dataset import Category, Problem
from l2g.errors import DataError
from l2g.metrics.rle import LONGEST_SIDE, Rle

ANNOTATIONS = "annotations.xml"


def is_cvat(directory: Path) -> bool:
    return bool(_files(directory))


def _files(directory: Path) -> list[Path]:
    return sorted([*directory.glob("*.xml"), *directory.glob(f"*/{ANNOTATIONS}")])


def read_cvat(directory: Path, split: str = "train") -> Foreign:
    """All videos of a directory. Boxes become masks of all their pixels, and a Problem that is not fatal counts them;
    shapes that have no area (points, lines) are left out likewise. DataError for what is no such file."""
    files = _files(directory)
    if not files:
        raise DataError(f"no {ANNOTATIONS} in '{directory}'; export the task as 'CVAT for video 1.1', with its images")
    problems: list[Problem] = []
    names: dict[str, int] = {}
    parsed = []
    for file in files:
        root = _parse(file)
        for label in root.findall("./meta//labels/label/name"):
            names.setdefault(str(label.text), len(names))
        for track in root.iterfind("track"):
            names.setdefault(track.get("label", ""), len(names))
        parsed.append((file, root))
    videos = [_video(file, root, names, problems) for file, root in parsed]
    categories = [Category(number + 1, name) for name, number in names.items()]
    data = youtube_vis_data(
        categories, ((video, [str(p.relative_to(directory)) for p in video.pictures]) for video in videos)
    )
    return Foreign(data, files[0], directory, tuple(problems))


def _parse(file: Path) -> ET.Element:
    try:
        text = file.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise DataError(f"{file}: it declares entities, which no export of CVAT does")
        root = ET.fromstring(text)
    except (OSError, ET.ParseError, ValueError) as error:
        raise DataError(f"{file}: not an XML file ({error}); export the task again") from None
    if root.tag != "annotations":
        raise DataError(f"{file}: <{root.tag}> found, <annotations> expected; export as 'CVAT for video 1.1'")
    if root.find("image") is not None:
        raise DataError(f"{file}: an annotation of single images, without tracks; export as 'CVAT for video 1.1'")
    return root


def _video(file: Path, root: ET.Element, names: dict[str, int], problems: list[Problem]) -> LabelledVideo:
    name = file.parent.name if file.name == ANNOTATIONS and pictures_in(file.parent / "images") else file.stem
    source = root.findtext("./meta/source") or root.findtext("./meta/task/source") or name
    pictures = pictures_in(file.parent / "images") or frames_of(file.parent, Path(source).name)
    height, width = _size(root) or size_of(pictures[0])
    shapes = _Shapes(height, width, len(pictures))
    tracks = []
    for element in root.iterfind("track"):
        where = f"track {element.get('id')} of '{file}'"
        try:
            masks = shapes.masks(element)
        except (KeyError, ValueError, OverflowError, DataError) as error:
            problems.append(Problem("corrupt annotation", where, f"{error!s:.120}; annotate it anew"))
            continue
        tracks.append(Track(names[element.get("label", "")], masks))
    for what, count in sorted((+shapes.odd).items()):
        problems.append(Problem("shape without a mask", str(file), f"{count} {what}", fatal=False))
    return LabelledVideo(name, height, width, tuple(pictures), tuple(tracks))


def _size(root: ET.Element) -> tuple[int, int] | None:
    found = root.find("./meta//original_size")
    if found is None:
        return None
    try:
        height, width = (int(found.findtext(side) or "") for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if 0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE else None


@dataclass
class _Shapes:
    """Turns a track's shapes into masks of a video of `length` frames; counts what is not a mask."""

    height: int
    width: int
    length: int

    def __post_init__(self):
        self.odd: Counter[str] = Counter()

    def masks(self, track: ET.Element) -> tuple[Rle | None, ...]:
        """Every shape holds until the next one: boxes, and polygons of as many points, move evenly between two."""
        shapes = sorted(((_number(s, "frame"), s) for s in track), key=lambda pair: pair[0])
        if shapes and not 0 <= shapes[0][0] <= shapes[-1][0] < self.length:
            raise DataError(f"frames {shapes[0][0]} to {shapes[-1][0]} in a video of {self.length}")
        masks: list[Rle | None] = [None] * self.length
        for place, (frame, shape) in enumerate(shapes):
            follower = shapes[place + 1] if place + 1 < len(shapes) else None
            until = follower[0] if follower else self.length
            if shape.get("outside") == "1":
                continue
            self.odd["boxes, taken as masks of all their pixels"] += shape.tag == "box"
            outline = self._outline(shape)
            held = self._held(shape) if outline is None else self._filled(outline)
            after = self._outline(follower[1]) if follower and follower[1].get("outside") != "1" else None
            for t in range(frame, until):
                masks[t] = held
                if outline is not None and after is not None and outline.shape == after.shape and t > frame:
                    masks[t] = self._filled(outline + (after - outline) * ((t - frame) / (until - frame)))
        return tuple(masks)

    def _outline(self, shape: ET.Element) -> np.ndarray | None:
        """float64 [P, 2] of a polygon or a box, turned about its centre; None for other shapes."""
        if shape.tag == "polygon":
            return np.array([[float(v) for v in p.split(",")] for p in shape.get("points", "").split(";")])
        if shape.tag != "box":
            return None
        x1, y1, x2, y2 = (_float(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
        angle = np.deg2rad(float(shape.get("rotation", 0)))
        centre = corners.mean(0)
        turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
        return (corners - centre) @ turn.T + centre

    def _filled(self, outline: np.ndarray) -> Rle | None:
        if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < 3 or not np.isfinite(outline).all():
            raise DataError("a polygon of fewer than three points")
        inside = outline.clip(0, (self.width, self.height))
        return rle_of_polygons([inside.ravel().tolist()], self.height, self.width)

    def _held(self, shape: ET.Element) -> Rle | None:
        """A mask's runs lie in its box line by line, the first one empty."""
        if shape.tag != "mask":
            self.odd[f"shapes of kind '{shape.tag}', left out"] += 1
            return None
        left, top, width, height = (_number(shape, key) for key in ("left", "top", "width", "height"))
        runs = np.array([int(run) for run in shape.get("rle", "").split(",")], np.int64)
        if runs.min() < 0 or runs.sum() > width * height or width < 1 or height < 1:
            raise DataError(f"a mask of {runs.sum()} pixels in a box of {width}x{height}")
        if left < 0 or top < 0 or left + width > self.width or top + height > self.height:
            raise DataError("a mask outside of the picture")
        values = np.arange(len(runs)) % 2 == 1
        patch = np.zeros(width * height, bool)
        patch[: runs.sum()] = np.repeat(values, runs)
        full = np.zeros((self.height, self.width), bool)
        full[top : top + height, left : left + width] = patch.reshape(height, width)
        return rle_of(full)


def _number(shape: ET.Element, key: str) -> int:
    return int(_float(shape, key))


def _float(shape: ET.Element, key: str) -> float:
    text = shape.get(key)
    if text is None:
        raise DataError(f"a <{shape.tag}> without '{key}'")
    return float(text)


def write_cvat(folder: Path, video: LabelledVideo, categories: tuple[Category, ...], lost: Counter[str]) -> None:
    """A folder for the video: annotations.xml and images/."""
    place = folder / video.name
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    for key, text in (("name", video.name), ("size", str(len(video.pictures))), ("mode", "interpolation")):
        ET.SubElement(task, key).text = text
    labels = ET.SubElement(task, "labels")
    for category in categories:
        ET.SubElement(ET.SubElement(labels, "label"), "name").text = category.name
    size = ET.SubElement(task, "original_size")
    ET.SubElement(size, "width").text, ET.SubElement(size, "height").text = str(video.width), str(video.height)
    for number, track in enumerate(video.tracks):
        if track.iscrowd:
            lost["crowd regions, which the format does not have"] += 1
            continue
        element = ET.SubElement(root, "track", id=str(number), label=categories[track.label].name, source="file")
        _write_masks(element, track)
    for t, picture in enumerate(video.pictures):
        put_picture(picture, place / "images" / f"frame_{t:06d}{picture.suffix.lower()}")
    ET.indent(root)
    ET.ElementTree(root).write(place / ANNOTATIONS, encoding="utf-8", xml_declaration=True)


def _write_masks(element: ET.Element, track: Track) -> None:
    before: dict[str, str] | None = None
    for t, code in enumerate(track.masks):
        flags = {"frame": str(t), "outside": "0", "occluded": "0", "keyframe": "1"}
        if code is not None:
            before = _mask_facts(mask_of(code))
            ET.SubElement(element, "mask", {**flags, **before, "z_order": "0"})
        elif before is not None:
            # A shape holds until the next one, so its end is one that is outside.
            ET.SubElement(element, "mask", {**flags, "outside": "1", **before, "z_order": "0"})
            before = None


def _mask_facts(mask: np.ndarray) -> dict[str, str]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    patch = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = np.concatenate([[False], patch.ravel(), [not patch.ravel()[-1]]])
    turns = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], turns]))
    height, width = patch.shape
    return {
        "rle": ", ".join(map(str, runs.tolist())),
        "left": str(left), "top": str(top), "width": str(width), "height": str(height),
    }  # fmt: skip
