"""Data sets by name: `load_dataset("synthetic:val")`, `load_dataset("ovis:DIR", "train")`, `load_dataset(DIR)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from l2g.data.checks import is_directory
from l2g.data.coco import load_coco
from l2g.data.convert.readers import READERS, find_foreign
from l2g.data.dataset import VideoDataset
from l2g.data.ovis import load_ovis
from l2g.data.synthetic.dataset import cached_synthetic, synthetic_dataset
from l2g.data.synthetic.panoptic import cached_panoptic, panoptic_dataset
from l2g.data.synthetic.video import split_facts
from l2g.data.vipseg import load_vipseg
from l2g.data.youtube_vis import find_annotations, load_youtube_vis
from l2g.errors import DataError

_READERS: dict[str, Callable[..., VideoDataset]] = {
    "youtube_vis": load_youtube_vis,
    "youtube_vis_2019": load_youtube_vis,
    "youtube_vis_2021": load_youtube_vis,
    "youtube_vis_2022": load_youtube_vis,
    "ovis": load_ovis,
    "vipseg": load_vipseg,
    "coco": load_coco,
    **READERS,
}


def find_format(directory: Path) -> str:
    """The name of the format that a directory is in, as far as its files tell; else "youtube_vis", whose reader says
    what it expected."""
    if found := find_foreign(directory):
        return found
    if any(directory.glob("panoptic_gt_VIPSeg_*.json")) or is_directory(directory / "VIPSeg_720P"):
        return "vipseg"
    if any(directory.glob("annotations/instances_*2017.json")):
        return "coco"
    return "youtube_vis"


def _format_of(directory: Path, split: str) -> str:
    """Of a directory of which a split is asked for: YouTube-VIS where its annotation is there, whatever else is."""
    try:
        file = find_annotations(directory, split)
    except DataError:
        return find_format(directory)
    # This place is COCO's as well.
    return find_format(directory) if file.parent.name == "annotations" else "youtube_vis"


def split_source(source: str) -> tuple[str, str]:
    """("format", "directory") of "FORMAT:DIR", or of a directory, whose format is looked for. DataError where there is
    none of either."""
    kind, colon, rest = source.partition(":")
    if colon and kind in _READERS:
        return kind, rest
    if is_directory(source):
        return find_format(Path(source)), source
    raise DataError(f"no data set '{source}'; give a directory, or FORMAT:DIR with FORMAT one of {', '.join(_READERS)}")


def load_dataset(
    source: str | Path,
    split: str = "train",
    *,
    seed: int = 0,
    videos: int | None = None,
    skip_broken: bool = False,
    drop_empty: bool = False,
    allow_outside: bool = False,
) -> VideoDataset:
    """Open a data set.

    source: a directory, whose format is looked for; "FORMAT:DIR" with FORMAT one of youtube_vis_2019, youtube_vis_2021,
    youtube_vis_2022, ovis, vipseg, coco, coco_video, cvat, label_studio, mots, masks; or "synthetic:SPLIT" or
    "synthetic_panoptic:SPLIT" (things and stuff). Their "train" is drawn on demand and has no end; the other splits are
    written to the cache on first use (see `cached_synthetic`), in the layout of YouTube-VIS or VIPSeg. split: of a
    directory.
    seed, videos: of a synthetic split. skip_broken, drop_empty, allow_outside: as in `load_youtube_vis`. Raises
    DataError when it cannot be opened.
    """
    text = str(source)
    kind, colon, rest = text.partition(":")
    if colon and kind == "synthetic":
        if rest == "train":
            return synthetic_dataset(rest, seed=seed, videos=videos)
        split_facts(rest)
        return load_youtube_vis(cached_synthetic(rest, seed=seed, videos=videos), name=text, drop_empty=drop_empty)
    if colon and kind == "synthetic_panoptic":
        if rest == "train":
            return panoptic_dataset(rest, seed=seed, videos=videos)
        split_facts(rest)
        return load_vipseg(cached_panoptic(rest, seed=seed, videos=videos), rest, name=text, drop_empty=drop_empty)
    named = bool(colon) and kind in _READERS
    if not named and is_directory(text):
        kind, rest, named = _format_of(Path(text), split), text, True
    if named:
        return _READERS[kind](
            rest, split, skip_broken=skip_broken, drop_empty=drop_empty, allow_outside=allow_outside, name=text
        )
    raise DataError(
        f"no data set '{text}'; give a directory, FORMAT:DIR with FORMAT one of "
        f"{', '.join(_READERS)}, or synthetic:val, synthetic:occluded, synthetic:long, synthetic:crossing, "
        "synthetic:train, the same with synthetic_panoptic"
    )
