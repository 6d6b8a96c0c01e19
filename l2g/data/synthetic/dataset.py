"""Synthetic video as a data set: drawn in memory for training, or written to disk in the YouTube-VIS layout.

What `panoptic` shares lies here too: videos drawn on demand, new directories, the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, overload

import cv2
import numpy as np

from l2g.data.dataset import ENDLESS, Category, Clip, Video, VideoDataset, make_clip
from l2g.data.synthetic.shapes import CLASS_NAMES
from l2g.data.synthetic.video import DEFAULT_SIZE, SyntheticVideo, split_facts, synthetic_video
from l2g.errors import DataError, L2GError
from l2g.files import cache_root, folder_atomically, name_beside, sha256_of_file, write_text

FORMAT_VERSION = 1  # part of the cache's directory names: raise it whenever the drawing changes
CATEGORIES = tuple(Category(label + 1, name) for label, name in enumerate(CLASS_NAMES))
SUM = "sum.sha256"  # lies in a cached split, over all of its other files


class Drawing(Protocol):
    """Annotated frames, as `SyntheticVideo` has them."""

    @property
    def frames(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...

    def masks(self) -> np.ndarray: ...


class DrawnVideo(Video):
    """A synthetic video of which only the frames asked for are drawn.

    draw: (index, frames=[...]) -> Drawing.
    """

    def __init__(self, index: int, *, name: str, length: int, size: tuple[int, int], draw: Callable[..., Drawing]):
        self.id = index
        self.name = f"{name}/{index}"
        self.height, self.width = size
        self.length = length
        self._draw = partial(draw, index)

    def frame(self, t: int) -> np.ndarray:
        return self._draw(frames=[t]).frames[0]

    def annotated_frames(self) -> np.ndarray:
        return np.arange(self.length)

    def read(self, times: Sequence[int], rng: np.random.Generator | None = None) -> Clip:
        drawn = self._draw(frames=list(times))
        return make_clip(drawn.frames, drawn.labels, drawn.masks(), times=np.asarray(times, np.int64), video=self.name)


class _DrawnVideos(Sequence[Video]):
    """Drawn when they are asked for, a part of them too: there may be no end of them."""

    def __init__(self, places: range, draw: Callable[[int], DrawnVideo]):
        self._places, self._draw = places, draw

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Video: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Video]: ...

    def __getitem__(self, index: int | slice) -> Video | Sequence[Video]:
        if isinstance(index, slice):
            return _DrawnVideos(self._places[index], self._draw)
        return self._draw(self._places[index])


def synthetic_dataset(
    split: str,
    *,
    seed: int = 0,
    videos: int | None = None,
    frames: int | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    cuts: int = 0,
) -> VideoDataset:
    """A split drawn on demand; nothing touches the disk.

    videos: None means without end for "train", else the split's own number. frames: per video (None: the split's own).
    """
    draw = partial(synthetic_video, split, seed=seed, size=size, cuts=cuts)
    name = f"synthetic:{split}"
    return drawn_dataset(name, CATEGORIES, draw, split, seed=seed, videos=videos, frames=frames, size=size)


def drawn_dataset(
    name: str,
    categories: tuple[Category, ...],
    draw: Callable[..., Drawing],
    split: str,
    *,
    seed: int,
    videos: int | None,
    frames: int | None,
    size: tuple[int, int],
) -> VideoDataset:
    """A split whose videos `draw` draws; see `synthetic_dataset`."""
    kind = split_facts(split)
    count = videos or (ENDLESS if split == "train" else kind.videos)
    video = partial(DrawnVideo, name=f"{name}/{seed}", length=frames or kind.frames, size=size, draw=draw)
    return VideoDataset(name, categories, _DrawnVideos(range(count), video))


def write_synthetic(
    directory: str | Path,
    split: str,
    *,
    seed: int = 0,
    videos: int | None = None,
    frames: int | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    cuts: int = 0,
    picture_format: str = "jpg",
) -> Path:
    """Write a split in the YouTube-VIS layout: `instances.json` and JPEGImages/<video>/<frame>.

    picture_format: "jpg" (quality 95, full chroma) or "png" (exact). The directory appears complete or not at all. It
    must not exist or be empty, else DataError. Returns it.
    """
    if picture_format not in ("jpg", "png"):
        raise DataError(f"picture format '{picture_format}' asked for; there are jpg and png")
    check_cuts(split, cuts, frames)
    with new_directory(directory, split, videos) as (part, count):
        records: list[dict[str, Any]] = []
        marks: list[dict[str, Any]] = []
        for index in range(count):
            video = synthetic_video(split, index, seed=seed, frames=frames, size=size, cuts=cuts)
            record = _write_frames(part / "JPEGImages", f"{split}_{seed}_{index:04d}", video, picture_format)
            records.append({"id": index + 1, **record})
            marks += _annotations(video, index + 1, len(marks) + 1)
        data = {
            "info": {"description": f"l2g synthetic video, split {split}, seed {seed}", "version": FORMAT_VERSION},
            "videos": records,
            "categories": [{"id": c.id, "name": c.name} for c in CATEGORIES],
            "annotations": marks,
        }
        (part / "instances.json").write_text(json.dumps(data), encoding="utf-8")
    return Path(directory)


def check_cuts(split: str, cuts: int, frames: int | None) -> None:
    """DataError for a number of cuts that the videos to write would not all have."""
    usual = split_facts(split).frames
    if cuts < 0:
        raise DataError(f"{cuts} cuts asked for; ask for 0 or more")
    if cuts and frames is not None and frames < usual:
        raise DataError(
            f"{cuts} cuts in {frames} frames asked for; they lie among the split's {usual}, ask for as many"
        )


@contextlib.contextmanager
def new_directory(directory: str | Path, split: str, videos: int | None) -> Iterator[tuple[Path, int]]:
    """(an empty folder that becomes `directory` in the end, how many videos of the split are asked for); see
    `write_synthetic`."""
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"'{directory}' exists and is not empty; give another directory or remove it")
    count = videos if videos is not None else split_facts(split).videos
    if count < 1:
        raise DataError(f"{count} videos asked for; ask for 1 or more")
    with folder_atomically(directory, DataError) as part:
        yield part, count


def _write_frames(root: Path, name: str, video: SyntheticVideo, picture_format: str) -> dict:
    (root / name).mkdir(parents=True)
    files = []
    for t, frame in enumerate(video.frames):
        files.append(f"{name}/{t:05d}.{picture_format}")
        write_frame(root / files[-1], frame)
    count, height, width = video.frames.shape[:3]
    return {"width": width, "height": height, "length": count, "file_names": files}


def write_frame(path: Path, frame: np.ndarray) -> None:
    """A frame uint8 [H, W, 3] RGB as a PNG, or as a JPEG of quality 95 with full chroma, by the name's ending."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), encoded, options if path.suffix == ".jpg" else []):
        raise DataError(f"frame '{path}' cannot be written; is the disk full?")


