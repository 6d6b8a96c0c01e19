"""Readers of the formats of other tools, by name, and which one a directory is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from l2g.data.checks import check_categories, is_directory
from l2g.data.convert.coco_video import is_coco_video, read_coco_video
from l2g.data.convert.cvat import is_cvat, read_cvat
from l2g.data.convert.label_studio import is_label_studio, read_label_studio
from l2g.data.convert.mask_folders import is_mask_folders, read_mask_folders
from l2g.data.convert.mots import is_mots, read_mots
from l2g.data.convert.tracks import Foreign
from l2g.data.dataset import VideoDataset
from l2g.data.youtube_vis import open_annotation
from l2g.errors import DataError


@dataclass(frozen=True)
class ForeignFormat:
    """read: a directory and a split -> its annotation. found: whether a directory is in this format."""

    read: Callable[[Path, str], Foreign]
    found: Callable[[Path], bool]


FOREIGN = {
    "cvat": ForeignFormat(read_cvat, is_cvat),
    "label_studio": ForeignFormat(read_label_studio, is_label_studio),
    "mots": ForeignFormat(read_mots, is_mots),
    "masks": ForeignFormat(read_mask_folders, is_mask_folders),
    "coco_video": ForeignFormat(read_coco_video, is_coco_video),
}


def load_foreign(
    kind: str, directory: str | Path, split: str = "train", *, name: str | None = None, **how: Any
) -> VideoDataset:
    """Open a directory in one of the formats of `FOREIGN`; the flags as in `load_youtube_vis`."""
    root = Path(directory)
    if not is_directory(root):
        raise DataError(f"data set directory '{root}' does not exist; where was the export unpacked?")
    given = FOREIGN[kind].read(root, split)
    if not given.data["categories"]:
        detail = f": {given.problems[0]}" if given.problems else ""
        raise DataError(f"data set '{name or root}' holds no labelled object{detail}")
    check_categories(given.data["categories"], given.path)
    # Frames of a video file were written by us, into the cache.
    how["allow_outside"] = how.get("allow_outside", False) or kind == "label_studio"
    return open_annotation(given.data, given.path, given.root, name or str(root), found=given.problems, **how)


READERS = {kind: partial(load_foreign, kind) for kind in FOREIGN}


def find_foreign(directory: Path) -> str | None:
    """The first of `FOREIGN` that the directory is in, or None."""
    return next((kind for kind, it in FOREIGN.items() if it.found(directory)), None)
