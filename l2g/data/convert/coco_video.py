"""COCO per frame: annotations/instances_<split>.json with a picture and its masks for each frame, and <split>/.

A picture's `video_id` and `frame_id` say where it belongs, without them its folder and its name do; an object keeps its
identity by `instance_id` or `track_id`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from l2g.data.checks import check_categories, id_of, listed, read_json
from l2g.data.convert.frames import put_picture
from l2g.data.convert.tracks import Foreign, LabelledVideo, Track, box_of
from l2g.data.dataset import Category, Problem, split_names

_IDENTITIES = ("instance_id", "track_id")


def annotation_of(directory: Path, split: str) -> Path:
    return directory / "annotations" / f"instances_{split}.json"


def is_coco_video(directory: Path) -> bool:
    """Whether a file of the layout tells of videos; without, `coco` is one of single pictures."""
    for file in sorted((directory / "annotations").glob("instances_*.json")):
        try:
            data = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        marks = data.get("annotations") if isinstance(data, dict) else None
        if isinstance(marks, list) and isinstance(data.get("images"), list):
            return any(isinstance(m, dict) and any(key in m for key in _IDENTITIES) for m in marks[:50])
    return False


def read_coco_video(directory: Path, split: str = "train") -> Foreign:
    """Frames of a video in the order of their numbers. An object without an identity is one of a single frame."""
    split = next((name for name in split_names(split) if annotation_of(directory, name).is_file()), split)
    path = annotation_of(directory, split)
    data = read_json(path)
    pictures, kinds = listed(data, "images", path), listed(data, "categories", path)
    check_categories(kinds, path)
    problems: list[Problem] = []
    videos: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for record in pictures:
        try:
            record = {**record, "file_name": str(record["file_name"]), "id": int(record["id"])}
            int(record["height"]), int(record["width"]), int(record.get("frame_id", 0))
            videos[record.get("video_id", str(Path(record["file_name"]).parent))].append(record)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            where = f"image {record.get('id')!r:.40}"
            problems.append(Problem("corrupt annotation", where, f"a field is missing or wrong ({error!r:.60})"))
    for frames in videos.values():
        frames.sort(key=lambda record: (int(record.get("frame_id", 0)), record["file_name"]))
    places = {r["id"]: (key, t) for key, frames in videos.items() for t, r in enumerate(frames)}
    objects = _objects(listed(data, "annotations", path), places, problems)
    records: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for number, (key, frames) in enumerate(videos.items(), 1):
        size = {"width": frames[0]["width"], "height": frames[0]["height"], "length": len(frames)}
        records.append({"id": number, "file_names": [r["file_name"] for r in frames], **size})
        for mark in objects.get(key, ()):
            segmentations = [mark["frames"].get(t) for t in range(len(frames))]
            facts = {name: mark[name] for name in ("category_id", "iscrowd")}
            marks.append({"id": len(marks) + 1, "video_id": number, **facts, "segmentations": segmentations})
    return Foreign(
        {"videos": records, "categories": kinds, "annotations": marks}, path, directory / split, tuple(problems)
    )


def _objects(
    annotations: list[dict[str, Any]], places: dict[int, tuple[Any, int]], problems: list[Problem]
) -> dict[Any, list[dict[str, Any]]]:
    """Of each video its objects: category_id, iscrowd, and `frames` {frame: segmentation}."""
    found: dict[tuple[Any, Any, Any], dict[str, Any]] = {}
    alone = 0
    for number, mark in enumerate(annotations):
        where = f"annotation {mark.get('id')!r:.40}"
        image, segmentation = id_of(mark, "image_id"), mark.get("segmentation")
        place = None if image is None else places.get(image)
        category = id_of(mark, "category_id")
        if place is None or category is None or not segmentation:
            detail = f"there is no image {mark.get('image_id')!r:.40}" if place is None else "it has no category_id"
            detail = detail if segmentation else "it has no segmentation"
            problems.append(Problem("corrupt annotation", where, detail))
            continue
        identity = next((mark[key] for key in _IDENTITIES if isinstance(mark.get(key), (int, str))), None)
        alone += identity is None
        video, t = place
        key = (video, category, identity if identity is not None else f"alone {number}")
        crowd = int(bool(mark.get("iscrowd")))
        entry = found.setdefault(key, {"category_id": category, "iscrowd": crowd, "frames": {}})
        if t in entry["frames"]:
            problems.append(Problem("corrupt annotation", where, f"object {identity!r:.40} is twice in frame {t}"))
            continue
        entry["frames"][t] = segmentation
    if alone:
        detail = f"{alone} annotations have no instance_id; each is an object of its own"
        problems.append(Problem("missing field", "annotations", detail, fatal=False))
    by_video: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for (video, _, _), entry in found.items():
        by_video[video].append(entry)
    return by_video


class CocoVideoWriter:
    """Gathers the frames of all videos into one file."""

    def __init__(self, folder: Path, split: str, categories: tuple[Category, ...]):
        self._folder, self._split = folder, split
        kinds = [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in categories]
        self._ids = [category.id for category in categories]
        self._data: dict[str, list] = {"videos": [], "images": [], "annotations": [], "categories": kinds}
        self._objects = 0

    def write(self, video: LabelledVideo, lost: Counter[str]) -> None:
        from pycocotools import mask as coco

        data, size = self._data, {"height": video.height, "width": video.width}
        data["videos"].append({"id": len(data["videos"]) + 1, "name": video.name})
        number, first = len(data["videos"]), len(data["images"]) + 1
        for t, picture in enumerate(video.pictures):
            name = f"{video.name}/{t:06d}{picture.suffix.lower()}"
            put_picture(picture, self._folder / self._split / name)
            data["images"].append({"id": first + t, "video_id": number, "frame_id": t, "file_name": name, **size})
        for track in video.tracks:
            self._objects += 1
            for t, code in enumerate(track.masks):
                if code is not None:
                    data["annotations"].append({**self._mark(track), "image_id": first + t, "video_id": number,
                        "segmentation": code, "area": int(coco.area(code)), "bbox": list(box_of(code))})  # fmt: skip

    def _mark(self, track: Track) -> dict[str, int]:
        number = len(self._data["annotations"]) + 1
        kind = self._ids[track.label]
        return {"id": number, "category_id": kind, "instance_id": self._objects, "iscrowd": int(track.iscrowd)}

    def close(self) -> None:
        path = annotation_of(self._folder, self._split)
        path.parent.mkdir()
        path.write_text(json.dumps(self._data), encoding="utf-8")
