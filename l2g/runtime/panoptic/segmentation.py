"""Which segment each pixel of a picture belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from l2g.runtime.picture.masks import InstanceMask

VOID = 0


@dataclass(frozen=True)
class Segment:
    """One segment of a frame.

    id: its number in the map, from 1 up, the same in every frame of a stream: of stuff `label` + 1, of a thing its
    track's id plus the number of classes. label: its class, an index of the class names; of a thing the track's so far.
    track_id: of a thing, as in `TrackedInstance`; None of stuff. score: class probability in this frame, 0..1; where
    several slots became one segment of stuff, the largest. area: pixels.
    """

    id: int
    label: int
    track_id: int | None
    score: float
    area: int

    @property
    def is_thing(self) -> bool:
        return self.track_id is not None


@dataclass(frozen=True)
class Segmentation:
    """A picture of H x W pixels, each of at most one segment.

    ids: int32 [H, W], the id of each pixel's segment, `VOID` where it has none. segments: by id, stuff first.
    """

    ids: npt.NDArray[np.int32]
    segments: tuple[Segment, ...]

    def mask(self, segment: Segment) -> InstanceMask:
        """Its pixels."""
        return InstanceMask.from_patch(self.ids == segment.id, 0, 0, *self.ids.shape)

    def infos(self, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Its `segments_info` in the layout of COCO's panoptic annotations and VIPSeg.

        category_ids: the data set's id of each class.
        """
        return [
            {"id": found.id, "category_id": category_ids[found.label], "area": found.area, "iscrowd": 0}
            for found in self.segments
        ]


def rgb_of(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Ids below 2**24, int [H, W] -> uint8 [H, W, 3]: R + 256 G + 65536 B."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
