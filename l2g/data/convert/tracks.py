"""Labelled video as all formats have it: pictures, and tracks with one mask a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from l2g.data.dataset import AnnotatedVideo, Category, Problem, Video, VideoDataset
from l2g.data.vipseg import PanopticVideo
from l2g.errors import DataError
from l2g.metrics.rle import Rle, compress, measure

Masks = tuple[Rle | None, ...]


@dataclass(frozen=True)
class Track:
    """One object: its label (a position in the data set's categories), per frame a compressed RLE or None. occlusion:
    OVIS's grade per frame, where the source has them."""

    label: int
    masks: Masks
    iscrowd: bool = False
    occlusion: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class LabelledVideo:
    """A video's name (with no separators), size, frames as picture files, and tracks."""

    name: str
    height: int
    width: int
    pictures: tuple[Path, ...]
    tracks: tuple[Track, ...]


@dataclass(frozen=True)
class Foreign:
    """An annotation of another format as the content of a YouTube-VIS file.

    root: what its file names are relative to. problems: what was found in it; with fatal ones it is refused, or opened
    without them.
    """

    data: dict[str, Any]
    path: Path
    root: Path
    problems: tuple[Problem, ...] = ()


def labelled(dataset: VideoDataset) -> Iterator[LabelledVideo]:
    """The videos of a data set, one by one. DataError for one whose frames are no picture files of their own."""
    taken: set[str] = set()
    for video in dataset.videos:
        name = _plain(video.name, taken)
        if isinstance(video, PanopticVideo):
            pictures = [file.path for file in video.pictures()][: video.length]
            yield LabelledVideo(name, video.height, video.width, tuple(pictures), _of_maps(video))
            continue
        pictures = [file.path for file in video.pictures()]
        if not isinstance(video, AnnotatedVideo) or len(pictures) != video.length:
            raise DataError(
                f"video '{video.name}' has no picture file for each frame; pictures alone are no video (for COCO with "
                "videos in it there is coco_video)"
            )
        yield LabelledVideo(name, video.height, video.width, tuple(pictures), _of_objects(video))


def _plain(name: str, taken: set[str]) -> str:
    """A name that is one folder's, and that no other video has: that of the folder of its frames."""
    last = [part for part in name.split("/") if part not in ("", "images")][-1:]
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in "".join(last)).strip(".") or "video"
    found, number = plain, 2
    while found in taken:
        found, number = f"{plain}_{number}", number + 1
    taken.add(found)
    return found


def _of_objects(video: AnnotatedVideo) -> tuple[Track, ...]:
    tracks = []
    for found in video.objects:
        masks = tuple(_as_text(code) for code in compress(list(found.segmentations), video.height, video.width))
        grades = found.record.get("occlusion")
        occlusion = tuple(grades) if isinstance(grades, list) and len(grades) == len(masks) else None
        tracks.append(Track(found.label, masks, bool(found.iscrowd), occlusion))
    return tuple(tracks)


def _as_text(code: Rle | None) -> Rle | None:
    """The code with its runs as text, as files have them; None too for a mask without a pixel."""
    if code is None:
        return None
    counts = code["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    found: Rle = {"size": [int(side) for side in code["size"]], "counts": text}
    return found if measure([found]).areas[0] else None


def _of_maps(video: PanopticVideo) -> tuple[Track, ...]:
    """A track for each segment id of a panoptic video, of things and of stuff; a crowd where any frame says so."""
    crowd = {s["id"] for segments in video.segments for s in segments if s.get("iscrowd")}
    masks: dict[int, list[Rle | None]] = {i: [None] * video.length for i in video.labels}
    for t in range(video.length):
        panoptic = video.panoptic(t)
        for i in np.unique(panoptic).tolist():
            if i:
                masks[i][t] = rle_of(panoptic == i)
    return tuple(Track(video.labels[i], tuple(masks[i]), i in crowd) for i in sorted(masks))


def rle_of(mask: np.ndarray) -> Rle | None:
    """A mask bool [H, W] as compressed RLE; None where it is empty."""
    from pycocotools import mask as coco

    if not mask.any():
        return None
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return cast(Rle, {"size": list(map(int, code["size"])), "counts": code["counts"].decode("ascii")})


def mask_of(code: Rle) -> np.ndarray:
    """bool [H, W]."""
    from pycocotools import mask as coco

    return coco.decode(code).astype(bool)


def rle_of_polygons(polygons: list[list[float]], height: int, width: int) -> Rle | None:
    """The pixels within polygons [x1, y1, x2, y2, ...], by COCO's rule; None where there is none."""
    return _as_text(compress([polygons], height, width)[0])


def box_of(code: Rle) -> tuple[int, int, int, int]:
    """(x, y, width, height) of a mask in pixels."""
    from pycocotools import mask as coco

    x, y, width, height = (round(float(side)) for side in coco.toBbox(code))
    return x, y, width, height


def flattened(tracks: Sequence[Track], t: int, height: int, width: int) -> tuple[np.ndarray, int]:
    """One map of frame t for formats in which a pixel belongs to one object: int32 [H, W] with 1 + the track's number,
    0 for none; and how many pixels lost an object. Where objects overlap the smaller one stays."""
    from pycocotools import mask as coco

    numbered = [(n, mask) for n, track in enumerate(tracks) if (mask := track.masks[t])]
    flat = np.zeros((height, width), np.int32)
    claimed = 0
    for n, mask in sorted(numbered, key=lambda pair: -int(coco.area(pair[1]))):
        pixels = mask_of(mask)
        claimed += int(pixels.sum())
        flat[pixels] = n + 1
    return flat, claimed - int((flat > 0).sum())


def youtube_vis_data(
    categories: Iterable[Category], videos: Iterable[tuple[LabelledVideo, list[str]]]
) -> dict[str, Any]:
    """The content of a YouTube-VIS file. videos: each with the names of its frames."""
    categories = list(categories)
    records: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for number, (video, names) in enumerate(videos, 1):
        size = {"width": video.width, "height": video.height, "length": len(names)}
        records.append({"id": number, "file_names": names, **size})
        for track in video.tracks:
            if any(track.masks):
                marks.append(_mark(len(marks) + 1, number, categories[track.label].id, track))
    kinds = [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in categories]
    return {"videos": records, "categories": kinds, "annotations": marks}


def _mark(number: int, video: int, category: int, track: Track) -> dict[str, Any]:
    from pycocotools import mask as coco

    mark = {
        "id": number,
        "video_id": video,
        "category_id": category,
        "iscrowd": int(track.iscrowd),
        "segmentations": list(track.masks),
        "areas": [None if m is None else int(coco.area(m)) for m in track.masks],
        "bboxes": [None if m is None else list(box_of(m)) for m in track.masks],
    }
    return mark if track.occlusion is None else {**mark, "occlusion": list(track.occlusion)}


__all__ = [
    "Foreign",
    "LabelledVideo",
    "Problem",
    "Track",
    "Video",
    "box_of",
    "flattened",
    "labelled",
    "mask_of",
    "rle_of",
    "rle_of_polygons",
    "youtube_vis_data",
]