def _annotations(video: SyntheticVideo, video_id: int, first_id: int) -> list[dict]:
    from pycocotools import mask as coco

    height, width = video.label_map.shape[1:]
    marks = []
    for i, label in enumerate(video.labels):
        runs: list[dict | None] = []
        for t, labels in enumerate(video.label_map):
            if video.present[t, i]:
                rle = coco.encode(np.asfortranarray(labels == i + 1, np.uint8))
                runs.append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
            else:
                runs.append(None)
        marks.append(
            {
                "id": first_id + i,
                "video_id": video_id,
                "category_id": CATEGORIES[label].id,
                "iscrowd": 0,
                "width": width,
                "height": height,
                "length": len(runs),
                "segmentations": runs,
                "areas": [None if r is None else int(coco.area(r)) for r in runs],
                "bboxes": [None if r is None else coco.toBbox(r).tolist() for r in runs],
                "occlusion": [
                    None if r is None else _occlusion(h) for r, h in zip(runs, video.hidden[:, i], strict=True)
                ],
            }
        )
    return marks


def _occlusion(hidden: float) -> str:
    """OVIS's three grades; the bounds are ours."""
    if hidden < 0.05:
        return "no_occlusion"
    return "slight_occlusion" if hidden < 0.5 else "severe_occlusion"


def cached_synthetic(split: str, *, seed: int = 0, videos: int | None = None, frames: int | None = None) -> Path:
    """The directory of a split at 96 x 160, written on first use; several processes may ask at once.

    A sum of its files lies beside them: what was edited, or has lost a file, is drawn anew, with a warning.
    """
    return cached_split(write_synthetic, f"synthetic-v{FORMAT_VERSION}", split, seed, videos, frames)


def cached_split(
    write: Callable[..., Path], folder: str, split: str, seed: int, videos: int | None, frames: int | None
) -> Path:
    """A split that `write` writes, in a folder of the cache; see `cached_synthetic`."""
    kind = split_facts(split)
    videos, frames = videos or kind.videos, frames or kind.frames
    directory = cache_root() / folder / f"{split}-seed{seed}-{videos}x{frames}"
    if _is_as_drawn(directory):
        return directory
    if (directory / SUM).is_file():
        warnings.warn(f"'{directory}' was changed since it was drawn; it is drawn anew", stacklevel=2)
    try:
        with folder_atomically(directory, DataError) as fresh:
            drawn = write(fresh / split, split, seed=seed, videos=videos, frames=frames)
            for entry in tuple(drawn.iterdir()):
                entry.replace(fresh / entry.name)
            drawn.rmdir()
            write_text(fresh / SUM, _sum_of(fresh))
            _make_room(directory)
    except (OSError, L2GError) as error:
        if not _is_as_drawn(directory):  # else another process was faster
            raise DataError(f"cannot write '{directory}': {error}; set L2G_CACHE to a writable directory") from None
    return directory


def _is_as_drawn(directory: Path) -> bool:
    try:
        return (directory / SUM).read_text(encoding="ascii") == _sum_of(directory)
    except (OSError, ValueError, L2GError):
        return False


def _sum_of(directory: Path) -> str:
    """One SHA-256 sum of the names and contents of a data set's files."""
    digest = hashlib.sha256()
    for file in sorted(directory.rglob("*")):
        if file.is_file() and file.name != SUM:
            digest.update(f"{file.relative_to(directory).as_posix()} {sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def _make_room(directory: Path) -> None:
    """Take the name from what has it."""
    if directory.exists():
        old = name_beside(directory)
        directory.replace(old)
        shutil.rmtree(old, ignore_errors=True)
