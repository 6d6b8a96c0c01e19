"""Two short synthetic videos of the small model's canvas."""

from __future__ import annotations

from pathlib import Path

from l2g.data.synthetic.dataset import write_synthetic


def small_videos(folder: Path, videos: int = 2, frames: int = 5) -> Path:
    return write_synthetic(folder / "videos", "val", videos=videos, frames=frames, size=(64, 96), picture_format="png")
