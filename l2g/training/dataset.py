"""The data set that a config names."""

from __future__ import annotations

from l2g.data.dataset import VideoDataset
from l2g.data.registry import load_dataset
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.data.synthetic.panoptic import panoptic_dataset
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
