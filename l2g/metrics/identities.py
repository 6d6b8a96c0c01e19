"""How well identities hold: switches of the predicted identity along each annotated object (CLEAR MOT, 2008).

AP over a video punishes an identity switch, but does not say that it was one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment

from l2g.metrics.rle import Rle

# A prediction stands for an object in a frame from this mask IoU on (CLEAR MOT's usual bound).
SAME_OBJECT = 0.5


@dataclass(frozen=True)
class IdentityReport:
    """Counts over a video, or a data set by addition.

    object_frames: frames in which an annotated object is visible, summed over objects. matched: those of them in which
    a prediction stands for it. switches: times that another identity than the last took over.
    """

    object_frames: int = 0
    matched: int = 0
    switches: int = 0

    def __add__(self, other: IdentityReport) -> IdentityReport:
        return IdentityReport(
            self.object_frames + other.object_frames, self.matched + other.matched, self.switches + other.switches
        )

    @property
    def switches_per_100_frames(self) -> float:
        """Switches per object and 100 frames in which it is visible."""
        return 100 * self.switches / max(1, self.object_frames)

    @property
    def coverage(self) -> float:
        """Share of the object-frames that have a prediction, 0..1."""
        return self.matched / max(1, self.object_frames)


def identity_switches(
    objects: Sequence[Sequence[Rle | None]], predictions: Sequence[Mapping[int, Rle]]
) -> IdentityReport:
    """Follow each annotated object of one video through the predictions.

    objects: per object one compressed RLE or None per frame. predictions: per frame {identity: compressed RLE}. In
    each frame an identity stays with its object while their IoU is at least `SAME_OBJECT`; the rest are paired for the
    largest IoU, one to one.
    """
    last: dict[int, int] = {}
    report = IdentityReport()
    for t, found in enumerate(predictions):
        visible = [index for index, tube in enumerate(objects) if tube[t]]
        pairs = _pair(visible, [rle for index in visible if (rle := objects[index][t])], found, last)
        switches = sum(index in last and last[index] != identity for index, identity in pairs.items())
        last.update(pairs)
        report += IdentityReport(len(visible), len(pairs), switches)
    return report


def _pair(visible: list[int], truths: list[Rle], found: Mapping[int, Rle], last: dict[int, int]) -> dict[int, int]:
    """object -> identity in one frame."""
    if not visible or not found:
        return {}
    identities = list(found)
    ious = coco.iou([found[identity] for identity in identities], truths, [0] * len(truths)).T
    ious = np.where(ious >= SAME_OBJECT, ious, 0)
    pairs = {}
    for row, index in enumerate(visible):
        if index in last and last[index] in found:
            column = identities.index(last[index])
            if ious[row, column]:
                pairs[index] = last[index]
                ious[row], ious[:, column] = 0, 0
    for row, column in zip(*linear_sum_assignment(-ious), strict=True):
        if ious[row, column]:
            pairs[visible[row]] = identities[column]
    return pairs
