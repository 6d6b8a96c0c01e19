"""The data set that a config names."""

from __future__ import annotations

from dataclasses import replace

from l2g.data.dataset import ENDLESS, VideoDataset
from l2g.data.registry import load_dataset
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.data.synthetic.panoptic import panoptic_dataset
from l2g.errors import ConfigError
from l2g.training.config import DataConfig

# Frames of a synthetic training video: as long as the longest split, so that a clip may start anywhere in a long life.
SYNTHETIC_FRAMES = 300
_DRAWN = {"synthetic": synthetic_dataset, "synthetic_panoptic": panoptic_dataset}


def open_dataset(data: DataConfig) -> VideoDataset:
    """Synthetic video is drawn at the canvas's own size; everything else is read from `data.root`."""
    if draw := _DRAWN.get(data.source):
        return draw(data.split, size=data.augment.canvas, frames=SYNTHETIC_FRAMES)
    how = {"skip_broken": data.skip_broken, "allow_outside": data.allow_outside}
    return load_dataset(f"{data.source}:{data.root}", data.split, **how)


def parted(dataset: VideoDataset, held_out: float) -> tuple[VideoDataset, VideoDataset]:
    """The videos to learn from and those held out, which lie evenly among the others; at least one on either side.

    held_out: the latter's share; 0: all are learned from, and the second data set is empty.
    """
    count = len(dataset)
    if held_out and count == ENDLESS:
        raise ConfigError(
            f"data.held_out is {held_out:g}, but data set '{dataset.name}' has no end; leave it out, and give "
            "evaluation.dataset another split (synthetic:val)"
        )
    kept = min(max(round(held_out * count), 1), count - 1) if held_out else 0
    places = {(2 * k + 1) * count // (2 * kept) for k in range(kept)}
    if held_out and count < 2:
        raise ConfigError(f"data set '{dataset.name}' has {count} video; a second one is needed to hold one out")
    if not places:
        return dataset, replace(dataset, videos=[])
    learned = [video for place, video in enumerate(dataset.videos) if place not in places]
    return replace(dataset, videos=learned), replace(
        dataset, videos=[dataset.videos[place] for place in sorted(places)]
    )
